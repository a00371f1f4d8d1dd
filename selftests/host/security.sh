#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Who may open what on this host.

. "$(dirname "$0")/lib.sh"
need_quiet_host
run security
