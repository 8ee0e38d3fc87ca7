/* SPDX-License-Identifier: Apache-2.0 */
#include "environments.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "environment-default.h"
#include "environment-job.h"
#include "environment-node.h"
#include "environment-order.h"
#include "environment-record.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "requirement.h"
#include "session.h"
#include "time-util.h"
#include "wheel-store.h"

int environments_new(Manager *m, Environments **ret) {
        _cleanup_(environments_freep) Environments *all = new0(Environments);
        int r;

        if (!all)
                return -ENOMEM;
        all->manager = m;
        r = hashmap_new(HASHMAP_STRING, &all->table);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &all->defaults);
        if (r >= 0)
                r = wheel_store_new(m, &all->wheels);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(all);
        return 0;
}

Environments *environments_free(Environments *all) {
        DefaultEnvironment *d;
        Environment *e;

        if (!all)
                return NULL;
        environments_unwatch(all);
        HASHMAP_FOREACH(d, all->defaults)
                environment_default_free(all, d);
        HASHMAP_FOREACH(e, all->table)
                environment_free(e);
        hashmap_free(all->table);
        hashmap_free(all->defaults);
        wheel_store_free(all->wheels);
        dependency_config_free(all->config);
        free(all->lock);
        strv_free(all->pins);
        free(all->error);
        sd_event_source_disable_unref(all->work);
        sd_event_source_disable_unref(all->timer);
        sd_event_source_disable_unref(all->sync_timer);
        sd_event_source_disable_unref(all->change_timer);
        return mfree(all);
}

void environments_stop(Environments *all) {
        if (all)
                wheel_store_stop(all->wheels);
}

int environments_open(Manager *m) {
        int r;

        r = environments_load_config(m);
        if (r < 0)
                return r;
        r = environment_records_load(m);
        if (r < 0)
                return r;
        environment_defaults_refresh(m, false);
        environments_watch(m->environments);
        return 0;
}

/* The table */

Environment *environments_find(const Manager *m, const char *name) {
        Environment *e;

        HASHMAP_FOREACH(e, m->environments->table)
                if (streq(e->name, name))
                        return e;
        return NULL;
}

/* Who goes first when there is no more room; only of what that one asked for if it is not NULL. */
static Environment *find_oldest(const Environments *all, const char *asker, const Environment *except) {
        Environment *e, *oldest = NULL;

        HASHMAP_FOREACH(e, all->table)
                if (e != except && e->n_references == 0 && (!asker || streq(e->asker, asker)) &&
                    (!oldest || e->used_at < oldest->used_at))
                        oldest = e;
        return oldest;
}

static int remove_oldest(const Environments *all, const char *asker, const Environment *except) {
        Environment *oldest = find_oldest(all, asker, except);

        if (!oldest)
                return -ENOSPC;
        environment_record_remove(oldest);
        environment_free(oldest);
        return 0;
}

typedef struct Share {
        size_t n, bytes;
} Share;

/* What all that one asked for take, without this one; asker NULL: of all. */
static Share share_of(const Environments *all, const char *asker, const Environment *except) {
        Share share = { 0 };
        Environment *e;

        HASHMAP_FOREACH(e, all->table)
                if (e != except && (!asker || streq(e->asker, asker))) {
                        share.n++;
                        share.bytes += environment_size(e);
                }
        return share;
}

static int make_room_within(Environments *all, const Environment *e, const char *asker, size_t more,
                            size_t n_max, size_t bytes_max) {
        Share share = share_of(all, asker, e);
        int r = 0;

        while (r >= 0 && (share.n >= n_max || share.bytes + environment_size(e) + more > bytes_max)) {
                r = remove_oldest(all, asker, e);
                share = share_of(all, asker, e);
        }
        return r;
}

int environments_make_room(Environment *e, size_t more) {
        Environments *all = e->manager->environments;
        bool masters = streq(e->asker, ENVIRONMENT_OWNER_SHARED);
        int r;

        if (!all)
                return 0;
        r = masters ? 0
                    : make_room_within(all, e, e->asker, more, ENVIRONMENTS_OWNER_MAX,
                                       ENVIRONMENTS_OWNER_BYTES_MAX);
        if (r >= 0)
                r = make_room_within(all, e, NULL, more, ENVIRONMENTS_MAX, ENVIRONMENTS_BYTES_MAX);
        return masters ? 0 : r;
}

/* Anew after every change: there are few, and what is never added up wrongly needs no care. */
static void count_bytes(Environments *all) {
        Environment *e;

        all->bytes = 0;
        HASHMAP_FOREACH(e, all->table)
                all->bytes += environment_size(e);
}

