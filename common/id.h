/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "macros.h"

/* A 128-bit random number: tasks, jobs, sessions, instances. Written as 32 lower-case hexadecimal digits. */
typedef struct Id {
        uint8_t bytes[16];
} Id;

enum { ID_HEX_SIZE = 33 }; /* with the NUL */

#define ID_NULL ((Id){ { 0 } })

/* Returns 0, -errno of getrandom(). Never blocks once the kernel's generator is initialised. */
int id_random(Id *ret);

/* Fills buffer, which it returns. */
char *id_to_hex(Id id, char buffer[static ID_HEX_SIZE]);

/* For messages: ID_HEX(id) lives until the end of the enclosing block. */
#define ID_HEX(id) id_to_hex((id), (char[ID_HEX_SIZE]){ 0 })

/* Exactly 32 lower-case digits. Returns 0, -EINVAL. The null id is an id like others here. */
int id_from_hex(const char *hex, Id *ret);

/* Any bytes to lower-case hex and back; out has 2 × size + 1 bytes. hex_decode: exactly 2 × size digits,
 * lower case only; returns 0, -EINVAL. */
char *hex_encode(const void *data, size_t size, char *out);
int hex_decode(const char *hex, void *out, size_t size);

static inline bool id_equal(Id left, Id right) {
        return memcmp(left.bytes, right.bytes, sizeof(left.bytes)) == 0;
}

static inline bool id_is_null(Id id) {
        return id_equal(id, ID_NULL);
}

/* Seeded per process: see hash_bytes(). */
uint64_t id_hash(Id id);
