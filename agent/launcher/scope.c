/* SPDX-License-Identifier: Apache-2.0 */
#include "scope.h"

#include "bus-source.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "hashmap.h"
#include "log.h"
#include "macros.h"
#include "time-util.h"

#define BUS_ADDRESS "unix:path=/run/systemd/private"
#define DESTINATION "org.freedesktop.systemd1"
#define PATH "/org/freedesktop/systemd1"
#define MANAGER "org.freedesktop.systemd1.Manager"

#define CALL_TIMEOUT (20 * USEC_PER_SEC)
#define CONNECT_TIMEOUT (5 * USEC_PER_SEC)
#define RECONNECT_USEC (200 * USEC_PER_MSEC)

struct ScopeBus {
        sd_event *event;
        sd_bus *bus; /* NULL while there is no connection */
        BusSource *source;
        sd_event_source *reconnect;
        Hashmap *scopes; /* by name */
        void (*connected)(void *userdata);
        void *userdata;
        bool no_oom_policy; /* systemd before 253 does not know OOMPolicy= for scopes */
};

static const char *const scope_state_table[_SCOPE_STATE_MAX] = {
        [SCOPE_NONE] = "none",     [SCOPE_STARTING] = "starting", [SCOPE_ACTIVE] = "active",
        [SCOPE_FAILED] = "failed", [SCOPE_GONE] = "gone",
};

const char *scope_state_to_string(ScopeState state) {
        return (size_t) state < _SCOPE_STATE_MAX ? scope_state_table[state] : "?";
}

/* The one place where a scope's state changes. The callback may release the scope. */
static void scope_set_state(Scope *scope, ScopeState state, const char *why) {
        if (scope->state == state)
                return;
        scope->state = state;
        if (scope->changed)
                scope->changed(scope, why, scope->userdata);
}

static int bus_connect(ScopeBus *bus);

static int on_reconnect(sd_event_source *source, uint64_t usec, void *userdata) {
        ScopeBus *bus = userdata;
        int r = bus_connect(bus);

        if (r < 0) {
                log_debug_errno(r, "No connection to systemd yet");
                (void) sd_event_source_set_time_relative(source, RECONNECT_USEC);
                (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
                return 0;
        }
        log_info("Connected to systemd again");
        bus->reconnect = sd_event_source_disable_unref(bus->reconnect);
        bus->connected(bus->userdata);
        return 0;
}

/* PID 1 drops its private connections when it re-executes. Calls on the way fail by themselves; signals that
 * were missed show as time-outs. */
static int on_disconnected(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        ScopeBus *bus = userdata;

        log_notice("Lost the connection to systemd, trying again");
        bus_source_stop(bus->source);
        bus->bus = sd_bus_close_unref(bus->bus);
        Scope *scope;
        HASHMAP_FOREACH(scope, bus->scopes)
                if (scope->state == SCOPE_STARTING)
                        scope_set_state(scope, SCOPE_FAILED, "the connection to systemd was lost");
        if (!bus->reconnect && sd_event_add_time_relative(bus->event, &bus->reconnect, CLOCK_MONOTONIC,
                                                          RECONNECT_USEC, 0, on_reconnect, bus) < 0)
                log_error("Cannot try to connect again");
        return 0;
}

static int on_job_removed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        ScopeBus *bus = userdata;
        const char *path, *unit, *result;
        uint32_t id;

        if (sd_bus_message_read(message, "uoss", &id, &path, &unit, &result) < 0)
                return 0;
        Scope *scope = hashmap_get(bus->scopes, unit);
        if (!scope || scope->state != SCOPE_STARTING) /* a stop job has the same unit */
                return 0;
        if (streq(result, "done"))
                scope_set_state(scope, SCOPE_ACTIVE, NULL);
        else
                scope_set_state(scope, SCOPE_FAILED, result);
        return 0;
}

static int on_unit_removed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        ScopeBus *bus = userdata;
        const char *unit, *path;

        if (sd_bus_message_read(message, "so", &unit, &path) < 0)
                return 0;
        Scope *scope = hashmap_get(bus->scopes, unit);
        if (scope && scope->state == SCOPE_ACTIVE)
                scope_set_state(scope, SCOPE_GONE, NULL);
        return 0;
}

