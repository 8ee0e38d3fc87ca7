/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-default.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>

#include "environment-node.h"
#include "environment-order.h"
#include "environment-record.h"
#include "log.h"
#include "manager.h"
#include "master-config.h"
#include "parse-util.h"
#include "requirement.h"
#include "time-util.h"

enum { CHANGE_DELAY_MS = 500 };

/* Reading */

static void arm_sync(Environments *all);

static int load_failed(Environments *all, int error, char *message) {
        free(all->error);
        all->error = message ?: strdup(strerrordesc_np(-error) ?: "unknown error");
        log_error("The packages stay as they were: %s", strempty(all->error));
        return error;
}

typedef struct Pins {
        char **list;
        size_t n, capacity;
} Pins;

static int add_pin(const LockEntry *entry, void *userdata) {
        Pins *pins = userdata;
        int r;

        if (entry->conditional)
                return 0;
        r = ARRAY_RESERVE(pins->list, pins->capacity, pins->n + 2);
        if (r < 0)
                return r;
        pins->list[pins->n] = strformat("%s==%s", entry->project, entry->version);
        if (!pins->list[pins->n])
                return -ENOMEM;
        pins->list[++pins->n] = NULL;
        return 0;
}

/* Once: many calls add to it. */
static int read_pins(const char *lock, char ***ret) {
        const char *expected;
        Pins pins = { 0 };
        size_t line;
        int r;

        r = lock ? lock_parse(lock, strlen(lock), add_pin, &pins, &line, &expected) : 0;
        if (r < 0) {
                strv_free(pins.list);
                return r;
        }
        *ret = pins.list;
        return 0;
}

int environments_load_config(Manager *m) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = NULL;
        Environments *all = m->environments;
        _cleanup_(strv_freep) char **pins = NULL;
        _cleanup_(freep) char *lock = NULL;
        char *message = NULL;
        size_t size;
        int r;

        r = dependency_config_load(m->config->dependencies, &config, &message);
        if (r == -ENOENT) {
                free(message);
                message = NULL;
        } else if (r < 0)
                return load_failed(all, r, message);
        if (config && config->lock) {
                r = dependency_config_read_lock(config, &lock, &size, &message);
                if (r < 0)
                        return load_failed(all, r == -ENOENT ? -EINVAL : r, message);
        }
        r = read_pins(lock, &pins);
        if (r < 0)
                return load_failed(all, r, NULL);
        all->error = mfree(all->error);
        dependency_config_free(all->config);
        free(all->lock);
        all->config = TAKE_PTR(config);
        all->lock = TAKE_PTR(lock);
        strv_free(all->pins);
        all->pins = TAKE_PTR(pins);
        return 0;
}

int environments_reload(Manager *m) {
        int r;

        r = environments_load_config(m);
        if (r < 0)
                return r;
        environments_watch(m->environments);
        environment_defaults_refresh(m, false);
        return 0;
}

int environments_sync(Manager *m) {
        int r;

        r = environments_load_config(m);
        if (r < 0)
                return r;
        environments_watch(m->environments);
        environment_defaults_refresh(m, true);
        return 0;
}

/* What is asked for */

int environment_index(const Environments *all, Environment *e) {
        const DependencyConfig *config = all->config;

        e->only_wheels = config && config->only_wheels;
        return free_and_strdup(&e->index, !config             ? "default"
                                          : config->no_index ? "none"
                                                             : config->index ?: "default");
}

static int add_text(DigestContext *context, const char *value) {
        /* With its NUL: no two lists look the same. */
        return digest_context_update(context, strempty(value), strlen(strempty(value)) + 1);
}

static int add_texts(DigestContext *context, char *const *values) {
        char n[32];
        int r;

        snprintf(n, sizeof(n), "%zu", strv_length(values));
        r = add_text(context, n);
        for (; values && *values && r >= 0; values++)
                r = add_text(context, *values);
        return r;
}

int environment_identify(Environment *e, uint64_t salt) {
        _cleanup_(digest_context_freep) DigestContext *context = NULL;
        char flags[64];
        Digest digest;
        int r;

        snprintf(flags, sizeof(flags), "%d %d %d %d %d %" PRIu64, e->is_default, e->fixed,
                 e->system_packages, e->only_wheels, e->prefers_default, salt);
        r = digest_context_new(&context);
        if (r >= 0)
                r = add_text(context, flags);
        if (r >= 0)
                r = add_text(context, e->owner);
        if (r >= 0)
                r = add_text(context, e->python);
        if (r >= 0)
                r = add_text(context, e->index);
        if (r >= 0)
                r = add_texts(context, e->packages);
        if (r >= 0)
                r = add_texts(context, e->preload);
        if (r >= 0)
                r = add_texts(context, e->wheels);
        if (r >= 0)
                r = add_text(context, e->fixed ? e->lock : "");
        if (r >= 0)
                r = digest_context_final(context, &digest);
        if (r >= 0)
                (void) digest_to_hex(&digest, e->id);
        return r;
}

