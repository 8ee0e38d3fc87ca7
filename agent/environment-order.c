/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-order.h"

#include <errno.h>

#include "digest.h"
#include "fd-util.h"
#include "json-util.h"
#include "parse-util.h"

enum {
        PACKAGES_MAX = 4096,
        PACKAGE_SIZE_MAX = 4096,
        MODULES_MAX = 1024,
        MODULE_SIZE_MAX = 256,
        WHEELS_MAX = 1024,
        WHEEL_NAME_MAX = 255,
        ADDRESS_SIZE = 64,
};

#define INDEX_ADDRESS "http://127.0.0.1:%d"

EnvironmentOrder *environment_order_free(EnvironmentOrder *o) {
        if (!o)
                return NULL;
        json_object_put(o->packages);
        json_object_put(o->preload);
        json_object_put(o->wheels);
        free(o->lock);
        return mfree(o);
}

/* One line of text: what an installer reads line by line must not become two. */
static bool line_is_valid(json_object *value, size_t max) {
        const char *s = json_object_get_string(value);
        size_t size;

        if (!json_object_is_type(value, json_type_string))
                return false;
        size = (size_t) json_object_get_string_len(value);
        if (size < 1 || size > max || !utf8_is_valid(s, size))
                return false;
        for (size_t i = 0; i < size; i++)
                if ((unsigned char) s[i] < ' ' || s[i] == 0x7f)
                        return false;
        return true;
}

static bool wheel_is_valid(json_object *wheel) {
        const char *name, *hex;
        Digest digest;

        return json_object_is_type(wheel, json_type_object) &&
               json_get_string(wheel, "name", WHEEL_NAME_MAX, &name) >= 0 && endswith(name, ".whl") &&
               !strchr(name, '/') && *name != '.' &&
               json_get_string(wheel, "digest", DIGEST_HEX_SIZE, &hex) >= 0 &&
               digest_from_hex(hex, &digest) >= 0;
}

/* A list of lines (or of wheels: size_max 0), which is kept. */
static int order_get_list(json_object *json, const char *key, size_t max, size_t size_max,
                          json_object **ret) {
        json_object *array;

        if (json_get_array_optional(json, key, max, &array) < 0)
                return -EBADMSG;
        for (size_t i = 0; array && i < json_object_array_length(array); i++) {
                json_object *entry = json_object_array_get_idx(array, i);

                if (size_max > 0 ? !line_is_valid(entry, size_max) : !wheel_is_valid(entry))
                        return -EBADMSG;
        }
        *ret = json_object_get(array);
        return 0;
}

/* Of consecutive payloads. */
static int order_get_lock(const Frame *frame, json_object *json, EnvironmentOrder *o) {
        uint64_t first, n;
        size_t size = 0;
        char *p;
        int r;

        r = json_get_uint64(json, "payload", FRAME_PAYLOAD_COUNT_MAX, &first);
        if (r == -ENOENT)
                return 0;
        if (r < 0 || json_get_uint64_optional(json, "payloads", FRAME_PAYLOAD_COUNT_MAX, 1, &n) < 0 ||
            first > frame->n_payloads || n > frame->n_payloads - first)
                return -EBADMSG;
        for (uint64_t i = first; i < first + n; i++)
                size += frame->payloads[i].iov_len;
        if (size > ENVIRONMENT_LOCK_MAX)
                return -EBADMSG;
        p = o->lock = malloc(size + 1);
        if (!p)
                return -ENOMEM;
        for (uint64_t i = first; i < first + n; i++) {
                memcpy(p, frame->payloads[i].iov_base, frame->payloads[i].iov_len);
                p += frame->payloads[i].iov_len;
        }
        *p = '\0';
        o->lock_size = size;
        return utf8_is_valid(o->lock, size) ? 0 : -EBADMSG;
}

static int order_get_names(json_object *json, EnvironmentOrder *o) {
        const char *name, *owner, *python;

        if (json_get_string(json, "name", ENVIRONMENT_NAME_MAX - 1, &name) < 0 ||
            !environment_name_is_valid(name) ||
            json_get_string_optional(json, "owner", FRAME_JSON_MAX, "", &owner) < 0 ||
            (*owner && !owner_name_is_valid(owner)) ||
            json_get_string(json, "python", PYTHON_NAME_MAX - 1, &python) < 0 ||
            !python_series_is_valid(python))
                return -EBADMSG;
        memcpy(o->name, name, strlen(name));
        memcpy(o->python, python, strlen(python));
        if (strlen(owner) < sizeof(o->owner))
                memcpy(o->owner, owner, strlen(owner));
        else
                o->refusal = "its owner's name is longer than 63 bytes";
        return 0;
}

