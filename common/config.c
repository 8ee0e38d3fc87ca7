/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <yaml.h>

#include "fd-util.h"

enum { KEY_MAX = 256, SHOWN_MAX = 60, OWNER_MAX = 64 };

/* One file on its way. */
typedef struct Load {
        const char *file;
        const ConfigItem *items;
        size_t n_items;
        void *target;
        yaml_parser_t parser;
        yaml_event_t event;
        bool has_event;
        char **seen; /* keys and sections of this file, and "map.name" of the entries of maps */
        char *message;
} Load;

/* Notes the message (once) and returns the error. */
static int _printf_(4, 5) load_error(Load *l, size_t line, int error, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list arguments;
        int r;

        va_start(arguments, format);
        r = vasprintf(&text, format, arguments);
        va_end(arguments);
        if (r < 0) {
                text = NULL;
                return -ENOMEM;
        }
        free(l->message);
        l->message =
                line > 0 ? strformat("%s:%zu: %s", l->file, line, text) : strformat("%s: %s", l->file, text);
        return l->message ? error : -ENOMEM;
}

static size_t event_line(const Load *l) {
        return l->event.start_mark.line + 1;
}

static int load_yaml_error(Load *l) {
        const yaml_parser_t *p = &l->parser;

        if (p->error == YAML_MEMORY_ERROR)
                return -ENOMEM;
        if (p->error == YAML_READER_ERROR) {
                size_t line = 1;

                /* The reader knows an offset only. */
                for (size_t i = 0;
                     i < p->problem_offset && i < (size_t) (p->input.string.end - p->input.string.start);
                     i++)
                        line += p->input.string.start[i] == '\n';
                return load_error(l, line, -EBADMSG, "not valid YAML: %s",
                                  p->problem ?: "unreadable character");
        }
        return load_error(l, p->problem_mark.line + 1, -EBADMSG, "not valid YAML: %s%s%s",
                          p->problem ?: "syntax error", p->context ? " " : "", strempty(p->context));
}

/* Gets the next event into l->event. Anchors, aliases and tags end here. */
static int load_next(Load *l) {
        const yaml_char_t *anchor = NULL, *tag = NULL;

        if (l->has_event)
                yaml_event_delete(&l->event);
        l->has_event = false;
        if (!yaml_parser_parse(&l->parser, &l->event))
                return load_yaml_error(l);
        l->has_event = true;
        switch (l->event.type) {
        case YAML_ALIAS_EVENT:
                anchor = l->event.data.alias.anchor;
                break;
        case YAML_SCALAR_EVENT:
                anchor = l->event.data.scalar.anchor;
                tag = l->event.data.scalar.tag;
                break;
        case YAML_SEQUENCE_START_EVENT:
                anchor = l->event.data.sequence_start.anchor;
                tag = l->event.data.sequence_start.tag;
                break;
        case YAML_MAPPING_START_EVENT:
                anchor = l->event.data.mapping_start.anchor;
                tag = l->event.data.mapping_start.tag;
                break;
        default:
                break;
        }
        if (anchor)
                return load_error(l, event_line(l), -EINVAL,
                                  "anchors and aliases ('&', '*') are not allowed here");
        if (tag)
                return load_error(l, event_line(l), -EINVAL, "tags ('!') are not allowed here");
        return 0;
}

/* The text of the current scalar. Returns 0, -EINVAL with a message when there is a NUL in it. */
static int load_scalar(Load *l, const char *key, const char **ret) {
        const char *s = (const char *) l->event.data.scalar.value;

        if (strlen(s) != l->event.data.scalar.length)
                return load_error(l, event_line(l), -EINVAL, "key '%s': a NUL character is not allowed",
                                  key);
        *ret = s;
        return 0;
}

