/* SPDX-License-Identifier: Apache-2.0 */
#include "detached.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "detached-internal.h"
#include "environment-job.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "recovery.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

enum {
        EXPIRE_INTERVAL_S = 3600,
        TRANSFERS_MAX = 512, /* at one time: each has a file open */
};

/* Writing down waits for the disk, and a client may detach thousands of tasks at once: so much, and then the
 * loop looks after all else. */
#define WORK_USEC (20 * USEC_PER_MSEC)

static void work_later(Detached *d);
static int on_expire(sd_event_source *source, uint64_t usec, void *userdata);

static void arm_expiry(Manager *m) {
        manager_timer(m, &m->detached_timer, manager_now(m) + EXPIRE_INTERVAL_S * USEC_PER_SEC, on_expire,
                      m);
}

int detached_new(Task *task, Detached **ret) {
        Detached *d = new0(Detached);
        int r;

        if (!d)
                return -ENOMEM;
        d->task = task;
        list_init(&d->watches);
        r = detached_code_use(d);
        if (r < 0) {
                free(d);
                return r;
        }
        task->detached = d;
        list_append(&task->manager->detached, &d->link);
        arm_expiry(task->manager);
        *ret = d;
        return 0;
}

static void watch_free(DetachedWatch *watch) {
        watch->detached->n_watches--;
        list_remove(&watch->in_detached);
        list_remove(&watch->in_session);
        free(watch);
}

static DetachedWatch *watch_find(const Detached *d, const Session *session) {
        LIST_FOREACH(DetachedWatch, watch, in_detached, &d->watches)
                if (watch->session == session)
                        return watch;
        return NULL;
}

/* Its turn comes before that of those who have waited longer. */
static int watch_add(Detached *d, Session *session) {
        DetachedWatch *watch = watch_find(d, session);

        if (!watch) {
                if (d->n_watches >= DETACHED_WATCHES_MAX)
                        return -EUSERS;
                watch = new0(DetachedWatch);
                if (!watch)
                        return -ENOMEM;
                *watch = (DetachedWatch){ .detached = d, .session = session };
                d->n_watches++;
                list_append(&session->watches, &watch->in_session);
        } else
                list_remove(&watch->in_detached);
        list_prepend(&d->watches, &watch->in_detached);
        return 0;
}

bool detached_is_watched(const Task *task, const Session *session) {
        return task->detached && watch_find(task->detached, session);
}

void detached_session_gone(Session *session) {
        LIST_FOREACH(DetachedWatch, watch, in_session, &session->watches)
                watch_free(watch);
}

Detached *detached_free(Detached *d) {
        if (!d)
                return NULL;
        for (DetachedPart part = 0; part < _PART_MAX; part++)
                detached_part_cancel(d, part);
        detached_uncount(d);
        detached_code_leave(d);
        LIST_FOREACH(DetachedWatch, watch, in_detached, &d->watches)
                watch_free(watch);
        d->task->manager->n_detached_stuck -= d->stuck;
        list_remove(&d->link);
        list_remove(&d->due);
        return mfree(d);
}

/* Removes what is on disk. The task itself goes on as an ordinary one, or ends. */
void detached_forget(Task *task) {
        if (task->detached->recorded)
                detached_record_remove(task);
        detached_part_remove(task->detached, PART_ARGS);
        detached_part_remove(task->detached, PART_RESULT);
        task->detached = detached_free(task->detached);
}

/* Submission */