static int on_start_reply(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Scope *scope = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(message);

        scope->call = sd_bus_slot_unref(scope->call);
        if (e && scope->state == SCOPE_STARTING)
                scope_set_state(scope, SCOPE_FAILED, e->message ? e->message : e->name);
        return 0;
}

static int on_subscribed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        return 0; /* on the private socket the signals come anyway */
}

static int bus_connect(ScopeBus *bus) {
        _cleanup_(sd_bus_close_unrefp) sd_bus *b = NULL;
        int r = sd_bus_new(&b);

        if (r >= 0)
                r = sd_bus_set_address(b, BUS_ADDRESS);
        if (r >= 0)
                r = sd_bus_start(b);
        if (r >= 0)
                r = sd_bus_match_signal(b, NULL, NULL, PATH, MANAGER, "JobRemoved", on_job_removed, bus);
        if (r >= 0)
                r = sd_bus_match_signal(b, NULL, NULL, PATH, MANAGER, "UnitRemoved", on_unit_removed, bus);
        if (r >= 0)
                r = sd_bus_match_signal(b, NULL, NULL, NULL, "org.freedesktop.DBus.Local", "Disconnected",
                                        on_disconnected, bus);
        if (r >= 0)
                r = sd_bus_call_method_async(b, NULL, DESTINATION, PATH, MANAGER, "Subscribe", on_subscribed,
                                             bus, NULL);
        bus->source = bus_source_free(bus->source);
        if (r >= 0)
                r = bus_source_new(bus->event, b, &bus->source);
        if (r < 0)
                return r;
        bus->bus = TAKE_PTR(b);
        return 0;
}

static int probe_oom_policy(ScopeBus *bus) {
        _cleanup_(freep) char *version = NULL;
        int r = sd_bus_get_property_string(bus->bus, DESTINATION, PATH, MANAGER, "Version", NULL, &version);

        if (r < 0)
                return r;
        bus->no_oom_policy = strtoul(version, NULL, 10) < 253;
        return 0;
}

bool scope_bus_is_connected(const ScopeBus *bus) {
        return bus->bus != NULL;
}

static int connect_in_time(ScopeBus *bus, uint64_t timeout_usec) {
        const uint64_t end = now_usec(CLOCK_MONOTONIC) + timeout_usec;
        int r;

        while ((r = bus_connect(bus)) < 0 && now_usec(CLOCK_MONOTONIC) < end)
                (void) usleep(RECONNECT_USEC / 4);
        return r;
}

int scope_bus_new(sd_event *event, bool wait, void (*connected)(void *userdata), void *userdata,
                  ScopeBus **ret) {
        _cleanup_(scope_bus_freep) ScopeBus *bus = new0(ScopeBus);
        int r;

        if (!bus)
                return -ENOMEM;
        bus->event = sd_event_ref(event);
        bus->connected = connected;
        bus->userdata = userdata;
        r = hashmap_new(HASHMAP_STRING, &bus->scopes);
        if (r >= 0)
                r = connect_in_time(bus, wait ? CONNECT_TIMEOUT : 0);
        if (r >= 0)
                r = probe_oom_policy(bus);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(bus);
        return 0;
}

ScopeBus *scope_bus_free(ScopeBus *bus) {
        if (!bus)
                return NULL;
        bus_source_free(bus->source);
        sd_bus_close_unref(bus->bus);
        sd_event_source_disable_unref(bus->reconnect);
        hashmap_free(bus->scopes);
        sd_event_unref(bus->event);
        free(bus);
        return NULL;
}

static int append_limits(sd_bus_message *m, const Limits *limits) {
        return sd_bus_message_append(m, "(sv)(sv)(sv)(sv)", "MemoryMax", "t", limits->memory_max,
                                     "MemorySwapMax", "t", UINT64_C(0), "CPUQuotaPerSecUSec", "t",
                                     limits->cpu_quota_usec, "TasksMax", "t", limits->tasks_max);
}

