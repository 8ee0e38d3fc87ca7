/* SPDX-License-Identifier: Apache-2.0 */
/* Text on a terminal: how wide it is, and making strangers' harmless. */
#include <stdlib.h>
#include <wchar.h>

#include "format.h"
#include "parse-util.h"

/* One character of UTF-8. Returns its bytes, 0 when it is none; at the NUL 0 as well. */
static size_t utf8_decode(const char *s, size_t size, uint32_t *ret) {
        uint8_t c = size ? (uint8_t) s[0] : 0;
        size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 0;

        if (c == 0 || n == 0 || n > size || !utf8_is_valid(s, n))
                return 0;
        *ret = n == 1 ? c : n == 2 ? c & 0x1fu : n == 3 ? c & 0x0fu : c & 0x07u;
        for (size_t i = 1; i < n; i++)
                *ret = *ret << 6 | ((uint8_t) s[i] & 0x3fu);
        return n;
}

static size_t character_width(uint32_t character) {
        int w = wcwidth((wchar_t) character);

        /* In the C locale wcwidth() knows nothing beyond ASCII. */
        return w < 0 ? 1 : (size_t) w;
}

size_t text_width(const char *s) {
        size_t width = 0, left = strlen(s);

        while (left > 0) {
                uint32_t character = 0;
                size_t n = utf8_decode(s, left, &character);

                width += n ? character_width(character) : 1;
                n = MAX(n, (size_t) 1);
                s += n;
                left -= n;
        }
        return width;
}

char *text_fit(const char *s, size_t width) {
        size_t left = strlen(s), taken = 0, columns = 0;
        char *cut;

        if (text_width(s) <= width)
                return strdup(s);
        while (taken < left) {
                uint32_t character = 0;
                size_t n = utf8_decode(s + taken, left - taken, &character);
                size_t w = n ? character_width(character) : 1;

                if (columns + w > width - 1)
                        break;
                columns += w;
                taken += MAX(n, (size_t) 1);
        }
        cut = malloc(taken + sizeof("…"));
        if (!cut)
                return NULL;
        memcpy(cut, s, taken);
        memcpy(cut + taken, "…", sizeof("…"));
        return cut;
}

/* Bytes of a colour sequence (ESC [ digits ; m) at s, 0 when there is none. */
static size_t color_sequence(const char *s, size_t size) {
        size_t n = 2;

        if (size < 3 || s[0] != '\033' || s[1] != '[')
                return 0;
        while (n < size && n < 24 && ((s[n] >= '0' && s[n] <= '9') || s[n] == ';'))
                n++;
        return n < size && s[n] == 'm' ? n + 1 : 0;
}

char *text_harmless(const char *s, size_t size, bool lines) {
        char *out = malloc(2 * size + 1), *p = out;

        if (!out)
                return NULL;
        while (size > 0) {
                uint8_t c = (uint8_t) *s;
                uint32_t character = 0;
                size_t n;

                if (c < 0x20 || c == 0x7f) {
                        n = lines ? color_sequence(s, size) : 0;
                        if (n == 0 && lines && (c == '\n' || c == '\t'))
                                n = 1;
                        if (n > 0)
                                p = mempcpy(p, s, n);
                        else {
                                *p++ = '^';
                                *p++ = (char) (c ^ 0x40);
                                n = 1;
                        }
                } else {
                        n = utf8_decode(s, size, &character);
                        /* 0x80 … 0x9f are control characters too; the others turn the direction of writing.
                         */
                        if (n == 0 || (character >= 0x80 && character < 0xa0) ||
                            (character >= 0x202a && character <= 0x202e) ||
                            (character >= 0x2066 && character <= 0x2069)) {
                                *p++ = '?';
                                n = MAX(n, (size_t) 1);
                        } else
                                p = mempcpy(p, s, n);
                }
                s += n;
                size -= n;
        }
        *p = '\0';
        return out;
}
