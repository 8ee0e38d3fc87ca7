/* SPDX-License-Identifier: Apache-2.0 */
#include "id.h"

#include <errno.h>
#include <sys/random.h>

#include "hashmap.h"

int id_random(Id *ret) {
        Id id;
        size_t filled = 0;

        while (filled < sizeof(id.bytes)) {
                ssize_t n = getrandom(id.bytes + filled, sizeof(id.bytes) - filled, 0);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                filled += (size_t) n;
        }
        *ret = id;
        return 0;
}

char *hex_encode(const void *data, size_t size, char *out) {
        static const char digits[] = "0123456789abcdef";
        const uint8_t *p = data;

        for (size_t i = 0; i < size; i++) {
                out[2 * i] = digits[p[i] >> 4];
                out[2 * i + 1] = digits[p[i] & 15];
        }
        out[2 * size] = '\0';
        return out;
}

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return -EINVAL;
}

int hex_decode(const char *hex, void *out, size_t size) {
        uint8_t *p = out;

        /* The check comes first: the output stays untouched on failure. */
        for (size_t i = 0; i < 2 * size; i++)
                if (hex_digit(hex[i]) < 0)
                        return -EINVAL;
        if (hex[2 * size] != '\0')
                return -EINVAL;
        for (size_t i = 0; i < size; i++)
                p[i] = (uint8_t) (hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
        return 0;
}

char *id_to_hex(Id id, char buffer[static ID_HEX_SIZE]) {
        return hex_encode(id.bytes, sizeof(id.bytes), buffer);
}

int id_from_hex(const char *hex, Id *ret) {
        return hex_decode(hex, ret->bytes, sizeof(ret->bytes));
}

uint64_t id_hash(Id id) {
        return hash_bytes(id.bytes, sizeof(id.bytes));
}
