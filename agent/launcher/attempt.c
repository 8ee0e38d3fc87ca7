/* SPDX-License-Identifier: Apache-2.0 */
#include "attempt.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent-link.h"
#include "attempt-end.h"
#include "device-set.h"
#include "device.h"
#include "disk.h"
#include "environment.h"
#include "fd-util.h"
#include "id.h"
#include "log.h"
#include "pair.h"
#include "task-message.h"
#include "time-util.h"
#include "upgrade.h"
#include "zygote.h"

enum { TRIES_MAX = 2 };
#define PROGRESS_INTERVAL (100 * USEC_PER_MSEC)
#define RESULT_EXIT_TIMEOUT (5 * USEC_PER_SEC) /* from the result to the end of the process */

static const char *const attempt_state_table[_ATTEMPT_STATE_MAX] = {
        [ATTEMPT_WAITING] = "waiting", [ATTEMPT_LIMITING] = "limiting", [ATTEMPT_HELD] = "held",
        [ATTEMPT_RUNNING] = "running", [ATTEMPT_FROZEN] = "frozen",     [ATTEMPT_ENDING] = "ending",
        [ATTEMPT_ENDED] = "ended",
};

const char *attempt_state_to_string(AttemptState state) {
        return (size_t) state < _ATTEMPT_STATE_MAX ? attempt_state_table[state] : "?";
}

static void timers_stop(Attempt *attempt) {
        attempt->limit_timer = sd_event_source_disable_unref(attempt->limit_timer);
        attempt->cpu_timer = sd_event_source_disable_unref(attempt->cpu_timer);
        attempt->grace_timer = sd_event_source_disable_unref(attempt->grace_timer);
        attempt->result_timer = sd_event_source_disable_unref(attempt->result_timer);
}

void attempt_set_state(Attempt *attempt, AttemptState state) {
        if (attempt->state == state)
                return;
        log_debug("Attempt %s: %s → %s", attempt->key, attempt_state_to_string(attempt->state),
                  attempt_state_to_string(state));
        attempt->state = state;
        if (state != ATTEMPT_WAITING && attempt->is_waiting) {
                list_remove(&attempt->waiting);
                attempt->is_waiting = false;
        }
        switch (state) {
        case ATTEMPT_RUNNING:
                if (!attempt->announced) {
                        attempt->announced = true;
                        attempt_tell(attempt, 0);
                }
                break;
        case ATTEMPT_ENDING:
                timers_stop(attempt);
                break;
        case ATTEMPT_ENDED:
                timers_stop(attempt);
                close_many(attempt->fds, ELEMENTSOF(attempt->fds));
                attempt->fds[0] = attempt->fds[1] = -EBADF;
                attempt_tell(attempt, 0);
                manager_kick(attempt->manager);
                break;
        default:
                break;
        }
}

static void make_key(char key[static ATTEMPT_KEY_SIZE], const uint8_t task[static 16], uint32_t number) {
        Id id;

        memcpy(id.bytes, task, sizeof(id.bytes));
        (void) snprintf(key, ATTEMPT_KEY_SIZE, "%s-%" PRIu32, ID_HEX(id), number);
}

Attempt *attempt_find(Manager *manager, const uint8_t task[static 16], uint32_t number) {
        char key[ATTEMPT_KEY_SIZE];

        make_key(key, task, number);
        return hashmap_get(manager->attempts, key);
}

static Attempt *attempt_free(Attempt *attempt) {
        if (!attempt)
                return NULL;
        timers_stop(attempt);
        if (attempt->is_waiting)
                list_remove(&attempt->waiting);
        hashmap_remove(attempt->manager->attempts, attempt->key);
        close_many(attempt->fds, ELEMENTSOF(attempt->fds));
        close_fd(attempt->result_fd);
        free(attempt);
        return NULL;
}

static void describe(const Attempt *attempt, char *buffer, size_t size) {
        (void) snprintf(buffer, size, "CluPy task %s of %s",
                        attempt->start.name[0] ? attempt->start.name : "(no name)",
                        attempt->start.key.owner);
}

static Limits limits_of(const Attempt *attempt) {
        return (Limits){ attempt->start.memory_max, attempt->start.cpu_quota_usec,
                         attempt->start.tasks_max };
}

static uint64_t tmp_of(const Attempt *attempt) {
        return attempt->start.tmp_max ?: attempt->manager->settings.default_tmp_max;
}

/* ---- running */

