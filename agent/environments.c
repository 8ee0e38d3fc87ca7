/* SPDX-License-Identifier: Apache-2.0 */
#include "environments.h"

#include <errno.h>

#include "environments-internal.h"
#include "json-util.h"
#include "log.h"
#include "parse-util.h"
#include "time-util.h"

enum {
        ORDERS_MAX = 256,      /* of one frame; and that may wait */
        ORDERS_OWNER_MAX = 64, /* of one owner that may wait */
        NAMES_MAX = 4096,      /* of one frame */
};
/* The launcher is asked again what there is: who uses what changes without a word. */
#define LIST_USEC (10 * USEC_PER_MINUTE)
#define TIMER_SLACK_USEC (10 * USEC_PER_MSEC)

void environments_changed(Environments *t) {
        (void) sd_event_source_set_enabled(t->work, SD_EVENT_ONESHOT);
}

void environments_look_at(Environments *t, uint64_t usec) {
        if (usec >= t->timer_usec)
                return;
        t->timer_usec = usec;
        (void) sd_event_source_set_time(t->timer, usec);
        (void) sd_event_source_set_enabled(t->timer, SD_EVENT_ONESHOT);
}

void environments_list_at(Environments *t, uint64_t usec) {
        t->list_usec = MIN(t->list_usec, usec);
        environments_look_at(t, t->list_usec);
}

int environments_ask(Environments *t, LauncherRequest *request, const int *fds, size_t n_fds) {
        return t->launcher_up ? t->handlers->ask(request, fds, n_fds, t->userdata) : -ENOTCONN;
}

static void environments_list(Environments *t) {
        LauncherRequest request = { .op = LAUNCHER_ENVIRONMENTS };
        Environment *e;

        if (t->listing || environments_ask(t, &request, NULL, 0) < 0)
                return;
        t->listing = true;
        t->list_usec = UINT64_MAX;
        HASHMAP_FOREACH(e, t->all)
                e->listed = false;
}

/* Names that stand for a Python as it is installed: nothing is built for them. Returns the Python's, NULL
 * for any other name. */
static const char *builtin_python(const Environments *t, const char *name) {
        const char *python;

        if (streq(name, "default"))
                return t->pythons[0];
        python = startswith(name, "python-") ?: startswith(name, "system-");
        return python && python_series_is_valid(python) ? python : NULL;
}

bool environment_remove(Environment *e) {
        LauncherRequest request = { .op = LAUNCHER_ENVIRONMENT_REMOVE };

        memcpy(request.environment.environment, e->name, sizeof(request.environment.environment));
        if (environments_ask(e->table, &request, NULL, 0) < 0)
                return false;
        environment_set_state(e, ENVIRONMENT_REMOVING);
        return true;
}

static int on_work(sd_event_source *source, void *userdata) {
        Environments *t = userdata;

        if (t->launcher_up) {
                environments_start_builds(t);
                if (t->listed && t->keep_known)
                        environments_trim(t);
        }
        environments_tell(t);
        return 0;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Environments *t = userdata;

        t->timer_usec = UINT64_MAX;
        if (t->listed && t->list_usec <= now_usec(CLOCK_MONOTONIC))
                environments_list(t);
        else if (t->list_usec < UINT64_MAX)
                environments_look_at(t, t->list_usec);
        environments_changed(t);
        return 0;
}

/* The default ones. */

/* One that is there: whatever is warm for what tasks had in its place is wanted for it, too. */
static void environment_follow(const Environment *e) {
        const Environments *t = e->table;
        static const char *const builtins[] = { "python", "system" };
        char name[ENVIRONMENT_NAME_MAX];

        if (e->state != ENVIRONMENT_READY || !strv_contains(t->keep, e->name) ||
            strv_contains(t->former_keep, e->name))
                return;
        for (char **former = t->former_keep; former && *former; former++) {
                const Environment *other = hashmap_get(t->all, *former);

                if (other && streq(other->python, e->python))
                        t->handlers->follow(other->name, e->name, t->userdata);
        }
        for (size_t i = 0; i < ELEMENTSOF(builtins); i++) {
                snprintf(name, sizeof(name), "%s-%s", builtins[i], e->python);
                t->handlers->follow(name, e->name, t->userdata);
        }
        if (streq(e->python, t->pythons[0]))
                t->handlers->follow("default", e->name, t->userdata);
}

