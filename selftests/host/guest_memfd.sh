#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# guest_memfd: what is fixed while it is preserved.

. "$(dirname "$0")/lib.sh"
need_quiet_host
need_module luo_guest_memfd
[ -e /dev/kvm ] || skip "there is no /dev/kvm"
run gmem
