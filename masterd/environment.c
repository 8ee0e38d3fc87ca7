/* SPDX-License-Identifier: Apache-2.0 */
#include "environment.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "environment-node.h"
#include "environment-order.h"
#include "environment-record.h"
#include "environments.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "parse-util.h"
#include "requirement.h"
#include "time-util.h"

static const char *const environment_state_table[_ENVIRONMENT_STATE_MAX] = {
        [ENVIRONMENT_FETCHING] = "fetching",
        [ENVIRONMENT_RESOLVING] = "resolving",
        [ENVIRONMENT_LOCKED] = "locked",
        [ENVIRONMENT_FAILED] = "failed",
};

DEFINE_NAME_TABLE(environment_state, EnvironmentState, environment_state_table);

int environment_new(Manager *m, const char *owner, const char *python, Environment **ret) {
        Environment *e = new0(Environment);

        if (!e)
                return -ENOMEM;
        e->manager = m;
        e->n_references = 1;
        e->state = ENVIRONMENT_RESOLVING;
        e->state_since = e->used_at = manager_now(m);
        e->created_at = now_usec(CLOCK_REALTIME);
        snprintf(e->python, sizeof(e->python), "%s", python);
        e->owner = strdup(owner);
        e->asker = strdup(owner);
        if (!e->owner || !e->asker) {
                free(e->owner);
                free(e->asker);
                free(e);
                return -ENOMEM;
        }
        *ret = e;
        return 0;
}

Environment *environment_free(Environment *e) {
        if (!e)
                return NULL;
        environment_withdraw(e);
        environment_set_resolver(e, NULL);
        environments_forget(e);
        free(e->owner);
        free(e->asker);
        free(e->platform);
        strv_free(e->packages);
        strv_free(e->preload);
        strv_free(e->wheels);
        free(e->index);
        free(e->lock);
        json_object_put(e->libraries);
        free(e->installer);
        free(e->reason);
        free(e->log);
        free(e->refusal_reason);
        free(e->refusal);
        return mfree(e);
}

Environment *environment_ref(Environment *e) {
        e->n_references++;
        e->used_at = manager_now(e->manager);
        return e;
}

Environment *environment_unref(Environment *e) {
        if (!e || --e->n_references > 0)
                return NULL;
        if (!environments_keeps(e)) {
                environment_record_remove(e);
                environment_free(e);
        } else if (e->state == ENVIRONMENT_LOCKED)
                environment_withdraw(e);
        return NULL;
}

int environment_set_refusal(Environment *e, Node *node, const char *reason, const char *words) {
        int r;

        e->refused_by = node;
        r = free_and_strdup(&e->refusal_reason, reason);
        return r < 0 ? r : free_and_strdup(&e->refusal, words);
}

void environment_set_resolver(Environment *e, Node *node) {
        if (e->resolver) {
                e->resolver->n_orders--;
                node_order_give(e->resolver, e->asker, e);
        }
        e->resolver = node;
        e->resolver_since = manager_now(e->manager);
        e->resolver_begun = 0;
        if (!node)
                return;
        node->n_orders++;
        if (node_order_take(node, e->asker, e) < 0)
                log_oom();
}

static void log_state(const Environment *e, EnvironmentState old) {
        _cleanup_(freep) char *what = environment_describe(e), *line = NULL;

        if (e->state == ENVIRONMENT_FAILED) {
                const char *last = strrchr(strempty(e->log), '\n');

                line = text_for_message(last && last[1] ? last + 1 : strempty(e->log), 300);
                log_warning("Environment of %s failed (%s): %s", strempty(what), strempty(e->reason),
                            strempty(line));
        } else
                log_info("Environment of %s: %s -> %s%s%s", strempty(what), environment_state_to_string(old),
                         environment_state_to_string(e->state), e->name[0] ? ", its name is " : "", e->name);
}

