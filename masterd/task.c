/* SPDX-License-Identifier: Apache-2.0 */
#include "task.h"

#include <errno.h>

#include "attempt.h"
#include "detached.h"
#include "history.h"
#include "job.h"
#include "json-util.h"
#include "manager.h"
#include "master-bus.h"
#include "node.h"
#include "owner.h"
#include "session.h"
#include "time-util.h"
#include "why.h"

enum {
        BACKOFF_FIRST_MS = 200, /* after the second failure in a row, doubling */
        BACKOFF_MAX_MS = 10000,
        AVOID_MS = 30000, /* how long another node is preferred to the one where it failed */
};

static const char *const task_state_table[_TASK_STATE_MAX] = {
        [TASK_WAITING] = "waiting",     [TASK_QUEUED] = "queued", [TASK_STARTING] = "starting",
        [TASK_RUNNING] = "running",     [TASK_FROZEN] = "frozen", [TASK_ENDED] = "ended",
        [TASK_DELIVERED] = "delivered",
};

DEFINE_NAME_TABLE(task_state, TaskState, task_state_table);

int task_deadline_compare(const void *left, const void *right) {
        const Task *l = left, *r = right;

        return l->deadline < r->deadline ? -1 : l->deadline > r->deadline;
}

int task_delay_compare(const void *left, const void *right) {
        const Task *l = left, *r = right;

        return l->not_before < r->not_before ? -1 : l->not_before > r->not_before;
}

int task_new(Session *session, Job *job, Id id, Task **ret) {
        Manager *m = session->manager;
        Task *task;
        int r;

        task = new0(Task);
        if (!task)
                return -ENOMEM;
        *task = (Task){
                .manager = m,
                .id = id,
                .state = TASK_WAITING,
                .session = session,
                .job = job,
                .deadline_index = PRIOQ_NONE,
                .delay_index = PRIOQ_NONE,
                .deadline = USEC_INFINITY,
                .sequence = ++m->sequence,
                .queued_since = manager_now(m),
                .queued_at = now_usec(CLOCK_REALTIME),
        };
        r = hashmap_put(session->owner->tasks, &id, task);
        if (r < 0) {
                free(task);
                return r;
        }
        m->n_tasks++;
        list_append(&session->tasks, &task->in_session);
        session->n_tasks++;
        session->n_unfinished++;
        job->n_tasks++;
        m->n_state[TASK_WAITING]++;
        *ret = task;
        return 0;
}

void task_drop_argument(Task *task) {
        if (!task->argument)
                return;
        task->manager->inline_memory -= task->size;
        task->argument = mfree(task->argument);
}

void task_set_wire(Task *task, bool set) {
        Hashmap *wires = task->session->owner->wires;
        Id wire;

        if (task->has_wire == set || attempt_other_id(task->session->user, task->id, &wire) < 0)
                return;
        if (!set)
                (void) hashmap_remove(wires, &wire);
        else if (hashmap_put(wires, &wire, task) < 0)
                return;
        task->has_wire = set;
}

void task_keep_wire(Task *task) {
        if (!task->kept_wire && hashmap_put(task->manager->kept, &task->wire, task) >= 0)
                task->kept_wire = true;
}

static void task_forget_wire(Task *task) {
        if (task->kept_wire)
                (void) hashmap_remove(task->manager->kept, &task->wire);
        task->kept_wire = false;
}

static void task_leave_queue(Task *task) {
        if (task->delay_index != PRIOQ_NONE) {
                prioq_remove(task->manager->delayed, task);
                manager_delays_changed(task->manager);
        }
        task_set_wire(task, false);
        if (!list_is_linked(&task->in_queue))
                return;
        list_remove(&task->in_queue);
        if (task->state == TASK_QUEUED) {
                task->job->n_queued--;
                session_job_changed(task->session, task->job);
        }
}

static bool state_is_placed(TaskState state) {
        return state == TASK_STARTING || state == TASK_RUNNING || state == TASK_FROZEN;
}

