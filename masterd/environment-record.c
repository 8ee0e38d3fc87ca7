/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "environment-default.h"
#include "environments.h"
#include "fd-util.h"
#include "folder-file.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "parse-util.h"
#include "wheel-store.h"

enum { KEY_SIZE = 128, LIBRARIES_TEXT_MAX = 512 << 10 };

static int open_locks(const Manager *m) {
        _cleanup_(freep) char *path = strformat("%s/.locks", m->config->state_directory);

        return path ? folder_open(path, true, 0700) : -ENOMEM;
}

static int lock_write(const Environment *e, char ret[static DIGEST_HEX_SIZE]) {
        _cleanup_(close_fdp) int folder = -EBADF;
        Digest digest;
        int r;

        r = digest_sha256(e->lock, strlen(e->lock), &digest);
        if (r < 0)
                return r;
        (void) digest_to_hex(&digest, ret);
        folder = open_locks(e->manager);
        if (folder < 0)
                return folder;
        r = folder_write_file(folder, ret, 0600, e->lock, strlen(e->lock), 0);
        return r == -EEXIST ? 0 : r;
}

/* It does not need that file any more: the last one removes it. */
static void lock_release(Environment *e) {
        _cleanup_(close_fdp) int folder = -EBADF;
        const Environment *other;
        char name[DIGEST_HEX_SIZE];

        if (e->lock_file[0] == '\0')
                return;
        COPY_TEXT(name, e->lock_file);
        e->lock_file[0] = '\0';
        HASHMAP_FOREACH(other, e->manager->environments->table)
                if (other != e && streq(other->lock_file, name))
                        return;
        folder = open_locks(e->manager);
        if (folder >= 0)
                (void) unlinkat(folder, name, 0);
}

static void record_key(const Environment *e, char key[static KEY_SIZE]) {
        snprintf(key, KEY_SIZE, "environments/%.*s", ENVIRONMENT_DIGITS, e->id);
}

static int add_texts(json_object *j, const char *key, char *const *values) {
        json_object *array;

        if (json_add_new_array(j, key, &array) < 0)
                return -ENOMEM;
        for (; values && *values; values++)
                if (json_append_string(array, *values) < 0)
                        return -ENOMEM;
        return 0;
}

static int fill(json_object *j, const Environment *e) {
        if (json_add_string(j, "id", e->id) < 0 || json_add_string(j, "name", e->name) < 0 ||
            json_add_string(j, "owner", e->owner) < 0 || json_add_string(j, "python", e->python) < 0 ||
            json_add_string(j, "platform", e->platform) < 0 || json_add_string(j, "index", e->index) < 0 ||
            add_texts(j, "packages", e->packages) < 0 || add_texts(j, "preload", e->preload) < 0 ||
            add_texts(j, "wheels", e->wheels) < 0 || json_add_bool(j, "fixed", e->fixed) < 0 ||
            json_add_bool(j, "system_packages", e->system_packages) < 0 ||
            json_add_bool(j, "only_wheels", e->only_wheels) < 0 ||
            json_add_bool(j, "prefers_default", e->prefers_default) < 0 ||
            json_add_uint64(j, "created_at", e->created_at) < 0 ||
            json_add_uint64(j, "resolved_at", e->resolved_at) < 0)
                return -ENOMEM;
        if (json_add_string(j, "asker", e->asker) < 0)
                return -ENOMEM;
        if (e->is_default && json_add_string(j, "request", e->request) < 0)
                return -ENOMEM;
        if (e->installer && json_add_string(j, "installer", e->installer) < 0)
                return -ENOMEM;
        return e->libraries ? json_add(j, "libraries", json_object_get(e->libraries)) : 0;
}

void environment_record_write(Environment *e) {
        _cleanup_(json_putp) json_object *j = NULL;
        char key[KEY_SIZE], digest[DIGEST_HEX_SIZE];
        const char *text;
        size_t size;
        int r;

        if (!e->manager->store || e->base)
                return;
        r = json_new_object(&j);
        if (r >= 0)
                r = fill(j, e);
        if (r >= 0 && e->lock) {
                r = lock_write(e, digest);
                if (r >= 0)
                        r = json_add_string(j, "lock", digest);
                if (r >= 0 && !streq(e->lock_file, digest)) {
                        lock_release(e);
                        COPY_TEXT(e->lock_file, digest);
                }
        }
        text = r >= 0 ? json_text(j, &size) : NULL;
        record_key(e, key);
        if (r >= 0)
                r = text ? state_store_set(e->manager->store, key, text, size) : -ENOMEM;
        if (r < 0)
                log_error_errno(r,
                                "Cannot write down environment %s: its packages will be looked up again "
                                "after a restart",
                                e->name);
        else
                e->recorded = true;
}

