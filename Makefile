# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# A thin front end: `make help` says what there is.

ARCH_ARGS = $(if $(ARCH),--arch $(ARCH))
LAB = selftests/vm/lab

.PHONY: help demo check bench bench-compare modules programs kernel install uninstall deb lint clean

# The architecture of a kernel tree, as the programs for it are called.
KARCH = $(if $(KDIR),$(if $(shell grep -s '^CONFIG_ARM64=y' '$(KDIR)/.config'),arm64,x86_64),$(ARCH))
INSTALL = $(if $(KDIR),KDIR='$(abspath $(KDIR))') ARCH='$(KARCH)' DESTDIR='$(abspath $(DESTDIR))' PREFIX='$(PREFIX)' \
	$(if $(INSTALL_MOD_PATH),INSTALL_MOD_PATH='$(abspath $(INSTALL_MOD_PATH))') packaging/install
PREFIX ?= /usr/local

help:
	@echo 'make demo    [ARCH=x86_64|arm64]                              a guest counts on while the kernel of its host is replaced'
	@echo 'make demo    [ARCH=x86_64|arm64] DEVICE=igb                   the same with a network card, which goes on receiving'
	@echo 'make check   [ARCH=x86_64|arm64] [T=glob] [VARIANT=plain|debug]  all tests, KTAP'
	@echo 'make bench   [ARCH=x86_64|arm64] [T=glob|all]                 measurements in guest instructions, 15 minutes by default'
	@echo 'make bench-compare A=old.json B=new.json                      what changed between two build/bench.json'
	@echo 'make kernel  ARCH=x86_64|arm64 [VARIANT=plain|debug]          the lab kernel, modules and programs'
	@echo 'make modules KDIR=/path/to/kernel/build                       the modules for your own kernel'
	@echo 'make programs [ARCH=x86_64|arm64]                             luoctl for your own host: build/ARCH/bin/luoctl'
	@echo 'make install KDIR=/path/to/kernel/build [PREFIX=/usr/local]   modules, luoctl and what loads the modules at boot'
	@echo '             [DESTDIR=] [INSTALL_MOD_PATH=]                   (make uninstall, with the same words, undoes it)'
	@echo 'make deb     [KDIR=/path/to/kernel/build]                     Debian packages of the same, in build/deb'
	@echo 'make -C selftests install                                     tests for a host in use, as a kselftest package'
	@echo 'make lint                                                     formatting, lints, licences, checkpatch'
	@echo 'selftests/vm/run --help                                       stages of your own, with a live update between them'
	@echo
	@echo 'LIVEUPDATE_CACHE (default ~/.cache/liveupdate-rs) keeps what is heavy; DEBIAN_MIRROR and KERNEL_SRC override'
	@echo 'where tools and kernel source come from.'

demo:
	@$(LAB) demo $(ARCH_ARGS) $(if $(DEVICE),--device '$(DEVICE)')

check:
	@$(LAB) check $(ARCH_ARGS) $(if $(VARIANT),--variant $(VARIANT)) $(if $(T),--test '$(T)')

bench:
	@$(LAB) bench $(ARCH_ARGS) $(if $(T),--test '$(T)')

bench-compare:
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo 'make bench-compare needs A=old.json B=new.json' >&2; exit 2; }
	@$(LAB) bench-compare '$(abspath $(A))' '$(abspath $(B))'

kernel:
	@$(LAB) kernel $(ARCH_ARGS) $(if $(VARIANT),--variant $(VARIANT))

modules:
	@[ -n "$(KDIR)" ] || { echo 'make $(or $(filter install,$(MAKECMDGOALS)),modules) needs KDIR=/path/to/kernel/build,' \
		'the O= directory of a kernel that was built with patches/7.3' >&2; exit 2; }
	@[ -e '$(KDIR)/Module.symvers' ] || { echo '$(KDIR) is no directory of a kernel that was built' >&2; exit 2; }
	@KDIR='$(abspath $(KDIR))' $(LAB) modules '$(abspath $(KDIR))'

programs:
	@$(LAB) programs $(ARCH_ARGS)

# Built by whoever runs it; installed outside of the root with the build tools, which has a / of its own.
install: modules
	@$(LAB) programs $(if $(KARCH),--arch $(KARCH))
	@$(INSTALL) install host modules
	@echo 'installed; now make the initramfs anew: update-initramfs -u -k RELEASE, or dracut --force --kver RELEASE'

uninstall:
	@[ -n "$(KDIR)" ] || { echo 'make uninstall needs KDIR=/path/to/kernel/build' >&2; exit 2; }
	@$(INSTALL) uninstall modules host
	@echo 'uninstalled; now make the initramfs anew: update-initramfs -u -k RELEASE, or dracut --force --kver RELEASE'

deb: $(if $(KDIR),modules)
	@$(LAB) programs $(if $(KARCH),--arch $(KARCH))
	@$(if $(KDIR),KDIR='$(abspath $(KDIR))') ARCH='$(KARCH)' selftests/vm/enter packaging/deb

lint:
	@$(LAB) lint

clean:
	rm -rf build