/* The books of session and job about where its tasks are. */
static void task_set_placed(Task *task, bool placed) {
        Session *session = task->session;

        if (!task->current)
                return; /* not to be: what is placed is somewhere */
        if (placed) {
                task->share = task->current->mcpus;
                task->share_memory = task->current->memory;
                session->mcpus_running += task->share;
                owner_charge(session->owner, task->share, task->share_memory, true);
                (void) job_place_add(task->job, task->current->node);
        } else {
                session->mcpus_running -= task->share;
                owner_charge(session->owner, task->share, task->share_memory, false);
                task->share = 0;
                task->share_memory = 0;
                job_place_remove(task->job, task->current->node);
        }
        if (session->runnable_index != PRIOQ_NONE)
                prioq_reshuffle(session->owner->runnable, session);
        manager_schedule(task->manager);
}

void task_set_state(Task *task, TaskState state) {
        Manager *m = task->manager;
        TaskState old = task->state;

        if (old == state)
                return;
        if (old == TASK_QUEUED || old == TASK_WAITING)
                task_leave_queue(task);
        if (state_is_placed(old) != state_is_placed(state))
                task_set_placed(task, state_is_placed(state));
        m->n_state[old]--;
        m->n_state[state]++;
        task->state = state;
        if (old < TASK_ENDED && state >= TASK_ENDED) {
                task->session->n_unfinished--;
                prioq_remove(m->deadlines, task);
                list_remove(&task->in_status);
                task_drop_argument(task);
        } else if (old >= TASK_ENDED && state < TASK_ENDED) {
                task_forget_wire(task);
                task->session->n_unfinished++;
                list_remove(&task->in_result);
                if (task->deadline != USEC_INFINITY && prioq_put(m->deadlines, task) >= 0)
                        manager_deadlines_changed(m);
        }
        /* What a client learns at once anyway, or a moment later with more, is not worth a frame. With
         * `retries: 0` the client must know early that it may have run, and the client of a detached one
         * when it may leave. */
        if (state == TASK_RUNNING || state == TASK_FROZEN || state == TASK_WAITING ||
            (state == TASK_QUEUED && (task->attempt > 0 || task->detached)) ||
            (state == TASK_STARTING && task->job->retries == 0))
                session_status_due(task->session, task);
        master_bus_task_changed(m->bus, task);
        manager_notify(m);
}

Task *task_free(Task *task) {
        Manager *m;
        Attempt *attempt;

        if (!task)
                return NULL;
        m = task->manager;
        attempt = task->current;
        if (task->state < TASK_ENDED)
                task_set_state(task, TASK_ENDED);
        if (attempt) {
                attempt->task = NULL;
                task->current = NULL;
                if (attempt->state == ATTEMPT_ENDED)
                        attempt_free(attempt);
        }
        streams_task_gone(&m->streams, task);
        task_forget_wire(task);
        m->n_state[task->state]--;
        (void) hashmap_remove(task->session->owner->tasks, &task->id);
        m->n_tasks--;
        list_remove(&task->in_session);
        list_remove(&task->in_status);
        list_remove(&task->in_result);
        task->session->n_tasks--;
        task->job->n_tasks--;
        for (unsigned i = 0; i < task->n_runs; i++) {
                free(task->runs[i].node);
                free(task->runs[i].unit);
        }
        free(task->runs);
        free(task->argument);
        free(task->cancelled_by);
        free(task->outcome);
        free(task->receipt);
        free(task->node_name);
        free(task->unit);
        free(task->progress);
        log_tail_free(&m->logs, task->log);
        detached_free(task->detached);
        return mfree(task);
}

void task_set_deadline(Task *task, uint64_t left_ms) {
        Manager *m = task->manager;

        task->deadline_limit_ms = left_ms;
        task->deadline = usec_add(manager_now(m), left_ms * USEC_PER_MSEC);
        if (prioq_put(m->deadlines, task) >= 0)
                manager_deadlines_changed(m);
}

/* By sequence: those that were there before go first. Found from both ends, as it is near one of them. */
static void queue_insert(ListLink *queue, Task *task) {
        ListLink *front = queue->next, *back = queue->previous;

        while (front != queue && back != queue) {
                if (LIST_ENTRY(Task, in_queue, back)->sequence < task->sequence) {
                        list_insert_after(back, &task->in_queue);
                        return;
                }
                if (LIST_ENTRY(Task, in_queue, front)->sequence > task->sequence) {
                        list_insert_after(front->previous, &task->in_queue);
                        return;
                }
                front = front->next;
                back = back->previous;
        }
        list_append(queue, &task->in_queue);
}

