/* SPDX-License-Identifier: Apache-2.0 */
#include "memory-util.h"

#include <errno.h>
#include <stdarg.h>

int name_table_find(const char *const *table, size_t n, const char *name) {
        for (size_t i = 0; name && i < n; i++)
                if (table[i] && streq(table[i], name))
                        return (int) i;
        return -EINVAL;
}

int array_reserve(void *array_pointer, size_t *capacity, size_t need, size_t element_size) {
        void *array, *larger;
        size_t n;

        if (need <= *capacity)
                return 0;
        if (need > PTRDIFF_MAX / element_size)
                return -ENOMEM;
        n = MAX(need, *capacity + *capacity / 2);
        n = MIN(MAX(n, (size_t) 8), PTRDIFF_MAX / element_size);
        memcpy(&array, array_pointer, sizeof(array));
        larger = reallocarray(array, n, element_size);
        if (!larger)
                return -ENOMEM;
        memcpy(array_pointer, &larger, sizeof(larger));
        *capacity = n;
        return 0;
}

int free_and_strdup(char **s, const char *value) {
        char *copy = NULL;

        if (value) {
                copy = strdup(value);
                if (!copy)
                        return -ENOMEM;
        }
        free(*s);
        *s = copy;
        return 0;
}

void *memdup(const void *memory, size_t size) {
        void *copy = malloc(MAX(size, (size_t) 1));

        if (copy && size > 0)
                memcpy(copy, memory, size);
        return copy;
}

char *memdup_nul(const void *memory, size_t size) {
        char *copy = malloc(size + 1);

        if (!copy)
                return NULL;
        if (size > 0)
                memcpy(copy, memory, size);
        copy[size] = '\0';
        return copy;
}

char *strformat(const char *format, ...) {
        va_list arguments;
        char *text;
        int r;

        va_start(arguments, format);
        r = vasprintf(&text, format, arguments);
        va_end(arguments);
        return r < 0 ? NULL : text;
}

char **strv_free(char **l) {
        for (char **i = l; i && *i; i++)
                free(*i);
        free(l);
        return NULL;
}

size_t strv_length(char *const *l) {
        size_t n = 0;

        while (l && l[n])
                n++;
        return n;
}

int strv_extend(char ***l, const char *value) {
        size_t n = strv_length(*l);
        char **larger, *copy;

        copy = strdup(value);
        if (!copy)
                return -ENOMEM;
        larger = reallocarray(*l, n + 2, sizeof(char *));
        if (!larger) {
                free(copy);
                return -ENOMEM;
        }
        larger[n] = copy;
        larger[n + 1] = NULL;
        *l = larger;
        return 0;
}

bool strv_contains(char *const *l, const char *value) {
        for (; l && *l; l++)
                if (streq(*l, value))
                        return true;
        return false;
}
