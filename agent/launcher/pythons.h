/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

/* The Pythons that this build has zygotes for (meson's option `pythons`). */
typedef struct Python {
        const char *series;      /* "3.11" */
        const char *prefix;      /* "/usr": its standard library is below that */
        const char *interpreter; /* "/usr/bin/python3.11" */
        const char *zygote;      /* the program, linked with its libpython */
        const char *bare;        /* stands for the interpreter where it has no packages of the node's */
} Python;

/* The first one is the main one: the one that is meant where none is named. */
extern const Python pythons[];
extern const size_t pythons_size;

/* The one of that series if it is installed on this node, or NULL. */
const Python *python_find(const char *series);
