/* SPDX-License-Identifier: Apache-2.0 */
#include "environment.h"

#include <errno.h>

#include "environments-internal.h"
#include "json-util.h"
#include "log.h"
#include "parse-util.h"
#include "time-util.h"

enum { MESSAGE_MAX = 512, ENVIRONMENTS_MAX = 2048 };

static const char *const environment_state_table[_ENVIRONMENT_STATE_MAX] = {
        [ENVIRONMENT_WAITING] = "waiting",   [ENVIRONMENT_RESOLVING] = "resolving",
        [ENVIRONMENT_BUILDING] = "building", [ENVIRONMENT_RESOLVED] = "resolved",
        [ENVIRONMENT_READY] = "ready",       [ENVIRONMENT_FAILED] = "failed",
        [ENVIRONMENT_REMOVING] = "removing", [ENVIRONMENT_REMOVED] = "removed",
};

const char *environment_state_to_string(EnvironmentState state) {
        return (unsigned) state < _ENVIRONMENT_STATE_MAX ? environment_state_table[state] : "?";
}

int environment_new(Environments *table, const char *name, const char *owner, const char *python,
                    Environment **ret) {
        _cleanup_(environment_freep) Environment *e = NULL;
        int r;

        if (hashmap_size(table->all) >= ENVIRONMENTS_MAX)
                return -ENOSPC;
        e = new0(Environment);
        if (!e)
                return -ENOMEM;
        e->table = table;
        e->since = now_usec(CLOCK_MONOTONIC);
        table->counts[ENVIRONMENT_WAITING]++;
        snprintf(e->name, sizeof(e->name), "%s", name);
        snprintf(e->owner, sizeof(e->owner), "%s", owner);
        snprintf(e->python, sizeof(e->python), "%s", python);
        r = hashmap_put(table->all, e->name, e);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(e);
        return 0;
}

Environment *environment_free(Environment *e) {
        if (!e)
                return NULL;
        if (hashmap_get(e->table->all, e->name) == e)
                (void) hashmap_remove(e->table->all, e->name);
        e->table->counts[e->state]--;
        list_remove(&e->waiting);
        list_remove(&e->news);
        index_port_free(e->index);
        environment_order_free(e->order);
        json_object_put(e->libraries);
        free(e->installer);
        free(e->text);
        free(e->message);
        return mfree(e);
}

static void environment_leave(Environment *e) {
        switch (e->state) {
        case ENVIRONMENT_WAITING:
                list_remove(&e->waiting);
                break;
        case ENVIRONMENT_RESOLVING:
        case ENVIRONMENT_BUILDING:
                e->index = index_port_free(e->index);
                break;
        default:
                break;
        }
}

void environment_set_state(Environment *e, EnvironmentState state) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        if (e->state != state) {
                log_debug("Environment %s: %s → %s", e->name, environment_state_to_string(e->state),
                          environment_state_to_string(state));
                environment_leave(e);
                e->table->counts[e->state]--;
                e->table->counts[state]++;
                e->state = state;
                e->since = now;
        }
        switch (state) {
        case ENVIRONMENT_WAITING:
                if (!list_is_linked(&e->waiting))
                        environments_queue(e);
                break;
        case ENVIRONMENT_RESOLVED:
        case ENVIRONMENT_READY:
        case ENVIRONMENT_FAILED:
                e->not_before = 0;
                e->order = environment_order_free(e->order);
                break;
        default:
                break;
        }
        /* What waits for something here is nothing that the master would have to hear of. */
        if (state != ENVIRONMENT_WAITING && state != ENVIRONMENT_REMOVING && !list_is_linked(&e->news))
                list_append(&e->table->news, &e->news);
        environments_changed(e->table);
}

void environment_fail(Environment *e, const char *reason, const char *message) {
        free(e->message);
        e->message = text_for_message(message, MESSAGE_MAX);
        e->reason = reason;
        log_notice("Environment %s could not be %s (%s): %s", e->name,
                   e->order && e->order->resolve ? "resolved" : "built", reason, strempty(e->message));
        environment_set_state(e, ENVIRONMENT_FAILED);
}

/* The master knows neither what waits nor what is on its way out. */
static const char *environment_state_to_wire(const Environment *e) {
        if (e->state == ENVIRONMENT_WAITING)
                return environment_state_to_string(e->order && e->order->resolve ? ENVIRONMENT_RESOLVING
                                                                                 : ENVIRONMENT_BUILDING);
        return environment_state_to_string(e->state == ENVIRONMENT_REMOVING ? ENVIRONMENT_READY : e->state);
}

static int add_figures(const Environment *e, bool libraries, json_object *object) {
        int r;

        r = json_add_uint64(object, "bytes", e->bytes);
        if (r >= 0)
                r = json_add_uint64(object, "files", e->files);
        if (r >= 0 && e->run_usec > 0)
                r = json_add_double(object, "seconds", (double) e->run_usec / 1e6);
        if (r >= 0 && e->used_at > 0)
                r = json_add_uint64(object, "used_at", e->used_at / USEC_PER_MSEC);
        if (r >= 0)
                r = json_add_uint64(object, "in_use", e->in_use);
        if (r >= 0 && libraries && e->libraries)
                r = json_add(object, "libraries", json_object_get(e->libraries));
        return r < 0 ? r : json_add_string(object, "installer", e->installer);
}

int environment_to_json(const Environment *e, bool libraries, json_object *object) {
        int r;

        r = json_add_string(object, "name", e->name);
        if (r >= 0)
                r = json_add_string(object, "state", environment_state_to_wire(e));
        if (r >= 0 && e->state == ENVIRONMENT_FAILED)
                r = json_add_string(object, "reason", e->reason);
        if (r >= 0)
                r = json_add_string(object, "message", e->message);
        if (r >= 0 && environment_is_being_made(e))
                r = json_add_double(object, "seconds",
                                    (double) usec_sub(now_usec(CLOCK_MONOTONIC), e->since) / 1e6);
        if (r >= 0 && e->state == ENVIRONMENT_FAILED && e->run_usec > 0)
                r = json_add_double(object, "seconds", (double) e->run_usec / 1e6);
        if (r >= 0 && (e->state == ENVIRONMENT_READY || e->state == ENVIRONMENT_RESOLVED))
                r = add_figures(e, libraries, object);
        return r;
}
