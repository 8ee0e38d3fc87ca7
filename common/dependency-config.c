/* SPDX-License-Identifier: Apache-2.0 */
#include "dependency-config.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "config.h"
#include "fd-util.h"
#include "parse-util.h"
#include "requirement.h"
#include "time-util.h"

#define FIELD(name) offsetof(DependencyConfig, name)

enum { URL_MAX = 2000 };

static int list_add(const ConfigItem *item, const char *value, bool good, char ***list) {
        if (!value) {
                *list = strv_free(*list);
                return 0;
        }
        if (!good)
                return -EINVAL;
        if (strv_length(*list) >= item->max)
                return -E2BIG;
        return strv_extend(list, value);
}

static int parse_packages(const ConfigItem *item, const char *name, const char *value, void *field) {
        return list_add(item, value, value && requirement_is_valid(value), field);
}

static int parse_preload(const ConfigItem *item, const char *name, const char *value, void *field) {
        return list_add(item, value, value && module_name_is_valid(value), field);
}

static int parse_nodes(const ConfigItem *item, const char *name, const char *value, void *field) {
        return list_add(item, value, value && owner_name_is_valid(value), field);
}

/* Also goes into another program's configuration: nothing that could mean something there. */
static bool text_is_plain(const char *s) {
        for (; *s; s++)
                if (*s <= ' ' || *s >= 0x7f || strchr("\"'\\{}$;<>`|^#", *s))
                        return false;
        return true;
}

/* With a host, and without a question. */
static bool url_is_valid(const char *s) {
        const char *host = startswith(s, "https://") ?: startswith(s, "http://");

        return host && strlen(s) <= URL_MAX && text_is_plain(s) && !strchr(s, '?') &&
               strcspn(host, "/:@") > 0;
}

/* Without '/' at the end. */
static char *url_copy(const char *s) {
        size_t n = strlen(s);

        while (n > 0 && s[n - 1] == '/')
                n--;
        return strndup(s, n);
}

static int parse_index(const ConfigItem *item, const char *name, const char *value, void *field) {
        DependencyConfig *config = CONTAINER_OF((char **) field, DependencyConfig, index);
        _cleanup_(freep) char *url = NULL;

        config->no_index = streq(value, "none");
        if (config->no_index) {
                config->index = mfree(config->index);
                return 0;
        }
        if (!url_is_valid(value))
                return -EINVAL;
        url = url_copy(value);
        return url ? free_and_strdup(&config->index, url) : -ENOMEM;
}

static int parse_index_files(const ConfigItem *item, const char *name, const char *value, void *field) {
        _cleanup_(freep) char *url = NULL;

        if (value && url_is_valid(value)) {
                url = url_copy(value);
                if (!url)
                        return -ENOMEM;
        }
        return list_add(item, url ?: value, url != NULL, field);
}

/* What lies there is offered to whoever builds: not what belongs to the system, nor where anybody may put
 * something. `below`: and what is in it. */
static bool folder_may_be_offered(const char *path) {
        static const struct {
                const char *path;
                bool below;
        } refused[] = {
                { "/bin", true },   { "/boot", true },     { "/dev", true },     { "/etc", true },
                { "/home", false }, { "/lib", true },      { "/lib32", true },   { "/lib64", true },
                { "/proc", true },  { "/root", true },     { "/run", false },    { "/sbin", true },
                { "/sys", true },   { "/tmp", false },     { "/usr", false },    { "/usr/lib", false },
                { "/var", false },  { "/var/lib", false }, { "/var/log", true }, { "/var/tmp", false },
        };
        char plain[PATH_MAX];
        size_t n = 0;

        /* "//etc/." is "/etc" */
        for (const char *p = path; *p && n + 1 < sizeof(plain);) {
                size_t size = strcspn(p, "/");

                if (size > 0 && !(size == 1 && *p == '.')) {
                        if (n + 1 + size >= sizeof(plain))
                                return false;
                        plain[n++] = '/';
                        memcpy(plain + n, p, size);
                        n += size;
                }
                p += size;
                p += strspn(p, "/");
        }
        plain[n] = '\0';
        for (size_t i = 0; i < ELEMENTSOF(refused); i++) {
                const char *rest = startswith(plain, refused[i].path);

                if (rest && (*rest == '\0' || (*rest == '/' && refused[i].below)))
                        return false;
        }
        return n > 0;
}

static int parse_folders(const ConfigItem *item, const char *name, const char *value, void *field) {
        _cleanup_(freep) char *path = NULL;

        if (value && (!text_is_plain(value) || config_parse_path(item, NULL, value, &path) < 0 ||
                      !folder_may_be_offered(value)))
                return -EINVAL;
        return list_add(item, value, true, field);
}

static int parse_lock(const ConfigItem *item, const char *name, const char *value, void *field) {
        return config_parse_string(item, name, value, field);
}

static int parse_sync(const ConfigItem *item, const char *name, const char *value, void *field) {
        if (!streq(value, "never"))
                return config_parse_duration(item, name, value, field);
        *(uint64_t *) field = USEC_INFINITY;
        return 0;
}

