# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# What the tests for a host that is in use have in common.

here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here:$PATH"

skip() {
	echo "1..0 # SKIP $*"
	exit 4
}

# need_module NAME: a loaded handler.
need_module() {
	[ -d "/sys/module/$1" ] || skip "the module $1 is not loaded: modprobe $1"
}

# Nothing was handed over to this kernel, for sure: messages of its boot may be gone after a while.
was_booted() {
	if [ -e /sys/kernel/debug/kho/out/fdt ]; then
		[ ! -e /sys/kernel/debug/kho/in/fdt ]
	else
		dmesg | grep -q 'Linux version' && ! dmesg | grep -q 'KHO: found kexec handover data'
	fi
}

# Cases open /dev/liveupdate. The first time, that takes over all that the previous kernel left, and while a case
# runs, nobody else can open it: not where a VMM may be waiting for its memory.
need_quiet_host() {
	[ "$(id -u)" = 0 ] || skip "this needs root"
	[ -e /dev/liveupdate ] || skip "the kernel offers no live update: boot it with kho=on liveupdate=on"
	need_module luo_rs
	status=$(luoctl status --json) || skip "nothing can be preserved here; luoctl status says why"
	for list in files orphans; do
		echo "$status" | tr -d ' \n' | grep -q "\"$list\":\[\]" ||
			skip "files are preserved on this host, and /dev/liveupdate is left to their owners: luoctl status"
	done
	[ "$LU_TAKEN_OVER" = 1 ] || was_booted ||
		skip "a live update started this kernel, or may have: set LU_TAKEN_OVER=1 if all sessions were taken over"
}

# run CASE...: those of lu_memfd, with a directory of their own for notes.
run() {
	state=$(mktemp -d) || exit 1
	trap 'rm -rf "$state"' EXIT
	lu_memfd --state "$state" host "$@"
}