void environment_set_state(Environment *e, EnvironmentState state) {
        EnvironmentState old = e->state;

        if (old == state)
                return;
        e->state = state;
        e->state_since = manager_now(e->manager);
        if (state != ENVIRONMENT_RESOLVING) {
                environment_set_resolver(e, NULL);
                (void) environment_set_refusal(e, NULL, NULL, NULL);
        }
        if (state == ENVIRONMENT_FAILED)
                e->failed_at = e->state_since;
        else {
                e->reason = mfree(e->reason);
                e->log = mfree(e->log);
        }
        log_state(e, old);
        environments_changed(e);
}

static const char *utf8_begin(const char *s) {
        while (((unsigned char) *s & 0xc0) == 0x80)
                s++;
        return s;
}

/* The end of it, from the beginning of a line, valid UTF-8. */
static char *log_end(const char *log) {
        size_t size = strlen(log);
        const char *line;
        char *copy;

        if (size > ENVIRONMENT_LOG_MAX) {
                log += size - ENVIRONMENT_LOG_MAX;
                line = strchr(log, '\n');
                if (line)
                        log = line + 1;
        }
        copy = strdup(log);
        if (copy && !utf8_is_valid(copy, strlen(copy)))
                for (char *p = copy; *p; p++)
                        if ((unsigned char) *p >= 0x80)
                                *p = '?';
        return copy;
}

void environment_fail(Environment *e, const char *reason, const char *log) {
        char *words = log_end(log), *kind = strdup(reason);
        size_t size = strlen(strempty(words));

        if (size > ENVIRONMENTS_LOG_CUT && environments_make_room(e, size) < 0) {
                char *end = strdup(utf8_begin(words + size - ENVIRONMENTS_LOG_CUT));

                free(words);
                words = end;
        }

        e->failed_to_resolve = e->state != ENVIRONMENT_LOCKED;
        free(e->log);
        free(e->reason);
        e->log = words;
        e->reason = kind;
        e->failures = 0;
        environment_set_state(e, ENVIRONMENT_FAILED);
}

void environment_name_shown(const Environment *e, char ret[static ENVIRONMENT_NAME_SIZE]) {
        if (e->name[0] != '\0')
                snprintf(ret, ENVIRONMENT_NAME_SIZE, "%s", e->name);
        else
                snprintf(ret, ENVIRONMENT_NAME_SIZE, "%.*s", ENVIRONMENT_DIGITS, e->id);
}

int environment_find_name(Environment *e) {
        const EnvironmentContent content = {
                .python = e->python,
                .platform = strempty(e->platform),
                .index = strempty(e->index),
                .system_packages = e->system_packages,
                .owner = e->owner,
                .preload = e->preload,
                .wheels = e->wheels,
                .lock = strempty(e->lock),
        };

        if (!e->base)
                return environment_name(&content, e->name);
        environment_base_name(e->python, e->system_packages, e->name);
        return 0;
}

static int add_library(const LockEntry *entry, void *userdata) {
        /* Of what depends on markers nobody knows yet whether it will be there. */
        return entry->conditional ? 0 : json_add_string(userdata, entry->project, entry->version);
}

/* What the lock names, and not what a node says of itself: all that have it are told the same. */
static void find_libraries(Environment *e) {
        _cleanup_(json_putp) json_object *libraries = NULL;
        const char *expected;
        size_t line;

        if (json_new_object(&libraries) >= 0 &&
            lock_parse(e->lock, strlen(e->lock), add_library, libraries, &line, &expected) >= 0) {
                json_object_put(e->libraries);
                e->libraries = TAKE_PTR(libraries);
        }
}

/* What was asked for and has not been seen in the lock yet. */
typedef struct Wanted {
        Hashmap *projects; /* name → itself */
        char (*names)[PROJECT_NAME_MAX + 1];
        size_t n;
} Wanted;

static void wanted_done(Wanted *wanted) {
        hashmap_free(wanted->projects);
        free(wanted->names);
}

static int wanted_add(Wanted *wanted) {
        int r = hashmap_put(wanted->projects, wanted->names[wanted->n], wanted->names[wanted->n]);

        wanted->n += r >= 0;
        return r == -EEXIST ? 0 : r;
}

