/* SPDX-License-Identifier: Apache-2.0 */
#include "python-list.h"

#include <unistd.h>

#include "build-config.h"
#include "macros.h"

const Python python_list[] = { CLUPY_PYTHONS };
const size_t python_list_size = ELEMENTSOF(python_list);

const Python *python_find(const char *series) {
        for (size_t i = 0; i < python_list_size; i++) {
                const Python *python = python_list + i;
                if (streq(python->series, series))
                        return access(python->zygote, X_OK) == 0 && access(python->interpreter, X_OK) == 0
                                       ? python
                                       : NULL;
        }
        return NULL;
}