/* Kills for a reason, unless a result is complete: then it only hurries the end. */
void attempt_order(Attempt *attempt, uint32_t why, const char *by) {
        if (attempt->ordered == OUTCOME_NONE &&
            (attempt->result == OUTCOME_NONE || why == OUTCOME_SUPERSEDED)) {
                attempt->ordered = why;
                (void) snprintf(attempt->by, sizeof(attempt->by), "%s", by);
        } else if (why == OUTCOME_SUPERSEDED)
                attempt->ordered = why;
}

static int on_limit(sd_event_source *source, uint64_t usec, void *userdata) {
        Attempt *attempt = userdata;
        uint64_t now = now_usec(CLOCK_BOOTTIME), deadline = attempt->start.deadline_usec;

        attempt_order(attempt, deadline > 0 && deadline <= now ? OUTCOME_DEADLINE : OUTCOME_TIMEOUT, "");
        pair_kill(attempt->pair);
        return 0;
}

/* The sooner of the two that can come in this state: the clock of the running time stands still while it is
 * frozen. */
static int arm_limit(Attempt *attempt) {
        uint64_t at = attempt->start.deadline_usec ?: USEC_INFINITY;

        attempt->limit_timer = sd_event_source_disable_unref(attempt->limit_timer);
        if (attempt->state != ATTEMPT_FROZEN)
                at = MIN(at, attempt->timeout_at_usec);
        if (at == USEC_INFINITY)
                return 0;
        return sd_event_add_time(attempt->manager->event, &attempt->limit_timer, CLOCK_BOOTTIME, at,
                                 USEC_PER_MSEC, on_limit, attempt);
}

/* How long it takes at least until the limit can be reached, with all CPUs of the quota busy. */
static uint64_t cpu_check_delay(uint64_t left_usec, uint64_t quota_usec) {
        uint64_t cpus_times_1000 = MAX(quota_usec / 1000, UINT64_C(1000)); /* bursts: at least one CPU */

        return CLAMP(left_usec * 1000 / cpus_times_1000, 5 * USEC_PER_MSEC, USEC_PER_HOUR);
}

