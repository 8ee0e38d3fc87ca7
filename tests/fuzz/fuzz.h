/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* What libFuzzer calls. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Unlike assert(): always there. */
#define CHECK(condition)                                                                                    \
        do {                                                                                                \
                if (!(condition))                                                                           \
                        abort();                                                                            \
        } while (0)
