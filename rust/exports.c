// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exports the symbols of the `luo` crate and its helpers that other modules use.
 */

#include <linux/export.h>

#define EXPORT_SYMBOL_RUST_GPL(sym) extern int sym; EXPORT_SYMBOL_GPL(sym)

#include "exports_generated.h"