static const ConfigItem items[] = {
        { "packages", CONFIG_LIST, parse_packages, FIELD(packages),
          "requirements such as 'numpy>=2' or 'pandas[parquet]', by name and version and not by address",
          .max = DEPENDENCY_PACKAGES_MAX },
        { "index", CONFIG_SCALAR, parse_index, FIELD(index),
          "an address such as https://index.example.org/simple, or none" },
        { "index_files", CONFIG_LIST, parse_index_files, FIELD(index_files),
          "a list of addresses such as https://files.example.org", .max = DEPENDENCY_FOLDERS_MAX },
        { "wheels", CONFIG_LIST, parse_folders, FIELD(wheels),
          "a list of folders, absolute paths without blanks and quotes, none of the system's own such as / "
          "or /etc",
          .max = DEPENDENCY_FOLDERS_MAX },
        { "lock", CONFIG_SCALAR, parse_lock, FIELD(lock), "the name of a file of hash-locked requirements",
          .min = 1, .max = 4000 },
        { "only_wheels", CONFIG_SCALAR, config_parse_bool, FIELD(only_wheels), "true or false" },
        { "preload", CONFIG_LIST, parse_preload, FIELD(preload),
          "a list of modules such as numpy or os.path", .max = DEPENDENCY_PRELOAD_MAX },
        { "system_packages", CONFIG_SCALAR, config_parse_bool, FIELD(system_packages), "true or false" },
        { "resolve_on", CONFIG_LIST, parse_nodes, FIELD(resolve_on), "a list of names of nodes",
          .max = DEPENDENCY_NODES_MAX },
        { "sync", CONFIG_SCALAR, parse_sync, FIELD(sync),
          "a duration from 10s to 1 year such as 1h, or never", .min = 10 * USEC_PER_SEC,
          .max = 366 * USEC_PER_DAY },
};

DependencyConfig *dependency_config_free(DependencyConfig *config) {
        if (!config)
                return NULL;
        free(config->path);
        strv_free(config->packages);
        free(config->index);
        strv_free(config->index_files);
        strv_free(config->wheels);
        free(config->lock);
        strv_free(config->preload);
        strv_free(config->resolve_on);
        return mfree(config);
}

/* A key at the beginning of a line, for messages about what only is found out once all has been read.
 * Returns 0 when it is written in another way. */
static size_t line_of(const char *text, size_t size, const char *key) {
        const char *p = text, *end = text + size;
        size_t line = 1, length = strlen(key);

        while (p < end) {
                const char *next = memchr(p, '\n', (size_t) (end - p));

                if ((size_t) (end - p) > length && memcmp(p, key, length) == 0 && p[length] == ':')
                        return line;
                if (!next)
                        break;
                p = next + 1;
                line++;
        }
        return 0;
}

static int refuse(const char *path, const char *text, size_t size, const char *key, const char *expected,
                  char **ret_message) {
        size_t line = line_of(text, size, key);

        *ret_message = line > 0 ? strformat("%s:%zu: key '%s': expected %s", path, line, key, expected)
                                : strformat("%s: key '%s': expected %s", path, key, expected);
        return *ret_message ? -EINVAL : -ENOMEM;
}

static int check_together(const DependencyConfig *config, const char *text, size_t size,
                          char **ret_message) {
        if (config->no_index && config->index_files)
                return refuse(config->path, text, size, "index_files", "nothing, as there is no index",
                              ret_message);
        if (config->lock && config->resolve_on)
                return refuse(config->path, text, size, "resolve_on",
                              "nothing, as with a lock nothing is looked up", ret_message);
        if (config->lock && config->packages)
                return refuse(config->path, text, size, "packages",
                              "nothing, as the lock says which packages there are", ret_message);
        return 0;
}

/* Relative to the folder of the file. */
static int lock_make_absolute(DependencyConfig *config) {
        const char *slash = strrchr(config->path, '/');
        char *absolute;

        if (!config->lock || config->lock[0] == '/' || !slash)
                return 0;
        absolute = strformat("%.*s/%s", (int) (slash - config->path), config->path, config->lock);
        if (!absolute)
                return -ENOMEM;
        free(config->lock);
        config->lock = absolute;
        return 0;
}

int dependency_config_parse(const char *path, const char *text, size_t size, DependencyConfig **ret,
                            char **ret_message) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = new0(DependencyConfig);
        int r;

        *ret_message = NULL;
        if (!config)
                return -ENOMEM;
        config->sync = USEC_PER_HOUR;
        config->path = strdup(path);
        if (!config->path)
                return -ENOMEM;
        r = config_load_text(path, text, size, items, ELEMENTSOF(items), config, ret_message);
        if (r < 0)
                return r;
        r = check_together(config, text, size, ret_message);
        if (r < 0)
                return r;
        r = lock_make_absolute(config);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(config);
        return 0;
}

static int file_error(const char *path, int error, char **ret_message) {
        *ret_message = strformat("%s: %s", path, strerrordesc_np(-error) ?: "unknown error");
        return *ret_message ? error : -ENOMEM;
}

int dependency_config_load(const char *path, DependencyConfig **ret, char **ret_message) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        *ret_message = NULL;
        r = read_file_full(path, CONFIG_FILE_MAX, &text, &size);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return file_error(path, r, ret_message);
        return dependency_config_parse(path, text, size, ret, ret_message);
}

int dependency_config_read_lock(const DependencyConfig *config, char **ret, size_t *ret_size,
                                char **ret_message) {
        _cleanup_(freep) char *text = NULL;
        const char *expected;
        size_t size, line;
        int r;

        *ret_message = NULL;
        r = read_file_full(config->lock, LOCK_MAX, &text, &size);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return file_error(config->lock, r, ret_message);
        r = lock_parse(text, size, NULL, NULL, &line, &expected);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                *ret_message = strformat("%s:%zu: expected %s", config->lock, line, expected);
                return *ret_message ? -EINVAL : -ENOMEM;
        }
        *ret = TAKE_PTR(text);
        *ret_size = size;
        return 0;
}