static int append_pids(sd_bus_message *m, const pid_t *pids, size_t n_pids) {
        uint32_t numbers[SCOPE_PIDS_MAX];
        int r;

        for (size_t i = 0; i < n_pids; i++)
                numbers[i] = (uint32_t) pids[i];
        r = sd_bus_message_open_container(m, 'r', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "PIDs");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "au");
        if (r >= 0)
                r = sd_bus_message_append_array(m, 'u', numbers, n_pids * sizeof(numbers[0]));
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r;
}

static int append_devices(sd_bus_message *m, const char *const *devices, size_t n_devices) {
        int r = sd_bus_message_append(m, "(sv)", "DevicePolicy", "s", "closed");

        if (r >= 0)
                r = sd_bus_message_open_container(m, 'r', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "DeviceAllow");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a(ss)");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(ss)");
        for (size_t i = 0; i < n_devices && r >= 0; i++)
                r = sd_bus_message_append(m, "(ss)", devices[i], "rw");
        for (int i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static int start_message(ScopeBus *bus, const ScopeSpec *spec, sd_bus_message **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r = sd_bus_message_new_method_call(bus->bus, &m, DESTINATION, PATH, MANAGER,
                                               "StartTransientUnit");

        if (r >= 0)
                r = sd_bus_message_append(m, "ss", spec->name, "fail");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sv)");
        if (r >= 0)
                r = sd_bus_message_append(m, "(sv)(sv)(sv)", "Description", "s", spec->description, "Slice",
                                          "s", spec->slice, "CollectMode", "s", "inactive-or-failed");
        /* Only "not beside shutdown.target", each time a message with all that is so. The launcher has it
         * too, and nothing of its scopes outlives it. */
        if (r >= 0)
                r = sd_bus_message_append(m, "(sv)", "DefaultDependencies", "b", false);
        if (r >= 0)
                r = append_pids(m, spec->pids, spec->n_pids);
        if (r >= 0)
                r = append_limits(m, &spec->limits);
        if (r >= 0 && spec->n_devices > 0)
                r = append_devices(m, spec->devices, spec->n_devices);
        /* One process of it that is killed for memory is the task's affair, not a reason to stop all others
         * at once. */
        if (r >= 0 && !bus->no_oom_policy)
                r = sd_bus_message_append(m, "(sv)", "OOMPolicy", "s", "continue");
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r >= 0)
                r = sd_bus_message_append(m, "a(sa(sv))", 0);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

int scope_start(ScopeBus *bus, Scope *scope, const ScopeSpec *spec, ScopeChanged changed, void *userdata) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        if (!bus->bus)
                return -ENOTCONN;
        if (spec->n_pids > SCOPE_PIDS_MAX || strlen(spec->name) >= sizeof(scope->name))
                return -EINVAL;
        r = start_message(bus, spec, &m);
        if (r < 0)
                return r;
        *scope = (Scope){ .bus = bus, .changed = changed, .userdata = userdata };
        memcpy(scope->name, spec->name, strlen(spec->name) + 1);
        r = hashmap_put(bus->scopes, scope->name, scope);
        if (r < 0)
                return r;
        r = sd_bus_call_async(bus->bus, &scope->call, m, on_start_reply, scope, CALL_TIMEOUT);
        if (r < 0) {
                hashmap_remove(bus->scopes, scope->name);
                return r;
        }
        scope->state = SCOPE_STARTING;
        return 0;
}

static int on_set_reply(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Scope *scope = userdata;
        ScopeLimitsSet done = scope->limits_set;

        scope->limits_call = sd_bus_slot_unref(scope->limits_call);
        if (done)
                done(scope, -sd_bus_message_get_errno(message), scope->userdata);
        return 0;
}

