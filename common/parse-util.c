/* SPDX-License-Identifier: Apache-2.0 */
#include "parse-util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <strings.h>

#include "time-util.h"

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

int parse_uint64(const char *s, uint64_t *ret) {
        uint64_t n = 0;

        if (isempty(s))
                return -EINVAL;
        for (const char *p = s; *p; p++)
                if (!is_digit(*p))
                        return -EINVAL;
        for (; *s; s++)
                if (__builtin_mul_overflow(n, UINT64_C(10), &n) ||
                    __builtin_add_overflow(n, (uint64_t) (*s - '0'), &n))
                        return -ERANGE;
        *ret = n;
        return 0;
}

int parse_int64(const char *s, int64_t *ret) {
        bool negative = s && s[0] == '-';
        uint64_t n;
        int r;

        if (!s)
                return -EINVAL;
        r = parse_uint64(s + negative, &n);
        if (r < 0)
                return r;
        if (n > (uint64_t) INT64_MAX + negative)
                return -ERANGE;
        *ret = negative ? (int64_t) (0 - n) : (int64_t) n;
        return 0;
}

/* Digits with at most one '.', in front of a unit; *s moves behind it. The value is whole + fraction /
 * scale. */
typedef struct Decimal {
        uint64_t whole, fraction, scale;
} Decimal;

static int decimal_scan(const char **s, Decimal *ret) {
        Decimal d = { .scale = 1 };
        const char *p = *s;
        size_t digits = 0;

        for (; is_digit(*p); p++, digits++)
                if (__builtin_mul_overflow(d.whole, UINT64_C(10), &d.whole) ||
                    __builtin_add_overflow(d.whole, (uint64_t) (*p - '0'), &d.whole))
                        return -ERANGE;
        if (*p == '.') {
                p++;
                if (!is_digit(*p))
                        return -EINVAL;
                for (; is_digit(*p); p++, digits++)
                        /* Nine places: finer than any unit here. */
                        if (d.scale < UINT64_C(1000000000)) {
                                d.fraction = d.fraction * 10 + (uint64_t) (*p - '0');
                                d.scale *= 10;
                        }
        }
        if (digits == 0)
                return -EINVAL;
        *s = p;
        *ret = d;
        return 0;
}

static int decimal_multiply(const Decimal *d, uint64_t unit, uint64_t *ret) {
        __extension__ typedef unsigned __int128 Wide;
        Wide value = (Wide) d->whole * unit + (Wide) d->fraction * unit / d->scale;

        if (value > UINT64_MAX)
                return -ERANGE;
        *ret = (uint64_t) value;
        return 0;
}

int parse_double(const char *s, double *ret) {
        Decimal d;
        bool negative;
        double value;
        int r;

        if (!s)
                return -EINVAL;
        negative = *s == '-';
        s += negative;
        r = decimal_scan(&s, &d);
        if (r < 0)
                return r;
        if (*s)
                return -EINVAL;
        value = (double) d.whole + (double) d.fraction / (double) d.scale;
        *ret = negative ? -value : value;
        return 0;
}

int parse_bool(const char *s, bool *ret) {
        static const char *const yes[] = { "yes", "true", "on", "1", "y", "t" };
        static const char *const no[] = { "no", "false", "off", "0", "n", "f" };

        for (size_t i = 0; s && i < ELEMENTSOF(yes); i++) {
                if (strcasecmp(s, yes[i]) == 0)
                        return *ret = true, 0;
                if (strcasecmp(s, no[i]) == 0)
                        return *ret = false, 0;
        }
        return -EINVAL;
}

int parse_size(const char *s, uint64_t *ret) {
        static const char prefixes[] = "KMGTP";
        uint64_t unit = 1;
        Decimal d;
        int r;

        if (!s)
                return -EINVAL;
        r = decimal_scan(&s, &d);
        if (r < 0)
                return r;
        while (*s == ' ')
                s++;
        if (*s && *s != 'B' && *s != 'b') {
                const char *prefix = strchr(prefixes, *s & ~0x20);

                if (!is_letter(*s) || !prefix)
                        return -EINVAL;
                unit <<= 10 * (prefix - prefixes + 1);
                s++;
                if (*s == 'i')
                        s++;
        }
        if (*s == 'B' || *s == 'b')
                s++;
        if (*s)
                return -EINVAL;
        if (unit == 1 && d.fraction > 0)
                return -EINVAL;
        return decimal_multiply(&d, unit, ret);
}