char *detached_refusal(const Task *task, int error) {
        const MasterConfig *config = task->manager->config;

        switch (-error) {
        case EFBIG:
                return strformat("it cannot be detached: its argument or code is larger than %s "
                                 "(detached.size in clupy.master.yaml): submit it without detach=True",
                                 FORMAT_BYTES(config->detached_memory));
        case EUSERS:
                return strformat("detached calls of %s may take %s of the master's disk together "
                                 "(detached.share in clupy.master.yaml), and with this one they would take "
                                 "more: give results up with `clupyctl cancel`, or submit it without "
                                 "detach=True",
                                 task->session->user, FORMAT_BYTES(detached_owner_bytes(task->manager)));
        case EDQUOT:
                return strformat("it cannot be detached: detached calls may take %s of the master's disk "
                                 "together, and that is used up: submit it later or without detach=True, "
                                 "give results up with `clupyctl cancel`, or raise detached.total in "
                                 "clupy.master.yaml",
                                 FORMAT_BYTES(config->detached_total));
        case ENOSPC:
                return strformat("it cannot be detached: the master's disk is full: make room in %s, or "
                                 "submit it without detach=True",
                                 config->state_directory);
        case EBADMSG:
                return strdup("it cannot be detached: its code is not what its hash says");
        default:
                return strformat("it cannot be detached: the master cannot write it down in %s: %s",
                                 config->state_directory, strerrordesc_np(-error) ?: "unknown error");
        }
}

void detached_refuse(Task *task, int error) {
        _cleanup_(freep) char *message = detached_refusal(task, error);
        const char *reason = error == -EUSERS ? "quota" : "rejected";

        session_log_refusal(task->session, reason, strempty(message));
        task_refuse(task, reason, strempty(message));
}

/* It was to outlive its client, and cannot. Before it has run it is not taken at all; one that a former
 * master had taken goes on as an ordinary one. */
static void detached_fail(Detached *d, int error) {
        _cleanup_(freep) char *message = NULL;
        Task *task = d->task;
        bool held = d->held;

        detached_forget(task);
        if (held) {
                detached_refuse(task, error);
                return;
        }
        message = detached_refusal(task, error);
        log_warning("Task %s of %s: %s", ID_HEX(task->id), task->session->user, strempty(message));
}

/* Written down as soon as all of it is there; then it may run. */
static void detached_check_kept(Detached *d) {
        Task *task = d->task;
        int r;

        if (d->recorded || !d->ready[PART_ARGS] || !detached_code_ready(d))
                return;
        r = detached_record_write(task);
        if (r < 0) {
                detached_fail(d, r);
                return;
        }
        d->recorded = true;
        if (!d->held)
                return;
        d->held = false;
        if (task->state == TASK_WAITING)
                task_queue(task);
}

static void work_begin(Detached *d) {
        int r;

        r = detached_part_keep(d, PART_ARGS);
        if (r >= 0)
                r = detached_part_keep(d, PART_CODE);
        if (r < 0)
                detached_fail(d, r);
        else
                detached_check_kept(d);
}

int detached_task_new(Task *task, bool hold) {
        Manager *m = task->manager;
        Detached *d;
        int r;

        if (task->size > m->config->detached_memory || task->job->code_size > m->config->detached_memory)
                return -EFBIG;
        if (hold) {
                r = detached_check_room(task->session->owner, task->size);
                if (r < 0)
                        return r;
        }
        r = detached_new(task, &d);
        if (r < 0)
                return r;
        d->held = hold;
        work_later(d);
        return 0;
}

bool detached_is_held(const Task *task) {
        return task->detached && task->detached->held;
}

void detached_started(Task *task) {
        if (task->job->retries == 0 && task->detached->recorded)
                (void) detached_record_write(task);
}

/* The end */

bool detached_has_result(const Task *task) {
        return task->detached && (task->result_size == 0 || task->detached->ready[PART_RESULT]);
}

/* The result is on disk (or there is none): the node may forget it, and it is never run again. */
static void detached_settle(Detached *d) {
        Task *task = d->task;
        Attempt *attempt = task->current;
        int r;

        r = detached_record_write(task);
        if (r < 0) {
                log_warning_errno(r, "Cannot write down how detached task %s ended", ID_HEX(task->id));
                return;
        }
        d->recorded = true;
        if (attempt && attempt->state == ATTEMPT_ENDED) {
                node_release(attempt->node, attempt->id, attempt->number);
                attempt_free(attempt);
                task_keep_wire(task);
        }
        detached_part_remove(d, PART_ARGS);
        detached_part_cancel(d, PART_CODE);
        detached_code_leave(d);
}

static void set_stuck(Detached *d, bool stuck) {
        d->task->manager->n_detached_stuck += (unsigned) stuck - d->stuck;
        d->stuck = stuck;
}

