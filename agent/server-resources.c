/* SPDX-License-Identifier: Apache-2.0 */
#include "server-resources.h"

#include <errno.h>
#include <string.h>

#include "launcher/launcher-protocol.h"
#include "parse-util.h"

enum { VARIABLE_MAX = 63 };

/* The two fields behind the pointer that the configuration's table has. */
typedef struct Resources {
        ServerResource *resources;
        size_t n_resources;
} Resources;

ServerResource *server_resources_free(ServerResource *resources, size_t n) {
        for (size_t i = 0; i < n; i++) {
                strv_free(resources[i].devices);
                strv_free(resources[i].shared);
                free(resources[i].variable);
        }
        return mfree(resources);
}

/* Names of [a-z0-9-] cannot be mistaken for anything else, wherever they are shown. */
static int resource_get(Resources *r, const char *name, ServerResource **ret) {
        ServerResource *grown;

        for (size_t i = 0; i < r->n_resources; i++)
                if (streq(r->resources[i].name, name)) {
                        *ret = r->resources + i;
                        return 0;
                }
        if (!name_is_valid(name, RESOURCE_NAME_MAX))
                return -EINVAL;
        if (r->n_resources >= RESOURCES_MAX)
                return -E2BIG;
        grown = reallocarray(r->resources, r->n_resources + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        r->resources = grown;
        *ret = grown + r->n_resources++;
        memset(*ret, 0, sizeof(**ret));
        memcpy((*ret)->name, name, strlen(name));
        return 0;
}

static int parse_count(const char *value, uint64_t *ret) {
        uint64_t count;
        int r;

        r = parse_uint64(value, &count);
        if (r < 0)
                return r;
        if (count < 1 || count > RESOURCE_COUNT_MAX)
                return -ERANGE;
        *ret = count;
        return 0;
}

static int add_device(char ***list, const char *value) {
        if (!device_path_is_valid(value) || strv_contains(*list, value))
                return -EINVAL;
        return strv_length(*list) >= RESOURCE_DEVICES_MAX ? -E2BIG : strv_extend(list, value);
}

static bool variable_is_valid(const char *s) {
        if ((*s < 'A' || *s > 'Z') && *s != '_')
                return false;
        return strlen(s) <= VARIABLE_MAX && s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] == '\0';
}

/* "devices", or "devices/" for an entry of the list. A list that begins (value NULL) begins empty. */
static int parse_devices(char ***list, const char *value) {
        if (value)
                return add_device(list, value);
        *list = strv_free(*list);
        return 0;
}

int server_resources_parse(const ConfigItem *item, const char *path, const char *value, void *field) {
        Resources *all = field;
        _cleanup_(freep) char *name = NULL;
        ServerResource *resource;
        const char *slash, *key;
        int r;

        if (!path) { /* the tree begins: it replaces a former file's */
                all->resources = server_resources_free(all->resources, all->n_resources);
                all->n_resources = 0;
                return 0;
        }
        slash = strchr(path, '/');
        name = slash ? memdup_nul(path, (size_t) (slash - path)) : strdup(path);
        if (!name)
                return -ENOMEM;
        r = resource_get(all, name, &resource);
        if (r < 0)
                return r;
        if (!slash) /* "licence: 4" says as much as "licence: {count: 4}" */
                return value ? parse_count(value, &resource->count) : 0;
        key = slash + 1;
        if (streq(key, "devices") || streq(key, "devices/"))
                return parse_devices(&resource->devices, value);
        if (streq(key, "shared") || streq(key, "shared/"))
                return parse_devices(&resource->shared, value);
        if (!value)
                return -EINVAL;
        if (streq(key, "count"))
                return parse_count(value, &resource->count);
        if (streq(key, "variable"))
                return variable_is_valid(value) ? free_and_strdup(&resource->variable, value) : -EINVAL;
        return -EINVAL;
}

const char *server_resources_explain(const char *path) {
        const char *key = strchr(path, '/');

        if (!*path)
                return "names of resources";
        if (!key)
                return "a name of a-z, 0-9 and '-' with a number of at least 1, or with devices, shared, "
                       "variable or count";
        key++;
        if (startswith(key, "devices") || startswith(key, "shared"))
                return "different device nodes such as /dev/nvidia0";
        if (streq(key, "count"))
                return "a number from 1 to 1048576";
        if (streq(key, "variable"))
                return "the name of an environment variable such as CUDA_VISIBLE_DEVICES";
        return "devices, shared, variable or count";
}

static bool strv_overlap(char **a, char **b) {
        for (char **s = a; s && *s; s++)
                if (strv_contains(b, *s))
                        return true;
        return false;
}

/* One that is given out must be nobody else's. */
static bool device_in_two(const ServerResource *a, const ServerResource *b) {
        return strv_overlap(a->devices, b->devices) || strv_overlap(a->devices, b->shared) ||
               strv_overlap(a->shared, b->devices);
}

int server_resources_check(ServerResource *resources, size_t n, char **ret_message) {
        size_t n_devices = 0;

        for (size_t i = 0; i < n; i++) {
                ServerResource *r = resources + i;
                const char *wrong = NULL;

                n_devices += strv_length(r->devices) + strv_length(r->shared);

                if (!r->devices && r->count == 0)
                        wrong = "devices, or a count";
                else if (r->devices && r->count > 0 && r->count != strv_length(r->devices))
                        wrong = "as many devices as its count, or no count";
                else if (!r->devices && (r->shared || r->variable))
                        wrong = "devices beside 'shared' and 'variable'";
                else if (strv_length(r->shared) >= DEVICES_OF_TASK_MAX)
                        wrong = "fewer shared devices: no task can have more than 32 in all";
                else if (n_devices > DEVICES_MAX)
                        wrong = "at most 128 devices of all resources";
                for (size_t j = 0; j < i && !wrong; j++)
                        if (device_in_two(r, resources + j))
                                wrong = "devices that are of no other resource, and none of them shared";
                if (!wrong && strv_overlap(r->devices, r->shared))
                        wrong = "devices that are not shared as well";
                if (wrong) {
                        *ret_message = strformat("key 'resources.%s': expected %s", r->name, wrong);
                        return -EINVAL;
                }
                if (r->devices)
                        r->count = strv_length(r->devices);
        }
        return 0;
}
