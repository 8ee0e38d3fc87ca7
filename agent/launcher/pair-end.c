/* SPDX-License-Identifier: Apache-2.0 */
#include "pair-end.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "attempt-end.h"
#include "attempt.h"
#include "device-set.h"
#include "fd-util.h"
#include "journal-stream.h"
#include "log.h"
#include "time-util.h"
#include "zygote.h"

#define ANSWER_TIMEOUT (30 * USEC_PER_SEC)
#define INIT_END_TIMEOUT USEC_PER_SEC
#define LEAVE_TIMEOUT (5 * USEC_PER_SEC)       /* then it is killed once more */
#define LEAVE_MEMORY_MAX (UINT64_C(128) << 20) /* bytes: the end of more takes time, and room until then */

void pair_free(Pair *pair) {
        Zygote *zygote = pair->zygote;

        scope_release(&pair->scope);
        pair_close_files(pair);
        cgroup_remove(&pair->cgroup);
        sd_event_source_disable_unref(pair->on_init_exit);
        sd_event_source_disable_unref(pair->on_init_socket);
        sd_event_source_disable_unref(pair->on_task_exit);
        sd_event_source_disable_unref(pair->on_task_socket);
        sd_event_source_disable_unref(pair->timer);
        close_fd(pair->init_pidfd);
        close_fd(pair->task_pidfd);
        close_fd(pair->init_socket);
        close_fd(pair->task_socket);
        close_fd(pair->journal);
        manager_kick(pair->manager);
        zygote_uid_give_back(zygote, pair->uid);
        pair->manager->pairs[pair->slot] = NULL;
        pair->manager->n_pairs--;
        free(pair);
        zygote_pair_gone(zygote);
}

/* ---- when all is reaped, journald and systemd take their time */

enum {
        LINGER_TICK_USEC = 10000,
        DRAINED_TIMES = 2,    /* see linger_step() */
        UNIT_TICKS_MAX = 200, /* for systemd to see that the unit is empty */
        LINGER_TICKS_MAX = 1000,
};

/* Returns whether the pair can go. What journald has taken from the stream it may not have stored yet, and
 * it looks for the unit's fields when it does. It takes from a stream once in a turn of its loop, so an
 * empty line more, which it does not store, tells: when that is taken, all before it is stored. */
static bool linger_step(Pair *pair) {
        bool late = ++pair->linger_ticks >= LINGER_TICKS_MAX;

        if (pair->line_ended && journal_stream_is_drained(pair->journal)) {
                pair->drained_times++;
                pair->line_ended = pair->drained_times >= DRAINED_TIMES;
        }
        if (!pair->line_ended)
                pair->line_ended = journal_stream_end_line(pair->journal) != -EAGAIN;
        if (pair->drained_times < DRAINED_TIMES && !late)
                return false;
        if (pair->scope.state == SCOPE_STARTING && !late)
                return false;
        if (pair->scope.state == SCOPE_ACTIVE && pair->linger_ticks < UNIT_TICKS_MAX)
                return false;
        /* Processes that end while systemd moves them leave a scope that runs for ever with nobody in it,
         * whether its start is said to have failed or not. */
        if (pair->scope.state == SCOPE_ACTIVE || pair->scope.state == SCOPE_FAILED ||
            pair->scope.state == SCOPE_STARTING)
                scope_stop(pair->manager->bus, pair->scope.name);
        if (pair->fields_written)
                journal_fields_remove(pair->scope.name);
        return true;
}