void environment_record_remove(Environment *e) {
        const Environment *other;
        char key[KEY_SIZE];

        if (!e->recorded || !e->manager->store || e->manager->stopping)
                return;
        e->recorded = false;
        other = hashmap_get(e->manager->environments->table, e->id);
        /* One that has taken its place has taken over its record. */
        if (!other || other == e) {
                record_key(e, key);
                (void) state_store_remove(e->manager->store, key, 0);
        }
        lock_release(e);
}

/* After a start */

static int read_texts(json_object *j, const char *key, size_t max, char ***ret) {
        json_object *array;

        if (json_get_array_optional(j, key, max, &array) < 0)
                return -EBADMSG;
        for (size_t i = 0; array && i < json_object_array_length(array); i++)
                if (strv_extend(ret, strempty(json_object_get_string(json_object_array_get_idx(array, i)))) <
                    0)
                        return -ENOMEM;
        return 0;
}

static int read_lock(Environment *e, const char *digest) {
        _cleanup_(close_fdp) int folder = open_locks(e->manager);
        Digest wanted, found;
        size_t size;
        int r;

        if (folder < 0)
                return folder;
        if (digest_from_hex(digest, &wanted) < 0)
                return -EBADMSG;
        r = folder_read_file(folder, digest, ENVIRONMENT_LOCK_MAX, &e->lock, &size);
        if (r >= 0)
                r = digest_sha256(e->lock, size, &found);
        if (r < 0)
                return r;
        return digest_equal(&wanted, &found) && strlen(e->lock) == size ? 0 : -EBADMSG;
}

static int read_record(Manager *m, json_object *j, Environment **ret) {
        _cleanup_(environment_unrefp) Environment *e = NULL;
        const char *id, *name, *owner, *python, *platform, *index, *request, *lock, *installer, *asker;
        json_object *libraries;
        int r;

        if (json_get_string(j, "id", DIGEST_HEX_SIZE - 1, &id) < 0 || strlen(id) != DIGEST_HEX_SIZE - 1 ||
            json_get_string_optional(j, "name", ENVIRONMENT_NAME_SIZE - 1, "", &name) < 0 ||
            json_get_string(j, "owner", 64, &owner) < 0 ||
            json_get_string(j, "python", PYTHON_SERIES_SIZE - 1, &python) < 0 ||
            json_get_string_optional(j, "platform", 64, NULL, &platform) < 0 ||
            json_get_string_optional(j, "index", 4096, "default", &index) < 0 ||
            json_get_string_optional(j, "request", DIGEST_HEX_SIZE - 1, NULL, &request) < 0 ||
            json_get_string_optional(j, "lock", DIGEST_HEX_SIZE - 1, NULL, &lock) < 0 ||
            json_get_string_optional(j, "installer", 64, NULL, &installer) < 0 ||
            json_get_string_optional(j, "asker", 64, owner, &asker) < 0 ||
            json_get_object_optional(j, "libraries", &libraries) < 0)
                return -EBADMSG;
        r = environment_new(m, owner, python, &e);
        if (r < 0)
                return r;
        memcpy(e->id, id, DIGEST_HEX_SIZE);
        r = free_and_strdup(&e->asker, asker);
        if (r < 0)
                return r;
        snprintf(e->name, sizeof(e->name), "%s", name);
        if (json_get_bool(j, "fixed", &e->fixed) < 0 ||
            json_get_bool(j, "system_packages", &e->system_packages) < 0 ||
            json_get_bool(j, "only_wheels", &e->only_wheels) < 0 ||
            json_get_bool_optional(j, "prefers_default", false, &e->prefers_default) < 0 ||
            json_get_uint64(j, "created_at", UINT64_MAX / 2, &e->created_at) < 0 ||
            json_get_uint64(j, "resolved_at", UINT64_MAX / 2, &e->resolved_at) < 0)
                return -EBADMSG;
        r = read_texts(j, "packages", 2 * ENVIRONMENT_PACKAGES_MAX + 10000, &e->packages);
        if (r >= 0)
                r = read_texts(j, "preload", 2 * ENVIRONMENT_PRELOAD_MAX, &e->preload);
        if (r >= 0)
                r = read_texts(j, "wheels", ENVIRONMENT_WHEELS_MAX, &e->wheels);
        if (r >= 0)
                r = free_and_strdup(&e->platform, platform);
        if (r >= 0)
                r = free_and_strdup(&e->index, index);
        if (r >= 0)
                r = free_and_strdup(&e->installer, installer);
        if (r >= 0 && lock)
                r = read_lock(e, lock);
        for (char **s = e->wheels; s && *s && r >= 0; s++)
                r = wheel_store_remember(m, owner, *s);
        if (r < 0)
                return r;
        e->is_default = request != NULL;
        if (request)
                snprintf(e->request, sizeof(e->request), "%s", request);
        e->libraries = json_object_get(libraries);
        if (e->name[0] && e->lock && e->platform)
                e->state = ENVIRONMENT_LOCKED; /* nothing has to be told of it */
        e->recorded = true;
        if (lock)
                snprintf(e->lock_file, sizeof(e->lock_file), "%s", lock);
        *ret = TAKE_PTR(e);
        return 0;
}