static int wanted_read(Wanted *wanted, const Environment *e) {
        int r;

        wanted->names =
                calloc(strv_length(e->packages) + strv_length(e->wheels) + 1, sizeof(*wanted->names));
        r = wanted->names ? hashmap_new(HASHMAP_STRING, &wanted->projects) : -ENOMEM;
        for (char **s = e->packages; s && *s && r >= 0; s++)
                if (!strchr(*s, ';') && requirement_project(*s, wanted->names[wanted->n]) >= 0)
                        r = wanted_add(wanted);
        for (char **s = e->wheels; s && *s && r >= 0; s++) {
                const char *slash = strchr(*s, '/');

                if (wheel_project(slash ? slash + 1 : *s, wanted->names[wanted->n]) >= 0)
                        r = wanted_add(wanted);
        }
        return r;
}

static int wanted_seen(const LockEntry *entry, void *userdata) {
        (void) hashmap_remove(userdata, entry->project);
        return 0;
}

int environment_check_lock(const Environment *e, const char *lock, size_t size, char **ret_words) {
        _cleanup_(wanted_done) Wanted wanted = { 0 };
        const char *expected, *missing;
        size_t line;
        int r;

        r = wanted_read(&wanted, e);
        if (r < 0)
                return r;
        r = lock_parse(lock, size, wanted_seen, wanted.projects, &line, &expected);
        if (r == -ENOMEM)
                return r;
        missing = r < 0 ? NULL : hashmap_first(wanted.projects);
        if (r >= 0 && !missing)
                return 0;
        *ret_words = missing ? strformat("the node's lock lacks %s, which was asked for", missing)
                             : strformat("line %zu of the node's lock: expected %s", line, expected);
        return *ret_words ? -EINVAL : -ENOMEM;
}

int environment_lock(Environment *e, const char *lock, size_t size, const char *platform) {
        char *copy = memdup_nul(lock, size), *on = strdup(platform);
        int r;

        if (!copy || !on) {
                free(copy);
                free(on);
                return -ENOMEM;
        }
        free(e->lock);
        free(e->platform);
        e->lock = copy;
        e->platform = on;
        r = environment_find_name(e);
        if (r < 0)
                return r;
        if (environments_make_room(e, 0) < 0) {
                if (!e->fixed)
                        e->lock = mfree(e->lock);
                e->name[0] = '\0';
                environment_fail(e, "quota",
                                 "the packages that you ask for come to more than the master keeps for one "
                                 "user: wait until calls with others have ended");
                return 0;
        }
        find_libraries(e);
        e->resolved_at = now_usec(CLOCK_REALTIME);
        e->failures = 0;
        environment_set_state(e, ENVIRONMENT_LOCKED);
        return 0;
}

void environment_try_again(Environment *e) {
        if (e->state != ENVIRONMENT_FAILED || e->wheels_missing)
                return;
        e->failures = 0;
        e->not_before = 0;
        if (!e->failed_to_resolve)
                environments_forgive_nodes(e);
        environment_set_state(e, e->failed_to_resolve ? ENVIRONMENT_RESOLVING : ENVIRONMENT_LOCKED);
}

static size_t strv_size(char *const *list) {
        size_t size = 0;

        for (; list && *list; list++)
                size += strlen(*list) + 24;
        return size;
}

size_t environment_size(const Environment *e) {
        /* The libraries are about as long as the lock without its hashes. */
        return sizeof(*e) + strv_size(e->packages) + strv_size(e->preload) + strv_size(e->wheels) +
               2 * strlen(strempty(e->lock)) + strlen(strempty(e->log)) + strlen(strempty(e->refusal));
}

char *environment_describe(const Environment *e) {
        size_t n = strv_length(e->packages), wheels = strv_length(e->wheels);
        const char *owner = streq(e->owner, ENVIRONMENT_OWNER_SHARED) ? "everybody" : e->owner;

        if (e->base)
                return strformat("Python %s without packages", e->python);
        if (e->is_default)
                return strformat("the master's packages for Python %s", e->python);
        if (e->fixed)
                return strformat("a lock of %s for Python %s", owner, e->python);
        return strformat("%s%s%s%s of %s for Python %s", n > 0 ? e->packages[0] : "wheels",
                         n > 1 ? ", " : "", n > 1 ? e->packages[1] : "", n + wheels > 2 ? ", …" : "", owner,
                         e->python);
}