static int on_cpu_check(sd_event_source *source, uint64_t usec, void *userdata) {
        Attempt *attempt = userdata;
        CgroupFigures figures;

        cgroup_read_figures(&attempt->pair->cgroup, &figures);
        uint64_t used = usec_sub(figures.cpu_usec, attempt->pair->figures_before.cpu_usec);
        if (used >= attempt->start.cpu_time_max_usec) {
                attempt_order(attempt, OUTCOME_CPU_TIME, "");
                pair_kill(attempt->pair);
                return 0;
        }
        (void) sd_event_source_set_time_relative(
                source,
                cpu_check_delay(attempt->start.cpu_time_max_usec - used, attempt->start.cpu_quota_usec));
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static int arm_cpu_check(Attempt *attempt) {
        if (attempt->start.cpu_time_max_usec == 0)
                return 0;
        return sd_event_add_time_relative(
                attempt->manager->event, &attempt->cpu_timer, CLOCK_MONOTONIC,
                cpu_check_delay(attempt->start.cpu_time_max_usec, attempt->start.cpu_quota_usec),
                USEC_PER_MSEC, on_cpu_check, attempt);
}

static int hand_over(Attempt *attempt) {
        const LauncherStart *start = &attempt->start;
        ZygoteGo go = { .op = ZYGOTE_GO, .attempt = attempt->number, .cpus = start->cpus };
        char task[64], job[64], owner[96], number[32];

        (void) hex_encode(attempt->task, sizeof(attempt->task), go.task);
        (void) hex_encode(start->job, sizeof(start->job), go.job);
        COPY_TEXT(go.owner, start->key.owner);
        COPY_TEXT(go.node, attempt->manager->settings.node);
        COPY_TEXT(go.unit, attempt->unit);
        COPY_TEXT(go.variables, start->variables);
        (void) snprintf(task, sizeof(task), "CLUPY_TASK_ID=%s", go.task);
        (void) snprintf(job, sizeof(job), "CLUPY_JOB_ID=%s", go.job);
        (void) snprintf(owner, sizeof(owner), "CLUPY_OWNER=%s", start->key.owner);
        (void) snprintf(number, sizeof(number), "CLUPY_ATTEMPT=%" PRIu32, attempt->number);
        return pair_go(attempt->pair, &go, attempt->fds,
                       (const char *const[]){ task, job, owner, number, NULL });
}

static void go(Attempt *attempt) {
        Pair *pair = attempt->pair;
        int r;

        if (attempt->manager->frozen) {
                attempt_set_state(attempt, ATTEMPT_HELD);
                return;
        }
        attempt->started_usec = now_usec(CLOCK_BOOTTIME);
        attempt->started_at = now_usec(CLOCK_REALTIME);
        attempt->pid = (uint32_t) pair->task_pid;
        attempt->uid = pair->expected.uid;
        COPY_TEXT(attempt->unit, pair->scope.name);
        attempt->timeout_at_usec = attempt->start.timeout_usec
                                           ? usec_add(attempt->started_usec, attempt->start.timeout_usec)
                                           : USEC_INFINITY;
        r = attempt->start.cpu_time_max_usec > 0 ? pair_count_cpu(pair) : 0;
        if (r >= 0)
                r = hand_over(attempt);
        if (r >= 0)
                r = arm_limit(attempt);
        if (r >= 0)
                r = arm_cpu_check(attempt);
        if (r < 0) {
                pair_discard(pair, "the function cannot be handed over", r);
                return;
        }
        attempt_set_state(attempt, ATTEMPT_RUNNING);
        manager_kick(attempt->manager); /* refills the pool, now that this one is on its way */
}

static void on_limits_set(Scope *scope, int error, void *userdata) {
        Pair *pair = userdata;

        if (!pair->attempt || pair->attempt->state != ATTEMPT_LIMITING)
                return;
        if (error < 0)
                pair_discard(pair, "systemd refused its limits", error);
        else
                go(pair->attempt);
}

void attempt_pair_ready(Attempt *attempt) {
        Pair *pair = attempt->pair;
        const Limits limits = limits_of(attempt);
        char description[192];

        attempt->zygote = NULL;
        if (limits_equal(&limits, &pair->limits)) {
                go(attempt);
                return;
        }
        describe(attempt, description, sizeof(description));
        attempt->described = true;
        attempt_set_state(attempt, ATTEMPT_LIMITING);
        int r = scope_set(&pair->scope, &limits, &pair->limits, description, on_limits_set);
        pair->limits = limits;
        if (r < 0)
                pair_discard(pair, "systemd cannot be asked for its limits", r);
}

void attempt_describe(Attempt *attempt) {
        char description[192];

        if (attempt->described || !attempt->pair)
                return;
        attempt->described = true;
        describe(attempt, description, sizeof(description));
        (void) scope_set(&attempt->pair->scope, NULL, NULL, description, NULL);
}

void attempt_freeze(Attempt *attempt) {
        if (attempt->state != ATTEMPT_RUNNING)
                return;
        int r = pair_freeze(attempt->pair, true);
        if (r < 0) { /* better dead than twice at work */
                log_error_errno(r, "Cannot freeze %s, killing it", attempt->unit);
                attempt_order(attempt, OUTCOME_SUPERSEDED, "lease");
                pair_kill(attempt->pair);
                return;
        }
        attempt->frozen_at_usec = now_usec(CLOCK_BOOTTIME);
        attempt_set_state(attempt, ATTEMPT_FROZEN);
        (void) arm_limit(attempt);
        attempt_tell_as(attempt, LAUNCHER_FROZEN, 0);
}

void attempt_thaw(Attempt *attempt) {
        if (attempt->state == ATTEMPT_HELD) {
                go(attempt);
                return;
        }
        if (attempt->state != ATTEMPT_FROZEN)
                return;
        int r = pair_freeze(attempt->pair, false);
        if (r < 0)
                log_error_errno(r, "Cannot thaw %s", attempt->unit);
        if (attempt->timeout_at_usec != USEC_INFINITY)
                attempt->timeout_at_usec += usec_sub(now_usec(CLOCK_BOOTTIME), attempt->frozen_at_usec);
        attempt_set_state(attempt, ATTEMPT_RUNNING);
        (void) arm_limit(attempt);
        attempt_tell_as(attempt, LAUNCHER_THAWED, 0);
}

/* ---- beginning */

/* A pair for an attempt that waits: one that is warm, else one of its own when there is room. Returns
 * whether it has one. */
static bool place(Attempt *attempt) {
        Manager *manager = attempt->manager;
        Zygote *zygote = attempt->zygote;
        const Limits limits = limits_of(attempt);
        const uint64_t tmp_max = tmp_of(attempt);
        char description[192];

        if (manager->upgrade)
                return false; /* the next version begins it */
        if (!zygote) {        /* it waits for the room that another one leaves */
                int r = zygote_get(manager, &attempt->start.key, &attempt->zygote);
                if (r < 0 && r != -EINPROGRESS && r != -EAGAIN)
                        attempt_end_unstarted(attempt, OUTCOME_INFRASTRUCTURE,
                                              "The environment's processes cannot be started.");
                return false; /* it is not warm yet */
        }
        if (zygote->state != ZYGOTE_WARM)
                return false;
        const bool connected = scope_bus_is_connected(manager->bus);
        Pair *pair = LIST_FIRST(Pair, ready, &zygote->ready);
        if (pair && device_set_is_empty(&attempt->start.devices) && pair->tmp_max == tmp_max &&
            (connected || limits_equal(&limits, &pair->limits))) {
                attempt->warm = true;
                list_remove(&attempt->waiting);
                attempt->is_waiting = false;
                pair_take(pair, attempt);
                return true;
        }
        if (!zygote_has_start_left(zygote) || !connected)
                return false;
        describe(attempt, description, sizeof(description));
        if (pair_new(zygote, &limits, tmp_max, description, attempt, &pair) < 0)
                return false;
        attempt->described = true;
        attempt->pair = pair;
        list_remove(&attempt->waiting);
        attempt->is_waiting = false;
        return true;
}

void attempts_advance(Manager *manager) {
        ListLink todo;
        Attempt *attempt;

        /* To make room for one a zygote may have to go, which ends others that wait, or puts them behind: no
         * link to the next one stays good. So all are taken off, and each is put back before its turn. */
        list_init(&todo);
        while ((attempt = LIST_FIRST(Attempt, waiting, &manager->waiting))) {
                list_remove(&attempt->waiting);
                list_append(&todo, &attempt->waiting);
        }
        while ((attempt = LIST_FIRST(Attempt, waiting, &todo))) {
                list_remove(&attempt->waiting);
                list_append(&manager->waiting, &attempt->waiting);
                (void) place(attempt);
        }
}

static int begin(Attempt *attempt, const char **ret_why) {
        int r = zygote_get(attempt->manager, &attempt->start.key, &attempt->zygote);

        if (r == -ENOENT)
                *ret_why = "The node has no such seccomp policy.";
        else if (r == -EPERM)
                *ret_why = "The seccomp policy's file is not root's alone.";
        else if (r == -EAGAIN)
                *ret_why = "The node has no room for another environment at the moment.";
        else if (r < 0 && r != -EINPROGRESS)
                *ret_why = "The environment's processes cannot be started.";
        if (r < 0 && r != -EINPROGRESS)
                return r;
        attempt->tries++;
        list_append(&attempt->manager->waiting, &attempt->waiting);
        attempt->is_waiting = true;
        if (!place(attempt))
                manager_kick(attempt->manager);
        return 0;
}

int attempt_start(Manager *manager, const LauncherRequest *request, int fds[static 2], Attempt **ret,
                  const char **ret_why) {
        static const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
        Attempt *attempt = attempt_find(manager, request->task, request->attempt);
        int r;

        if (attempt) {
                *ret = attempt;
                return 1;
        }
        *ret_why = "The launcher has no memory left.";
        if (hashmap_size(manager->attempts) >= ATTEMPTS_MAX) {
                *ret_why = "The table of attempts is full.";
                return -ENOSPC;
        }
        r = environment_check(&request->start.key, ret_why);
        if (r < 0)
                return r;
        r = devices_check(&manager->settings, &request->start.devices, ret_why);
        if (r < 0)
                return r;
        for (int i = 0; i < 2; i++)
                if ((fcntl(fds[i], F_GET_SEALS) & seals) != seals) {
                        *ret_why = "Code and arguments must be sealed memory.";
                        return -EPERM;
                }
        if (manager->stopping || manager->frozen) {
                *ret_why = manager->frozen ? "The node's lease has ended." : "The launcher is stopping.";
                return -EAGAIN;
        }
        attempt = new0(Attempt);
        if (!attempt)
                return -ENOMEM;
        *attempt = (Attempt){
                .manager = manager,
                .number = request->attempt,
                .start = request->start,
                .fds = { -EBADF, -EBADF },
                .result_fd = -EBADF,
                .requested_usec = now_usec(CLOCK_BOOTTIME),
                .timeout_at_usec = USEC_INFINITY,
        };
        memcpy(attempt->task, request->task, sizeof(attempt->task));
        make_key(attempt->key, request->task, request->attempt);
        r = hashmap_put(manager->attempts, attempt->key, attempt);
        if (r < 0) {
                free(attempt);
                return r;
        }
        attempt->fds[0] = fds[0];
        attempt->fds[1] = fds[1];
        r = begin(attempt, ret_why);
        if (r < 0) {
                attempt->fds[0] = attempt->fds[1] = -EBADF; /* still the caller's */
                attempt_free(attempt);
                return r;
        }
        *ret = attempt;
        return 0;
}

/* Before its function ran: another try, or its end. */
void attempt_pair_failed(Attempt *attempt, const char *why, bool environment) {
        const char *ignored;

        attempt->pair = NULL;
        attempt->zygote = NULL;
        attempt->warm = attempt->described = false;
        attempt_set_state(attempt, ATTEMPT_WAITING);
        if (attempt->ordered == OUTCOME_NONE && !environment && attempt->tries < TRIES_MAX &&
            !attempt->manager->stopping && begin(attempt, &ignored) >= 0)
                return;
        attempt_end_unstarted(attempt, environment ? OUTCOME_ENVIRONMENT : OUTCOME_INFRASTRUCTURE, why);
}

void attempts_zygote_dead(Zygote *zygote) {
        Manager *manager = zygote->manager;
        _cleanup_(freep) Attempt **concerned = newn0(Attempt *, hashmap_size(manager->attempts) + 1);
        Attempt *attempt;
        size_t n = 0;

        if (!concerned) {
                (void) log_oom();
                return;
        }
        /* First noted, then treated: the treatment changes the list. */
        HASHMAP_FOREACH(attempt, manager->attempts)
                if (attempt->is_waiting && attempt->zygote == zygote)
                        concerned[n++] = attempt;
        for (size_t i = 0; i < n; i++) {
                list_remove(&concerned[i]->waiting);
                concerned[i]->is_waiting = false;
                attempt_pair_failed(concerned[i], zygote->why, zygote->environment_broken);
        }
}

/* ---- stopping */

static int on_grace_over(sd_event_source *source, uint64_t usec, void *userdata) {
        Attempt *attempt = userdata;

        pair_kill(attempt->pair);
        return 0;
}

void attempt_stop(Attempt *attempt, uint32_t why, uint64_t grace_usec, const char *by) {
        if (attempt->state >= ATTEMPT_ENDING) {
                if (why == OUTCOME_SUPERSEDED)
                        attempt->ordered = why;
                return;
        }
        attempt_order(attempt, why, by);
        if (attempt->state == ATTEMPT_WAITING || attempt->state == ATTEMPT_LIMITING ||
            attempt->state == ATTEMPT_HELD) {
                Pair *pair = attempt->pair;
                attempt->pair = NULL;
                if (pair) {
                        pair->attempt = NULL;
                        pair_discard(pair, NULL, 0);
                }
                attempt_end_unstarted(attempt, why, by);
                return;
        }
        if (grace_usec > 0 && attempt->state == ATTEMPT_RUNNING && !attempt->grace_timer &&
            sd_event_add_time_relative(attempt->manager->event, &attempt->grace_timer, CLOCK_MONOTONIC,
                                       grace_usec, 0, on_grace_over, attempt) >= 0)
                pair_signal(attempt->pair, SIGTERM);
        else
                pair_kill(attempt->pair);
}

int attempt_release(Attempt *attempt) {
        if (attempt->state != ATTEMPT_ENDED)
                return -EBUSY;
        attempt_free(attempt);
        return 0;
}

/* ---- what the task says */

static int on_result_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Attempt *attempt = userdata;

        pair_kill(attempt->pair);
        return 0;
}

