/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

/* Receipts are alike but for their numbers: ten thousand of them are remembered with their keys written as
 * single bytes. Text that has none of the usual keys stays as it is. */

/* out has at least strlen(text) + 1 bytes. Returns the size without the NUL. */
size_t receipt_pack(const char *text, char *out);
/* From malloc; NULL without memory. */
char *receipt_unpack(const char *packed);
