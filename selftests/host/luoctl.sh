#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# luoctl: what it shows of this host, which never opens /dev/liveupdate.

. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || skip "this needs root"
number=0
failed=0

# result NAME COMMAND...: passes if the command does.
result() {
	name=$1
	shift
	number=$((number + 1))
	if out=$("$@" 2>&1); then
		echo "ok $number luoctl.$name"
	else
		failed=1
		echo "not ok $number luoctl.$name"
		echo "$out" | sed 's/^/# /'
	fi
}

refuses() {
	! "$@"
}

echo "KTAP version 1"
for command in status session hold check kexec inspect format; do
	result "$command.help" luoctl "$command" --help
done
result wrong-word refuses luoctl no-such-word
if [ -d /sys/module/luo_rs ]; then
	result status luoctl status
	result status.json sh -c "luoctl status --json | grep -q '\"handlers\"'"
else
	number=$((number + 1))
	echo "ok $number luoctl.status # SKIP the module luo_rs is not loaded: modprobe luo_rs"
fi
if [ -e /sys/kernel/debug/kho/out/fdt ]; then
	result inspect luoctl inspect --out
	result inspect.json sh -c "luoctl inspect --out --json | grep -q '{'"
else
	number=$((number + 1))
	echo "ok $number luoctl.inspect # SKIP there is no /sys/kernel/debug/kho: CONFIG_KEXEC_HANDOVER_DEBUGFS, debugfs mounted"
fi
echo "1..$number"
exit "$failed"
