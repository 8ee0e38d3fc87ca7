/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "id.h"
#include "list.h"
#include "memory-util.h"
#include "outcome.h"
#include "task.h"
#include "types.h"

/* The last ended tasks, packed small: what `tasks --ended`, `task show`, `why` and `logs` still know. */
struct HistoryEntry {
        Id id, job;
        Id wire;      /* of its last attempt */
        Owner *owner; /* a reference */
        ListLink link;
        struct HistoryBlock *block;
        uint32_t attempt;
        int priority;
        uint32_t mcpus;
        uint64_t memory;
        uint64_t queued_at, started_at, ended_at; /* realtime µs */
        OutcomeKind kind;
        unsigned n_runs;
        TaskRun *runs;
        LogTail *log;
        char text[]; /* name, node, unit, outcome, packed receipt, each with its NUL; "" for none */
};

/* max: entries remembered. Returns 0, -ENOMEM. */
int history_new(Manager *manager, unsigned max, History **ret);
History *history_free(History *history);
DEFINE_CLEANUP(History, history_free);

/* Takes the task's runs and log. Without memory it is not remembered. */
void history_add(History *history, Task *task);
HistoryEntry *history_find(const Owner *owner, Id id);
/* The latest whose last attempt had that id on the wire, and whether it was on that node. */
HistoryEntry *history_find_wire(const History *history, Id wire);
bool history_is_from(const HistoryEntry *entry, const Node *node);
ListLink *history_list(History *history); /* of HistoryEntry.link, oldest first */
size_t history_size(const History *history);

/* One ended or living task, for those who tell about it. Everything is borrowed. */
typedef struct TaskView {
        Task *task; /* NULL: ended and delivered */
        HistoryEntry *entry;
        Id id, job;
        const char *state, *name, *owner, *node, *unit, *outcome, *progress; /* NULL for none */
        uint32_t attempt;
        int priority;
        uint32_t mcpus;
        uint64_t memory;
        uint64_t queued_at, started_at, ended_at;
        OutcomeKind kind;
        const TaskRun *runs;
        unsigned n_runs;
        LogTail *log;
        const char *receipt_text, *receipt_packed; /* task_view_receipt() */
} TaskView;

void task_view(Task *task, TaskView *ret);
void history_view(HistoryEntry *entry, TaskView *ret);
/* JSON, from malloc; NULL for none. */
char *task_view_receipt(const TaskView *view);

/* By id or by a prefix of at least four digits that only one of this owner's has; owner NULL: of all
 * owners'. Returns 0, -ENOENT, -ENOTUNIQ, -EINVAL. */
int task_find(Manager *m, const Owner *owner, const char *hex, TaskView *ret);
/* By the whole id. Returns 0, -ENOENT. */
int task_find_id(const Owner *owner, Id id, TaskView *ret);