/* The newest first. */
static int add_generation(Manager *m, Environment *e) {
        DefaultEnvironment *d;
        size_t i;
        int r;

        r = environment_default_get(m->environments, e->python, &d);
        if (r < 0)
                return r;
        for (i = 0; i < ENVIRONMENT_GENERATIONS && d->generations[i]; i++)
                if (d->generations[i]->created_at < e->created_at)
                        break;
        if (i == ENVIRONMENT_GENERATIONS)
                return -ENOSPC;
        environment_unref(d->generations[ENVIRONMENT_GENERATIONS - 1]);
        memmove(d->generations + i + 1, d->generations + i,
                (ENVIRONMENT_GENERATIONS - 1 - i) * sizeof(*d->generations));
        d->generations[i] = e;
        return 0;
}

static int load_one(Manager *m, const char *key) {
        _cleanup_(json_putp) json_object *j = NULL;
        _cleanup_(freep) char *value = NULL;
        Environment *e;
        size_t size;
        int r;

        r = state_store_get(m->store, key, (void **) &value, &size, NULL);
        if (r >= 0)
                r = json_parse_strict_object(value, size, JSON_DEPTH_MAX, &j);
        if (r >= 0)
                r = read_record(m, j, &e);
        if (r < 0)
                return r;
        r = environments_add(m, e);
        if (r >= 0 && e->is_default)
                r = e->state == ENVIRONMENT_LOCKED ? add_generation(m, e) : -ENODATA;
        if (r >= 0 && !e->is_default)
                e->n_references = 0; /* nobody needs it yet */
        if (r < 0)
                environment_free(e);
        return r;
}

/* Locks that no record names. */
static void sweep_locks(Manager *m) {
        _cleanup_(close_fdp) int folder = open_locks(m);
        _cleanup_(strv_freep) char **names = NULL, **used = NULL;
        Environment *e;

        if (folder < 0 || folder_list(folder, &names) < 0)
                return;
        HASHMAP_FOREACH(e, m->environments->table) {
                char hex[DIGEST_HEX_SIZE];
                Digest digest;

                if (e->lock && digest_sha256(e->lock, strlen(e->lock), &digest) >= 0 &&
                    strv_extend(&used, digest_to_hex(&digest, hex)) < 0)
                        return;
        }
        for (char **name = names; name && *name; name++)
                if (!strv_contains(used, *name))
                        (void) unlinkat(folder, *name, 0);
}

int environment_records_load(Manager *m) {
        _cleanup_(strv_freep) char **keys = NULL;
        int r;

        if (!m->store)
                return 0;
        r = state_store_list(m->store, "environments", &keys);
        if (r < 0)
                return log_error_errno(r, "Cannot list the environments");
        for (char **key = keys; key && *key; key++) {
                r = load_one(m, *key);
                if (r < 0) {
                        log_warning_errno(r,
                                          "Cannot use what is remembered of %s: its packages are looked up "
                                          "again when they are needed",
                                          *key);
                        (void) state_store_remove(m->store, *key, 0);
                }
        }
        sweep_locks(m);
        wheel_store_sweep(m);
        return 0;
}
