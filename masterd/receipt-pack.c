/* SPDX-License-Identifier: Apache-2.0 */
#include "receipt-pack.h"

#include <stdlib.h>
#include <string.h>

#include "macros.h"

/* Control characters cannot occur in JSON text, so they can stand for something: key i is the byte i + 1. */
static const char *const keys[] = {
        "\"queued_us\":",
        "\"start_us\":",
        "\"run_us\":",
        "\"cpu_us\":",
        "\"memory_peak\":",
        "\"read_chars\":",
        "\"write_chars\":",
        "\"read_bytes\":",
        "\"write_bytes\":",
        "\"pressure_us\":",
        "\"warm\":",
        "\"started_at\":",
        "\"ended_at\":",
        "\"unknown\":",
        "null",
        "true",
};
_Static_assert(ELEMENTSOF(keys) < 0x20, "only control characters are free");

static const char *find_key(const char *p, unsigned char *ret_token) {
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                const char *behind = startswith(p, keys[i]);

                if (behind) {
                        *ret_token = (unsigned char) (i + 1);
                        return behind;
                }
        }
        return NULL;
}

size_t receipt_pack(const char *text, char *out) {
        char *start = out;

        while (*text) {
                unsigned char token;
                const char *behind =
                        *text == '"' || *text == 'n' || *text == 't' ? find_key(text, &token) : NULL;

                if (behind) {
                        *out++ = (char) token;
                        text = behind;
                } else
                        *out++ = *text++;
        }
        *out = '\0';
        return (size_t) (out - start);
}

char *receipt_unpack(const char *packed) {
        size_t size = 1;
        char *text, *out;

        for (const char *p = packed; *p; p++)
                size += (unsigned char) *p <= ELEMENTSOF(keys) ? strlen(keys[*p - 1]) : 1;
        text = out = malloc(size);
        if (!text)
                return NULL;
        for (const char *p = packed; *p; p++)
                if ((unsigned char) *p <= ELEMENTSOF(keys))
                        out = stpcpy(out, keys[*p - 1]);
                else
                        *out++ = *p;
        *out = '\0';
        return text;
}