int parse_duration_usec(const char *s, uint64_t *ret) {
        static const struct {
                const char *name;
                uint64_t usec;
        } units[] = {
                { "us", 1 },
                { "usec", 1 },
                { "ms", USEC_PER_MSEC },
                { "msec", USEC_PER_MSEC },
                { "s", USEC_PER_SEC },
                { "sec", USEC_PER_SEC },
                { "second", USEC_PER_SEC },
                { "seconds", USEC_PER_SEC },
                { "m", USEC_PER_MINUTE },
                { "min", USEC_PER_MINUTE },
                { "minute", USEC_PER_MINUTE },
                { "minutes", USEC_PER_MINUTE },
                { "h", USEC_PER_HOUR },
                { "hr", USEC_PER_HOUR },
                { "hour", USEC_PER_HOUR },
                { "hours", USEC_PER_HOUR },
                { "d", USEC_PER_DAY },
                { "day", USEC_PER_DAY },
                { "days", USEC_PER_DAY },
                { "w", 7 * USEC_PER_DAY },
                { "week", 7 * USEC_PER_DAY },
                { "weeks", 7 * USEC_PER_DAY },
        };
        const uint64_t max = 100 * 366 * USEC_PER_DAY;
        uint64_t total = 0;
        int r;

        if (isempty(s) || *s == ' ')
                return -EINVAL;
        for (size_t parts = 0; *s; parts++) {
                uint64_t unit = 0, usec;
                size_t size = 0;
                Decimal d;

                r = decimal_scan(&s, &d);
                if (r < 0)
                        return r;
                while (*s == ' ')
                        s++;
                while (is_letter(s[size]))
                        size++;
                if (size == 0) {
                        /* Without a unit only when it is the whole: "1m30" is a mistake more often than not.
                         */
                        if (parts > 0 || *s)
                                return -EINVAL;
                        unit = USEC_PER_SEC;
                }
                for (size_t i = 0; i < ELEMENTSOF(units) && size > 0; i++)
                        if (strlen(units[i].name) == size && strncmp(units[i].name, s, size) == 0)
                                unit = units[i].usec;
                if (unit == 0)
                        return -EINVAL;
                s += size;
                r = decimal_multiply(&d, unit, &usec);
                if (r < 0)
                        return r;
                total = usec_add(total, usec);
                if (total > max)
                        return -ERANGE;
                if (*s == ' ') {
                        while (*s == ' ')
                                s++;
                        if (!*s)
                                return -EINVAL;
                }
        }
        *ret = total;
        return 0;
}

int parse_cpus(const char *s, double *ret) {
        double value;
        int r;

        r = parse_double(s, &value);
        if (r < 0)
                return r;
        if (value < 0.01 || value > 4096)
                return -ERANGE;
        *ret = value;
        return 0;
}

static bool v6_is_valid(const char *s, size_t size) {
        const char *scope = memchr(s, '%', size);
        char plain[INET6_ADDRSTRLEN];
        struct in6_addr address;

        /* fe80::1%eth0 */
        for (const char *p = scope; p && p < s + size; p++)
                if (!is_digit(*p) && !is_letter(*p) && !strchr("%-_.", *p))
                        return false;
        size = scope ? (size_t) (scope - s) : size;
        if (size >= sizeof(plain))
                return false;
        memcpy(plain, s, size);
        plain[size] = '\0';
        return inet_pton(AF_INET6, plain, &address) == 1;
}

static bool host_is_valid(const char *s, size_t size, bool v6) {
        if (size == 0 || size > ADDRESS_HOST_MAX)
                return false;
        if (v6)
                return v6_is_valid(s, size);
        for (size_t i = 0; i < size; i++)
                if (!is_digit(s[i]) && !is_letter(s[i]) && !strchr(".-_*", s[i]))
                        return false;
        return s[0] != '-';
}

static int parse_address_part(const char *s, size_t size, uint16_t default_port, Address *ret) {
        const char *host = s, *port = NULL, *end = s + size;
        size_t host_size = size;
        Address address = { .port = default_port };
        bool v6 = false;

        if (size > 0 && s[0] == '[') {
                const char *bracket = memchr(s, ']', size);

                if (!bracket)
                        return -EINVAL;
                v6 = true;
                host = s + 1;
                host_size = (size_t) (bracket - host);
                if (bracket + 1 < end) {
                        if (bracket[1] != ':')
                                return -EINVAL;
                        port = bracket + 2;
                }
        } else {
                const char *colon = memchr(s, ':', size);

                if (colon && memchr(colon + 1, ':', (size_t) (end - colon - 1)))
                        v6 = true; /* two colons: a bare IPv6 address, without a port */
                else if (colon) {
                        host_size = (size_t) (colon - s);
                        port = colon + 1;
                }
        }
        if (!host_is_valid(host, host_size, v6))
                return -EINVAL;
        if (port) {
                char digits[6];
                uint64_t n;

                if (port == end || end - port > 5)
                        return -EINVAL;
                memcpy(digits, port, (size_t) (end - port));
                digits[end - port] = '\0';
                if (parse_uint64(digits, &n) < 0)
                        return -EINVAL;
                if (n > UINT16_MAX)
                        return -ERANGE;
                address.port = (uint16_t) n;
        }
        memcpy(address.host, host, host_size);
        address.host[host_size] = '\0';
        *ret = address;
        return 0;
}