/* `key:` with nothing behind it. */
static bool scalar_is_nothing(const Load *l) {
        return l->event.data.scalar.length == 0 && l->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static int load_unexpected(Load *l, size_t line, const ConfigItem *item, const char *key, const char *got,
                           bool quote) {
        _cleanup_(freep) char *shown = NULL;

        shown = text_for_message(got, SHOWN_MAX);
        if (!shown)
                return -ENOMEM;
        return load_error(l, line, -EINVAL,
                          quote ? "key '%s': expected %s, got '%s'" : "key '%s': expected %s, got %s", key,
                          item->expected, shown);
}

static const char *event_to_text(const Load *l) {
        switch (l->event.type) {
        case YAML_SEQUENCE_START_EVENT:
                return "a list";
        case YAML_MAPPING_START_EVENT:
                return "a group of keys";
        case YAML_SCALAR_EVENT:
                return "a value";
        default:
                return "something else";
        }
}

static int load_see(Load *l, size_t line, const char *key) {
        if (strv_contains(l->seen, key))
                return load_error(l, line, -EEXIST, "key '%s': given twice in this file", key);
        return strv_extend(&l->seen, key);
}

static void *item_field(const Load *l, const ConfigItem *item) {
        return (char *) l->target + item->offset;
}

/* Parses the current event, a scalar. */
static int load_value(Load *l, const ConfigItem *item, const char *key, const char *name) {
        const char *value = NULL;
        int r;

        r = load_scalar(l, key, &value);
        if (r < 0)
                return r;
        if (scalar_is_nothing(l))
                return load_unexpected(l, event_line(l), item, key, "nothing", false);
        r = item->parse(item, name, value, item_field(l, item));
        if (r == -ENOMEM)
                return r;
        if (r == -E2BIG)
                return load_error(l, event_line(l), r, "key '%s': too many entries", key);
        return r < 0 ? load_unexpected(l, event_line(l), item, key, value, true) : 0;
}

static int load_list(Load *l, const ConfigItem *item) {
        int r;

        r = item->parse(item, NULL, NULL, item_field(l, item));
        if (r < 0)
                return r;
        if (l->event.type == YAML_SCALAR_EVENT)
                return scalar_is_nothing(l) ? 0 : load_value(l, item, item->key, NULL);
        if (l->event.type != YAML_SEQUENCE_START_EVENT)
                return load_unexpected(l, event_line(l), item, item->key, event_to_text(l), false);
        for (;;) {
                r = load_next(l);
                if (r < 0)
                        return r;
                if (l->event.type == YAML_SEQUENCE_END_EVENT)
                        return 0;
                if (l->event.type != YAML_SCALAR_EVENT)
                        return load_unexpected(l, event_line(l), item, item->key, event_to_text(l), false);
                r = load_value(l, item, item->key, NULL);
                if (r < 0)
                        return r;
        }
}

/* Reads a key, which is the current event, behind the prefix. Returns the key's path in `ret`. */
static int load_key(Load *l, const char *prefix, char ret[static KEY_MAX]) {
        _cleanup_(freep) char *shown = NULL;
        const char *name = NULL;
        int r;

        if (l->event.type != YAML_SCALAR_EVENT)
                return load_error(l, event_line(l), -EINVAL, "expected a key, got %s", event_to_text(l));
        r = load_scalar(l, isempty(prefix) ? "?" : prefix, &name);
        if (r < 0)
                return r;
        shown = text_for_message(name, SHOWN_MAX);
        if (!shown)
                return -ENOMEM;
        /* A '.' separates the parts of a path: in a name it would be another path's. Map entries may have
         * it. */
        snprintf(ret, KEY_MAX, "%s%s%s", prefix, isempty(prefix) ? "" : ".", shown);
        return 0;
}

static int load_map(Load *l, const ConfigItem *item) {
        int r;

        r = item->parse(item, NULL, NULL, item_field(l, item));
        if (r < 0)
                return r;
        if (l->event.type == YAML_SCALAR_EVENT && scalar_is_nothing(l))
                return 0;
        if (l->event.type != YAML_MAPPING_START_EVENT)
                return load_unexpected(l, event_line(l), item, item->key, event_to_text(l), false);
        for (;;) {
                _cleanup_(freep) char *name = NULL;
                char key[KEY_MAX];

                r = load_next(l);
                if (r < 0)
                        return r;
                if (l->event.type == YAML_MAPPING_END_EVENT)
                        return 0;
                r = load_key(l, item->key, key);
                if (r < 0)
                        return r;
                name = strdup((const char *) l->event.data.scalar.value);
                if (!name)
                        return -ENOMEM;
                if (isempty(name) || strlen(name) > SHOWN_MAX || !owner_name_is_valid(name))
                        return load_error(l, event_line(l), -EINVAL,
                                          "key '%s': expected a printable name of 1 to %d bytes", key,
                                          SHOWN_MAX);
                r = load_see(l, event_line(l), key);
                if (r < 0)
                        return r;
                r = load_next(l);
                if (r < 0)
                        return r;
                if (l->event.type != YAML_SCALAR_EVENT)
                        return load_unexpected(l, event_line(l), item, key, event_to_text(l), false);
                r = load_value(l, item, key, name);
                if (r < 0)
                        return r;
        }
}

static int load_tree(Load *l, const ConfigItem *item, const char *path, unsigned depth);

/* One call of a tree's parser, about the event at that line. */
static int tree_call(Load *l, const ConfigItem *item, size_t line, const char *path, const char *value) {
        int r = item->parse(item, path, value, item_field(l, item));
        _cleanup_(freep) char *key = NULL;
        ConfigItem at = *item;

        if (r >= 0 || r == -ENOMEM)
                return r;
        key = path ? strformat("%s.%s", item->key, path) : strdup(item->key);
        if (!key)
                return -ENOMEM;
        for (char *p = key; *p; p++)
                if (*p == '/')
                        *p = p[1] ? '.' : '\0';
        if (r == -E2BIG)
                return load_error(l, line, r, "key '%s': too many entries", key);
        if (item->explain)
                at.expected = item->explain(strempty(path));
        return load_unexpected(l, line, &at, key, value ?: event_to_text(l), value != NULL);
}

static int tree_scalar(Load *l, const ConfigItem *item, const char *path) {
        const char *value = NULL;
        int r;

        r = load_scalar(l, path, &value);
        if (r < 0)
                return r;
        if (scalar_is_nothing(l))
                return tree_call(l, item, event_line(l), path, NULL);
        return tree_call(l, item, event_line(l), path, value);
}

static int tree_list(Load *l, const ConfigItem *item, const char *path) {
        _cleanup_(freep) char *in_list = strformat("%s/", path);
        int r;

        if (!in_list)
                return -ENOMEM;
        for (;;) {
                r = load_next(l);
                if (r < 0)
                        return r;
                if (l->event.type == YAML_SEQUENCE_END_EVENT)
                        return 0;
                if (l->event.type != YAML_SCALAR_EVENT)
                        return load_error(l, event_line(l), -EINVAL, "key '%s': expected a value, got %s",
                                          item->key, event_to_text(l));
                r = tree_scalar(l, item, in_list);
                if (r < 0)
                        return r;
        }
}

static int tree_map(Load *l, const ConfigItem *item, const char *path, unsigned depth) {
        int r;

        for (;;) {
                _cleanup_(freep) char *inner = NULL, *seen = NULL;
                char key[KEY_MAX];
                const char *name;

                r = load_next(l);
                if (r < 0)
                        return r;
                if (l->event.type == YAML_MAPPING_END_EVENT)
                        return 0;
                r = load_key(l, item->key, key);
                if (r < 0)
                        return r;
                name = (const char *) l->event.data.scalar.value;
                if (isempty(name) || strlen(name) > OWNER_MAX || strchr(name, '/'))
                        return load_error(l, event_line(l), -EINVAL,
                                          "key '%s': expected a name of 1 to %d bytes without '/'", key,
                                          OWNER_MAX);
                inner = path ? strformat("%s/%s", path, name) : strdup(name);
                seen = inner ? strformat("%s/%s", item->key, inner) : NULL;
                if (!seen)
                        return -ENOMEM;
                r = load_see(l, event_line(l), seen);
                if (r >= 0)
                        r = load_next(l);
                if (r >= 0)
                        r = load_tree(l, item, inner, depth + 1);
                if (r < 0)
                        return r;
        }
}

/* From the event that begins it. path NULL: the whole tree. */
static int load_tree(Load *l, const ConfigItem *item, const char *path, unsigned depth) {
        int r;

        if (depth > CONFIG_DEPTH_MAX)
                return load_error(l, event_line(l), -EINVAL, "more than %d levels", CONFIG_DEPTH_MAX);
        if (l->event.type == YAML_SCALAR_EVENT && (path || !scalar_is_nothing(l)))
                return path ? tree_scalar(l, item, path)
                            : load_unexpected(l, event_line(l), item, item->key, event_to_text(l), false);
        r = tree_call(l, item, event_line(l), path, NULL);
        if (r < 0 || l->event.type == YAML_SCALAR_EVENT)
                return r;
        if (l->event.type == YAML_MAPPING_START_EVENT)
                return tree_map(l, item, path, depth);
        if (path)
                return tree_list(l, item, path);
        return load_unexpected(l, event_line(l), item, item->key, event_to_text(l), false);
}

static const ConfigItem *item_find(const Load *l, const char *key) {
        for (size_t i = 0; i < l->n_items; i++)
                if (streq(l->items[i].key, key))
                        return l->items + i;
        return NULL;
}

static bool is_section(const Load *l, const char *key) {
        for (size_t i = 0; i < l->n_items; i++) {
                const char *rest = startswith(l->items[i].key, key);

                if (rest && *rest == '.')
                        return true;
        }
        return false;
}

static int load_unknown(Load *l, const char *key) {
        const char *best = NULL;
        size_t best_distance = MAX((size_t) 2, strlen(key) / 3) + 1;

        for (size_t i = 0; i < l->n_items; i++) {
                const char *candidate = l->items[i].key, *last = strrchr(candidate, '.');
                size_t distance = edit_distance(key, candidate);

                /* Right name, wrong group. */
                if (last && streq(last + 1, strrchr(key, '.') ? strrchr(key, '.') + 1 : key))
                        distance = MIN(distance, (size_t) 1);
                if (distance < best_distance) {
                        best = candidate;
                        best_distance = distance;
                }
        }
        if (best)
                return load_error(l, event_line(l), -EINVAL,
                                  "key '%s': there is no such key; did you mean '%s'?", key, best);
        return load_error(l, event_line(l), -EINVAL, "key '%s': there is no such key", key);
}

static int load_item(Load *l, const ConfigItem *item) {
        switch (item->kind) {
        case CONFIG_SCALAR:
                if (l->event.type != YAML_SCALAR_EVENT)
                        return load_unexpected(l, event_line(l), item, item->key, event_to_text(l), false);
                return load_value(l, item, item->key, NULL);
        case CONFIG_LIST:
                return load_list(l, item);
        case CONFIG_MAP:
                return load_map(l, item);
        case CONFIG_TREE:
                return load_tree(l, item, NULL, 1);
        }
        return -EINVAL;
}

/* A group of keys, from behind its start to its end. */
static int load_section(Load *l, const char *prefix, unsigned depth) {
        int r;

        if (depth > CONFIG_DEPTH_MAX)
                return load_error(l, event_line(l), -EINVAL, "more than %d levels", CONFIG_DEPTH_MAX);
        for (;;) {
                const ConfigItem *item;
                char key[KEY_MAX];

                r = load_next(l);
                if (r < 0)
                        return r;
                if (l->event.type == YAML_MAPPING_END_EVENT)
                        return 0;
                r = load_key(l, prefix, key);
                if (r < 0)
                        return r;
                item = strchr((const char *) l->event.data.scalar.value, '.') ? NULL : item_find(l, key);
                if (!item && !is_section(l, key))
                        return load_unknown(l, key);
                r = load_see(l, event_line(l), key);
                if (r < 0)
                        return r;
                r = load_next(l);
                if (r < 0)
                        return r;
                if (item)
                        r = load_item(l, item);
                else if (l->event.type == YAML_MAPPING_START_EVENT)
                        r = load_section(l, key, depth + 1);
                else if (l->event.type != YAML_SCALAR_EVENT || !scalar_is_nothing(l))
                        r = load_error(l, event_line(l), -EINVAL,
                                       "key '%s': expected a group of keys, got %s", key, event_to_text(l));
                if (r < 0)
                        return r;
        }
}

static int load_stream(Load *l) {
        int r;

        r = load_next(l); /* the stream's start */
        if (r < 0)
                return r;
        r = load_next(l);
        if (r < 0)
                return r;
        if (l->event.type == YAML_STREAM_END_EVENT)
                return 0;
        r = load_next(l);
        if (r < 0)
                return r;
        if (l->event.type == YAML_MAPPING_START_EVENT)
                r = load_section(l, "", 1);
        else if (l->event.type != YAML_SCALAR_EVENT || !scalar_is_nothing(l))
                r = load_error(l, event_line(l), -EINVAL, "expected a group of keys ('key: value'), got %s",
                               event_to_text(l));
        if (r < 0)
                return r;
        r = load_next(l); /* the document's end */
        if (r < 0)
                return r;
        r = load_next(l);
        if (r < 0)
                return r;
        if (l->event.type != YAML_STREAM_END_EVENT)
                return load_error(l, event_line(l), -EINVAL, "only one document ('---') is allowed");
        return 0;
}

int config_load_text(const char *file_name, const char *text, size_t size, const ConfigItem *items,
                     size_t n_items, void *target, char **ret_message) {
        Load l = { .file = file_name, .items = items, .n_items = n_items, .target = target };
        int r;

        if (size > CONFIG_FILE_MAX)
                r = load_error(&l, 0, -EFBIG, "larger than %d bytes", CONFIG_FILE_MAX);
        else if (!yaml_parser_initialize(&l.parser))
                r = -ENOMEM;
        else {
                yaml_parser_set_input_string(&l.parser, (const unsigned char *) text, size);
                yaml_parser_set_encoding(&l.parser, YAML_UTF8_ENCODING);
                r = load_stream(&l);
                if (l.has_event)
                        yaml_event_delete(&l.event);
                yaml_parser_delete(&l.parser);
        }
        strv_free(l.seen);
        if (r >= 0) {
                free(l.message);
                return 0;
        }
        if (!l.message)
                l.message = strformat("%s: %s", file_name, strerrordesc_np(-r) ?: "unknown error");
        *ret_message = l.message;
        return r;
}

int config_load_file(const char *path, const ConfigItem *items, size_t n_items, void *target,
                     char **ret_message) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = read_file_full(path, CONFIG_FILE_MAX, &text, &size);
        if (r == -EFBIG)
                *ret_message = strformat("%s: larger than %d bytes", path, CONFIG_FILE_MAX);
        else if (r < 0)
                *ret_message =
                        strformat("%s: cannot be read: %s", path, strerrordesc_np(-r) ?: "unknown error");
        if (r < 0)
                return r;
        return config_load_text(path, text, size, items, n_items, target, ret_message);
}

