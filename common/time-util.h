/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>
#include <time.h>

#define USEC_PER_SEC UINT64_C(1000000)
#define USEC_PER_MSEC UINT64_C(1000)
#define NSEC_PER_USEC UINT64_C(1000)
#define USEC_PER_MINUTE (60 * USEC_PER_SEC)
#define USEC_PER_HOUR (60 * USEC_PER_MINUTE)
#define USEC_PER_DAY (24 * USEC_PER_HOUR)
#define USEC_INFINITY UINT64_MAX

/* Microseconds of that clock (CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME). Never fails for these. */
static inline uint64_t now_usec(clockid_t clock) {
        struct timespec ts = { 0 };

        (void) clock_gettime(clock, &ts);
        return (uint64_t) ts.tv_sec * USEC_PER_SEC + (uint64_t) ts.tv_nsec / NSEC_PER_USEC;
}

/* Sum that stays at USEC_INFINITY instead of wrapping. */
static inline uint64_t usec_add(uint64_t left, uint64_t right) {
        return left > USEC_INFINITY - right ? USEC_INFINITY : left + right;
}

/* Difference that stays at 0 instead of wrapping. */
static inline uint64_t usec_sub(uint64_t left, uint64_t right) {
        return left > right ? left - right : 0;
}
