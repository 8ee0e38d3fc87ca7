/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher-protocol.h"
#include "macros.h"

/* Sets of a node's devices. Indices are below DEVICES_MAX. */

static inline bool device_set_has(const LauncherDevices *set, uint32_t index) {
        return set->bits[index / 64] >> index % 64 & 1;
}

static inline void device_set_add(LauncherDevices *set, uint32_t index) {
        set->bits[index / 64] |= UINT64_C(1) << index % 64;
}

static inline void device_set_remove(LauncherDevices *set, const LauncherDevices *removed) {
        for (size_t i = 0; i < ELEMENTSOF(set->bits); i++)
                set->bits[i] &= ~removed->bits[i];
}

static inline void device_set_unite(LauncherDevices *set, const LauncherDevices *added) {
        for (size_t i = 0; i < ELEMENTSOF(set->bits); i++)
                set->bits[i] |= added->bits[i];
}

static inline LauncherDevices device_set_common(const LauncherDevices *a, const LauncherDevices *b) {
        LauncherDevices common;

        for (size_t i = 0; i < ELEMENTSOF(common.bits); i++)
                common.bits[i] = a->bits[i] & b->bits[i];
        return common;
}

static inline unsigned device_set_count(const LauncherDevices *set) {
        unsigned n = 0;

        for (size_t i = 0; i < ELEMENTSOF(set->bits); i++)
                n += (unsigned) __builtin_popcountll(set->bits[i]);
        return n;
}

static inline bool device_set_is_empty(const LauncherDevices *set) {
        return device_set_count(set) == 0;
}