void task_queue(Task *task) {
        Manager *m = task->manager;

        task_set_state(task, TASK_QUEUED);
        task->queued_since = manager_now(m);
        if (task->not_before > manager_now(m) && prioq_put(m->delayed, task) >= 0) {
                manager_delays_changed(m);
                return;
        }
        queue_insert(&task->job->queue, task);
        task->job->n_queued++;
        session_job_changed(task->session, task->job);
        manager_schedule(m);
}

void task_wait(Task *task) {
        task_set_state(task, TASK_WAITING);
        if (!list_is_linked(&task->in_queue))
                list_append(&task->manager->waiting, &task->in_queue);
}

void task_attach(Task *task, Attempt *attempt) {
        task->current = attempt;
        attempt->task = task;
        attempt_take(attempt, &task->job->requires);
        task->attempt = attempt->number;
        task->wire = attempt->id;
        task->given_mcpus = attempt->mcpus;
        task->given_memory = attempt->memory;
        free_and_strdup(&task->node_name, attempt->node->name);
        free_and_strdup(&task->unit, attempt->unit);
}

void task_rehome(Task *task, Session *session, Job *job) {
        TaskState state = task->state;

        /* Off the old books … */
        list_remove(&task->in_status);
        list_remove(&task->in_result);
        if (state < TASK_ENDED) {
                task_set_state(task, TASK_WAITING);
                list_remove(&task->in_status);
                list_remove(&task->in_queue);
                task->session->n_unfinished--;
        }
        list_remove(&task->in_session);
        task->session->n_tasks--;
        task->job->n_tasks--;
        /* … onto the new ones. */
        task->session = session;
        task->job = job;
        task->payload_sent = false;
        list_append(&session->tasks, &task->in_session);
        session->n_tasks++;
        job->n_tasks++;
        streams_task_moved(&task->manager->streams, task);
        if (state >= TASK_ENDED)
                return;
        session->n_unfinished++;
        if (state == TASK_QUEUED)
                task_queue(task);
        else if (state == TASK_WAITING) {
                if (!detached_is_held(task))
                        task_wait(task);
        } else
                task_set_state(task, state);
}

static void task_remember_run(Task *task, OutcomeKind outcome) {
        TaskRun *runs, *run;

        if (task->n_runs >= TASK_RUNS_MAX)
                return;
        runs = realloc(task->runs, (task->n_runs + 1) * sizeof(*runs));
        if (!runs)
                return;
        task->runs = runs;
        run = runs + task->n_runs++;
        *run = (TaskRun){
                .attempt = task->attempt,
                .outcome = outcome,
                .node = TAKE_PTR(task->node_name),
                .unit = TAKE_PTR(task->unit),
                .started_at = task->started_at,
                .ended_at = now_usec(CLOCK_REALTIME),
        };
}

Attempt *task_detach_attempt(Task *task, OutcomeKind outcome) {
        Attempt *attempt = task->current;

        if (!attempt)
                return NULL;
        task_set_state(task, TASK_WAITING);
        task_remember_run(task, outcome);
        task->node_name = mfree(task->node_name);
        task->unit = mfree(task->unit);
        task->progress = mfree(task->progress);
        task->started_at = 0;
        task->current = NULL;
        attempt->task = NULL;
        return attempt;
}

void task_retry(Task *task, bool counted, const char *why) {
        Manager *m = task->manager;
        uint64_t now = manager_now(m), backoff = 0;
        Node *node = task->current ? task->current->node : NULL;

        (void) task_detach_attempt(task, counted ? OUTCOME_NODE_LOST : OUTCOME_NONE);
        if (task->detached)
                detached_retried(task);
        task->outcome_kind = OUTCOME_NONE;
        task->outcome = mfree(task->outcome);
        task->receipt = mfree(task->receipt);
        task->result_size = 0;
        task->payload_sent = false;
        task->ended_at = 0;
        if (task->cancelled_by) {
                task_end_own(task, OUTCOME_CANCELLED, "by", task->cancelled_by);
                return;
        }
        if (task->deadline <= now) {
                task_expire(task);
                return;
        }
        if (!counted)
                /* That number was never used. */
                task->attempt -= task->attempt > 0;
        else if (task->attempt > task->job->retries) {
                task_end_own(task, OUTCOME_NODE_LOST, "message", why);
                return;
        } else {
                task->failures++;
                if (task->failures > 1)
                        backoff = MIN((uint64_t) BACKOFF_FIRST_MS << MIN(task->failures - 2, 10U),
                                      (uint64_t) BACKOFF_MAX_MS);
                task->not_before = now + backoff * USEC_PER_MSEC;
                task->avoid = node;
                task->avoid_until = now + AVOID_MS * USEC_PER_MSEC;
        }
        task_queue(task);
}