int parse_address(const char *s, uint16_t default_port, Address *ret) {
        return s ? parse_address_part(s, strlen(s), default_port, ret) : -EINVAL;
}

int parse_address_list(const char *s, uint16_t default_port, Address **ret, size_t *ret_n) {
        _cleanup_(freep) Address *list = NULL;
        size_t n = 0;
        int r;

        if (!s)
                return -EINVAL;
        s = startswith(s, "clupy://") ?: s;
        list = newn0(Address, ADDRESS_LIST_MAX);
        if (!list)
                return -ENOMEM;
        for (;;) {
                size_t size = strcspn(s, ",");

                if (n == ADDRESS_LIST_MAX)
                        return -ERANGE;
                /* One '/' behind the last host, as people write URLs. */
                r = parse_address_part(s, !s[size] && size > 0 && s[size - 1] == '/' ? size - 1 : size,
                                       default_port, list + n);
                if (r < 0)
                        return r;
                n++;
                if (!s[size])
                        break;
                s += size + 1;
        }
        *ret = TAKE_PTR(list);
        *ret_n = n;
        return 0;
}

char *address_to_string(const Address *address, char buffer[static ADDRESS_STRING_SIZE]) {
        bool v6 = strchr(address->host, ':') != NULL;

        snprintf(buffer, ADDRESS_STRING_SIZE, "%s%s%s:%u", v6 ? "[" : "", address->host, v6 ? "]" : "",
                 (unsigned) address->port);
        return buffer;
}

char *format_size(uint64_t bytes, char buffer[static FORMAT_SIZE]) {
        static const char prefixes[] = "KMGTPE";
        uint64_t unit = 1024;
        size_t i = 0;

        if (bytes < 1024) {
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 "B", bytes);
                return buffer;
        }
        while (i + 1 < sizeof(prefixes) - 1 && bytes / 1024 >= unit) {
                unit *= 1024;
                i++;
        }
        snprintf(buffer, FORMAT_SIZE, "%" PRIu64 ".%u%c", bytes / unit,
                 (unsigned) (bytes % unit / (unit / 1024) * 10 / 1024), prefixes[i]);
        return buffer;
}

char *format_duration(uint64_t usec, char buffer[static FORMAT_SIZE]) {
        if (usec == USEC_INFINITY)
                snprintf(buffer, FORMAT_SIZE, "infinity");
        else if (usec < USEC_PER_MSEC)
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 "us", usec);
        else if (usec < 10 * USEC_PER_MSEC)
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 ".%" PRIu64 "ms", usec / USEC_PER_MSEC,
                         usec % USEC_PER_MSEC / 100);
        else if (usec < USEC_PER_SEC)
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 "ms", usec / USEC_PER_MSEC);
        else if (usec < USEC_PER_MINUTE)
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 ".%" PRIu64 "s", usec / USEC_PER_SEC,
                         usec % USEC_PER_SEC / 100000);
        else if (usec < USEC_PER_HOUR)
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 "min %" PRIu64 "s", usec / USEC_PER_MINUTE,
                         usec % USEC_PER_MINUTE / USEC_PER_SEC);
        else if (usec < USEC_PER_DAY)
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 "h %" PRIu64 "min", usec / USEC_PER_HOUR,
                         usec % USEC_PER_HOUR / USEC_PER_MINUTE);
        else
                snprintf(buffer, FORMAT_SIZE, "%" PRIu64 "d %" PRIu64 "h", usec / USEC_PER_DAY,
                         usec % USEC_PER_DAY / USEC_PER_HOUR);
        return buffer;
}

bool name_is_valid(const char *s, size_t max) {
        size_t size = 0;

        for (; s && s[size]; size++)
                if (size >= max ||
                    !(is_digit(s[size]) || (s[size] >= 'a' && s[size] <= 'z') || s[size] == '-'))
                        return false;
        return size > 0;
}