int environment_order_new(const Frame *frame, json_object *json, bool resolve, EnvironmentOrder **ret) {
        _cleanup_(environment_order_freep) EnvironmentOrder *o = NULL;
        uint64_t folders;
        int r;

        if (!json_object_is_type(json, json_type_object))
                return -EBADMSG;
        o = new0(EnvironmentOrder);
        if (!o)
                return -ENOMEM;
        o->resolve = resolve;
        r = order_get_names(json, o);
        if (r >= 0 && (json_get_bool_optional(json, "index", false, &o->index) < 0 ||
                       json_get_bool_optional(json, "only_wheels", false, &o->only_wheels) < 0 ||
                       json_get_bool_optional(json, "system_packages", false, &o->system_packages) < 0 ||
                       json_get_uint64_optional(json, "folders", ENVIRONMENT_FOLDERS_MAX, 0, &folders) < 0))
                r = -EBADMSG;
        if (r >= 0)
                r = order_get_list(json, "packages", PACKAGES_MAX, PACKAGE_SIZE_MAX, &o->packages);
        if (r >= 0)
                r = order_get_list(json, "preload", MODULES_MAX, MODULE_SIZE_MAX, &o->preload);
        if (r >= 0)
                r = order_get_list(json, "wheels", WHEELS_MAX, 0, &o->wheels);
        if (r >= 0)
                r = order_get_lock(frame, json, o);
        if (r < 0)
                return r;
        o->folders = (unsigned) folders;
        *ret = TAKE_PTR(o);
        return 0;
}

static bool list_is_there(json_object *list) {
        return list && json_object_array_length(list) > 0;
}

bool environment_order_needs_index(const EnvironmentOrder *o) {
        return o->index || o->folders > 0 || list_is_there(o->wheels);
}

static int add_list(json_object *order, const char *key, json_object *list) {
        json_object *empty;

        return list ? json_add(order, key, json_object_get(list)) : json_add_new_array(order, key, &empty);
}

/* Where the sandbox finds the master's index. */
static int add_addresses(const EnvironmentOrder *o, json_object *order) {
        char address[ADDRESS_SIZE];
        json_object *pages;
        int r;

        snprintf(address, sizeof(address), INDEX_ADDRESS, BUILD_INDEX_PORT);
        r = json_add_string(order, "base", address);
        snprintf(address, sizeof(address), INDEX_ADDRESS "/simple/", BUILD_INDEX_PORT);
        if (r >= 0)
                r = o->index ? json_add_string(order, "index", address) : json_add_null(order, "index");
        if (r >= 0)
                r = json_add_new_array(order, "find_links", &pages);
        for (unsigned i = 0; i < o->folders && r >= 0; i++) {
                snprintf(address, sizeof(address), INDEX_ADDRESS "/local/%u/", BUILD_INDEX_PORT, i);
                r = json_append_string(pages, address);
        }
        return r;
}

static int order_to_json(const EnvironmentOrder *o, json_object *order) {
        char target[sizeof(ENVIRONMENT_FOLDER) + ENVIRONMENT_NAME_MAX];
        int r;

        snprintf(target, sizeof(target), ENVIRONMENT_FOLDER "/%s", o->name);
        r = json_add_string(order, "op", o->resolve ? "resolve" : "build");
        if (r >= 0)
                r = json_add_string(order, "python", o->python);
        if (r >= 0)
                r = json_add_string(order, "target", target);
        if (r >= 0)
                r = add_list(order, "packages", o->packages);
        if (r >= 0)
                r = json_add(order, "lock",
                             json_object_new_string_len(strempty(o->lock), (int) o->lock_size));
        if (r >= 0)
                r = add_addresses(o, order);
        if (r >= 0)
                r = add_list(order, "wheels", o->wheels);
        if (r >= 0)
                r = json_add_bool(order, "only_wheels", o->only_wheels);
        if (r >= 0)
                r = json_add_bool(order, "system_packages", o->system_packages);
        return r < 0 ? r : add_list(order, "preload", o->preload);
}

int environment_order_to_memfd(const EnvironmentOrder *o) {
        _cleanup_(json_putp) json_object *order = NULL;
        const char *text;
        size_t size;
        int r;

        r = json_new_object(&order);
        if (r >= 0)
                r = order_to_json(o, order);
        if (r < 0)
                return r;
        text = json_text(order, &size);
        if (!text)
                return -ENOMEM;
        if (size > BUILD_ORDER_MAX)
                return -EMSGSIZE;
        return memfd_new_sealed("clupy-build-order", text, size);
}
