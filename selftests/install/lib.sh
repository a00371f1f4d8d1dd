# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# What the tests of the installation share: a Debian 13 with systemd and both makers of initramfs images,
# and the lab's kernel for a disk installed in it. To be read with `.` inside selftests/vm/enter, with $top set.

PACKAGES=systemd,systemd-sysv,udev,kmod,initramfs-tools,busybox,zstd,dracut-core,cpio,man-db,e2fsprogs,fdisk
cache=${LIVEUPDATE_CACHE:?use selftests/vm/enter}
base=$cache/debian-$(printf %s "$PACKAGES" | cksum | cut -d' ' -f1)

fail() { echo "not ok: $*"; exit 1; }
say() { echo "# $*"; }

# Makes the Debian once. The tool that does is not one of the lab's: it is taken out of its package.
make_base() {
	exec 8>"$base.lock"
	flock 8
	[ ! -d "$base" ] || { exec 8>&-; return 0; }
	say "making a Debian 13 in $base (once)"
	work=$base.part
	rm -rf --one-file-system "$work"
	mkdir -p "$work"
	(
		cd "$work"
		apt-get download mmdebstrap 2>/dev/null || { apt-get update -qq && apt-get download mmdebstrap; }
		dpkg-deb -x mmdebstrap_*.deb tool
		# This root has no mount(8), and mmdebstrap does without.
		perl tool/usr/bin/mmdebstrap --variant=minbase --architectures=amd64 --skip=check/qemu \
			--aptopt='APT::Install-Recommends "false"' --include="$PACKAGES" trixie root
	) >"$base.log" 2>&1 || fail "the Debian could not be made; see $base.log"
	mv "$work/root" "$base"
	rm -rf --one-file-system "$work"
	exec 8>&-
}

# Copies the Debian to $1 and installs the lab's kernel there; KDIR and RELEASE name it then.
copy_base() {
	make_base
	remove "$1"
	mkdir -p "$(dirname "$1")"
	cp -a "$base" "$1"
	"$top/selftests/vm/lab" kernel --arch x86_64 --variant disk || fail "the lab kernel could not be built"
	KDIR=$(readlink -f "$top/build/x86_64-disk/kernel")
	RELEASE=$(cat "$KDIR/include/config/kernel.release")
	make -s -C "$KDIR/source" O="$KDIR" ARCH=x86_64 LLVM=1 INSTALL_MOD_PATH="$1" modules_install >/dev/null 2>&1 ||
		fail "modules_install of the lab kernel"
	rm -f "$1/lib/modules/$RELEASE/build"
	cp "$KDIR/arch/x86/boot/bzImage" "$1/boot/vmlinuz-$RELEASE"
	cp "$KDIR/.config" "$1/boot/config-$RELEASE"
}

mounted() { grep -qF " $1 " /proc/self/mounts; }

# Runs a command in a root. All of this happens in a mount namespace that enter has made.
inside() {
	root=$1
	shift
	for d in proc dev sys; do
		mounted "$root/$d" || busybox mount -o rbind /$d "$root/$d"
	done
	chroot "$root" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# Undoes what `inside` has mounted.
leave() {
	for d in proc dev sys; do
		! mounted "$1/$d" || busybox umount -l "$1/$d"
	done
	for d in proc dev sys; do
		! mounted "$1/$d" || fail "$1/$d is still mounted"
	done
}

# Runs a program of the Debian on files of this machine: the lab's root has none for disks.
tool() {
	program=$base/usr/sbin/$1
	shift
	MKE2FS_CONFIG=$base/etc/mke2fs.conf "$base/lib64/ld-linux-x86-64.so.2" \
		--library-path "$base/usr/lib/x86_64-linux-gnu" "$program" "$@"
}

# Removes a root, and nothing of what is mounted in it.
remove() {
	leave "$1"
	rm -rf --one-file-system "$1"
}

# Writes all files of a root, and its links; not what differs from run to run.
files_of() {
	(cd "$1" && find . \( -path ./proc -o -path ./dev -o -path ./sys -o -path ./boot -o -path ./tmp -o -path ./run \
		-o -path ./var \) -prune -o ! -type d -print | grep -v "/modules/$RELEASE/modules\.[a-z.]*$" | sort)
}