void task_end(Task *task, OutcomeKind kind, const char *outcome, const char *receipt, uint64_t size,
              const struct iovec *payload) {
        Manager *m = task->manager;

        if (task->state >= TASK_ENDED)
                return;
        task->outcome_kind = kind;
        free_and_strdup(&task->outcome, outcome);
        free_and_strdup(&task->receipt, receipt);
        task->result_size = size;
        task->ended_at = now_usec(CLOCK_REALTIME);
        task_set_state(task, TASK_ENDED);
        m->n_ended++;
        if (kind != OUTCOME_VALUE) {
                m->n_failed++;
                why_log(task);
        }
        manager_log_ended(m, task);
        session_result(task->session, task, payload);
        if (task->detached)
                detached_ended(task);
}

static void end_own(Task *task, OutcomeKind kind, const char *key, const char *text, const char *reason) {
        _cleanup_(json_putp) json_object *outcome = NULL;
        Attempt *attempt = task->current;

        if (json_new_object(&outcome) < 0 ||
            json_add_string(outcome, "kind", outcome_kind_to_string(kind)) < 0)
                return;
        if (reason)
                (void) json_add_string(outcome, "reason", reason);
        if (key)
                (void) json_add_string(outcome, key, strempty(text));
        if (kind == OUTCOME_NODE_LOST)
                (void) json_add_uint64(outcome, "attempts", task->attempt);
        if (kind == OUTCOME_DEADLINE)
                (void) json_add_uint64(outcome, "limit_ms", task->deadline_limit_ms);
        if (attempt) {
                /* It takes room until its node says that it is gone. */
                if (attempt->state != ATTEMPT_ENDED && !attempt->stopping) {
                        node_stop_attempt(attempt->node, attempt->id, attempt->number,
                                          kind == OUTCOME_DEADLINE ? "deadline" : "cancelled", text);
                        attempt->stopping = true;
                }
                task_set_state(task, TASK_WAITING);
                attempt->task = NULL;
                task->current = NULL;
                task_keep_wire(task);
                if (attempt->state == ATTEMPT_ENDED) {
                        node_release(attempt->node, attempt->id, attempt->number);
                        attempt_free(attempt);
                }
        }
        task_end(task, kind, json_text(outcome, NULL), NULL, 0, NULL);
}

void task_end_own(Task *task, OutcomeKind kind, const char *key, const char *text) {
        end_own(task, kind, key, text, NULL);
}

void task_refuse(Task *task, const char *reason, const char *message) {
        end_own(task, OUTCOME_REFUSED, "message", message, reason);
}

void task_cancel(Task *task, const char *by) {
        Attempt *attempt = task->current;

        if (task->state >= TASK_ENDED || task->cancelled_by)
                return;
        if (!task_is_placed(task) || !attempt->node->peer || !attempt->node->reconciled) {
                task_end_own(task, OUTCOME_CANCELLED, "by", by);
                return;
        }
        free_and_strdup(&task->cancelled_by, by);
        node_stop_attempt(attempt->node, attempt->id, attempt->number, "cancelled", by);
        attempt->stopping = true;
}

void task_deliver(Task *task) {
        Attempt *attempt = task->current;

        if (attempt) {
                node_release(attempt->node, attempt->id, attempt->number);
                attempt_free(attempt);
        }
        task_set_state(task, TASK_DELIVERED);
        history_add(task->manager->history, task);
        task_free(task);
}

void task_discard(Task *task, const char *by) {
        Session *session = task->session;

        if (task->state < TASK_ENDED) {
                Peer *peer = TAKE_PTR(session->peer);

                /* There is nobody to tell. */
                task_end_own(task, OUTCOME_CANCELLED, "by", by);
                session->peer = peer;
        }
        task_deliver(task);
}

void task_expire(Task *task) {
        Attempt *attempt = task->current;

        if (task->state >= TASK_ENDED)
                return;
        /* While it runs the node keeps the time, and its end has a receipt; but a node out of reach cannot
         * tell. */
        if (attempt && attempt->node->peer && attempt->node->reconciled)
                return;
        task_end_own(task, OUTCOME_DEADLINE, NULL, NULL);
}
