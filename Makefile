# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# A thin front end: `make help` says what there is.

ARCH_ARGS = $(if $(ARCH),--arch $(ARCH))
LAB = selftests/vm/lab

.PHONY: help demo check bench bench-compare modules programs kernel lint clean
help:
	@echo 'make demo    [ARCH=x86_64|arm64]                              a memfd survives a kernel update, from a bare checkout'
	@echo 'make check   [ARCH=x86_64|arm64] [T=glob] [VARIANT=plain|debug]  all tests, KTAP'
	@echo 'make bench   [ARCH=x86_64|arm64] [T=glob|all]                 measurements in guest instructions, 15 minutes by default'
	@echo 'make bench-compare A=old.json B=new.json                      what changed between two build/bench.json'
	@echo 'make kernel  ARCH=x86_64|arm64 [VARIANT=plain|debug]          the lab kernel, modules and programs'
	@echo 'make modules KDIR=/path/to/kernel/build                       the modules for your own kernel'
	@echo 'make programs [ARCH=x86_64|arm64]                             luoctl for your own host: build/ARCH/bin/luoctl'
	@echo 'make lint                                                     formatting, lints, licences, checkpatch'
	@echo 'selftests/vm/run --help                                       stages of your own, with a live update between them'
	@echo
	@echo 'LIVEUPDATE_CACHE (default ~/.cache/liveupdate-rs) keeps what is heavy; DEBIAN_MIRROR and KERNEL_SRC override'
	@echo 'where tools and kernel source come from.'

demo:
	@$(LAB) demo $(ARCH_ARGS)

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
	@[ -n "$(KDIR)" ] || { echo 'make modules needs KDIR=/path/to/kernel/build' >&2; exit 2; }
	@KDIR='$(abspath $(KDIR))' $(LAB) modules '$(abspath $(KDIR))'

programs:
	@$(LAB) programs $(ARCH_ARGS)

lint:
	@$(LAB) lint

clean:
	rm -rf build
