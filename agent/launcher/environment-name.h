/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

#include "launcher-protocol.h"

/* What the name of an environment says. */
typedef enum EnvironmentKind {
        ENVIRONMENT_BARE,   /* python-3.11: that Python and its standard library */
        ENVIRONMENT_SYSTEM, /* system-3.11: the distribution's packages as well */
        ENVIRONMENT_BUILT,  /* ENVIRONMENT_FOLDER/NAME */
        _ENVIRONMENT_KIND_MAX,
} EnvironmentKind;

/* name must be valid as a name. The series ("3.11") is told of those that are not built; "default" is one of
 * the main Python. Returns 0, -EINVAL for one that looks like a name of ours and is none. */
int environment_name_parse(const char *name, EnvironmentKind *ret_kind, char ret_series[PYTHON_NAME_MAX]);

/* The interpreter that programs of this environment find in sys.executable. size: at least 128 bytes.
 * Returns 0, -EINVAL, -ENAMETOOLONG. */
typedef struct Python Python;
int environment_interpreter(const char *name, const Python *python, char *ret, size_t size);