static int copy_all(char ***list, char *const *values) {
        int r = 0;

        for (; values && *values && r >= 0; values++)
                r = strv_extend(list, *values);
        return r;
}

/* What the manifest asks for, for one Python. */
static int default_new(Environments *all, const char *python, Environment **ret) {
        _cleanup_(environment_unrefp) Environment *e = NULL;
        const DependencyConfig *config = all->config;
        int r;

        r = environment_new(all->manager, ENVIRONMENT_OWNER_SHARED, python, &e);
        if (r < 0)
                return r;
        e->is_default = true;
        e->system_packages = config && config->system_packages;
        r = environment_index(all, e);
        if (r >= 0 && config)
                r = copy_all(&e->packages, config->packages);
        if (r >= 0 && config)
                r = copy_all(&e->preload, config->preload);
        if (r >= 0 && all->lock) {
                e->fixed = true;
                r = free_and_strdup(&e->lock, all->lock);
        }
        e->base = !e->fixed && !e->packages && !e->preload;
        if (r >= 0)
                r = environment_identify(e, 0);
        if (r < 0)
                return r;
        COPY_TEXT(e->request, e->id);
        if (!e->base)
                r = environment_identify(e, e->created_at);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(e);
        return 0;
}

/* Generations */

/* One that is out of use: without a job, its record goes, too. */
static void drop(Environment *e) {
        if (!e)
                return;
        environment_record_remove(e);
        environments_forget(e);
        environment_unref(e);
}

void environment_default_free(Environments *all, DefaultEnvironment *d) {
        for (size_t i = 0; i < ENVIRONMENT_GENERATIONS; i++)
                environment_unref(d->generations[i]);
        environment_unref(d->next);
        (void) hashmap_remove(all->defaults, d->python);
        free(d);
}

int environment_default_get(Environments *all, const char *python, DefaultEnvironment **ret) {
        DefaultEnvironment *d = hashmap_get(all->defaults, python);
        int r;

        if (!d) {
                d = new0(DefaultEnvironment);
                if (!d)
                        return -ENOMEM;
                snprintf(d->python, sizeof(d->python), "%s", python);
                r = hashmap_put(all->defaults, d->python, d);
                if (r < 0) {
                        free(d);
                        return r;
                }
        }
        *ret = d;
        return 0;
}

static void push_generation(DefaultEnvironment *d, Environment *e) {
        drop(d->generations[ENVIRONMENT_GENERATIONS - 1]);
        memmove(d->generations + 1, d->generations, (ENVIRONMENT_GENERATIONS - 1) * sizeof(*d->generations));
        d->generations[0] = e;
        environments_tell_kept(e->manager);
}

static void forget_generations(DefaultEnvironment *d, size_t from) {
        for (size_t i = from; i < ENVIRONMENT_GENERATIONS; i++) {
                drop(d->generations[i]);
                d->generations[i] = NULL;
        }
}

void environment_default_settle(Manager *m, DefaultEnvironment *d) {
        Environment *e = d->next, *now = d->generations[0];

        if (e && e->state == ENVIRONMENT_LOCKED) {
                d->next = NULL;
                if (now && environment_equal(now, e)) {
                        /* Nothing has changed. */
                        now->resolved_at = e->resolved_at;
                        COPY_TEXT(now->request, e->request);
                        environment_record_write(now);
                        if (now->state == ENVIRONMENT_FAILED)
                                environment_try_again(now);
                        drop(e);
                } else {
                        /* One that comes back is not there twice. */
                        for (size_t i = 0; i < ENVIRONMENT_GENERATIONS && d->generations[i]; i++)
                                if (environment_equal(d->generations[i], e)) {
                                        drop(d->generations[i]);
                                        memmove(d->generations + i, d->generations + i + 1,
                                                (ENVIRONMENT_GENERATIONS - 1 - i) * sizeof(*d->generations));
                                        d->generations[ENVIRONMENT_GENERATIONS - 1] = NULL;
                                        break;
                                }
                        push_generation(d, e);
                }
                arm_sync(m->environments);
        }
        /* Former ones are kept for nodes on which the newest is not ready yet. */
        now = d->generations[0];
        if (now && now->base)
                forget_generations(d, 1);
        else if (now && d->generations[1] && environment_is_ready_on_all(now)) {
                forget_generations(d, 1);
                environments_tell_kept(m);
        }
}

