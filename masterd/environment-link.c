/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "environment-job.h"
#include "environment-node.h"
#include "environment-order.h"
#include "environments.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "parse-util.h"
#include "peer.h"
#include "requirement.h"
#include "time-util.h"

enum {
        ENTRIES_MAX = 10000,
        MESSAGE_MAX = 4096,
        PIECES_MAX = ENVIRONMENT_LOCK_MAX / FRAME_PAYLOAD_SIZE_MAX,
        LIBRARY_NAME_MAX = 256,
};

/* Orders */

static int add_texts(json_object *object, const char *key, char *const *values) {
        json_object *array;

        if (json_add_new_array(object, key, &array) < 0)
                return -ENOMEM;
        for (; values && *values; values++)
                if (json_append_string(array, *values) < 0)
                        return -ENOMEM;
        return 0;
}

static int add_wheels(json_object *order, char *const *wheels) {
        json_object *array, *entry;

        if (json_add_new_array(order, "wheels", &array) < 0)
                return -ENOMEM;
        for (; wheels && *wheels; wheels++) {
                const char *slash = strchr(*wheels, '/');
                char digest[DIGEST_HEX_SIZE];

                if (!slash || (size_t) (slash - *wheels) >= sizeof(digest))
                        continue;
                snprintf(digest, sizeof(digest), "%.*s", (int) (slash - *wheels), *wheels);
                if (json_append_new_object(array, &entry) < 0 ||
                    json_add_string(entry, "name", slash + 1) < 0 ||
                    json_add_string(entry, "digest", digest) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int fill_order(json_object *order, const Environment *e, const char *name) {
        const DependencyConfig *config = e->manager->environments->config;

        if (json_add_string(order, "name", name) < 0 || json_add_string(order, "python", e->python) < 0 ||
            add_texts(order, "packages", e->packages) < 0 ||
            json_add_bool(order, "index", !streq(strempty(e->index), "none")) < 0 ||
            json_add_uint64(order, "folders", config ? strv_length(config->wheels) : 0) < 0 ||
            json_add_bool(order, "only_wheels", e->only_wheels) < 0 ||
            json_add_bool(order, "system_packages", e->system_packages) < 0 ||
            add_texts(order, "preload", e->preload) < 0 || add_wheels(order, e->wheels) < 0)
                return -ENOMEM;
        if (streq(e->owner, ENVIRONMENT_OWNER_SHARED))
                return 0;
        return json_add_string(order, "owner", e->owner);
}

static int send_order(Node *node, const Environment *e, const char *key, const char *name,
                      const char *lock) {
        _cleanup_(json_putp) json_object *json = NULL;
        struct iovec pieces[PIECES_MAX];
        size_t n = 0, left = strlen(strempty(lock));
        json_object *orders, *order;

        if (!node->peer)
                return -ENOTCONN;
        if (json_new_object(&json) < 0 || json_add_new_array(json, key, &orders) < 0 ||
            json_append_new_object(orders, &order) < 0 || fill_order(order, e, name) < 0)
                return -ENOMEM;
        for (const char *p = lock; left > 0 && n < ELEMENTSOF(pieces); n++) {
                size_t size = MIN(left, (size_t) FRAME_PAYLOAD_SIZE_MAX);

                pieces[n] = (struct iovec){ (char *) p, size };
                p += size;
                left -= size;
        }
        if (left > 0)
                return -EFBIG;
        if (n > 0 && (json_add_uint64(order, "payload", 0) < 0 || json_add_uint64(order, "payloads", n) < 0))
                return -ENOMEM;
        return connection_send(node->peer->connection, FRAME_ENVIRONMENT, json, pieces, n);
}

void environment_link_resolve_name(const Environment *e, char ret[static ENVIRONMENT_NAME_SIZE]) {
        snprintf(ret, ENVIRONMENT_NAME_SIZE, "%.*s", ENVIRONMENT_DIGITS, e->id);
}

int environment_link_resolve(Node *node, const Environment *e, const char *preferred) {
        char name[ENVIRONMENT_NAME_SIZE];

        environment_link_resolve_name(e, name);
        return send_order(node, e, "resolve", name, preferred);
}

int environment_link_build(Node *node, const Environment *e) {
        return send_order(node, e, "build", e->name, e->lock);
}

static int send_names(Node *node, const char *key, char *const *names) {
        _cleanup_(json_putp) json_object *json = NULL;

        if (!node->peer)
                return -ENOTCONN;
        if (json_new_object(&json) < 0 || add_texts(json, key, names) < 0)
                return -ENOMEM;
        return connection_send(node->peer->connection, FRAME_ENVIRONMENT, json, NULL, 0);
}

int environment_link_remove(Node *node, const char *name) {
        const char *names[] = { name, NULL };

        return send_names(node, "remove", (char *const *) names);
}

int environment_link_keep(Node *node) {
        _cleanup_(strv_freep) char **names = NULL;
        DefaultEnvironment *d;

        HASHMAP_FOREACH(d, node->manager->environments->defaults)
                for (size_t i = 0; i < ENVIRONMENT_GENERATIONS && d->generations[i]; i++)
                        if (!d->generations[i]->base && d->generations[i]->name[0] &&
                            strv_extend(&names, d->generations[i]->name) < 0)
                                return -ENOMEM;
        return send_names(node, "keep", names);
}

/* Answers */

typedef struct Entry {
        const char *name, *state, *reason, *message, *installer;
        uint64_t bytes, files, used_at, in_use;
        double seconds;
        char *text; /* of the payloads; NULL: none */
        size_t size;
} Entry;

static void entry_done(Entry *entry) {
        free(entry->text);
}

/* What consecutive payloads are together, each of which is of one entry only: what a frame comes to is not
 * more than the frame. */
static int read_text(json_object *j, const Frame *frame, bool taken[static FRAME_PAYLOAD_COUNT_MAX],
                     size_t max, Entry *ret) {
        uint64_t first, n;
        size_t size = 0;
        int r;

        r = json_get_uint64(j, "payload", FRAME_PAYLOAD_COUNT_MAX, &first);
        if (r == -ENOENT)
                return 0;
        if (r < 0 || json_get_uint64_optional(j, "payloads", FRAME_PAYLOAD_COUNT_MAX, 1, &n) < 0 || n == 0 ||
            first >= frame->n_payloads || n > frame->n_payloads - first)
                return -EBADMSG;
        for (uint64_t i = first; i < first + n; i++) {
                if (taken[i])
                        return -EBADMSG;
                taken[i] = true;
                size += frame->payloads[i].iov_len;
        }
        if (size > max)
                return -EBADMSG;
        ret->text = malloc(size + 1);
        if (!ret->text)
                return -ENOMEM;
        for (uint64_t i = first; i < first + n; i++) {
                memcpy(ret->text + ret->size, frame->payloads[i].iov_base, frame->payloads[i].iov_len);
                ret->size += frame->payloads[i].iov_len;
        }
        ret->text[size] = '\0';
        return 0;
}

static int check_libraries(json_object *libraries) {
        if (!libraries)
                return 0;
        if (json_object_object_length(libraries) > LOCK_ENTRIES_MAX)
                return -EBADMSG;
        json_object_object_foreach(libraries, name, version) {
                if (strlen(name) > LIBRARY_NAME_MAX || !json_object_is_type(version, json_type_string) ||
                    json_object_get_string_len(version) > LIBRARY_NAME_MAX)
                        return -EBADMSG;
        }
        return 0;
}

static int parse_entry(json_object *j, const Frame *frame, bool taken[static FRAME_PAYLOAD_COUNT_MAX],
                       Entry *ret) {
        json_object *libraries;

        *ret = (Entry){ 0 };
        if (!json_object_is_type(j, json_type_object) ||
            json_get_string(j, "name", ENVIRONMENT_NAME_SIZE - 1, &ret->name) < 0 ||
            !environment_name_is_valid(ret->name) || json_get_string(j, "state", 16, &ret->state) < 0 ||
            json_get_string_optional(j, "reason", 32, NULL, &ret->reason) < 0 ||
            json_get_string_optional(j, "message", MESSAGE_MAX, NULL, &ret->message) < 0 ||
            json_get_string_optional(j, "installer", 64, NULL, &ret->installer) < 0 ||
            json_get_uint64_optional(j, "bytes", UINT64_MAX / 4, 0, &ret->bytes) < 0 ||
            json_get_uint64_optional(j, "files", UINT64_MAX / 4, 0, &ret->files) < 0 ||
            json_get_uint64_optional(j, "used_at", UINT64_MAX / 4, 0, &ret->used_at) < 0 ||
            json_get_uint64_optional(j, "in_use", UINT32_MAX, 0, &ret->in_use) < 0 ||
            json_get_double_optional(j, "seconds", 0, 1e9, 0, &ret->seconds) < 0 ||
            json_get_object_optional(j, "libraries", &libraries) < 0 || check_libraries(libraries) < 0)
                return -EBADMSG;
        return read_text(j, frame, taken,
                         streq(ret->state, "resolved") ? ENVIRONMENT_LOCK_MAX : ENVIRONMENT_LOG_MAX, ret);
}

static Environment *find_resolving(Node *node, const char *name) {
        Environment *e;

        HASHMAP_FOREACH(e, node->manager->environments->table)
                if (e->resolver == node && e->state == ENVIRONMENT_RESOLVING &&
                    strncmp(e->id, name, ENVIRONMENT_DIGITS) == 0)
                        return e;
        return NULL;
}

static void note_installer(Environment *e, const Entry *entry) {
        if (entry->installer && !e->installer)
                free_and_strdup(&e->installer, entry->installer);
}

/* It is built on other nodes and runs there: a node that answers something else is not believed. */
static int on_resolved(Node *node, const Entry *entry) {
        Environment *e = find_resolving(node, entry->name);
        _cleanup_(freep) char *words = NULL;
        int r;

        if (!e)
                return 0; /* it is not waited for any more */
        r = environment_check_lock(e, strempty(entry->text), entry->size, &words);
        if (r == -EINVAL) {
                environment_resolve_failed(e, "infrastructure", words);
                return 0;
        }
        if (r < 0)
                return r;
        note_installer(e, entry);
        return environment_lock(e, strempty(entry->text), entry->size, strempty(node->platform));
}

/* The installer's words are what helps; where there are none, the node's. */
static char *words(const Entry *entry) {
        if (entry->text && entry->size > 0 && entry->message)
                return strformat("%s\n%s", entry->text, entry->message);
        return strdup(entry->size > 0 ? entry->text : entry->message ?: "the node gave no reason");
}

static int on_failed(Node *node, const Entry *entry) {
        static const char *const kinds[] = { "installer", "memory", "timeout",
                                             "disk",      "signal", "infrastructure" };
        _cleanup_(freep) char *text = words(entry);
        const char *reason = entry->reason && name_table_find(kinds, ELEMENTSOF(kinds), entry->reason) >= 0
                                     ? entry->reason
                                     : "infrastructure";
        Environment *e = find_resolving(node, entry->name);
        NodeEnvironment *there;

        if (!text)
                return -ENOMEM;
        if (e) {
                environment_resolve_failed(e, reason, text);
                return 0;
        }
        there = node_environment_find(node, entry->name);
        if (!there)
                return 0;
        environment_build_failed(there, reason, text);
        environments_there_changed(node->manager, entry->name);
        return 0;
}

static int on_ready(Node *node, const Entry *entry) {
        EnvironmentCounters *counters = &node->manager->environments->counters;
        NodeEnvironment *there;
        Environment *e;
        int r;

        r = node_environment_get(node, entry->name, &there);
        if (r == -ENOSPC)
                return 0; /* it is not the master's to use more than so many */
        if (r < 0)
                return r;
        if (there->state == NODE_ENVIRONMENT_BUILDING) {
                counters->builds++;
                counters->seconds += entry->seconds;
                log_info("Environment %s is ready on node %s: built in %s, %s", entry->name, node->name,
                         FORMAT_DURATION((uint64_t) (entry->seconds * USEC_PER_SEC)),
                         FORMAT_BYTES(entry->bytes));
        }
        there->bytes = entry->bytes;
        there->files = entry->files;
        there->used_at = entry->used_at;
        there->in_use = entry->in_use;
        there->seconds = entry->seconds;
        node_environment_set_state(there, NODE_ENVIRONMENT_READY);
        HASHMAP_FOREACH(e, node->manager->environments->table)
                if (streq(e->name, entry->name))
                        note_installer(e, entry);
        environments_there_changed(node->manager, entry->name);
        return 0;
}

static int on_entry(Node *node, const Entry *entry) {
        NodeEnvironment *there;
        int r;

        if (streq(entry->state, "resolved"))
                return on_resolved(node, entry);
        if (streq(entry->state, "failed"))
                return on_failed(node, entry);
        if (streq(entry->state, "ready"))
                return on_ready(node, entry);
        if (streq(entry->state, "resolving")) {
                Environment *e = find_resolving(node, entry->name);

                if (e)
                        environment_resolve_begun(e);
                return 0;
        }
        if (streq(entry->state, "building")) {
                /* One that nobody has ordered is not remembered. */
                if (!node_environment_find(node, entry->name) &&
                    !environments_find(node->manager, entry->name))
                        return 0;
                r = node_environment_get(node, entry->name, &there);
                if (r >= 0)
                        node_environment_set_state(there, NODE_ENVIRONMENT_BUILDING);
                return r == -ENOMEM ? r : 0;
        }
        if (!streq(entry->state, "removed"))
                return -EBADMSG;
        node_environment_free(node_environment_find(node, entry->name));
        environments_there_changed(node->manager, entry->name);
        return 0;
}

/* All that are ready are named: what else was thought to be there is not. */
static int forget_others(Node *node, json_object *entries) {
        _cleanup_(hashmap_freep) Hashmap *named = NULL;
        NodeEnvironment *there;
        int r;

        r = hashmap_new(HASHMAP_STRING, &named);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(entries); i++) {
                const char *name;
                void *old;

                if (json_get_string(json_object_array_get_idx(entries, i), "name", ENVIRONMENT_NAME_SIZE - 1,
                                    &name) >= 0)
                        r = hashmap_replace(named, name, node, &old);
        }
        if (r < 0)
                return r;
        HASHMAP_FOREACH(there, node->environments)
                if (there->state == NODE_ENVIRONMENT_READY && !hashmap_get(named, there->name))
                        node_environment_free(there);
        return 0;
}

int environment_link_state(Peer *peer, const Frame *frame) {
        bool taken[FRAME_PAYLOAD_COUNT_MAX] = { 0 };
        Node *node = peer->node;
        json_object *entries;
        bool complete;
        int r = 0;

        if (json_get_array(frame->json, "environments", ENTRIES_MAX, &entries) < 0 ||
            json_get_bool_optional(frame->json, "complete", false, &complete) < 0)
                return -EBADMSG;
        for (size_t i = 0; r >= 0 && i < json_object_array_length(entries); i++) {
                Entry entry;

                r = parse_entry(json_object_array_get_idx(entries, i), frame, taken, &entry);
                if (r >= 0)
                        r = on_entry(node, &entry);
                entry_done(&entry);
        }
        if (r < 0 || !complete)
                return r;
        r = forget_others(node, entries);
        if (r < 0)
                return r;
        node->environments_known = true;
        environments_node_complete(node);
        return 0;
}

/* The hello */

static int read_pythons(json_object *hello, const char *python, char ***ret) {
        _cleanup_(strv_freep) char **pythons = NULL;
        char series[PYTHON_SERIES_SIZE];
        json_object *list;

        if (json_get_array_optional(hello, "pythons", NODE_PYTHONS_MAX, &list) < 0)
                return -EBADMSG;
        if (python_series(python, series) < 0)
                return -EBADMSG;
        /* Its main one is the first, whatever the list says. */
        if (strv_extend(&pythons, series) < 0)
                return -ENOMEM;
        for (size_t i = 0; list && i < json_object_array_length(list); i++) {
                json_object *entry = json_object_array_get_idx(list, i);

                if (!json_object_is_type(entry, json_type_string) ||
                    python_series(json_object_get_string(entry), series) < 0)
                        return -EBADMSG;
                if (!strv_contains(pythons, series) && strv_extend(&pythons, series) < 0)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(pythons);
        return 0;
}

int environment_link_remembered(Node *node, json_object *record) {
        json_object *list;

        if (json_get_array_optional(record, "pythons", NODE_PYTHONS_MAX, &list) < 0)
                return -EBADMSG;
        for (size_t i = 0; list && i < json_object_array_length(list); i++) {
                char series[PYTHON_SERIES_SIZE];

                if (python_series(strempty(json_object_get_string(json_object_array_get_idx(list, i))),
                                  series) < 0)
                        return -EBADMSG;
                if (strv_extend(&node->pythons, series) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static bool same_texts(char *const *left, char *const *right) {
        while (left && *left && right && *right && streq(*left, *right)) {
                left++;
                right++;
        }
        return !(left && *left) && !(right && *right);
}

int environment_link_hello(Node *node, json_object *hello, const char *python) {
        _cleanup_(strv_freep) char **pythons = NULL, **labels = NULL;
        json_object *object = NULL;
        Resources resources = { 0 };
        const char *platform;
        int r;

        r = read_pythons(hello, python, &pythons);
        if (r < 0)
                return r;
        if (json_get_string_optional(hello, "platform", 64, "", &platform) < 0 ||
            json_get_object_optional(hello, "labels", &object) < 0)
                return -EBADMSG;
        r = labels_read(object, &labels);
        if (r < 0)
                return r;
        if (json_get_object_optional(hello, "resources", &object) < 0)
                return -EBADMSG;
        r = resources_read(object, &resources);
        if (r >= 0)
                r = resources_replace(&node->resources, &resources);
        if (r >= 0)
                r = free_and_strdup(&node->platform, platform);
        resources_done(&resources);
        if (r < 0)
                return r;
        strv_free(node->labels);
        node->labels = TAKE_PTR(labels);
        if (!same_texts(node->pythons, pythons)) {
                strv_free(node->pythons);
                node->pythons = TAKE_PTR(pythons);
                node->manager->config_generation++; /* calls that no node could take may be taken now */
                if (node->known)
                        manager_store_node(node->manager, node);
        }
        environments_node_hello(node);
        return 0;
}