static void take_progress(Attempt *attempt, const TaskMessage *message) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        LauncherEvent event = { .version = LAUNCHER_PROTOCOL_VERSION,
                                .op = LAUNCHER_PROGRESS,
                                .attempt = attempt->number };

        if (!task_progress_is_valid(message->done, message->total))
                return;
        if (now < attempt->progress_usec + PROGRESS_INTERVAL &&
            !(message->total > 0 && message->done >= message->total))
                return;
        if (attempt->progress_usec > now + USEC_PER_SEC) /* even "done" only so often */
                return;
        attempt->progress_usec = MAX(now, attempt->progress_usec + PROGRESS_INTERVAL / 2);
        memcpy(event.task, attempt->task, sizeof(event.task));
        event.progress.done = message->done;
        event.progress.total = message->total;
        (void) snprintf(event.progress.note, sizeof(event.progress.note), "%.*s",
                        (int) sizeof(message->detail) - 1, message->detail);
        agent_link_send(attempt->manager->link, &event, -EBADF);
}

/* The task says that one of its file systems had no room. What is there is read now, while it is there;
 * where that cannot be done it is an exception like any other. */
static OutcomeKind take_disk(Attempt *attempt, const TaskMessage *message) {
        const Pair *pair = attempt->pair;
        char place[sizeof(message->detail)];

        (void) snprintf(place, sizeof(place), "%.*s", (int) sizeof(message->detail) - 1, message->detail);
        if (pair->init_pidfd < 0 ||
            disk_read(pair->init_pid, place, streq(place, DISK_SHM) ? &attempt->shm : &attempt->tmp) < 0)
                return OUTCOME_EXCEPTION;
        return OUTCOME_DISK;
}

