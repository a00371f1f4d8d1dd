#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# memfds: what is refused, and that giving up leaves no trace.

. "$(dirname "$0")/lib.sh"
need_quiet_host
run access abort