int environments_add(Manager *m, Environment *e) {
        Environments *all = m->environments;
        Environment *former = hashmap_get(all->table, e->id);
        void *old;
        int r;

        /* It goes with the last job that has it. */
        if (former)
                (void) hashmap_remove(all->table, former->id);
        r = environments_make_room(e, 0);
        if (r >= 0)
                r = hashmap_replace(all->table, e->id, e, &old);
        if (former && former->n_references == 0) {
                environment_record_remove(former);
                environment_free(former);
        }
        count_bytes(all);
        return r;
}

void environments_forget(Environment *e) {
        Environments *all = e->manager->environments;

        if (!all || hashmap_get(all->table, e->id) != e)
                return;
        (void) hashmap_remove(all->table, e->id);
        count_bytes(all);
}

bool environments_keeps(const Environment *e) {
        const Environments *all = e->manager->environments;

        return all && hashmap_get(all->table, e->id) == e &&
               (e->state == ENVIRONMENT_LOCKED || (e->state == ENVIRONMENT_FAILED && !e->wheels_missing));
}

void environments_changed(Environment *e) {
        Manager *m = e->manager;

        if (!m->environments || m->stopping)
                return;
        if (e->state == ENVIRONMENT_FAILED)
                m->environments->failed_due = true;
        if (e->state == ENVIRONMENT_LOCKED && !e->base)
                environment_record_write(e);
        count_bytes(m->environments);
        environments_wake(m);
        manager_schedule(m);
        manager_notify(m);
}

void environments_forgive_nodes(Environment *e) {
        NodeEnvironment *there;
        Node *node;

        HASHMAP_FOREACH(node, e->manager->nodes) {
                there = node_environment_find(node, e->name);
                if (there && there->state == NODE_ENVIRONMENT_FAILED)
                        node_environment_free(there);
        }
}

/* What a job asks for */

static const char *wheel_name(const char *wheel) {
        const char *slash = strchr(wheel, '/');

        return slash ? slash + 1 : wheel;
}

/* The projects that a client asks for itself. */
typedef struct Own {
        Hashmap *projects; /* name → itself */
        char (*names)[PROJECT_NAME_MAX + 1];
        size_t n;
} Own;

static void own_done(Own *own) {
        hashmap_free(own->projects);
        free(own->names);
}

static int own_add(Own *own) {
        int r = hashmap_put(own->projects, own->names[own->n], own->names[own->n]);

        own->n += r >= 0;
        return r == -EEXIST ? 0 : r;
}

static int own_read(Own *own, const EnvironmentRequest *request) {
        int r;

        own->names = calloc(strv_length(request->packages) + strv_length(request->wheels) + 1,
                            sizeof(*own->names));
        r = own->names ? hashmap_new(HASHMAP_STRING, &own->projects) : -ENOMEM;
        for (char **s = request->packages; s && *s && r >= 0; s++)
                if (requirement_project(*s, own->names[own->n]) >= 0)
                        r = own_add(own);
        for (char **s = request->wheels; s && *s && r >= 0; s++)
                if (wheel_project(wheel_name(*s), own->names[own->n]) >= 0)
                        r = own_add(own);
        return r;
}

/* Appends copies of those that `own` has not; NULL: of all. */
static int append_packages(char ***list, char *const *values, const Own *own) {
        size_t n = strv_length(*list);
        char **larger = reallocarray(*list, n + strv_length(values) + 1, sizeof(char *));

        if (!larger)
                return -ENOMEM;
        *list = larger;
        (*list)[n] = NULL;
        for (; values && *values; values++) {
                char project[PROJECT_NAME_MAX + 1];

                if (own &&
                    (requirement_project(*values, project) < 0 || hashmap_get(own->projects, project)))
                        continue;
                if (free_and_strdup(&(*list)[n], *values) < 0)
                        return -ENOMEM;
                (*list)[++n] = NULL;
        }
        return 0;
}

/* The master's packages that the client does not ask for itself. */
static int merge_defaults(Environment *e, const Environments *all, const EnvironmentRequest *request) {
        _cleanup_(own_done) Own own = { 0 };
        int r;

        if (!all->config)
                return 0;
        r = own_read(&own, request);
        return r < 0 ? r
                     : append_packages(&e->packages, all->lock ? all->pins : all->config->packages, &own);
}

size_t environments_merge_size(const Manager *m, const EnvironmentRequest *request) {
        const Environments *all = m->environments;

        return strv_length(request->packages) + strv_length(request->wheels) +
               strv_length(all->lock     ? all->pins
                           : all->config ? all->config->packages
                                         : NULL);
}

static int extend_all(char ***list, char *const *values) {
        int r = 0;

        for (; values && *values && r >= 0; values++)
                if (!strv_contains(*list, *values))
                        r = strv_extend(list, *values);
        return r;
}

