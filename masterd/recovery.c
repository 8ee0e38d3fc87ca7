/* SPDX-License-Identifier: Apache-2.0 */
#include "recovery.h"

#include <errno.h>

#include "environment-job.h"
#include "history.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "outcome-json.h"
#include "owner.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

static TaskState task_state_of(AttemptState state) {
        switch (state) {
        case ATTEMPT_STARTING:
                return TASK_STARTING;
        case ATTEMPT_FROZEN:
                return TASK_FROZEN;
        default:
                return TASK_RUNNING;
        }
}

/* What is reported of an attempt that is its task's present one. */
static void attempt_apply(Attempt *attempt, const ReportedAttempt *r, bool *ret_release) {
        Task *task = attempt->task;

        free_and_strdup(&attempt->unit, r->unit);
        free_and_strdup(&task->unit, r->unit);
        if (r->state != ATTEMPT_ENDED) {
                /* Frozen ones thaw with RECONCILE. */
                AttemptState state = r->state == ATTEMPT_FROZEN ? ATTEMPT_RUNNING : r->state;

                if (task_is_unfinished(task)) {
                        attempt_set_state(attempt, state);
                        task_set_state(task, task_state_of(state));
                        if (state == ATTEMPT_RUNNING && task->started_at == 0)
                                task->started_at = now_usec(CLOCK_REALTIME);
                }
                return;
        }
        attempt_set_state(attempt, ATTEMPT_ENDED);
        if (!task_is_unfinished(task))
                return;
        if (r->kind == OUTCOME_SUPERSEDED || ((r->kind == OUTCOME_INFRASTRUCTURE || r->retry) &&
                                              !task->cancelled_by && task->attempt <= task->job->retries)) {
                *ret_release = true;
                task_retry(task, true, "its node could not run it");
                attempt_free(attempt);
                return;
        }
        /* The payload stays there until the client fetches it. */
        task_end(task, r->kind == OUTCOME_INFRASTRUCTURE ? OUTCOME_NODE_LOST : r->kind, r->outcome,
                 r->receipt, r->size, NULL);
}

static int attempt_from_report(Node *node, Owner *owner, const ReportedAttempt *r, Attempt **ret) {
        Resources devices = { 0 };
        Attempt *attempt;
        int q;

        q = resources_read(r->devices, &devices);
        if (q < 0)
                return q;
        q = attempt_new(node, owner, r->id, r->number, r->mcpus, r->memory, &attempt);
        if (q >= 0) /* until its client tells what else it requires */
                attempt_take(attempt, &devices);
        resources_done(&devices);
        if (q < 0)
                return q;
        attempt->reported = true;
        free_and_strdup(&attempt->unit, r->unit);
        attempt_set_state(attempt, r->state);
        *ret = attempt;
        return 0;
}

static int orphan_new(Node *node, const ReportedAttempt *r) {
        Manager *m = node->manager;
        _cleanup_(orphan_freep) Orphan *orphan = new0(Orphan);
        _cleanup_(owner_unrefp) Owner *owner = NULL;
        Attempt *attempt, *other;
        int q;

        if (!orphan)
                return -ENOMEM;
        orphan->session = r->session;
        orphan->until = manager_now(m) + m->config->client_timeout;
        orphan->size = r->size;
        q = owner_get(m, r->owner, &owner);
        if (q < 0)
                return q;
        if (r->state == ATTEMPT_ENDED) {
                orphan->outcome = r->outcome ? strdup(r->outcome) : NULL;
                orphan->receipt = r->receipt ? strdup(r->receipt) : NULL;
        }
        q = attempt_from_report(node, owner, r, &attempt);
        if (q < 0)
                return q;
        other = hashmap_get(owner->orphans, &r->id);
        if (other) {
                /* Two nodes have it: the later attempt is the one. */
                node_stop_attempt(other->node, other->id, other->number, "superseded", NULL);
                node_release(other->node, other->id, other->number);
                attempt_free(other);
        }
        q = hashmap_put(owner->orphans, &attempt->id, attempt);
        if (q < 0) {
                attempt_free(attempt);
                return q;
        }
        m->n_orphans++;
        manager_orphan_until(m, orphan->until);
        attempt->orphan = TAKE_PTR(orphan);
        return 0;
}