static int compare_strings(const void *left, const void *right) {
        return strcmp(*(char *const *) left, *(char *const *) right);
}

static inline void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

/* Appends the drop-ins of a directory, by name. One that does not exist has none. */
static int list_drop_ins(const char *directory, char ***files) {
        _cleanup_(strv_freep) char **found = NULL;
        _cleanup_(closedirp) DIR *d = NULL;
        struct dirent *entry;
        int r;

        d = opendir(directory);
        if (!d)
                return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
        while ((entry = readdir(d))) {
                _cleanup_(freep) char *path = NULL;

                if (entry->d_name[0] == '.' || !endswith(entry->d_name, ".yaml"))
                        continue;
                path = strformat("%s/%s", directory, entry->d_name);
                if (!path)
                        return -ENOMEM;
                r = strv_extend(&found, path);
                if (r < 0)
                        return r;
        }
        if (found)
                qsort(found, strv_length(found), sizeof(char *), compare_strings);
        for (char **i = found; i && *i; i++) {
                r = strv_extend(files, *i);
                if (r < 0)
                        return r;
        }
        return 0;
}

int config_load(const char *directory, const char *name, const char *explicit_path, const ConfigItem *items,
                size_t n_items, void *target, char ***ret_files, char **ret_message) {
        _cleanup_(strv_freep) char **files = NULL, **read = NULL;
        _cleanup_(freep) char *main_file = NULL, *drop_ins = NULL;
        int r;

        directory = directory ?: "/etc/clupy";
        main_file = strformat("%s/%s", directory, name);
        drop_ins = strformat("%s/%s.d", directory, name);
        if (!main_file || !drop_ins)
                return -ENOMEM;
        r = strv_extend(&files, main_file);
        if (r < 0)
                return r;
        r = list_drop_ins(drop_ins, &files);
        if (r < 0) {
                *ret_message = strformat("%s: cannot be read: %s", drop_ins,
                                         strerrordesc_np(-r) ?: "unknown error");
                return r;
        }
        if (explicit_path) {
                r = strv_extend(&files, explicit_path);
                if (r < 0)
                        return r;
        }
        for (char **i = files; *i; i++) {
                _cleanup_(freep) char *message = NULL;

                r = config_load_file(*i, items, n_items, target, &message);
                if (r == -ENOENT && !(explicit_path && !i[1]))
                        continue;
                if (r < 0) {
                        *ret_message = TAKE_PTR(message);
                        return r;
                }
                r = strv_extend(&read, *i);
                if (r < 0)
                        return r;
        }
        if (ret_files)
                *ret_files = TAKE_PTR(read);
        return 0;
}