static bool lists_are_equal(char *const *left, char *const *right) {
        if (strv_length(left) != strv_length(right))
                return false;
        for (; left && *left; left++)
                if (!strv_contains(right, *left))
                        return false;
        return true;
}

static int on_keep(Environments *t, json_object *json) {
        _cleanup_(strv_freep) char **keep = NULL;
        json_object *array;
        int r;

        r = json_get_array(json, "keep", NAMES_MAX, &array);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *entry = json_object_array_get_idx(array, i);
                const char *name = json_object_get_string(entry);

                if (!json_object_is_type(entry, json_type_string) || !environment_name_is_valid(name))
                        return -EBADMSG;
                r = strv_extend(&keep, name);
                if (r < 0)
                        return r;
        }
        if (!t->keep_known)
                environments_changed(t); /* what has to go can be told now */
        t->keep_known = true;
        if (lists_are_equal(keep, t->keep))
                return 0;
        strv_free(t->former_keep);
        t->former_keep = TAKE_PTR(t->keep);
        t->keep = TAKE_PTR(keep);
        for (char **name = t->keep; name && *name; name++) {
                const Environment *e = hashmap_get(t->all, *name);

                if (e)
                        environment_follow(e);
        }
        environments_changed(t);
        return 0;
}

/* Orders. */

/* Takes the order in any case. */
static int environment_order(Environments *t, EnvironmentOrder *given) {
        _cleanup_(environment_order_freep) EnvironmentOrder *o = given;
        Environment *e = hashmap_get(t->all, o->name);
        bool known = e;
        int r;

        if (!e) {
                r = environment_new(t, o->name, o->owner, o->python, &e);
                if (r < 0)
                        return r;
        }
        switch (known ? e->state : ENVIRONMENT_REMOVED) {
        case ENVIRONMENT_WAITING:
        case ENVIRONMENT_RESOLVING:
        case ENVIRONMENT_BUILDING:
                e->unwanted = false;
                break;
        case ENVIRONMENT_REMOVING: /* begins when it has gone */
                environment_order_free(e->order);
                e->order = TAKE_PTR(o);
                return 0;
        case ENVIRONMENT_FAILED:
        case ENVIRONMENT_REMOVED:
        case ENVIRONMENT_RESOLVED:
                if (known && e->state == ENVIRONMENT_RESOLVED && o->resolve)
                        break;
                environment_order_free(e->order);
                e->order = TAKE_PTR(o);
                memcpy(e->owner, e->order->owner, sizeof(e->owner));
                memcpy(e->python, e->order->python, sizeof(e->python));
                e->tries = e->refusals = 0;
                e->not_before = 0;
                e->unwanted = false;
                e->message = mfree(e->message);
                list_remove(&e->news); /* what came of the former order, nobody waits for */
                if (e->order->refusal)
                        environment_fail(e, "infrastructure", e->order->refusal);
                else if (builtin_python(t, e->name))
                        environment_fail(e, "infrastructure",
                                         "it comes with its Python: nothing is built for it");
                else if (!strv_contains((char **) t->pythons, e->order->python))
                        environment_fail(e, "infrastructure", "this node does not have that Python");
                else if (t->counts[ENVIRONMENT_WAITING] > ORDERS_MAX)
                        environment_fail(e, "infrastructure", "too many environments wait to be built");
                else if (*e->owner && environments_waiting_of(t, e->owner) > ORDERS_OWNER_MAX)
                        environment_fail(e, "infrastructure",
                                         "too many environments of its owner wait to be built");
                else
                        environment_set_state(e, ENVIRONMENT_WAITING);
                return 0;
        default:
                break;
        }
        /* Told as it is. */
        if (e->state != ENVIRONMENT_WAITING)
                environment_set_state(e, e->state);
        return 0;
}