/* The table knows no such task. */
static int report_unknown(Node *node, const ReportedAttempt *r, bool *ret_stop, bool *ret_release) {
        Manager *m = node->manager;
        Session *session = session_find(m, r->owner, r->session);
        Owner *owner = owner_find(m, r->owner);
        Attempt *other = owner ? hashmap_get(owner->orphans, &r->id) : NULL;
        const HistoryEntry *past = history_find_wire(m->history, r->id);

        if ((session && session->synced) || (other && other->number >= r->number) ||
            r->kind == OUTCOME_SUPERSEDED || history_find(owner, r->id) || (past && past->owner == owner)) {
                *ret_stop = r->state != ATTEMPT_ENDED;
                *ret_release = r->state == ATTEMPT_ENDED;
                return 0;
        }
        return orphan_new(node, r);
}

void recovery_report_begin(Node *node) {
        Attempt *attempt;

        HASHMAP_FOREACH(attempt, node->attempts) {
                attempt->reported = false;
                /* Superseded by RECONCILE if they are still there. */
                if (!attempt->task && !attempt->orphan)
                        attempt_free(attempt);
        }
}

/* By the id of an attempt. */
static Task *find_task(const Owner *owner, Id wire) {
        Task *task = owner_task(owner, wire);

        return task || !owner ? task : hashmap_get(owner->wires, &wire);
}

int recovery_report(Node *node, const ReportedAttempt *r, bool *ret_stop, bool *ret_release) {
        Manager *m = node->manager;
        Owner *owner = owner_find(m, r->owner);
        Attempt *attempt = hashmap_get(node->attempts, &r->id);
        Task *task = find_task(owner, r->id);
        int q;

        *ret_stop = *ret_release = false;
        if (attempt && attempt->owner != owner) {
                /* Only a node that makes things up says that another's is there. */
                *ret_stop = r->state != ATTEMPT_ENDED;
                *ret_release = r->state == ATTEMPT_ENDED;
                return 0;
        }
        if (attempt && attempt->number == r->number) {
                attempt->reported = true;
                if (attempt->task && attempt->task->cancelled_by && task_is_unfinished(attempt->task) &&
                    r->state != ATTEMPT_ENDED) {
                        /* The STOP may have been lost, and what RECONCILE stops has no ENDED. */
                        task_end_own(attempt->task, OUTCOME_CANCELLED, "by", attempt->task->cancelled_by);
                        attempt_free(attempt);
                        *ret_stop = true;
                } else if (attempt->task)
                        attempt_apply(attempt, r, ret_release);
                else if (attempt->orphan) {
                        /* Its claim goes on; what it is by now is told anew. */
                        uint64_t until = attempt->orphan->until;

                        attempt_free(attempt);
                        q = orphan_new(node, r);
                        if (q < 0)
                                return q;
                        attempt = hashmap_get(node->attempts, &r->id);
                        if (attempt && attempt->orphan)
                                attempt->orphan->until = until;
                }
                return 0;
        }
        if (!task)
                return report_unknown(node, r, ret_stop, ret_release);

        if (!task_is_unfinished(task) || r->number < task->attempt ||
            (task->current && r->number == task->attempt) || r->kind == OUTCOME_SUPERSEDED) {
                *ret_stop = r->state != ATTEMPT_ENDED;
                *ret_release = r->state == ATTEMPT_ENDED;
                return 0;
        }
        /* The task is not placed, or with an earlier attempt: this one is its present one. */
        if (task->current) {
                Attempt *former = task_detach_attempt(task, OUTCOME_SUPERSEDED);

                node_stop_attempt(former->node, former->id, former->number, "superseded", NULL);
                former->stopping = true;
        }
        q = attempt_from_report(node, owner, r, &attempt);
        if (q < 0)
                return q;
        task_set_state(task, TASK_WAITING);
        task_attach(task, attempt);
        task_set_state(task, TASK_STARTING);
        attempt_apply(attempt, r, ret_release);
        return 0;
}

void recovery_report_end(Node *node) {
        Attempt *attempt;

        HASHMAP_FOREACH(attempt, node->attempts) {
                Task *task = attempt->task;

                if (attempt->reported)
                        continue;
                if (task && task_is_unfinished(task))
                        /* A node keeps what it has got until it is told to forget it: one that only was on
                         * its way there has never run. */
                        task_retry(task, attempt->state != ATTEMPT_STARTING, "its node lost it");
                else if (task && task->result_size > 0 && !task->payload_sent)
                        task_retry(task, true, "its result was lost");
                attempt_free(attempt);
        }
        node->reconciled = true;
        node_update(node);
        streams_node_connected(&node->manager->streams, node);
        recovery_check(node->manager);
}

