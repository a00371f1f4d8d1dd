#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# memfds with huge pages, where nobody else uses any.

. "$(dirname "$0")/lib.sh"
need_quiet_host
need_module luo_hugetlb
pool=/sys/kernel/mm/hugepages/hugepages-2048kB
[ -d "$pool" ] || skip "there are no huge pages of 2 MiB"
[ "$(cat "$pool/nr_hugepages")" = 0 ] || skip "there are huge pages of 2 MiB, which may be in use: the cases change the pool"
run hugetlb
status=$?
echo 0 > "$pool/nr_hugepages"
exit "$status"