int scope_set(Scope *scope, const Limits *limits, const Limits *former, const char *description,
              ScopeLimitsSet done) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        ScopeBus *bus = scope->bus;
        int r;

        if (!bus || !bus->bus)
                return -ENOTCONN;
        /* A PID 1 that re-executes says of all units that they are gone, and then they are there again. */
        if (scope->state != SCOPE_ACTIVE && scope->state != SCOPE_GONE)
                return -EINVAL;
        if (scope->limits_call)
                return -EBUSY;
        r = sd_bus_message_new_method_call(bus->bus, &m, DESTINATION, PATH, MANAGER, "SetUnitProperties");
        if (r >= 0)
                r = sd_bus_message_append(m, "sb", scope->name, true);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sv)");
        /* Each of them makes systemd write a file. */
        if (r >= 0 && limits && limits->memory_max != former->memory_max)
                r = sd_bus_message_append(m, "(sv)", "MemoryMax", "t", limits->memory_max);
        if (r >= 0 && limits && limits->cpu_quota_usec != former->cpu_quota_usec)
                r = sd_bus_message_append(m, "(sv)", "CPUQuotaPerSecUSec", "t", limits->cpu_quota_usec);
        if (r >= 0 && limits && limits->tasks_max != former->tasks_max)
                r = sd_bus_message_append(m, "(sv)", "TasksMax", "t", limits->tasks_max);
        if (r >= 0 && description)
                r = sd_bus_message_append(m, "(sv)", "Description", "s", description);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r < 0)
                return r;
        scope->limits_set = done;
        return sd_bus_call_async(bus->bus, &scope->limits_call, m, on_set_reply, scope, CALL_TIMEOUT);
}

void scope_stop(ScopeBus *bus, const char *name) {
        int r;

        if (!bus->bus)
                return;
        /* SIGKILL first: what is frozen or ignores SIGTERM would make the stop wait for its time-out. */
        r = sd_bus_call_method_async(bus->bus, NULL, DESTINATION, PATH, MANAGER, "KillUnit", on_subscribed,
                                     bus, "ssi", name, "all", (int32_t) SIGKILL);
        if (r >= 0)
                r = sd_bus_call_method_async(bus->bus, NULL, DESTINATION, PATH, MANAGER, "StopUnit",
                                             on_subscribed, bus, "ss", name, "replace");
        if (r < 0)
                log_warning_errno(r, "Cannot stop %s", name);
}

bool scope_bus_is_quiet(const ScopeBus *bus) {
        uint64_t queued;
        Scope *scope;

        if (!bus->bus || sd_bus_get_n_queued_write(bus->bus, &queued) < 0 || queued > 0)
                return false;
        HASHMAP_FOREACH(scope, bus->scopes)
                if (scope->state == SCOPE_STARTING || scope->limits_call)
                        return false;
        return true;
}

int scope_restore(ScopeBus *bus, Scope *scope, const char *name, ScopeState state, ScopeChanged changed,
                  void *userdata) {
        if (state == SCOPE_STARTING || strlen(name) >= sizeof(scope->name))
                return -EINVAL;
        *scope = (Scope){ .bus = bus, .state = state, .changed = changed, .userdata = userdata };
        (void) snprintf(scope->name, sizeof(scope->name), "%s", name);
        return state == SCOPE_NONE ? 0 : hashmap_put(bus->scopes, scope->name, scope);
}

void scope_release(Scope *scope) {
        if (scope->bus && scope->state != SCOPE_NONE &&
            hashmap_get(scope->bus->scopes, scope->name) == scope)
                hashmap_remove(scope->bus->scopes, scope->name);
        scope->call = sd_bus_slot_unref(scope->call);
        scope->limits_call = sd_bus_slot_unref(scope->limits_call);
        scope->changed = NULL;
        scope->limits_set = NULL;
        scope->state = SCOPE_NONE;
}

int scope_list(ScopeBus *bus, const char *pattern, char ***ret_names) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(strv_freep) char **names = NULL;
        const char *name;
        int r;

        if (!bus->bus)
                return -ENOTCONN;
        r = sd_bus_call_method(bus->bus, DESTINATION, PATH, MANAGER, "ListUnitsByPatterns", NULL, &reply,
                               "asas", 0, 1, pattern);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(reply, 'a', "(ssssssouso)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(reply, 'r', "ssssssouso")) > 0) {
                r = sd_bus_message_read(reply, "s", &name);
                if (r >= 0)
                        r = strv_extend(&names, name);
                if (r >= 0)
                        r = sd_bus_message_skip(reply, "sssssouso");
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;
        *ret_names = TAKE_PTR(names);
        return 0;
}