static int on_linger(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *manager = userdata;

        LIST_FOREACH(Pair, pair, lingering, &manager->lingering)
                if (linger_step(pair)) {
                        list_remove(&pair->lingering);
                        pair_free(pair);
                }
        if (!list_is_empty(&manager->lingering)) {
                (void) sd_event_source_set_time_relative(source, LINGER_TICK_USEC);
                (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        }
        manager_kick(manager);
        return 0;
}

int pair_linger_wait(Manager *manager, Pair *pair) {
        bool first = list_is_empty(&manager->lingering);

        list_append(&manager->lingering, &pair->lingering);
        if (!manager->linger_timer)
                return sd_event_add_time_relative(manager->event, &manager->linger_timer, CLOCK_MONOTONIC,
                                                  LINGER_TICK_USEC, USEC_PER_MSEC, on_linger, manager);
        if (!first)
                return 0;
        int r = sd_event_source_set_time_relative(manager->linger_timer, LINGER_TICK_USEC);
        return r < 0 ? r : sd_event_source_set_enabled(manager->linger_timer, SD_EVENT_ONESHOT);
}

/* ---- the two processes */

/* Neither process is there, nor can one still come: the answer to an order that is on its way would find
 * another pair in this slot. */
static bool is_empty(const Pair *pair) {
        return pair->init_pidfd < 0 && !pair->init_ordered && (!pair->task_ordered || pair->task_reaped);
}

/* Where no cgroup counts the CPU time, the processes' own is taken: all are waited for, by the task, the
 * init or the launcher. */
static void take_process_cpu(Pair *pair) {
        if (pair->figures.known & RECEIPT_CPU)
                return;
        pair->figures_before.cpu_usec = pair->cpu_before_usec;
        pair->figures.cpu_usec = pair->cpu_usec;
        pair->figures.known |= RECEIPT_CPU;
}

/* Both processes are reaped, or never were. */
static void linger(Pair *pair) {
        if (pair->state == PAIR_LINGERING)
                return;
        pair_set_state(pair, PAIR_LINGERING);
        pair_close_files(pair);
        pair->timer = sd_event_source_disable_unref(pair->timer);
        /* First the agent: removing a cgroup waits for the kernel, up to milliseconds (pair_free() does it).
         */
        if (pair->attempt) {
                Attempt *attempt = pair->attempt;
                pair->attempt = NULL;
                take_process_cpu(pair);
                attempt_pair_ended(attempt, pair);
        }
        pair->line_ended = journal_stream_end_line(pair->journal) != -EAGAIN;
        int r = pair_linger_wait(pair->manager, pair);
        if (r < 0)
                log_error_errno(r, "Cannot wait for the end of %s", pair->scope.name);
}

void pair_linger_if_empty(Pair *pair) {
        if (is_empty(pair))
                linger(pair);
}

static int on_answer_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Pair *pair = userdata;

        zygote_distrust(pair->zygote, "it did not answer in time");
        return 0;
}

/* It lingers, or waits for the zygote's answer, which a hostile one may owe for ever. */
static void linger_when_empty(Pair *pair) {
        if (is_empty(pair))
                linger(pair);
        else if (pair->init_pidfd < 0 && pair->task_ordered && pair->task_pidfd < 0) {
                pair->timer = sd_event_source_disable_unref(pair->timer);
                if (sd_event_add_time_relative(pair->manager->event, &pair->timer, CLOCK_MONOTONIC,
                                               ANSWER_TIMEOUT, 0, on_answer_late, pair) < 0)
                        zygote_distrust(pair->zygote, "there is no memory to wait for its answer");
        }
}

static int on_init_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Pair *pair = userdata;

        log_warning("The init of %s did not end in time", pair->scope.name);
        (void) pidfd_send_signal(pair->init_pidfd, SIGKILL, NULL, 0);
        return 0;
}

int pair_freeze(Pair *pair, bool frozen) {
        if (pair->frozen == frozen)
                return 0;
        int r = cgroup_freeze(&pair->cgroup, frozen);
        if (r >= 0)
                pair->frozen = frozen;
        return r;
}

void pair_end_init(Pair *pair) {
        pair_set_state(pair, PAIR_ENDING);
        pair->timer = sd_event_source_disable_unref(pair->timer);
        if (pair->init_pidfd < 0) {
                linger_when_empty(pair);
                return;
        }
        (void) pair_freeze(pair, false);
        pair->init_socket = close_fd(pair->init_socket);
        pair->on_init_socket = sd_event_source_disable_unref(pair->on_init_socket);
        if (sd_event_add_time_relative(pair->manager->event, &pair->timer, CLOCK_MONOTONIC, INIT_END_TIMEOUT,
                                       0, on_init_late, pair) < 0)
                (void) pidfd_send_signal(pair->init_pidfd, SIGKILL, NULL, 0);
}

void pair_signal(Pair *pair, int number) {
        if (pair->task_pidfd >= 0 && !pair->task_reaped)
                (void) pidfd_send_signal(pair->task_pidfd, number, NULL, 0);
}

void pair_kill(Pair *pair) {
        pair_signal(pair, SIGKILL);
        /* v1: the signal first, then the thaw, so that it runs no further instruction. */
        (void) pair_freeze(pair, false);
}

