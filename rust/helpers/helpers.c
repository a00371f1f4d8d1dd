// SPDX-License-Identifier: GPL-2.0-only
/*
 * One object for all helpers, sorted alphabetically.
 */

#include "helpers.h"

#include "file.c"
#include "folio.c"
#include "hugetlb.c"
#include "kho.c"
#include "parallel.c"
#include "runs.c"
#include "shmem.c"
#include "task.c"
