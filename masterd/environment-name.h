/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "macros.h"

/* The name of an environment says all that is in it: two of one name are the same, on every node and after
 * every restart.
 *
 * Those without any package have names for people: python-3.11, system-3.11. All others: the first 40
 * hexadecimal digits of SHA-256 over the line "clupy environment 1" and, for each part in the order of
 * EnvironmentContent, the line "KEY LENGTH" and the value (LENGTH bytes) with a newline behind it. Values of
 * a list are parts of their own. The keys: python, platform, index ("none" without one, "default" for the
 * one that the master's machine uses), base (python or system), owner ("*": everybody's), preload, wheel
 * (DIGEST/NAME), lock. */

enum { ENVIRONMENT_NAME_SIZE = 64, ENVIRONMENT_DIGITS = 40, PYTHON_SERIES_SIZE = 8 };

typedef struct EnvironmentContent {
        const char *python; /* "3.11" */
        const char *platform;
        const char *index;
        bool system_packages;
        const char *owner;
        char *const *preload; /* in the order of their import; NULL: none */
        char *const *wheels;  /* "DIGEST/NAME", sorted; NULL: none */
        const char *lock;
} EnvironmentContent;

/* Returns 0, -ENOMEM, -EIO. */
int environment_name(const EnvironmentContent *content, char ret[static ENVIRONMENT_NAME_SIZE]);

/* The name of the one without packages. */
void environment_base_name(const char *python, bool system_packages, char ret[static ENVIRONMENT_NAME_SIZE]);

/* One that is built: 40 digits. */
bool environment_name_is_built(const char *name);

/* "3.11" of "3.11", "3.11.2", "3.12.0rc1". Returns 0, -EINVAL. */
int python_series(const char *version, char ret[static PYTHON_SERIES_SIZE]);
