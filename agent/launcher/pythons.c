/* SPDX-License-Identifier: Apache-2.0 */
#include "pythons.h"

#include <unistd.h>

#include "build-config.h"
#include "macros.h"

const Python pythons[] = { CLUPY_PYTHONS };
const size_t pythons_size = ELEMENTSOF(pythons);

const Python *python_find(const char *series) {
        for (size_t i = 0; i < pythons_size; i++) {
                const Python *python = pythons + i;
                if (streq(python->series, series))
                        return access(python->zygote, X_OK) == 0 && access(python->interpreter, X_OK) == 0
                                       ? python
                                       : NULL;
        }
        return NULL;
}
