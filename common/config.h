/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory-util.h"
#include "parse-util.h"

/* Table-driven YAML configuration: a table says which keys there are, how each is parsed, and into which
 * field of a struct.
 *
 *     static const ConfigItem items[] = {
 *             { "listen",        CONFIG_SCALAR, config_parse_string,   offsetof(MasterConfig, listen), "an
 * address such as 0.0.0.0:7878" }, { "task.memory",   CONFIG_SCALAR, config_parse_size,
 * offsetof(MasterConfig, memory), "a size such as 512M", .min = MIB(1), .max = UINT64_MAX }, { "masters",
 * CONFIG_LIST,   config_parse_strv,     offsetof(MasterConfig, masters), "a list of addresses" }, {
 * "labels",        CONFIG_MAP,    config_parse_map,      offsetof(MasterConfig, labels), "names with values"
 * },
 *     };
 *
 * Values found later replace those found earlier; a list or map as a whole. */

typedef enum ConfigKind {
        CONFIG_SCALAR,
        CONFIG_LIST, /* of scalars; a single scalar counts as a list of one */
        CONFIG_MAP,  /* of strings to scalars, names unique */
        CONFIG_TREE, /* maps in maps: the parser judges their names, see ConfigParse */
} ConfigKind;

typedef struct ConfigItem ConfigItem;

/* Parses one value into field. name: the key within a map, else NULL. value: NULL to make the field empty,
 * called once before the first entry of a list or map. Of a tree the name is the path within it, its parts
 * joined by '/' (names with a '/' are refused); before the first entry of each map and list in it the parser
 * is called with that path and NULL, and a list's values have a '/' at the end of theirs. Returns 0,
 * -ENOMEM, anything else negative: it is not what the item expects. */
typedef int (*ConfigParse)(const ConfigItem *item, const char *name, const char *value, void *field);

struct ConfigItem {
        const char *key; /* path: parts joined by '.' */
        ConfigKind kind;
        ConfigParse parse;
        size_t offset;
        const char *expected; /* "expected …" in messages and in the manual page's check */
        uint64_t min,
                max; /* bounds for numbers, sizes (bytes), durations (µs), lengths of strings; max 0: none */
        const void *data;                         /* what else the parser needs: name table, … */
        const char *(*explain)(const char *path); /* of trees: what is expected there */
};

/* Parsers and the type of their field. */
int config_parse_bool(const ConfigItem *item, const char *name, const char *value, void *field); /* bool */
int config_parse_unsigned(const ConfigItem *item, const char *name, const char *value,
                          void *field); /* unsigned */
int config_parse_uint64(const ConfigItem *item, const char *name, const char *value,
                        void *field); /* uint64_t */
int config_parse_double(const ConfigItem *item, const char *name, const char *value,
                        void *field); /* double; min, max as whole numbers */
int config_parse_size(const ConfigItem *item, const char *name, const char *value,
                      void *field); /* uint64_t, bytes */
int config_parse_duration(const ConfigItem *item, const char *name, const char *value,
                          void *field); /* uint64_t, µs */
int config_parse_cpus(const ConfigItem *item, const char *name, const char *value, void *field); /* double */
int config_parse_string(
        const ConfigItem *item, const char *name, const char *value,
        void *field); /* char *, from malloc or NULL; not empty unless max is 0 and min is 0 */
int config_parse_path(const ConfigItem *item, const char *name, const char *value,
                      void *field); /* char *, absolute, without ".." */
int config_parse_name(const ConfigItem *item, const char *name, const char *value,
                      void *field); /* char *, name_is_valid(max or 32) */
int config_parse_address(const ConfigItem *item, const char *name, const char *value,
                         void *field); /* Address; default port: min or 7878 */
int config_parse_enum(const ConfigItem *item, const char *name, const char *value,
                      void *field); /* int; data: const ConfigName[], ends with NULL */
int config_parse_strv(const ConfigItem *item, const char *name, const char *value,
                      void *field); /* char **; at most max (or 1,000) entries */
int config_parse_map(const ConfigItem *item, const char *name, const char *value,
                     void *field); /* char **: "name=value" entries; at most max (or 1,000) */

typedef struct ConfigName {
        const char *name;
        int value;
} ConfigName;

enum { CONFIG_FILE_MAX = 1 << 20, CONFIG_DEPTH_MAX = 8 };

/* Reads one file (or text under that name). Returns 0; -ENOENT when there is no such file; another negative
 * errno. With every error comes a message for the user, to be freed: one line such as "/etc/clupy/x.yaml:3:
 * key 'task.memory': expected a size such as 512M, got 'lots'"; only without memory it is left untouched (so
 * initialise it with NULL). After an error the target is partly filled.
 *
 * Refused: unknown keys (with "did you mean"), duplicate keys, wrong nesting, anchors, aliases and tags,
 * more than one document, over 1 MiB or 8 levels. An empty file is a good one. */
int config_load_file(const char *path, const ConfigItem *items, size_t n_items, void *target,
                     char **ret_message);
int config_load_text(const char *file_name, const char *text, size_t size, const ConfigItem *items,
                     size_t n_items, void *target, char **ret_message);

/* All files of a daemon in their order: DIRECTORY/NAME, DIRECTORY/NAME.d/ *.yaml (by name), explicit_path.
 * directory NULL: /etc/clupy; explicit_path NULL: none. Only explicit_path must exist. Returns as
 * config_load_file(); ret_files, if not NULL, gets the files read (strv). */
int config_load(const char *directory, const char *name, const char *explicit_path, const ConfigItem *items,
                size_t n_items, void *target, char ***ret_files, char **ret_message);