static void result_failed(Detached *d, int error) {
        bool room = error == -EUSERS || error == -EDQUOT || error == -ENOSPC;

        if (!d->stuck)
                log_warning_errno(
                        error, "The result of detached task %s stays on its node%s", ID_HEX(d->task->id),
                        room ? " until there is room (detached.share, detached.total, or the disk)" : "");
        set_stuck(d, room);
}

static void work_ended(Detached *d) {
        const Task *task = d->task;
        int r;

        if (task->result_size == 0 || d->ready[PART_RESULT]) {
                detached_settle(d);
                return;
        }
        r = detached_part_keep(d, PART_RESULT);
        if (r < 0)
                result_failed(d, r);
}

void detached_ended(Task *task) {
        /* Whatever it is kept for now, it is not to be run. */
        if (task->detached->held) {
                task->detached->held = false;
                detached_part_cancel(task->detached, PART_ARGS);
        }
        work_later(task->detached);
}

void detached_retried(Task *task) {
        /* From a node that has it no more. */
        detached_part_remove(task->detached, PART_RESULT);
        set_stuck(task->detached, false);
}

void detached_part_done(Detached *d, DetachedPart part, int error) {
        if (part == PART_RESULT) {
                if (error < 0)
                        result_failed(d, error);
                else {
                        set_stuck(d, false);
                        detached_settle(d);
                }
        } else if (d->task->state >= TASK_ENDED)
                return; /* it needs neither any more */
        else if (error < 0)
                detached_fail(d, error);
        else
                detached_check_kept(d);
}

/* Work that waits for the disk */

static void work_on(Detached *d) {
        if (d->task->state >= TASK_ENDED)
                work_ended(d);
        else
                work_begin(d);
}

/* Whether there is time left in this turn of the loop, and a file to be had. */
static bool work_may_go_on(Manager *m) {
        uint64_t iteration = 0;

        (void) sd_event_get_iteration(m->event, &iteration);
        if (iteration != m->detached_iteration) {
                m->detached_iteration = iteration;
                m->detached_usec = 0;
        }
        return m->n_transfers < TRANSFERS_MAX && m->detached_usec < WORK_USEC;
}

void detached_room_made(Manager *m) {
        if (m->n_detached_stuck > 0)
                manager_timer(m, &m->detached_timer, manager_now(m) + USEC_PER_SEC, on_expire, m);
}

static void work_timed(Detached *d) {
        Manager *m = d->task->manager;
        uint64_t begun = now_usec(CLOCK_MONOTONIC);

        work_on(d);
        m->detached_usec += usec_sub(now_usec(CLOCK_MONOTONIC), begun);
}

static int on_work(sd_event_source *source, void *userdata) {
        Manager *m = userdata;
        Detached *d;

        while (work_may_go_on(m) && (d = LIST_FIRST(Detached, due, &m->detached_due))) {
                list_remove(&d->due);
                work_timed(d);
        }
        detached_work_wake(m);
        return 0;
}

