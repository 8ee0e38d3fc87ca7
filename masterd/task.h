/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "id.h"
#include "list.h"
#include "macros.h"
#include "memory-util.h"
#include "outcome.h"
#include "types.h"

typedef enum TaskState {
        TASK_WAITING, /* sent again by its client after the master forgot it: a node may still run it */
        TASK_QUEUED,
        TASK_STARTING, /* dispatched */
        TASK_RUNNING,
        TASK_FROZEN, /* its node's lease ended */
        TASK_ENDED,  /* there is a result, which its client has not acknowledged */
        TASK_DELIVERED,
        _TASK_STATE_MAX,
} TaskState;

DEFINE_NAME_TABLE_DECLARATION(task_state, TaskState);

enum {
        TASK_INLINE_MAX = 64 << 10,  /* bytes of an argument or result inside a batch */
        TASK_OUTCOME_MAX = 64 << 10, /* bytes of an outcome's or a receipt's JSON */
        TASK_PROGRESS_MAX = 1 << 10,
        TASK_RUNS_MAX = 16, /* former attempts remembered for `task show` */
};

/* A former attempt. */
typedef struct TaskRun {
        uint32_t attempt;
        OutcomeKind outcome; /* OUTCOME_NODE_LOST: with its node */
        char *node, *unit;
        uint64_t started_at, ended_at; /* realtime µs, 0: unknown */
} TaskRun;

/* One call. */
struct Task {
        Manager *manager;
        Id id;
        TaskState state;
        Session *session;
        Job *job;
        ListLink in_session;
        ListLink in_queue;  /* the job's queue, or the manager's waiting list */
        ListLink in_status; /* the session's list of tasks whose STATUS is due */
        ListLink in_result; /* the session's list of ended tasks whose RESULT is due */
        size_t deadline_index, delay_index;
        uint32_t share;        /* of Session.mcpus_running */
        uint64_t share_memory; /* likewise of Owner.memory_running */

        Attempt *current;  /* the attempt that runs it or holds its result; NULL: none */
        uint32_t attempt;  /* number of the last one */
        Id wire;           /* its id */
        uint32_t failures; /* ended by infrastructure, one after the other */
        Node *avoid;       /* where it failed last */
        uint64_t avoid_until, not_before;

        uint64_t sequence;
        uint64_t deadline; /* BOOTTIME µs, USEC_INFINITY: none */
        uint64_t deadline_limit_ms;
        uint64_t queued_since;                                   /* BOOTTIME µs */
        uint64_t queued_at, dispatched_at, started_at, ended_at; /* realtime µs, 0: not yet */

        uint64_t size;      /* of the argument, bytes */
        void *argument;     /* inline, NULL: to be fetched */
        char *cancelled_by; /* STOP has been sent */

        OutcomeKind outcome_kind;
        char *outcome, *receipt; /* JSON */
        uint64_t result_size;
        bool has_wire;          /* in Owner.wires */
        bool kept_wire;         /* in Manager.kept, by `wire` */
        bool payload_sent;      /* the present connection got the result inline */
        char *node_name, *unit; /* of the last attempt */
        uint32_t given_mcpus;   /* and what it was given; 0: there was none */
        uint64_t given_memory;
        char *progress; /* JSON */
        LogTail *log;
        Detached *detached;

        TaskRun *runs;
        unsigned n_runs;
};

/* A task in `waiting`, in all tables. Returns 0, -EEXIST when its owner has one with that id, -ENOMEM. */
int task_new(Session *session, Job *job, Id id, Task **ret);
/* Takes it out of all tables. Its attempt, if any, is abandoned. */
Task *task_free(Task *task);
DEFINE_CLEANUP(Task, task_free);

int task_deadline_compare(const void *left, const void *right);
int task_delay_compare(const void *left, const void *right);

static inline bool task_is_placed(const Task *task) {
        return task->state == TASK_STARTING || task->state == TASK_RUNNING || task->state == TASK_FROZEN;
}

static inline bool task_is_unfinished(const Task *task) {
        return task->state < TASK_ENDED;
}

/* The only place where a state changes: counts, the session's share, the STATUS to the client. */
void task_set_state(Task *task, TaskState state);

/* The client's patience from now on, ms; 0 has passed already. */
void task_set_deadline(Task *task, uint64_t left_ms);

/* Into its job's queue. front: before those that came later (it has been there already). */
void task_queue(Task *task);
/* Whether it is found by attempt_other_id() too, while it waits for the nodes' reports. */
void task_set_wire(Task *task, bool set);
/* It ends and its attempt goes, before its client has the result: until it is among the past ones it is
 * found by its attempt's id, for what its node still has to say. */
void task_keep_wire(Task *task);
/* Waits until it is clear that no node runs it. */
void task_wait(Task *task);
void task_drop_argument(Task *task);

/* The attempt belongs to the task from now on: it is there, adopted or just made. */
void task_attach(Task *task, Attempt *attempt);

/* Moves it, as it is, to another session of the same user and the same job there. */
void task_rehome(Task *task, Session *session, Job *job);

/* Takes the attempt off the task and remembers it among the former ones. The attempt stays on its node. */
Attempt *task_detach_attempt(Task *task, OutcomeKind outcome);

/* The attempt is over or gone without a result of the task's own. counted: it may have run, which uses up a
 * retry. Queues the task again or ends it (node-lost, cancelled, deadline). */
void task_retry(Task *task, bool counted, const char *why);

/* The result. outcome, receipt: JSON, copied; payload: passed on to the client if it can take it now, NULL:
 * it fetches it. */
void task_end(Task *task, OutcomeKind kind, const char *outcome, const char *receipt, uint64_t size,
              const struct iovec *payload);
/* For outcomes that the master itself decides: {"kind":…} with one more member (NULL: none). */
void task_end_own(Task *task, OutcomeKind kind, const char *key, const char *text);

/* The cluster does not take it. reason: "unknown", "not-allowed", "quota" or "rejected", see the protocol;
 * message: a sentence. */
void task_refuse(Task *task, const char *reason, const char *message);

/* by: a user, or what took it upon itself. Queued: ends at once; running: the node is told. */
void task_cancel(Task *task, const char *by);

/* The client has it: the node may forget it, and so does the table. Frees the task. */
void task_deliver(Task *task);
/* Nobody waits for it any more: ended as cancelled, remembered, freed. */
void task_discard(Task *task, const char *by);

/* The deadline has passed. */
void task_expire(Task *task);
