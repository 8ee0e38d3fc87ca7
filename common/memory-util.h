/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "macros.h"

/* Ownership leaves the variable, which is NULL (or a closed fd) afterwards. */
#define TAKE_PTR(pointer)                                                                                   \
        ({                                                                                                  \
                __typeof__(pointer) *_take_p = &(pointer);                                                  \
                __typeof__(pointer) _take_v = *_take_p;                                                     \
                *_take_p = NULL;                                                                            \
                _take_v;                                                                                    \
        })
#define TAKE_FD(fd)                                                                                         \
        ({                                                                                                  \
                int *_take_p = &(fd);                                                                       \
                int _take_v = *_take_p;                                                                     \
                *_take_p = -EBADF;                                                                          \
                _take_v;                                                                                    \
        })

/* Defines `function`p for a destructor that takes NULL and returns NULL. */
#define DEFINE_CLEANUP(Type, function)                                                                      \
        static inline void function##p(Type **pointer) {                                                    \
                if (*pointer)                                                                               \
                        function(*pointer);                                                                 \
        }                                                                                                   \
        struct clupy_swallow_semicolon

/* Frees and returns NULL: `p = mfree(p)`. */
static inline void *mfree(void *memory) {
        free(memory);
        return NULL;
}

/* _cleanup_(freep) for any pointer from malloc. */
static inline void freep(void *pointer) {
        free(*(void **) pointer);
}

/* Frees what the pointer holds and gives it a new value. */
#define free_and_replace(pointer, replacement)                                                              \
        ({                                                                                                  \
                __typeof__(pointer) *_replace_p = &(pointer);                                               \
                free(*_replace_p);                                                                          \
                *_replace_p = TAKE_PTR(replacement);                                                        \
                0;                                                                                          \
        })

#define new0(Type) ((Type *) calloc(1, sizeof(Type)))
#define newn0(Type, n) ((Type *) calloc((n), sizeof(Type)))

/* Makes room for at least `need` elements, growing by half. Returns 0, -ENOMEM (array untouched). */
int array_reserve(void *array_pointer, size_t *capacity, size_t need, size_t element_size);
#define ARRAY_RESERVE(array, capacity, need) array_reserve(&(array), &(capacity), (need), sizeof(*(array)))

/* Replaces *s by a copy of value (NULL: by NULL). Returns 0, -ENOMEM (*s untouched). */
int free_and_strdup(char **s, const char *value);

/* A copy of memory with a NUL behind it, or NULL. */
char *memdup_nul(const void *memory, size_t size);
void *memdup(const void *memory, size_t size);

/* A formatted string, or NULL without memory. */
char *strformat(const char *format, ...) _printf_(1, 2);

/* NULL-terminated string arrays. */
char **strv_free(char **l);
DEFINE_CLEANUP(char *, strv_free);
size_t strv_length(char *const *l);
/* Appends a copy. Returns 0, -ENOMEM. */
int strv_extend(char ***l, const char *value);
bool strv_contains(char *const *l, const char *value);

static inline void fclosep(FILE **f) {
        if (*f)
                fclose(*f);
}