static int compare_texts(const void *left, const void *right) {
        return strcmp(*(char *const *) left, *(char *const *) right);
}

/* Sorted, each once; NULL when there are none. */
static void sort(char ***list) {
        size_t n = strv_length(*list), kept = 0;

        if (n == 0) {
                *list = strv_free(*list);
                return;
        }
        qsort(*list, n, sizeof(**list), compare_texts);
        for (size_t i = 0; i < n; i++)
                if (kept > 0 && streq((*list)[kept - 1], (*list)[i]))
                        free((*list)[i]);
                else
                        (*list)[kept++] = (*list)[i];
        (*list)[kept] = NULL;
}

static int fill(Environment *e, const Environments *all, const EnvironmentRequest *request) {
        const DependencyConfig *config = all->config;
        bool with_defaults = !request->base_none && !request->lock;
        int r = 0;

        e->system_packages = !request->base_none && config && config->system_packages;
        e->fixed = request->lock != NULL;
        e->prefers_default = with_defaults;
        if (with_defaults)
                r = merge_defaults(e, all, request);
        if (r >= 0 && with_defaults && config)
                r = extend_all(&e->preload, config->preload);
        if (r >= 0 && !request->lock)
                r = append_packages(&e->packages, request->packages, NULL);
        if (r >= 0)
                r = extend_all(&e->preload, request->preload);
        if (r >= 0)
                r = extend_all(&e->wheels, request->wheels);
        if (r >= 0 && request->lock && free_and_strdup(&e->lock, request->lock) < 0)
                r = -ENOMEM;
        if (r < 0)
                return r;
        /* The order of what is asked for says nothing; that of imports may. */
        sort(&e->packages);
        sort(&e->wheels);
        e->base = !e->fixed && !e->packages && !e->preload && !e->wheels;
        return 0;
}

/* A lock holds what it names and no foreign code runs when only wheels are taken: the same for all. Not so
 * with somebody's own wheels: who only knows their digests must not come by what is in them. */
static int share(Environment *e) {
        return e->base || (e->fixed && e->only_wheels && !e->wheels)
                       ? free_and_strdup(&e->owner, ENVIRONMENT_OWNER_SHARED)
                       : 0;
}

static const char *check_request(const EnvironmentRequest *request, char **ret_log) {
        const char *expected;
        size_t line;

        for (char **s = request->packages; s && *s; s++)
                if (!requirement_is_valid(*s)) {
                        *ret_log = strformat(
                                "'%s' is no requirement such as 'numpy>=2': packages are asked for "
                                "by name and version, and not by address or with options",
                                *s);
                        return "installer";
                }
        for (char **s = request->preload; s && *s; s++)
                if (!module_name_is_valid(*s)) {
                        *ret_log = strformat("'%s' in preload is no module's name", *s);
                        return "installer";
                }
        if (request->lock &&
            lock_parse(request->lock, strlen(request->lock), NULL, NULL, &line, &expected) < 0) {
                *ret_log = strformat("line %zu of the lock: expected %s", line, expected);
                return "installer";
        }
        return NULL;
}

/* What was found out is looked up anew once it is old. */
static bool is_stale(const Environments *all, const Environment *e) {
        uint64_t sync = all->config ? all->config->sync : USEC_PER_HOUR;

        return e->state == ENVIRONMENT_LOCKED && !e->fixed && !e->base && sync != USEC_INFINITY &&
               usec_add(e->resolved_at, sync) < now_usec(CLOCK_REALTIME);
}

static int begin(Environment *e, Session *session, const EnvironmentRequest *request) {
        _cleanup_(freep) char *log = NULL;
        const char *reason = check_request(request, &log);
        int r;

        if (reason) {
                environment_fail(e, reason, strempty(log));
                return 0;
        }
        if (e->base) {
                r = environment_find_name(e);
                if (r < 0)
                        return r;
                environment_set_state(e, ENVIRONMENT_LOCKED);
                return 0;
        }
        return wheel_store_fetch(e, session, request);
}