void pair_refill_put_off(Zygote *zygote) {
        zygote->refill_after_usec = now_usec(CLOCK_MONOTONIC) + USEC_PER_SEC;
}

void pair_discard(Pair *pair, const char *why, int error) {
        Manager *manager = pair->manager;

        if (pair->state >= PAIR_ENDING || pair->failed)
                return;
        pair->failed = true;
        if (why && pair->refill)
                pair_refill_put_off(pair->zygote);
        if (why)
                log_warning_errno(error, "%s is not usable (%s): %s", pair->scope.name,
                                  pair_state_to_string(pair->state), why);
        Attempt *attempt = pair->attempt;
        if (attempt && pair->state != PAIR_RUNNING) {
                pair->attempt = NULL;
                attempt_pair_failed(attempt, why ?: "sandbox", false);
        }
        if (pair->state == PAIR_RUNNING)
                pair->sandbox_broke = true;
        else
                pair_set_state(pair, PAIR_ENDING);
        if (pair->task_pidfd >= 0 && !pair->task_reaped)
                pair_kill(pair); /* its exit ends the init */
        else
                pair_end_init(pair);
        manager_kick(manager);
}

static int on_leave_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Pair *pair = userdata;

        pair_kill(pair);
        return 0;
}

bool pair_leave(Pair *pair) {
        uint64_t init, task;

        /* A device is the next one's only when nobody has it open any more. */
        if (!device_set_is_empty(&pair->devices))
                return false;
        if (pair->state != PAIR_RUNNING || pair->failed || pair->frozen || pair->init_pidfd < 0 ||
            !process_is_single(&pair->task_files, pair->task_pid) || cgroup_count_tasks(&pair->cgroup) != 2)
                return false;
        cgroup_read_figures(&pair->cgroup, &pair->figures);
        if (!(pair->figures.known & RECEIPT_MEMORY_PEAK) || pair->figures.memory_peak > LEAVE_MEMORY_MAX)
                return false;
        if (!(pair->figures.known & RECEIPT_CPU)) {
                if (!process_cpu_read(&pair->init_files, pair->init_pid, &init) ||
                    !process_cpu_read(&pair->task_files, pair->task_pid, &task))
                        return false;
                pair->cpu_usec = init + task;
                take_process_cpu(pair);
        }
        if (sd_event_add_time_relative(pair->manager->event, &pair->timer, CLOCK_MONOTONIC, LEAVE_TIMEOUT, 0,
                                       on_leave_late, pair) < 0)
                return false;
        process_bytes_add(&pair->bytes, &pair->task_files, pair->task_pid);
        process_bytes_add(&pair->bytes, &pair->init_files, pair->init_pid);
        pair->attempt = NULL;
        pair->leaving = true;
        /* A good one is about to call _exit(). Another one would go on with what others are given now. */
        pair_kill(pair);
        return true;
}

int pair_on_init_exit(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Pair *pair = userdata;
        siginfo_t information = {};
        uint64_t cpu_usec;

        pair->on_init_exit = sd_event_source_disable_unref(pair->on_init_exit);
        if (!pair->leaving)
                process_bytes_add(&pair->bytes, &pair->init_files,
                                  pair->init_pid); /* with those of the orphans it has waited for */
        if (process_reap(fd, &information, &cpu_usec) >= 0)
                pair->cpu_usec += cpu_usec;
        if (pair->cgroup.own_cpuacct && !pair->leaving) { /* ours, so still there: now with the orphans' */
                CgroupFigures figures;
                cgroup_read_figures(&pair->cgroup, &figures);
                if (figures.known & pair->figures.known & RECEIPT_CPU)
                        pair->figures.cpu_usec = figures.cpu_usec;
        }
        pair->init_pidfd = close_fd(pair->init_pidfd);
        if (pair->state < PAIR_ENDING) {
                char why[64];
                if (information.si_code == CLD_EXITED)
                        (void) snprintf(why, sizeof(why), "its init ended: %s",
                                        strerrordesc_np(information.si_status) ?: "?");
                else
                        (void) snprintf(why, sizeof(why), "its init was killed");
                pair_discard(pair, why, 0);
        } else
                linger_when_empty(pair);
        return 0;
}

sd_event_time_handler_t pair_end_timer(const Pair *pair) {
        if (pair->state == PAIR_RUNNING)
                return on_leave_late;
        return pair->init_pidfd >= 0 ? on_init_late : on_answer_late;
}
