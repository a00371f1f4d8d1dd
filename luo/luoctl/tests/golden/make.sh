# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh
#
# Hands over a small file in each format, and keeps what describes it.

if [ "$LU_STAGE" = 1 ]; then
	echo 2 > /proc/sys/vm/nr_hugepages
	lu_bench --session memfd preserve --mib 1 --layout every-other &&
	lu_bench --session huge preserve --kind hugetlb-2m --mib 4 &&
	lu_bench --session guest preserve --kind guest-memfd --mib 1 &&
	echo rs-memfd-v1 > /sys/module/luo_memfd/parameters/format &&
	lu_bench --session runs preserve --mib 1 --layout random
else
	luoctl inspect --in --verify --save /state/handover > /state/txt && cat /state/txt && ls -l /state
fi