static int each_order(Environments *t, const Frame *frame, const char *key, bool resolve) {
        json_object *array;

        if (json_get_array_optional(frame->json, key, ORDERS_MAX, &array) < 0)
                return -EBADMSG;
        for (size_t i = 0; array && i < json_object_array_length(array); i++) {
                EnvironmentOrder *o;
                int r;

                r = environment_order_new(frame, json_object_array_get_idx(array, i), resolve, &o);
                if (r >= 0)
                        r = environment_order(t, o);
                if (r == -ENOSPC)
                        log_warning("More environments than a node can have are ordered");
                else if (r < 0)
                        return r;
        }
        return 0;
}

static int on_remove(Environments *t, const char *name) {
        Environment *e = hashmap_get(t->all, name);
        LauncherRequest request = { .op = LAUNCHER_BUILD_STOP };
        int r;

        if (!e) {
                r = environment_new(t, name, "", "", &e);
                if (r < 0)
                        return r;
                environment_set_state(e, ENVIRONMENT_REMOVED);
                return 0;
        }
        switch (e->state) {
        case ENVIRONMENT_WAITING:
                environment_set_state(e, ENVIRONMENT_REMOVED);
                break;
        case ENVIRONMENT_RESOLVING:
        case ENVIRONMENT_BUILDING:
                e->unwanted = true;
                memcpy(request.environment.environment, e->name, sizeof(request.environment.environment));
                (void) environments_ask(t, &request, NULL, 0); /* without a launcher it has ended anyway */
                break;
        case ENVIRONMENT_READY:
                if (t->handlers->is_wanted(name, t->userdata) || !environment_remove(e)) {
                        e->in_use = MAX(e->in_use, 1U);
                        environment_set_state(e, ENVIRONMENT_READY); /* told as it is */
                }
                break;
        case ENVIRONMENT_REMOVING:
                e->order = environment_order_free(e->order);
                break;
        default:
                break;
        }
        return 0;
}

static int each_removal(Environments *t, json_object *json) {
        json_object *array;

        if (json_get_array_optional(json, "remove", NAMES_MAX, &array) < 0)
                return -EBADMSG;
        for (size_t i = 0; array && i < json_object_array_length(array); i++) {
                json_object *entry = json_object_array_get_idx(array, i);
                const char *name = json_object_get_string(entry);
                int r;

                if (!json_object_is_type(entry, json_type_string) || !environment_name_is_valid(name))
                        return -EBADMSG;
                r = on_remove(t, name);
                if (r < 0 && r != -ENOSPC)
                        return r;
        }
        return 0;
}

int environments_master_frame(Environments *t, const Frame *frame) {
        int r;

        if (!frame->json)
                return -EBADMSG;
        r = on_keep(t, frame->json);
        if (r >= 0)
                r = each_removal(t, frame->json);
        if (r >= 0)
                r = each_order(t, frame, "resolve", true);
        return r < 0 ? r : each_order(t, frame, "build", false);
}

int environments_use(Environments *t, const char *name, char why[static ENVIRONMENTS_WHY_SIZE]) {
        const char *python = builtin_python(t, name);
        Environment *e;

        if (python) {
                if (strv_contains((char **) t->pythons, python))
                        return 0;
                snprintf(why, ENVIRONMENTS_WHY_SIZE, "the node has no Python %s", python);
                return -ENOENT;
        }
        e = hashmap_get(t->all, name);
        if (e && e->state == ENVIRONMENT_READY) {
                e->used_at = now_usec(CLOCK_REALTIME);
                e->touched = now_usec(CLOCK_MONOTONIC);
                t->statistics.hits++;
                return 0;
        }
        snprintf(why, ENVIRONMENTS_WHY_SIZE, "the node does not have its environment, %s: it is %s", name,
                 e ? environment_state_to_string(e->state) : "not known there");
        return -ENOENT;
}

