/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

#include "launcher-protocol.h"

/* What is written into a built environment when it is whole: a file of lines, root's alone. */
#define ENVIRONMENT_STAMP ".clupy-environment"

enum { ENVIRONMENT_STAMP_MAX = 512 }; /* bytes */

typedef struct EnvironmentStamp {
        char owner[OWNER_NAME_MAX]; /* "": everybody's */
        char python[PYTHON_NAME_MAX];
        uint64_t bytes, files;
        uint64_t built_at; /* CLOCK_REALTIME, µs */
} EnvironmentStamp;

/* Returns the length of the text, -EMSGSIZE. */
int environment_stamp_format(const EnvironmentStamp *stamp, char *ret, size_t size);
/* text ends with NUL. Returns 0, -EBADMSG. */
int environment_stamp_parse(const char *text, EnvironmentStamp *ret);
