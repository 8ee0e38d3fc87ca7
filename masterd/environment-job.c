/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-job.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "environment-record.h"
#include "environments.h"
#include "job.h"
#include "json-util.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "requirement.h"
#include "session.h"
#include "wheel-store.h"

enum { LABEL_MAX = 64, RESOURCE_COUNT_MAX = 1 << 20, FRAME_PACKAGES_MAX = 300000 };

int labels_read(json_object *object, char ***ret) {
        _cleanup_(strv_freep) char **labels = NULL;

        if (object && json_object_object_length(object) > NODE_LABELS_MAX)
                return -EBADMSG;
        if (object) {
                json_object_object_foreach(object, name, value) {
                        _cleanup_(freep) char *label = NULL;
                        const char *text = json_object_is_type(value, json_type_string)
                                                   ? json_object_get_string(value)
                                                   : NULL;

                        if (!text || strlen(name) > LABEL_MAX || strlen(text) > LABEL_MAX ||
                            strchr(name, '=') || !owner_name_is_valid(name) ||
                            !utf8_is_valid(text, strlen(text)))
                                return -EBADMSG;
                        label = strformat("%s=%s", name, text);
                        if (!label || strv_extend(&labels, label) < 0)
                                return -ENOMEM;
                }
        }
        *ret = TAKE_PTR(labels);
        return 0;
}

int resources_read(json_object *object, Resources *ret) {
        Resources resources = { 0 };
        int r = 0;

        if (object && json_object_object_length(object) > NODE_RESOURCES_MAX)
                return -EBADMSG;
        if (object) {
                json_object_object_foreach(object, name, value) {
                        int64_t n = json_object_is_type(value, json_type_int) ? json_object_get_int64(value)
                                                                              : -1;

                        if (r < 0)
                                continue;
                        if (n < 0 || n > RESOURCE_COUNT_MAX || strlen(name) > LABEL_MAX ||
                            !owner_name_is_valid(name))
                                r = -EBADMSG;
                        else
                                r = resources_add(&resources, name, (uint64_t) n);
                }
        }
        if (r < 0) {
                resources_done(&resources);
                return r;
        }
        *ret = resources;
        return 0;
}

int resources_add_json(const Resources *resources, json_object *object, const char *key) {
        json_object *counts;

        if (json_add_new_object(object, key, &counts) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < resources->n; i++)
                if (json_add_uint64(counts, resources->items[i].name, resources->items[i].total) < 0)
                        return -ENOMEM;
        return 0;
}

/* The request */

typedef struct Request {
        EnvironmentRequest request;
        size_t size; /* of all texts */
} Request;

static void request_done(Request *r) {
        strv_free(r->request.packages);
        strv_free(r->request.preload);
        strv_free(r->request.wheels);
        free(r->request.wheel_sizes);
}

