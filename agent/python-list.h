/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>

/* Which Pythons ("3.11") this node can run: each has a zygote program, clupy-zygote for the one that CluPy
 * was built with, clupy-zygote-X.Y for others. */

enum { PYTHONS_MAX = 16 };

/* Those whose programs are in that folder; the main one comes first, and is there in any case, the others
 * follow from old to new. Returns 0 and a strv, -ENOMEM, -errno of reading the folder (one that is not there
 * has none). */
int python_list_find(const char *directory, char ***ret);

/* "3.11": one or two digits, a dot, one to three digits. */
bool python_name_is_valid(const char *s);
