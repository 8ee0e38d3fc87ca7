/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>

#include "config.h"

enum { ENTRIES_MAX = 1000 };

static bool in_bounds(const ConfigItem *item, uint64_t n) {
        return n >= item->min && (item->max == 0 || n <= item->max);
}

int config_parse_bool(const ConfigItem *item, const char *name, const char *value, void *field) {
        return parse_bool(value, field);
}

static int parse_number(const ConfigItem *item, int (*parse)(const char *, uint64_t *), const char *value,
                        uint64_t *ret) {
        uint64_t n;
        int r;

        r = parse(value, &n);
        if (r < 0)
                return r;
        if (!in_bounds(item, n))
                return -ERANGE;
        *ret = n;
        return 0;
}

int config_parse_uint64(const ConfigItem *item, const char *name, const char *value, void *field) {
        return parse_number(item, parse_uint64, value, field);
}

int config_parse_size(const ConfigItem *item, const char *name, const char *value, void *field) {
        return parse_number(item, parse_size, value, field);
}

int config_parse_duration(const ConfigItem *item, const char *name, const char *value, void *field) {
        return parse_number(item, parse_duration_usec, value, field);
}

int config_parse_unsigned(const ConfigItem *item, const char *name, const char *value, void *field) {
        uint64_t n;
        int r;

        r = parse_number(item, parse_uint64, value, &n);
        if (r < 0)
                return r;
        if (n > UINT_MAX)
                return -ERANGE;
        *(unsigned *) field = (unsigned) n;
        return 0;
}

int config_parse_double(const ConfigItem *item, const char *name, const char *value, void *field) {
        double n;
        int r;

        r = parse_double(value, &n);
        if (r < 0)
                return r;
        if (n < (double) item->min || (item->max > 0 && n > (double) item->max))
                return -ERANGE;
        *(double *) field = n;
        return 0;
}

int config_parse_cpus(const ConfigItem *item, const char *name, const char *value, void *field) {
        return parse_cpus(value, field);
}

int config_parse_string(const ConfigItem *item, const char *name, const char *value, void *field) {
        size_t size = strlen(value);

        if (!utf8_is_valid(value, size) || !in_bounds(item, size))
                return -EINVAL;
        return free_and_strdup(field, value);
}

int config_parse_path(const ConfigItem *item, const char *name, const char *value, void *field) {
        if (value[0] != '/' || strlen(value) >= PATH_MAX || !utf8_is_valid(value, strlen(value)))
                return -EINVAL;
        for (const char *p = value; (p = strstr(p, "/..")); p += 3)
                if (p[3] == '/' || p[3] == '\0')
                        return -EINVAL;
        return free_and_strdup(field, value);
}

int config_parse_name(const ConfigItem *item, const char *name, const char *value, void *field) {
        if (!name_is_valid(value, item->max > 0 ? item->max : 32))
                return -EINVAL;
        return free_and_strdup(field, value);
}

int config_parse_address(const ConfigItem *item, const char *name, const char *value, void *field) {
        return parse_address(value, item->min > 0 ? (uint16_t) item->min : ADDRESS_DEFAULT_PORT, field);
}

int config_parse_enum(const ConfigItem *item, const char *name, const char *value, void *field) {
        for (const ConfigName *i = item->data; i->name; i++)
                if (streq(i->name, value)) {
                        *(int *) field = i->value;
                        return 0;
                }
        return -EINVAL;
}

static int entry_add(const ConfigItem *item, char ***l, const char *entry) {
        if (strv_length(*l) >= (item->max > 0 ? item->max : ENTRIES_MAX))
                return -E2BIG;
        return strv_extend(l, entry);
}

int config_parse_strv(const ConfigItem *item, const char *name, const char *value, void *field) {
        char ***l = field;

        if (!value) {
                *l = strv_free(*l);
                return 0;
        }
        if (isempty(value) || !utf8_is_valid(value, strlen(value)))
                return -EINVAL;
        return entry_add(item, l, value);
}

int config_parse_map(const ConfigItem *item, const char *name, const char *value, void *field) {
        _cleanup_(freep) char *entry = NULL;
        char ***l = field;

        if (!value) {
                *l = strv_free(*l);
                return 0;
        }
        if (strchr(name, '=') || !utf8_is_valid(value, strlen(value)))
                return -EINVAL;
        entry = strformat("%s=%s", name, value);
        if (!entry)
                return -ENOMEM;
        return entry_add(item, l, entry);
}
