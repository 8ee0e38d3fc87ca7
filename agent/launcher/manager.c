/* SPDX-License-Identifier: Apache-2.0 */
#include "manager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent-link.h"
#include "attempt.h"
#include "build.h"
#include "cgroup.h"
#include "fd-util.h"
#include "id.h"
#include "log.h"
#include "pair.h"
#include "settings.h"
#include "spawner.h"
#include "sweep.h"
#include "text-file.h"
#include "time-util.h"
#include "upgrade.h"
#include "zygote.h"

enum { FILES_MAX = 65536 };

#define KICK_PRIORITY (SD_EVENT_PRIORITY_NORMAL + 10) /* after all that is at hand */
#define STOP_TIMEOUT (5 * USEC_PER_SEC)
#define REFILL_DELAY (5 * USEC_PER_MSEC)
#define DESCRIBE_AFTER_USEC (500 * USEC_PER_MSEC) /* a name for the unit: not for short tasks */

int token_make(char ret[static 17]) {
        Id id;
        int r = id_random(&id);

        if (r < 0)
                return r;
        (void) hex_encode(id.bytes, 8, ret);
        return 0;
}

int manager_new(Manager **ret) {
        _cleanup_(manager_freep) Manager *manager = new0(Manager);
        Id instance;
        int r;

        if (!manager)
                return -ENOMEM;
        manager->network_empty = manager->network_host = -EBADF;
        list_init(&manager->zygotes);
        list_init(&manager->waiting);
        list_init(&manager->lingering);
        r = hashmap_new(HASHMAP_STRING, &manager->attempts);
        if (r >= 0)
                r = id_random(&instance);
        if (r < 0)
                return r;
        memcpy(manager->instance, instance.bytes, sizeof(manager->instance));
        *ret = TAKE_PTR(manager);
        return 0;
}

/* At the end of the process: children die with it, and what they leave is the next one's to sweep. */
Manager *manager_free(Manager *manager) {
        if (!manager)
                return NULL;
        upgrade_free(manager->upgrade);
        agent_link_free(manager->link);
        builds_free(manager->builds);
        scope_bus_free(manager->bus);
        spawner_free(manager->spawner);
        sd_event_source_disable_unref(manager->linger_timer);
        sd_event_source_disable_unref(manager->lease_timer);
        sd_event_source_disable_unref(manager->orphan_timer);
        sd_event_source_disable_unref(manager->kick);
        sd_event_source_disable_unref(manager->refill_timer);
        sd_event_source_disable_unref(manager->stop_timer);
        sd_event_source_disable_unref(manager->tick);
        hashmap_free(manager->attempts);
        free(manager->zygote_slots);
        free(manager->strangers);
        close_fd(manager->network_empty);
        close_fd(manager->network_host);
        free(manager);
        return NULL;
}

static void take_settings(Manager *manager) {
        LauncherSettings *settings = &manager->settings;
        int r;

        settings_default(settings);
        r = settings_read(LAUNCHER_SETTINGS, settings);
        if (r == -ENOENT)
                log_info("No %s: built-in defaults", LAUNCHER_SETTINGS);
        else if (r < 0)
                log_warning_errno(r, "%s is not usable, going on with built-in defaults", LAUNCHER_SETTINGS);
        manager->default_limits = (Limits){
                .memory_max = settings->default_memory_max,
                .cpu_quota_usec = settings->default_cpu_quota_usec,
                .tasks_max = settings->default_tasks_max,
        };
}

/* The filters that this process has already: everything below inherits them. */
static int count_filters(Manager *manager) {
        char text[4096];
        int r = text_file_read(text, sizeof(text), "/proc/self/status");

        if (r < 0)
                return r;
        return text_field(text, "Seccomp_filters", &manager->base_filters) ? 0 : -EOPNOTSUPP;
}