static void default_refresh(Manager *m, DefaultEnvironment *d, bool anew) {
        Environments *all = m->environments;
        Environment *now = d->generations[0], *e;

        if (default_new(all, d->python, &e) < 0) {
                log_oom();
                return;
        }
        if (d->next && !anew && d->next->state != ENVIRONMENT_FAILED &&
            streq(d->next->request, e->request)) {
                environment_unref(e); /* on its way already */
                return;
        }
        drop(TAKE_PTR(d->next));
        if (now && streq(now->request, e->request) && (!anew || now->fixed || now->base)) {
                environment_unref(e);
                if (now->state == ENVIRONMENT_FAILED)
                        environment_try_again(now);
                return;
        }
        if (e->base) {
                (void) environment_find_name(e);
                e->state = ENVIRONMENT_LOCKED;
        } else if (environments_add(m, e) < 0) {
                log_oom();
                environment_unref(e);
                return;
        }
        d->next = e;
        environment_default_settle(m, d);
}

void environment_defaults_refresh(Manager *m, bool anew) {
        Environments *all = m->environments;
        DefaultEnvironment *d;

        all->synced_at = now_usec(CLOCK_REALTIME);
        HASHMAP_FOREACH(d, all->defaults)
                default_refresh(m, d, anew);
        arm_sync(all);
        environments_wake(m);
        manager_schedule(m);
}

void environment_default_want(Manager *m, const char *python) {
        DefaultEnvironment *d;

        if (python[0] == '\0' || environment_default_get(m->environments, python, &d) < 0)
                return;
        if (d->wanted && (d->generations[0] || d->next))
                return;
        d->wanted = true;
        default_refresh(m, d, false);
        environments_wake(m);
}

/* Time and files */

static int on_sync(sd_event_source *source, uint64_t usec, void *userdata) {
        Environments *all = userdata;

        environment_defaults_refresh(all->manager, true);
        return 0;
}

/* From when the oldest of those that can change was found out. */
static void arm_sync(Environments *all) {
        uint64_t now = now_usec(CLOCK_REALTIME), oldest = now, left;
        const DependencyConfig *config = all->config;
        DefaultEnvironment *d;

        if (!config || config->sync == USEC_INFINITY || all->lock || !config->packages) {
                all->next_sync = USEC_INFINITY;
                manager_timer(all->manager, &all->sync_timer, USEC_INFINITY, on_sync, all);
                return;
        }
        HASHMAP_FOREACH(d, all->defaults)
                if (!d->next && d->generations[0] && d->generations[0]->resolved_at > 0)
                        oldest = MIN(oldest, d->generations[0]->resolved_at);
        left = usec_sub(usec_add(oldest, config->sync), now);
        all->next_sync = manager_now(all->manager) + MAX(left, (uint64_t) USEC_PER_SEC);
        manager_timer(all->manager, &all->sync_timer, all->next_sync, on_sync, all);
}

static int on_changed_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Environments *all = userdata;

        log_info("%s or what it names has changed", all->manager->config->dependencies);
        (void) environments_reload(all->manager);
        return 0;
}

static const char *base_name(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

/* Files are written in pieces: once it is quiet. */
static int on_inotify(sd_event_source *source, const struct inotify_event *event, void *userdata) {
        Environments *all = userdata;
        Manager *m = all->manager;
        const char *lock = all->config ? all->config->lock : NULL;

        if (event->len > 0 && !streq(event->name, base_name(m->config->dependencies)) &&
            !(lock && streq(event->name, base_name(lock))))
                return 0;
        manager_timer(m, &all->change_timer, manager_now(m) + CHANGE_DELAY_MS * USEC_PER_MSEC,
                      on_changed_late, all);
        return 0;
}

void environments_unwatch(Environments *all) {
        for (size_t i = 0; i < ELEMENTSOF(all->watches); i++)
                all->watches[i] = sd_event_source_disable_unref(all->watches[i]);
}

static void watch_folder_of(Environments *all, size_t index, const char *path) {
        const char *slash = path ? strrchr(path, '/') : NULL;
        _cleanup_(freep) char *folder = NULL;
        int r;

        if (!path)
                return;
        folder = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t) (slash - path));
        if (!folder)
                return;
        r = sd_event_add_inotify(all->manager->event, &all->watches[index], folder,
                                 IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE, on_inotify, all);
        if (r < 0)
                log_debug("%s is not watched for changes: %s", folder, strerrordesc_np(-r));
}

void environments_watch(Environments *all) {
        const char *lock = all->config ? all->config->lock : NULL;

        if (all->manager->stopping)
                return;
        environments_unwatch(all);
        watch_folder_of(all, 0, all->manager->config->dependencies);
        if (lock)
                watch_folder_of(all, 1, lock);
}