bool python_series_is_valid(const char *s) {
        size_t major = strspn(s, "0123456789");
        size_t minor = s[major] == '.' ? strspn(s + major + 1, "0123456789") : 0;

        return major > 0 && major <= 3 && minor > 0 && minor <= 3 && s[major + 1 + minor] == '\0';
}

bool environment_name_is_valid(const char *s) {
        const char *series = s ? startswith(s, "python-") ?: startswith(s, "system-") : NULL;

        return series ? python_series_is_valid(series) : name_is_valid(s, 63);
}

bool node_name_is_valid(const char *s) {
        size_t size = 0;
        char before = '.';

        for (; s && s[size]; size++) {
                char c = s[size];

                if (size >= 64)
                        return false;
                if (c == '.' ? before == '.'
                             : !(is_digit(c) || is_letter(c) || c == '_' || (c == '-' && before != '.')))
                        return false;
                before = c;
        }
        return size > 0 && before != '.' && before != '-';
}

/* The size of the sequence at s, or 0 when it is none. Unicode 15, table 3-7. */
static size_t utf8_sequence(const uint8_t *s, size_t size, uint32_t *ret) {
        static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
        uint32_t c;
        size_t n;

        if (s[0] < 0x80) {
                *ret = s[0];
                return 1;
        }
        if ((s[0] & 0xe0) == 0xc0)
                n = 2;
        else if ((s[0] & 0xf0) == 0xe0)
                n = 3;
        else if ((s[0] & 0xf8) == 0xf0)
                n = 4;
        else
                return 0;
        if (n > size)
                return 0;
        c = s[0] & (0xffU >> (n + 1));
        for (size_t i = 1; i < n; i++) {
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (s[i] & 0x3fU);
        }
        if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
                return 0;
        *ret = c;
        return n;
}

bool utf8_is_valid(const char *s, size_t size) {
        const uint8_t *p = (const uint8_t *) s;

        while (size > 0) {
                uint32_t c;
                size_t n = utf8_sequence(p, size, &c);

                if (n == 0 || c == 0)
                        return false;
                p += n;
                size -= n;
        }
        return true;
}

static bool is_control(uint32_t c) {
        /* C0, DEL, C1, line and paragraph separators, and what turns the writing direction around. */
        return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
               (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

bool device_path_is_valid(const char *s) {
        static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:+-";
        const char *part = startswith(s, "/dev/");

        if (!part || strnlen(s, 64) == 64)
                return false;
        for (;;) {
                size_t n = strspn(part, good);

                if (n == 0 || *part == '.')
                        return false;
                part += n;
                if (*part == '\0')
                        return true;
                if (*part++ != '/')
                        return false;
        }
}

bool owner_name_is_valid(const char *s) {
        const uint8_t *p = (const uint8_t *) s;
        size_t size;

        if (isempty(s) || streq(s, ".") || streq(s, ".."))
                return false;
        size = strnlen(s, 65);
        if (size > 64)
                return false;
        while (size > 0) {
                uint32_t c;
                size_t n = utf8_sequence(p, size, &c);

                if (n == 0 || is_control(c) || c == '/')
                        return false;
                p += n;
                size -= n;
        }
        return true;
}

char *text_for_message(const char *s, size_t max) {
        static const char ellipsis[] = "…";
        size_t size = strlen(s), used = 0;
        const uint8_t *p = (const uint8_t *) s;
        char *text;

        text = malloc(MIN(size, max) + sizeof(ellipsis));
        if (!text)
                return NULL;
        while (size > 0) {
                uint32_t c;
                size_t n = utf8_sequence(p, size, &c);
                bool bad = n == 0 || is_control(c);

                n = MAX(n, (size_t) 1);
                if (used + (bad ? 1 : n) > max) {
                        memcpy(text + used, ellipsis, sizeof(ellipsis) - 1);
                        used += sizeof(ellipsis) - 1;
                        break;
                }
                if (bad)
                        text[used++] = '?';
                else {
                        memcpy(text + used, p, n);
                        used += n;
                }
                p += n;
                size -= n;
        }
        text[used] = '\0';
        return text;
}

size_t edit_distance(const char *left, const char *right) {
        size_t row[65], left_size = strnlen(left, 64), right_size = strnlen(right, 64);

        for (size_t j = 0; j <= right_size; j++)
                row[j] = j;
        for (size_t i = 1; i <= left_size; i++) {
                size_t diagonal = row[0];

                row[0] = i;
                for (size_t j = 1; j <= right_size; j++) {
                        size_t above = row[j], replaced = diagonal + (left[i - 1] != right[j - 1]);

                        row[j] = MIN(MIN(above, row[j - 1]) + 1, replaced);
                        diagonal = above;
                }
        }
        return row[right_size];
}
