/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "macros.h"
#include "memory-util.h"

/* All return 0, -EINVAL for what is no such thing, -ERANGE for what is one but over its bounds; nothing is
 * trimmed, the outputs stay untouched on failure. */

int parse_uint64(const char *s, uint64_t *ret); /* decimal digits only */
int parse_int64(const char *s, int64_t *ret);
/* Decimal, '.' whatever the locale, no exponent, hex, inf or nan. */
int parse_double(const char *s, double *ret);

/* yes/no, true/false, on/off, 1/0, any case. */
int parse_bool(const char *s, bool *ret);

/* Bytes: "4096", "512M", "1.5G", "2GiB", "64kB"; K, M, G, T, P are powers of 1024 whatever follows. */
int parse_size(const char *s, uint64_t *ret);

/* Microseconds: "90s", "8h", "1m30s", "250ms", "1.5h", "2 days"; a plain number is seconds. Units: us, ms,
 * s, sec, m, min, h, hr, d, day(s), w. At most 100 years. */
int parse_duration_usec(const char *s, uint64_t *ret);

/* Number of CPUs, 0.01 … 4096. */
int parse_cpus(const char *s, double *ret);

enum { ADDRESS_HOST_MAX = 255, ADDRESS_DEFAULT_PORT = 7878, ADDRESS_LIST_MAX = 16 };

typedef struct Address {
        char host[ADDRESS_HOST_MAX + 1]; /* name or number, without brackets */
        uint16_t port;
} Address;

/* "host", "host:port", "[v6]:port", "v6". */
int parse_address(const char *s, uint16_t default_port, Address *ret);
/* "clupy://host[:port][,host[:port]…]" or the same without scheme; 1 … ADDRESS_LIST_MAX entries; free() the
 * array. */
int parse_address_list(const char *s, uint16_t default_port, Address **ret, size_t *ret_n);
/* "host:port" or "[v6]:port" into buffer, which is returned. */
enum { ADDRESS_STRING_SIZE = ADDRESS_HOST_MAX + 10 };
char *address_to_string(const Address *address, char buffer[static ADDRESS_STRING_SIZE]);

/* For people: "512.0M", "1.5G", "17B". Buffer of FORMAT_SIZE bytes, which is returned. */
enum { FORMAT_SIZE = 32 };
char *format_size(uint64_t bytes, char buffer[static FORMAT_SIZE]);
/* "1h 30min", "2.5s", "250ms", "80us", "infinity". */
char *format_duration(uint64_t usec, char buffer[static FORMAT_SIZE]);
#define FORMAT_BYTES(bytes) format_size((bytes), (char[FORMAT_SIZE]){ 0 })
#define FORMAT_DURATION(usec) format_duration((usec), (char[FORMAT_SIZE]){ 0 })

/* [a-z0-9-]{1,max}: policies, services. */
bool name_is_valid(const char *s, size_t max);
/* "3.11": at most 7 bytes. */
bool python_series_is_valid(const char *s);
/* An environment's: [a-z0-9-]{1,63}, or that of a Python, "python-3.11", "system-3.11". */
bool environment_name_is_valid(const char *s);
/* A host name: labels of letters, digits, '-', '_' joined by '.', 1 … 64 bytes. */
bool node_name_is_valid(const char *s);
/* "/dev/" and names joined by '/', of letters, digits and "._:+-", none of them beginning with '.'; at most
 * 63 bytes. */
bool device_path_is_valid(const char *s);
/* Printable UTF-8 without control characters and '/', 1 … 64 bytes, not "." or "..". */
bool owner_name_is_valid(const char *s);

/* Whole string, no surrogates, no overlong forms, no NUL within size. */
bool utf8_is_valid(const char *s, size_t size);
/* A copy fit for one line of a message: control characters and invalid UTF-8 become '?', cut with "…" at max
 * bytes. NULL without memory. */
char *text_for_message(const char *s, size_t max);

/* Number of single-character edits between two short strings (≤ 64 bytes), for "did you mean". */
size_t edit_distance(const char *left, const char *right);