/* An orphan finds its task. */
static void orphan_adopt(Task *task, Attempt *attempt) {
        _cleanup_(orphan_freep) Orphan *orphan = TAKE_PTR(attempt->orphan);
        ReportedAttempt r = { .id = task->id,
                              .number = attempt->number,
                              .state = attempt->state,
                              .size = orphan->size,
                              .outcome = orphan->outcome,
                              .receipt = orphan->receipt };
        _cleanup_(freep) char *unit = attempt->unit ? strdup(attempt->unit) : NULL;
        Node *node = attempt->node;
        uint32_t number = attempt->number;
        bool release = false;

        (void) hashmap_remove(attempt->owner->orphans, &attempt->id);
        task->manager->n_orphans--;
        r.id = attempt->id;
        r.unit = unit;
        if (r.state == ATTEMPT_ENDED && (!r.outcome || outcome_parse(r.outcome, &r.kind, &r.retry) < 0)) {
                attempt_free(attempt);
                task_queue(task);
                return;
        }
        task_attach(task, attempt);
        task_set_state(task, TASK_STARTING);
        attempt_apply(attempt, &r, &release);
        if (release)
                node_release(node, r.id, number);
}

/* No node has it. What was running when the master knew of it is lost. */
static void task_go_on(Task *task) {
        if (task->attempt > task->job->retries)
                task_end_own(task, OUTCOME_NODE_LOST, "message", "no node has the attempt that was running");
        else
                task_queue(task);
}

static Attempt *find_orphan(const Task *task) {
        const Hashmap *orphans = task->session->owner->orphans;
        Attempt *attempt = hashmap_get(orphans, &task->id);
        Id other;

        if (attempt || hashmap_size(orphans) == 0 ||
            attempt_other_id(task->session->user, task->id, &other) < 0)
                return attempt;
        return hashmap_get(orphans, &other);
}

void recovery_resubmitted(Task *task, uint32_t attempts) {
        Manager *m = task->manager;
        Attempt *orphan = find_orphan(task);

        if (orphan && orphan->number >= attempts) {
                orphan_adopt(task, orphan);
                return;
        }
        if (orphan) {
                node_stop_attempt(orphan->node, orphan->id, orphan->number, "superseded", NULL);
                node_release(orphan->node, orphan->id, orphan->number);
                attempt_free(orphan);
        }
        task->attempt = attempts;
        if (recovery_is_pending(m, NULL)) {
                task_wait(task);
                task_set_wire(task, true);
        } else
                task_go_on(task);
}

static void orphan_drop(Attempt *attempt) {
        Node *node = attempt->node;

        if (attempt->state == ATTEMPT_ENDED) {
                node_release(node, attempt->id, attempt->number);
                attempt_free(attempt);
                return;
        }
        /* It takes room until its node says that it has ended. */
        node_stop_attempt(node, attempt->id, attempt->number, "cancelled", "the loss of its client");
        (void) hashmap_remove(attempt->owner->orphans, &attempt->id);
        node->manager->n_orphans--;
        attempt->orphan = orphan_free(attempt->orphan);
        attempt->stopping = true;
}

static void session_drop_orphans(const Session *session) {
        Attempt *attempt;

        HASHMAP_FOREACH(attempt, session->owner->orphans)
                if (id_equal(attempt->orphan->session, session->key))
                        orphan_drop(attempt);
}

void recovery_session_synced(Manager *m, Session *session) {
        session->synced = true;
        session_drop_orphans(session);
}

void recovery_session_gone(Manager *m, Session *session) {
        session_drop_orphans(session);
}

bool recovery_is_pending(Manager *m, uint64_t *ret_until) {
        uint64_t until = 0;
        bool pending = false;
        Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                if (!node_is_accounted(node)) {
                        pending = true;
                        until = MAX(until, node->heartbeat_at + m->config->lease + m->config->lease_margin);
                }
        if (ret_until)
                *ret_until = until;
        return pending;
}

void recovery_check(Manager *m) {
        if (list_is_empty(&m->waiting) || recovery_is_pending(m, NULL))
                return;
        log_info("All nodes have reported: the tasks that waited for it are queued");
        LIST_FOREACH(Task, task, in_queue, &m->waiting)
                task_go_on(task);
}

uint64_t recovery_expire_orphans(Manager *m, uint64_t now) {
        uint64_t next = USEC_INFINITY;
        Attempt *attempt;
        Owner *owner;

        HASHMAP_FOREACH(owner, m->owners) {
                /* It may go with its last orphan. */
                _cleanup_(owner_unrefp) Owner *held = owner_ref(owner);

                HASHMAP_FOREACH(attempt, held->orphans)
                        if (attempt->orphan->until <= now)
                                orphan_drop(attempt);
                        else
                                next = MIN(next, attempt->orphan->until);
        }
        return next;
}