/* The launcher. */

/* One that there is. */
static void on_environment(Environments *t, const LauncherEvent *event) {
        char name[ENVIRONMENT_NAME_MAX], owner[OWNER_NAME_MAX], python[PYTHON_NAME_MAX];
        Environment *e;
        int r;

        snprintf(name, sizeof(name), "%.*s", ENVIRONMENT_NAME_MAX - 1, event->environment.environment);
        snprintf(owner, sizeof(owner), "%.*s", OWNER_NAME_MAX - 1, event->environment.owner);
        snprintf(python, sizeof(python), "%.*s", PYTHON_NAME_MAX - 1, event->environment.python);
        if (!environment_name_is_valid(name)) {
                log_warning("The launcher has an environment whose name is none");
                return;
        }
        e = hashmap_get(t->all, name);
        if (!e) {
                r = environment_new(t, name, owner, python, &e);
                if (r < 0) {
                        log_error_errno(r, "Cannot take up environment %s", name);
                        return;
                }
                environment_set_state(e, ENVIRONMENT_READY);
        }
        e->listed = true;
        e->bytes = event->environment.bytes;
        e->files = event->environment.files;
        e->built_at = event->environment.built_at;
        e->used_at = MAX(e->used_at, event->environment.used_at);
        e->in_use = event->environment.in_use;
        if (e->state == ENVIRONMENT_WAITING && !e->order->resolve)
                environment_set_state(e, ENVIRONMENT_READY); /* a former agent's */
}

static void on_environments_end(Environments *t) {
        Environment *e;

        if (!t->listing)
                return;
        t->listing = false;
        t->listed = true;
        /* Somebody has removed its folder. */
        HASHMAP_FOREACH(e, t->all)
                if (e->state == ENVIRONMENT_READY && !e->listed)
                        environment_set_state(e, ENVIRONMENT_REMOVED);
        environments_list_at(t, now_usec(CLOCK_MONOTONIC) + LIST_USEC);
        environments_changed(t);
}

static void on_removed(Environment *e) {
        if (e->state != ENVIRONMENT_REMOVING)
                return;
        environment_set_state(e, ENVIRONMENT_REMOVED);
        e->table->handlers->cool(e->name, e->table->userdata);
        if (e->order) { /* it was ordered again meanwhile */
                list_remove(&e->news);
                environment_set_state(e, ENVIRONMENT_WAITING);
        }
}

static void on_refused(Environment *e, int error, const char *text) {
        if (environment_is_being_made(e)) {
                environments_build_refused(e, error, text);
                return;
        }
        if (e->state != ENVIRONMENT_REMOVING)
                return;
        if (error == -ENOENT) {
                on_removed(e);
                return;
        }
        e->busy_until = now_usec(CLOCK_MONOTONIC) + LIST_CROWDED_USEC;
        if (error == -EBUSY)
                e->in_use = MAX(e->in_use, 1U);
        else
                log_warning("Environment %s cannot be removed: %s", e->name, text);
        e->order = environment_order_free(e->order); /* what it asks for is there */
        environment_set_state(e, ENVIRONMENT_READY);
}