static int read_texts(Request *r, json_object *j, const char *key, size_t n_max, size_t max, char ***ret) {
        json_object *array;

        if (json_get_array_optional(j, key, n_max, &array) < 0)
                return -EBADMSG;
        if (!array || json_object_array_length(array) == 0)
                return 0;
        *ret = newn0(char *, json_object_array_length(array) + 1);
        if (!*ret)
                return -ENOMEM;
        for (size_t i = 0; array && i < json_object_array_length(array); i++) {
                json_object *entry = json_object_array_get_idx(array, i);
                const char *text = json_object_get_string(entry);
                size_t size = strlen(strempty(text));

                if (!json_object_is_type(entry, json_type_string) || size == 0 || size > max ||
                    (size_t) json_object_get_string_len(entry) != size)
                        return -EBADMSG;
                r->size += size;
                if (free_and_strdup(&(*ret)[i], text) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int read_wheels(Request *r, json_object *j) {
        json_object *array;

        if (json_get_array_optional(j, "wheels", ENVIRONMENT_WHEELS_MAX, &array) < 0)
                return -EBADMSG;
        if (!array || json_object_array_length(array) == 0)
                return 0;
        r->request.wheel_sizes = newn0(uint64_t, json_object_array_length(array));
        if (!r->request.wheel_sizes)
                return -ENOMEM;
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *entry = json_object_array_get_idx(array, i);
                _cleanup_(freep) char *wheel = NULL;
                const char *name, *hex;
                uint64_t size;
                Digest digest;

                if (!json_object_is_type(entry, json_type_object) ||
                    json_get_string(entry, "name", 255, &name) < 0 || !wheel_name_is_valid(name) ||
                    json_get_string(entry, "digest", DIGEST_HEX_SIZE - 1, &hex) < 0 ||
                    digest_from_hex(hex, &digest) < 0 ||
                    json_get_uint64(entry, "size", UINT64_MAX / 4, &size) < 0)
                        return -EBADMSG;
                r->size += strlen(name) + strlen(hex);
                wheel = strformat("%s/%s", hex, name);
                if (!wheel)
                        return -ENOMEM;
                if (strv_contains(r->request.wheels, wheel))
                        continue;
                r->request.wheel_sizes[strv_length(r->request.wheels)] = size;
                if (strv_extend(&r->request.wheels, wheel) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int read_request(Request *r, json_object *j) {
        const char *base;
        int q;

        q = read_texts(r, j, "packages", ENVIRONMENT_PACKAGES_MAX, REQUIREMENT_MAX, &r->request.packages);
        if (q >= 0)
                q = read_texts(r, j, "preload", ENVIRONMENT_PRELOAD_MAX, MODULE_NAME_MAX,
                               &r->request.preload);
        if (q >= 0)
                q = read_wheels(r, j);
        if (q < 0)
                return q;
        if (json_get_string_optional(j, "lock", ENVIRONMENT_TEXTS_MAX, NULL, &r->request.lock) < 0 ||
            json_get_string_optional(j, "base", 16, "default", &base) < 0 ||
            (!streq(base, "default") && !streq(base, "none")))
                return -EBADMSG;
        r->request.base_none = streq(base, "none");
        r->size += strlen(strempty(r->request.lock));
        return r->size > ENVIRONMENT_TEXTS_MAX ? -EBADMSG : 0;
}

int environment_job_read(Session *session, Job *job, json_object *j) {
        json_object *object;
        const char *python;
        int r;

        if (json_get_string_optional(j, "python", 32, session->python, &python) < 0 ||
            (python[0] != '\0' && python_series(python, job->python) < 0) ||
            json_get_object_optional(j, "labels", &object) < 0)
                return -EBADMSG;
        r = labels_read(object, &job->labels);
        if (r < 0)
                return r;
        if (json_get_object_optional(j, "requires", &object) < 0)
                return -EBADMSG;
        return resources_read(object, &job->requires);
}

int environment_job_request(Session *session, Job *job, json_object *j) {
        _cleanup_(request_done) Request request = { 0 };
        json_object *object;
        int r;

        if (json_get_object_optional(j, "environment", &object) < 0)
                return -EBADMSG;
        if (!object)
                return 0;
        r = read_request(&request, object);
        if (r < 0)
                return r;
        job->environment_unread = !(session->owner->limits.rights & ACCESS_RUN) ||
                                  (job->refused && streq(job->refused_reason, "not-allowed"));
        if (job->environment_unread)
                return 0;
        /* Up to some milliseconds' work each, and a frame may have thousands. */
        if (session->n_environments_read >= ENVIRONMENTS_OWNER_MAX &&
            session->n_packages_read >= FRAME_PACKAGES_MAX) {
                job->environments_full = true;
                return 0;
        }
        session->n_environments_read++;
        session->n_packages_read += environments_merge_size(session->manager, &request.request);
        r = environments_request(session->manager, session, job->python, &request.request,
                                 &job->environment);
        if (r != -ENOSPC)
                return r;
        job->environments_full = true; /* told with its first call, see check_job() */
        return 0;
}

/* What is kept with a detached task */

int environment_job_write(const Job *job, json_object *j) {
        json_object *array;

        if (json_add_string(j, "python", job->python) < 0)
                return -ENOMEM;
        if (job->environment && json_add_string(j, "environment", job->environment->id) < 0)
                return -ENOMEM;
        /* Found again by it after a restart. */
        if (job->environment && !job->environment->recorded)
                environment_record_write(job->environment);
        if (json_add_new_array(j, "labels", &array) < 0)
                return -ENOMEM;
        for (char **s = job->labels; s && *s; s++)
                if (json_append_string(array, *s) < 0)
                        return -ENOMEM;
        return resources_add_json(&job->requires, j, "requires");
}

int environment_job_restore(Job *job, json_object *j) {
        Manager *m = job->session->manager;
        json_object *array = NULL, *object = NULL;
        const char *python, *id;
        Environment *e;

        if (json_get_string_optional(j, "python", 32, "", &python) < 0 ||
            (python[0] != '\0' && python_series(python, job->python) < 0) ||
            json_get_string_optional(j, "environment", DIGEST_HEX_SIZE - 1, NULL, &id) < 0 ||
            json_get_array_optional(j, "labels", NODE_LABELS_MAX, &array) < 0 ||
            json_get_object_optional(j, "requires", &object) < 0)
                return -EBADMSG;
        for (size_t i = 0; array && i < json_object_array_length(array); i++)
                if (strv_extend(&job->labels,
                                strempty(json_object_get_string(json_object_array_get_idx(array, i)))) < 0)
                        return -ENOMEM;
        if (id) {
                e = hashmap_get(m->environments->table, id);
                if (!e)
                        return -ENODATA;
                job->environment = environment_ref(e);
                e->wanted = true;
        }
        return resources_read(object, &job->requires);
}

int environment_job_copy(const Job *from, Job *to) {
        COPY_TEXT(to->python, from->python);
        for (char **s = from->labels; s && *s; s++)
                if (strv_extend(&to->labels, *s) < 0)
                        return -ENOMEM;
        to->environment = from->environment ? environment_ref(from->environment) : NULL;
        return resources_copy(&from->requires, &to->requires);
}

/* Nodes */

bool job_fits_node(const Job *job, const Node *node) {
        return (job->python[0] == '\0' || !node->pythons || strv_contains(node->pythons, job->python)) &&
               labels_match(node->labels, job->labels) &&
               resources_suffice(&node->resources, &job->requires, false);
}

bool pythons_are_known(const Manager *m) {
        Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                if (node->pythons)
                        return true;
        return false;
}

bool python_is_known(const Manager *m, const char *python) {
        Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                if (strv_contains(node->pythons, python))
                        return true;
        return false;
}

static int compare_versions(const void *left, const void *right) {
        return strverscmp(*(char *const *) left, *(char *const *) right);
}

int pythons_add(const Manager *m, json_object *object, const char *key) {
        _cleanup_(strv_freep) char **all = NULL;
        json_object *array;
        Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                for (char **s = node->pythons; s && *s; s++)
                        if (!strv_contains(all, *s) && strv_extend(&all, *s) < 0)
                                return -ENOMEM;
        if (all)
                qsort(all, strv_length(all), sizeof(*all), compare_versions);
        if (json_add_new_array(object, key, &array) < 0)
                return -ENOMEM;
        for (char **s = all; s && *s; s++)
                if (json_append_string(array, *s) < 0)
                        return -ENOMEM;
        return 0;
}