void attempt_message(Attempt *attempt, const TaskMessage *message, int fd) {
        _cleanup_(close_fdp) int memfd = fd;
        OutcomeKind kind;
        uint64_t size = 0;

        switch (message->op) {
        case TASK_PROGRESS:
                take_progress(attempt, message);
                return;
        case TASK_RESULT:
                kind = OUTCOME_VALUE;
                break;
        case TASK_EXCEPTION:
                kind = OUTCOME_EXCEPTION;
                break;
        case TASK_DISK:
                kind = take_disk(attempt, message);
                break;
        case TASK_UNPICKLABLE:
                kind = OUTCOME_RESULT_PICKLING;
                break;
        default:
                return;
        }
        if (attempt->result != OUTCOME_NONE) /* the first one counts */
                return;
        if (memfd >= 0) {
                if (task_result_check(memfd, attempt->start.memory_max, &size) < 0)
                        return;
        } else if (kind != OUTCOME_RESULT_PICKLING)
                return;
        attempt->result = kind;
        /* It cannot tell by itself: to it that is "resource temporarily unavailable". */
        if (kind == OUTCOME_EXCEPTION)
                attempt->processes_refused = cgroup_count_refused(&attempt->pair->cgroup);
        attempt->ended_usec =
                now_usec(CLOCK_BOOTTIME); /* what the process does until its end is not the function's */
        attempt->ended_at = now_usec(CLOCK_REALTIME);
        attempt->result_fd = TAKE_FD(memfd);
        attempt->result_size = size;
        attempt->retry = (kind == OUTCOME_EXCEPTION || kind == OUTCOME_DISK) && message->retry != 0;
        (void) snprintf(attempt->result_detail, sizeof(attempt->result_detail), "%.*s",
                        (int) sizeof(message->detail) - 1, message->detail);
        /* To end a process takes longer than most functions: where nothing can come of it, nobody waits. */
        if (attempt->state == ATTEMPT_RUNNING && attempt->ordered == OUTCOME_NONE && !attempt->refused &&
            pair_leave(attempt->pair)) {
                attempt_pair_ended(attempt, attempt->pair);
                return;
        }
        (void) sd_event_add_time_relative(attempt->manager->event, &attempt->result_timer, CLOCK_MONOTONIC,
                                          RESULT_EXIT_TIMEOUT, 0, on_result_late, attempt);
}

