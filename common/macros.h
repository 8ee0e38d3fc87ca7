/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define _cleanup_(function) __attribute__((cleanup(function)))
#define _unused_ __attribute__((unused))
#define _printf_(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#define _sentinel_ __attribute__((sentinel))
#define _noreturn_ __attribute__((noreturn))
#define _warn_unused_result_ __attribute__((warn_unused_result))

#define ELEMENTSOF(array) (sizeof(array) / sizeof((array)[0]))

/* Each argument is evaluated once; they nest. */
#define MIN(left, right) MIN_COUNTED(left, right, __COUNTER__)
#define MAX(left, right) MAX_COUNTED(left, right, __COUNTER__)
#define MIN_COUNTED(left, right, n) MIN_UNIQUE(left, right, n)
#define MIN_UNIQUE(left, right, n) MIN_NAMED(left, right, _left_##n, _right_##n)
#define MAX_COUNTED(left, right, n) MAX_UNIQUE(left, right, n)
#define MAX_UNIQUE(left, right, n) MAX_NAMED(left, right, _left_##n, _right_##n)
#define MIN_NAMED(left, right, l, r)                                                                        \
        ({                                                                                                  \
                const __auto_type l = (left);                                                               \
                const __auto_type r = (right);                                                              \
                l < r ? l : r;                                                                              \
        })
#define MAX_NAMED(left, right, l, r)                                                                        \
        ({                                                                                                  \
                const __auto_type l = (left);                                                               \
                const __auto_type r = (right);                                                              \
                l > r ? l : r;                                                                              \
        })
#define CLAMP(value, low, high) MIN(MAX((value), (low)), (high))

/* Rounds up to a multiple of boundary, which is a power of two. */
#define ALIGN_TO(value, boundary) (((value) + (boundary) -1) & ~((__typeof__(value)) (boundary) -1))

#define CONTAINER_OF(pointer, type, member) ((type *) ((char *) (pointer) -offsetof(type, member)))

/* Copies a string from one array to another, which has room for the longest. */
#define COPY_TEXT(to, from)                                                                                 \
        ({                                                                                                  \
                _Static_assert(!__builtin_types_compatible_p(__typeof__(from), __typeof__(&(from)[0])),     \
                               "the size of what is copied is not known");                                  \
                _Static_assert(sizeof(to) >= sizeof(from), "a long string would not fit");                  \
                memcpy((to), (from), sizeof(from));                                                         \
        })

#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)

#define KIB(n) ((size_t) (n) << 10)
#define MIB(n) ((size_t) (n) << 20)
#define GIB(n) ((uint64_t) (n) << 30)

static inline bool streq(const char *left, const char *right) {
        return strcmp(left, right) == 0;
}

/* NULL equals NULL and nothing else. */
static inline bool streq_ptr(const char *left, const char *right) {
        return left && right ? streq(left, right) : left == right;
}

static inline bool isempty(const char *s) {
        return !s || s[0] == '\0';
}

static inline const char *strempty(const char *s) {
        return s ? s : "";
}

/* What follows prefix in s, or NULL when s does not start with it. */
static inline const char *startswith(const char *s, const char *prefix) {
        size_t size = strlen(prefix);

        return strncmp(s, prefix, size) == 0 ? s + size : NULL;
}

/* Where suffix begins in s, or NULL when s does not end with it. */
static inline const char *endswith(const char *s, const char *suffix) {
        size_t s_size = strlen(s), suffix_size = strlen(suffix);

        if (s_size < suffix_size || memcmp(s + s_size - suffix_size, suffix, suffix_size) != 0)
                return NULL;
        return s + s_size - suffix_size;
}

/* Looks a name up in an enum's name table. Returns the index, -EINVAL when it is not there. */
int name_table_find(const char *const *table, size_t n, const char *name);

/* For an enum `Type` with values 0 … last-1 and a table of names: type_to_string() (never NULL: "?" for a
 * value that is out of range, since it goes into messages) and type_from_string() (-EINVAL for an unknown
 * name). */
#define DEFINE_NAME_TABLE_DECLARATION(prefix, Type)                                                         \
        const char *prefix##_to_string(Type value);                                                         \
        int prefix##_from_string(const char *name, Type *ret)

#define DEFINE_NAME_TABLE(prefix, Type, table)                                                              \
        const char *prefix##_to_string(Type value) {                                                        \
                if ((size_t) value >= ELEMENTSOF(table) || !(table)[(size_t) value])                        \
                        return "?";                                                                         \
                return (table)[(size_t) value];                                                             \
        }                                                                                                   \
        int prefix##_from_string(const char *name, Type *ret) {                                             \
                int i = name_table_find((table), ELEMENTSOF(table), name);                                  \
                if (i < 0)                                                                                  \
                        return i;                                                                           \
                *ret = (Type) i;                                                                            \
                return 0;                                                                                   \
        }