int environments_request(Manager *m, Session *session, const char *python, const EnvironmentRequest *request,
                         Environment **ret) {
        _cleanup_(environment_unrefp) Environment *e = NULL;
        Environments *all = m->environments;
        Environment *there;
        int r;

        *ret = NULL;
        if (!request->packages && !request->preload && !request->wheels && !request->lock &&
            !request->base_none)
                return 0;
        r = environment_new(m, session->user, python, &e);
        if (r < 0)
                return r;
        r = environment_index(all, e);
        if (r >= 0)
                r = fill(e, all, request);
        if (r >= 0)
                r = share(e);
        if (r >= 0)
                r = environment_identify(e, 0);
        if (r < 0)
                return r;
        there = hashmap_get(all->table, e->id);
        if (there && !is_stale(all, there)) {
                environment_unref(TAKE_PTR(e));
                if (there->state == ENVIRONMENT_FAILED &&
                    usec_add(there->failed_at, ENVIRONMENT_FORGIVE_S * USEC_PER_SEC) <= manager_now(m) &&
                    there->n_references == 0)
                        environment_try_again(there);
                *ret = environment_ref(there);
                /* Its wheels may have been given up when another client went. */
                return there->state == ENVIRONMENT_FETCHING ? wheel_store_fetch(there, session, request) : 0;
        }
        r = environments_add(m, e);
        if (r >= 0)
                r = begin(e, session, request);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(e);
        environments_wake(m);
        return 0;
}

/* What tasks get */

static bool is_usable(const Environment *e, const Node *node) {
        if (e->base)
                return true;
        return e->name[0] != '\0' && streq_ptr(e->platform, node->platform) &&
               node_environment_is_ready(node, e->name);
}

Environment *environments_pick(Manager *m, const Job *job, const Node *node) {
        DefaultEnvironment *d;

        if (job->environment)
                return is_usable(job->environment, node) ? job->environment : NULL;
        d = hashmap_get(m->environments->defaults, job->python);
        for (size_t i = 0; d && i < ENVIRONMENT_GENERATIONS && d->generations[i]; i++)
                if (is_usable(d->generations[i], node))
                        return d->generations[i];
        return NULL;
}

bool environments_allow(Manager *m, const Job *job, const Node *node) {
        return (job->python[0] == '\0' && !job->environment) || environments_pick(m, job, node);
}

const char *environments_dispatch_name(Manager *m, const Job *job, const Node *node) {
        const Environment *e = environments_pick(m, job, node);

        return e ? e->name : "default";
}

json_object *environments_libraries(const Manager *m, const char *python) {
        const DefaultEnvironment *d = hashmap_get(m->environments->defaults, python);

        return d && d->generations[0] && !d->generations[0]->base ? d->generations[0]->libraries : NULL;
}

bool environments_missing(Manager *m, const Job *job) {
        const Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                if (node->state == NODE_READY && job_fits_node(job, node) &&
                    environments_allow(m, job, node))
                        return false;
        return true;
}

void environments_count(Manager *m, const Job *job) {
        const Environment *e = environments_awaited(m, job);

        if (!e || e->base)
                return;
        if (job->waited_environment)
                m->environments->counters.misses++;
        else
                m->environments->counters.hits++;
}

Environment *environments_awaited(Manager *m, const Job *job) {
        DefaultEnvironment *d;

        if (job->environment)
                return job->environment;
        d = hashmap_get(m->environments->defaults, job->python);
        if (!d)
                return NULL;
        return d->generations[0] ?: d->next;
}

static bool is_ready_somewhere(Manager *m, const Environment *e) {
        Node *node;

        if (e->name[0] == '\0')
                return false;
        HASHMAP_FOREACH(node, m->nodes)
                if (!node->lost && is_usable(e, node) && strv_contains(node->pythons, e->python))
                        return true;
        return false;
}

Environment *environments_failed(Manager *m, const Job *job) {
        DefaultEnvironment *d;

        if (job->environment)
                return job->environment->state == ENVIRONMENT_FAILED &&
                                       !is_ready_somewhere(m, job->environment)
                               ? job->environment
                               : NULL;
        d = hashmap_get(m->environments->defaults, job->python);
        if (!d)
                return NULL;
        for (size_t i = 0; i < ENVIRONMENT_GENERATIONS && d->generations[i]; i++)
                if (d->generations[i]->state != ENVIRONMENT_FAILED ||
                    is_ready_somewhere(m, d->generations[i]))
                        return NULL;
        if (d->next && d->next->state != ENVIRONMENT_FAILED)
                return NULL;
        return d->generations[0] ?: d->next;
}

void environments_want(Manager *m, Job *job) {
        if (!job->environment || job->environment->wanted)
                return;
        job->environment->wanted = true;
        environments_wake(m);
}

void environments_task_comes(Manager *m, const Job *job) {
        Environment *e = environments_failed(m, job);

        if (!job->environment)
                environment_default_want(m, job->python);
        else
                job->environment->used_at = manager_now(m);
        if (!e)
                return;
        if (usec_add(e->failed_at, ENVIRONMENT_FORGIVE_S * USEC_PER_SEC) <= manager_now(m))
                environment_try_again(e);
        else {
                m->environments->failed_due = true;
                environments_wake(m);
        }
}