/* Soon, if there is anything to do that can be done. */
void detached_work_wake(Manager *m) {
        int r = 0;

        if (m->stopping || list_is_empty(&m->detached_due) || m->n_transfers >= TRANSFERS_MAX)
                return;
        if (!m->detached_work) {
                r = sd_event_add_defer(m->event, &m->detached_work, on_work, m);
                if (r >= 0)
                        r = sd_event_source_set_priority(m->detached_work, SD_EVENT_PRIORITY_NORMAL + 10);
        }
        if (r >= 0)
                r = sd_event_source_set_enabled(m->detached_work, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Cannot defer work");
}

/* Now, or as soon as there is time. May free it. */
static void work_later(Detached *d) {
        Manager *m = d->task->manager;

        if (list_is_empty(&m->detached_due) && work_may_go_on(m)) {
                work_timed(d);
                return;
        }
        if (!list_is_linked(&d->due))
                list_append(&m->detached_due, &d->due);
        detached_work_wake(m);
}

/* Whose it is */

static int job_in_session(const Job *job, Session *session, Job **ret) {
        _cleanup_(job_freep) Job *copy = NULL;
        int r;

        *ret = hashmap_get(session->jobs, &job->id);
        if (*ret)
                return 0;
        r = job_new(session, job->id, &copy);
        if (r < 0)
                return r;
        memcpy(copy->code, job->code, sizeof(copy->code));
        copy->code_size = job->code_size;
        copy->mcpus = job->mcpus;
        copy->memory = job->memory;
        copy->tasks_max = job->tasks_max;
        copy->timeout_ms = job->timeout_ms;
        copy->priority = job->priority;
        copy->retries = job->retries;
        copy->server_count = job->server_count;
        copy->detach = true;
        r = job_set_texts(copy, job->name, job->isolation, job->policy, job->network);
        if (r >= 0)
                r = environment_job_copy(job, copy);
        if (r < 0)
                return r;
        r = hashmap_put(session->jobs, &copy->id, copy);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(copy);
        return 0;
}

static int move(Task *task, Session *session) {
        Job *job;
        int r;

        if (task->session == session)
                return 0;
        r = job_in_session(task->job, session, &job);
        if (r < 0)
                return r;
        task_rehome(task, session, job);
        return 0;
}

int detached_permanent_session(Manager *m, const char *user, Session **ret) {
        int r;

        *ret = session_find(m, user, ID_NULL);
        if (*ret)
                return 0;
        r = session_new(m, user, ID_NULL, ret);
        if (r >= 0)
                (*ret)->permanent = true;
        return r;
}

/* The client that has it now. */
static void tell(Task *task) {
        if (task->state == TASK_ENDED)
                session_result(task->session, task, NULL);
        else
                session_status_due(task->session, task);
}

static int move_to_permanent(Task *task) {
        Session *session;
        int r;

        r = detached_permanent_session(task->manager, task->session->user, &session);
        if (r >= 0)
                r = move(task, session);
        if (r < 0)
                log_oom();
        return r;
}

/* The client that had it has gone, or has the result: it is the next one's. */
static int pass_on(Task *task) {
        DetachedWatch *watch = LIST_FIRST(DetachedWatch, in_detached, &task->detached->watches);
        Session *session;
        int r;

        if (!watch)
                return move_to_permanent(task);
        session = watch->session;
        r = move(task, session);
        if (r < 0)
                return log_oom();
        watch_free(watch);
        tell(task);
        return 0;
}

bool detached_keep(Task *task) {
        Detached *d = task->detached;

        if (task->state < TASK_ENDED && !d->recorded) {
                log_warning("Detached task %s ends with its client: its argument or code had not arrived",
                            ID_HEX(task->id));
                detached_forget(task);
                return false;
        }
        return pass_on(task) >= 0;
}

bool detached_acknowledged(Task *task) {
        Detached *d = task->detached;

        /* What is not on disk and not on its way there will not be. */
        if (!detached_has_result(task) && !d->transfers[PART_RESULT] && !list_is_linked(&d->due) &&
            list_is_empty(&d->watches)) {
                detached_forget(task);
                return false;
        }
        return pass_on(task) >= 0;
}

bool detached_drop(Task *task) {
        if (!task->session->permanent || task->state != TASK_ENDED)
                return false;
        detached_forget(task);
        task_deliver(task);
        return true;
}

int detached_attach(Task *task, Session *session) {
        Session *former = task->session;
        DetachedWatch *watch;
        int r;

        if (former != session) {
                if (!former->permanent) {
                        r = watch_add(task->detached, former);
                        if (r < 0)
                                return r;
                }
                r = move(task, session);
                if (r < 0)
                        return r;
                watch = watch_find(task->detached, session);
                if (watch)
                        watch_free(watch);
        }
        tell(task);
        return 0;
}

static int on_expire(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        uint64_t now = now_usec(CLOCK_REALTIME);

        LIST_FOREACH(Detached, d, link, &m->detached) {
                Task *task = d->task;

                if (task->state != TASK_ENDED)
                        continue;
                if (task->ended_at + m->config->detached_keep <= now) {
                        detached_forget(task);
                        task_deliver(task);
                } else if (d->stuck)
                        work_later(d);
        }
        if (!list_is_empty(&m->detached))
                arm_expiry(m);
        return 0;
}