void environments_launcher_event(Environments *t, const LauncherEvent *event, int *fds, size_t n_fds) {
        _cleanup_(freep) char *text = NULL;
        char name[ENVIRONMENT_NAME_MAX];
        Environment *e;

        switch (event->op) {
        case LAUNCHER_BUILD_STARTED:
                environments_build_started(t, event, fds, n_fds);
                return;
        case LAUNCHER_BUILD_ENDED:
                environments_build_ended(t, event, fds, n_fds);
                return;
        case LAUNCHER_ENVIRONMENT:
                on_environment(t, event);
                return;
        case LAUNCHER_ENVIRONMENTS_END:
                on_environments_end(t);
                return;
        case LAUNCHER_ENVIRONMENT_REMOVED:
                snprintf(name, sizeof(name), "%.*s", ENVIRONMENT_NAME_MAX - 1,
                         event->environment.environment);
                e = hashmap_get(t->all, name);
                if (e)
                        on_removed(e);
                return;
        case LAUNCHER_REFUSED:
                snprintf(name, sizeof(name), "%.*s", ENVIRONMENT_NAME_MAX - 1, event->refused.environment);
                e = hashmap_get(t->all, name);
                text = text_for_message(event->refused.text, sizeof(event->refused.text));
                if (e)
                        on_refused(e, event->error, strempty(text));
                return;
        default:
                return;
        }
}

void environments_launcher_up(Environments *t) {
        t->launcher_up = true;
        t->listing = false;
        environments_list(t);
        environments_changed(t);
}

void environments_launcher_down(Environments *t) {
        Environment *e;

        t->launcher_up = t->listing = false;
        HASHMAP_FOREACH(e, t->all)
                if (environment_is_being_made(e))
                        environment_try_again(e, 0, "the launcher went away while it was built");
                else if (e->state == ENVIRONMENT_REMOVING)
                        environment_set_state(e, ENVIRONMENT_READY);
}

/* The master. */

void environments_master_up(Environments *t) {
        t->master_up = true;
        t->told = false;
        environments_changed(t);
}

void environments_master_down(Environments *t) {
        t->master_up = t->told = false;
}

const Hashmap *environments_all(const Environments *t) {
        return t->all;
}

const EnvironmentsStatistics *environments_statistics(const Environments *t) {
        return &t->statistics;
}

const Environment *environments_current(const Environments *t) {
        Environment *e;

        HASHMAP_FOREACH(e, t->all)
                if (environment_is_being_made(e))
                        return e;
        return NULL;
}

void environment_ready(Environment *e) {
        environment_set_state(e, ENVIRONMENT_READY);
        e->touched = now_usec(CLOCK_MONOTONIC);
        e->listed = true; /* whatever the list that is on its way says */
        environment_follow(e);
}

int environments_new(sd_event *event, const ServerConfig *config, char *const *pythons,
                     const EnvironmentsHandlers *handlers, void *userdata, Environments **ret) {
        _cleanup_(environments_freep) Environments *t = NULL;
        int r;

        t = new0(Environments);
        if (!t)
                return -ENOMEM;
        t->event = sd_event_ref(event);
        t->config = config;
        t->pythons = pythons;
        t->handlers = handlers;
        t->userdata = userdata;
        t->timer_usec = t->list_usec = UINT64_MAX;
        list_init(&t->waiting);
        list_init(&t->news);
        r = hashmap_new(HASHMAP_STRING, &t->all);
        if (r >= 0)
                r = sd_event_add_defer(event, &t->work, on_work, t);
        if (r >= 0)
                r = sd_event_source_set_enabled(t->work, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_add_time(event, &t->timer, CLOCK_MONOTONIC, UINT64_MAX, TIMER_SLACK_USEC,
                                      on_timer, t);
        if (r >= 0)
                r = sd_event_source_set_enabled(t->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(t);
        return 0;
}

Environments *environments_free(Environments *t) {
        Environment *e;

        if (!t)
                return NULL;
        HASHMAP_FOREACH(e, t->all)
                environment_free(e);
        hashmap_free(t->all);
        strv_free(t->keep);
        strv_free(t->former_keep);
        sd_event_source_disable_unref(t->work);
        sd_event_source_disable_unref(t->timer);
        sd_event_unref(t->event);
        return mfree(t);
}