static int enter_namespaces(Manager *manager) {
        manager->network_host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        if (manager->network_host < 0 || unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 ||
            mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                return -errno;
        manager->network_empty = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        return manager->network_empty < 0 ? -errno : 0;
}

/* Uids and slots of what lives stay as they are until a restart. */
static void keep_ranges(Manager *manager, const LauncherSettings *former) {
        LauncherSettings *settings = &manager->settings;

        if (settings->uid_start == former->uid_start && settings->uid_count == former->uid_count &&
            settings->zygotes_max == former->zygotes_max)
                return;
        log_warning("Another uid_range is used only after a restart");
        settings->uid_start = former->uid_start;
        settings->uid_count = former->uid_count;
        settings->zygotes_max = former->zygotes_max;
}

/* What a process does once, and its next versions inherit. */
static int make_surroundings(Manager *manager) {
        int r = count_filters(manager);

        if (r < 0)
                return log_error_errno(r,
                                       "The kernel does not tell seccomp filters (5.9 or newer is needed)");
        r = enter_namespaces(manager);
        if (r < 0)
                return log_error_errno(r, "Cannot make namespaces");
        r = spawner_new(manager, &manager->spawner);
        return r < 0 ? log_error_errno(r, "Cannot start clupy-sandbox") : 0;
}

static int take_surroundings(Manager *manager, const ManagerRecord *former) {
        manager->base_filters = former->base_filters;
        manager->network_empty = former->network_empty;
        manager->network_host = former->network_host;
        int r = spawner_restore(manager, former, &manager->spawner);
        return r < 0 ? log_oom() : 0;
}

int manager_prepare(Manager *manager, const UpgradeState *state) {
        struct rlimit files;
        int r;

        if (geteuid() != 0)
                return log_error_errno(-EPERM, "clupy-launcher has to run as root");
        take_settings(manager);
        if (state)
                keep_ranges(manager, &state->manager->settings);
        if (!cgroup_layout()->unified)
                log_info("cgroup v1: CPU time, freezing and bytes are done by hand");
        manager->zygote_slots = newn0(Zygote *, manager->settings.zygotes_max);
        if (!manager->zygote_slots)
                return log_oom();
        if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FILES_MAX) {
                files.rlim_cur = MAX(files.rlim_max, (rlim_t) FILES_MAX);
                files.rlim_max = files.rlim_cur;
                if (setrlimit(RLIMIT_NOFILE, &files) < 0) {
                        (void) getrlimit(RLIMIT_NOFILE, &files);
                        files.rlim_cur = files.rlim_max;
                        (void) setrlimit(RLIMIT_NOFILE, &files);
                }
        }
        (void) umask(022);
        r = state ? take_surroundings(manager, state->manager) : make_surroundings(manager);
        if (r < 0)
                return r;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return log_error_errno(-errno, "Cannot set no_new_privs");
        return 0;
}

static void on_connected(void *userdata) {
        manager_kick(userdata);
}

int manager_start(Manager *manager, const UpgradeState *state, Daemon *daemon) {
        const char *what;
        int r;

        manager->daemon = daemon;
        manager->event = sd_event_ref(daemon_event(daemon));
        r = scope_bus_new(manager->event, state != NULL, on_connected, manager, &manager->bus);
        if (r < 0)
                return log_error_errno(r, "Cannot speak to systemd");
        r = cgroup_prepare();
        if (r < 0)
                return log_error_errno(r, "Cannot make cgroups");
        r = spawner_attach(manager->spawner);
        if (r < 0)
                return log_error_errno(r, "Cannot watch clupy-sandbox");
        r = builds_new(manager, &manager->builds);
        if (r < 0)
                return log_oom();
        r = state ? upgrade_restore(manager, state, &what) : 0;
        if (r < 0)
                return log_error_errno(r, "Cannot take over what was handed over: %s", what);
        r = sweep_start(manager);
        if (r < 0)
                return log_error_errno(r, "Cannot end what an earlier launcher has left");
        r = manager_tick_start(manager);
        if (r < 0)
                return log_error_errno(r, "Cannot set a timer");
        r = agent_link_new(manager, state ? state->manager : NULL, &manager->link);
        if (r < 0)
                return log_error_errno(r, "Cannot listen on %s", LAUNCHER_SOCKET);
        r = upgrade_filter_install(state);
        if (r < 0)
                return log_error_errno(r, "Cannot install the launcher's own seccomp filter");
        return 0;
}

void manager_status(Manager *manager) {
        unsigned zygotes = 0;

        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                zygotes += zygote->state != ZYGOTE_DEAD;
        daemon_status(manager->daemon, "%s, %u zygotes, %u sandboxes (%u waiting), %zu attempts%s",
                      agent_link_is_connected(manager->link) ? "Agent connected" : "No agent", zygotes,
                      manager->n_pairs, manager->n_warm, hashmap_size(manager->attempts),
                      manager->frozen ? ", frozen: the lease has ended" : "");
}

