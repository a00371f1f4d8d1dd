#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The cases that need no live update, on the running kernel.

if [ "$(id -u)" != 0 ]; then
	echo "1..0 # SKIP this needs root"
	exit 4
fi
if [ ! -e /dev/liveupdate ]; then
	echo "1..0 # SKIP the kernel offers no live update: boot it with kho=on liveupdate=on"
	exit 4
fi

state=$(mktemp -d) || exit 1
trap 'rm -rf "$state"' EXIT
"$(dirname "$0")/lu_memfd" --state "$state" stage1 access abort.no-leak abort.sealable
