/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-name.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "macros.h"
#include "parse-util.h"
#include "pythons.h"

#define DEFAULT_KIND "python-"

int environment_name_parse(const char *name, EnvironmentKind *ret_kind, char ret_series[PYTHON_NAME_MAX]) {
        char meant[ENVIRONMENT_NAME_MAX];
        const char *series;
        EnvironmentKind kind;

        if (streq(name, "default")) {
                (void) snprintf(meant, sizeof(meant), DEFAULT_KIND "%s", pythons[0].series);
                name = meant;
        }
        if ((series = startswith(name, "python-")))
                kind = ENVIRONMENT_BARE;
        else if ((series = startswith(name, "system-")))
                kind = ENVIRONMENT_SYSTEM;
        else {
                *ret_kind = ENVIRONMENT_BUILT;
                ret_series[0] = '\0';
                return 0;
        }
        if (!environment_name_is_valid(name))
                return -EINVAL;
        *ret_kind = kind;
        memset(ret_series, 0, PYTHON_NAME_MAX);
        memcpy(ret_series, series, strlen(series));
        return 0;
}

int environment_interpreter(const char *name, const Python *python, char *ret, size_t size) {
        char series[PYTHON_NAME_MAX];
        EnvironmentKind kind;
        int n, r = environment_name_parse(name, &kind, series);

        if (r < 0)
                return r;
        if (kind == ENVIRONMENT_BUILT)
                n = snprintf(ret, size, ENVIRONMENT_FOLDER "/%s/bin/python", name);
        else
                n = snprintf(ret, size, "%s", kind == ENVIRONMENT_BARE ? python->bare : python->interpreter);
        return n < 0 || (size_t) n >= size ? -ENAMETOOLONG : 0;
}