void attempt_refused(Attempt *attempt, int number, uint32_t architecture) {
        if (attempt->refused)
                return;
        attempt->refused = true;
        attempt->refused_number = number;
        attempt->refused_architecture = architecture;
}

/* ---- after an upgrade */

int attempt_resume(Attempt *attempt, uint64_t grace_until_usec, uint64_t result_until_usec) {
        sd_event *event = attempt->manager->event;
        int r;

        make_key(attempt->key, attempt->task, attempt->number);
        r = hashmap_put(attempt->manager->attempts, attempt->key, attempt);
        if (r < 0 || (attempt->state != ATTEMPT_RUNNING && attempt->state != ATTEMPT_FROZEN))
                return r;
        r = upgrade_timer_restore(event, &attempt->grace_timer, grace_until_usec, on_grace_over, attempt);
        if (r >= 0)
                r = upgrade_timer_restore(event, &attempt->result_timer, result_until_usec, on_result_late,
                                          attempt);
        if (r >= 0)
                r = arm_limit(attempt);
        if (r >= 0 && attempt->start.cpu_time_max_usec > 0) /* the check finds out how long it can wait */
                r = sd_event_add_time_relative(event, &attempt->cpu_timer, CLOCK_MONOTONIC, 0, 0,
                                               on_cpu_check, attempt);
        return r;
}