static void exit_when_empty(Manager *manager) {
        if (manager->stopping && manager->n_pairs == 0 && list_is_empty(&manager->zygotes) &&
            builds_are_over(manager->builds))
                daemon_exit(manager->daemon, EXIT_SUCCESS);
}

static int on_stop_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *manager = userdata;

        log_warning("%u sandboxes did not end in time; the next launcher sweeps them up", manager->n_pairs);
        daemon_exit(manager->daemon, EXIT_SUCCESS);
        return 0;
}

void manager_stop(Manager *manager) {
        manager->stopping = true;
        if (sd_event_add_time_relative(manager->event, &manager->stop_timer, CLOCK_MONOTONIC, STOP_TIMEOUT,
                                       0, on_stop_late, manager) < 0) {
                daemon_exit(manager->daemon, EXIT_SUCCESS);
                return;
        }
        for (unsigned i = 0; i < PAIRS_MAX; i++)
                if (manager->pairs[i])
                        pair_discard(manager->pairs[i], "the launcher is stopping", 0);
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                zygote_end(zygote, "the launcher is stopping");
        builds_end_all(manager->builds, OUTCOME_INFRASTRUCTURE, "The launcher is stopping.");
        manager_kick(manager);
}

static int on_refill(sd_event_source *source, uint64_t usec, void *userdata);

/* Making a pair costs some milliseconds of CPU. While at least half of a pool waits, that work stays out of
 * the way of the attempt that has just begun: it is done a little later. */
static void refill(Manager *manager, bool all) {
        bool later = false;

        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes) {
                if (all || zygote->n_ready * 2 < zygote->pool_target ||
                    zygote->n_ready > zygote->pool_target)
                        zygote_refill(zygote);
                else if (zygote->n_ready < zygote->pool_target)
                        later = true;
        }
        if (!later)
                return;
        if (!manager->refill_timer) {
                if (sd_event_add_time_relative(manager->event, &manager->refill_timer, CLOCK_MONOTONIC,
                                               REFILL_DELAY, 500, on_refill, manager) < 0)
                        refill(manager, true);
                return;
        }
        int enabled = SD_EVENT_OFF;
        (void) sd_event_source_get_enabled(manager->refill_timer, &enabled);
        if (enabled != SD_EVENT_OFF)
                return;
        (void) sd_event_source_set_time_relative(manager->refill_timer, REFILL_DELAY);
        (void) sd_event_source_set_enabled(manager->refill_timer, SD_EVENT_ONESHOT);
}

static int on_refill(sd_event_source *source, uint64_t usec, void *userdata) {
        refill(userdata, true);
        return 0;
}

static int on_kick(sd_event_source *source, void *userdata) {
        Manager *manager = userdata;

        zygotes_collect(manager);
        attempts_advance(manager);
        refill(manager, false);
        exit_when_empty(manager);
        return 0;
}

void manager_kick(Manager *manager) {
        int r = 0;

        if (!manager->kick) {
                r = sd_event_add_defer(manager->event, &manager->kick, on_kick, manager);
                if (r >= 0)
                        r = sd_event_source_set_priority(manager->kick, KICK_PRIORITY);
        }
        if (r >= 0)
                r = sd_event_source_set_enabled(manager->kick, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Cannot defer work");
}

static int on_tick(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *manager = userdata;
        uint64_t now = now_usec(CLOCK_BOOTTIME);

        for (unsigned i = 0; i < PAIRS_MAX && manager->n_pairs > 0; i++) {
                Pair *pair = manager->pairs[i];
                if (pair && !manager->upgrade && pair->state == PAIR_RUNNING && pair->attempt &&
                    !pair->attempt->described && now > pair->attempt->started_usec + DESCRIBE_AFTER_USEC)
                        attempt_describe(pair->attempt);
        }
        sweep_strangers(manager);
        sweep_again(manager);
        manager_kick(manager);
        manager_status(manager);
        (void) sd_event_source_set_time_relative(source, USEC_PER_SEC);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

int manager_tick_start(Manager *manager) {
        return sd_event_add_time_relative(manager->event, &manager->tick, CLOCK_MONOTONIC, USEC_PER_SEC,
                                          100 * USEC_PER_MSEC, on_tick, manager);
}
