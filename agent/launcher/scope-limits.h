/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What a scope is made with. */
typedef struct Limits {
        uint64_t memory_max;     /* bytes */
        uint64_t cpu_quota_usec; /* of CPU time per second; UINT64_MAX: none */
        uint64_t tasks_max;
} Limits;

static inline bool limits_equal(const Limits *left, const Limits *right) {
        return left->memory_max == right->memory_max && left->cpu_quota_usec == right->cpu_quota_usec &&
               left->tasks_max == right->tasks_max;
}
