/* SPDX-License-Identifier: Apache-2.0 */
#include "history.h"

#include <errno.h>
#include <string.h>

#include "attempt.h"
#include "hashmap.h"
#include "job.h"
#include "log-tail.h"
#include "manager.h"
#include "session.h"

enum { PREFIX_MIN = 4 };

struct History {
        Manager *manager;
        unsigned max;
        Hashmap *entries; /* by id */
        ListLink list;
};

int history_new(Manager *manager, unsigned max, History **ret) {
        _cleanup_(history_freep) History *history = new0(History);
        int r;

        if (!history)
                return -ENOMEM;
        history->manager = manager;
        history->max = max;
        list_init(&history->list);
        r = hashmap_new(HASHMAP_ID, &history->entries);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(history);
        return 0;
}

static void entry_free(History *history, HistoryEntry *entry) {
        (void) hashmap_remove(history->entries, &entry->id);
        list_remove(&entry->link);
        for (unsigned i = 0; i < entry->n_runs; i++) {
                free(entry->runs[i].node);
                free(entry->runs[i].unit);
        }
        free(entry->runs);
        log_tail_free(&history->manager->logs, entry->log);
        free(entry);
}

History *history_free(History *history) {
        if (!history)
                return NULL;
        LIST_FOREACH(HistoryEntry, entry, link, &history->list)
        entry_free(history, entry);
        hashmap_free(history->entries);
        return mfree(history);
}

static const char *pack(char **p, const char *s) {
        char *start = *p;

        *p = stpcpy(start, strempty(s)) + 1;
        return start;
}

void history_add(History *history, Task *task) {
        const char *owner = task->session->user, *name = task->job->name;
        HistoryEntry *entry, *same;
        size_t size;
        char *p;

        if (history->max == 0)
                return;
        size = strlen(owner) + strlen(name) + strlen(strempty(task->node_name)) +
               strlen(strempty(task->unit)) + strlen(strempty(task->outcome)) +
               strlen(strempty(task->receipt)) + 6;
        entry = malloc(sizeof(*entry) + size);
        if (!entry)
                return;
        *entry = (HistoryEntry){
                .id = task->id,
                .job = task->job->id,
                .session = task->session->key,
                .attempt = task->attempt,
                .priority = task->job->priority,
                .mcpus = task->job->mcpus,
                .memory = task->job->memory,
                .queued_at = task->queued_at,
                .started_at = task->started_at,
                .ended_at = task->ended_at,
                .kind = task->outcome_kind,
                .n_runs = task->n_runs,
                .runs = TAKE_PTR(task->runs),
                .log = TAKE_PTR(task->log),
        };
        task->n_runs = 0;
        p = entry->text;
        entry->name = pack(&p, name);
        entry->owner = pack(&p, owner);
        entry->node = pack(&p, task->node_name);
        entry->unit = pack(&p, task->unit);
        entry->outcome = pack(&p, task->outcome);
        entry->receipt = pack(&p, task->receipt);
        same = history_find(history, task->id);
        if (same)
                entry_free(history, same);
        list_append(&history->list, &entry->link);
        if (hashmap_put(history->entries, &entry->id, entry) < 0) {
                entry_free(history, entry);
                return;
        }
        while (hashmap_size(history->entries) > history->max)
                entry_free(history, LIST_FIRST(HistoryEntry, link, &history->list));
}

HistoryEntry *history_find(const History *history, Id id) {
        return hashmap_get(history->entries, &id);
}

ListLink *history_list(History *history) {
        return &history->list;
}

size_t history_size(const History *history) {
        return hashmap_size(history->entries);
}

static const char *or_null(const char *s) {
        return isempty(s) ? NULL : s;
}

void task_view(Task *task, TaskView *ret) {
        *ret = (TaskView){
                .task = task,
                .id = task->id,
                .job = task->job->id,
                .state = task_state_to_string(task->state),
                .name = task->job->name,
                .owner = task->session->user,
                .node = task->node_name,
                .unit = task->unit,
                .outcome = task->outcome,
                .receipt = task->receipt,
                .progress = task->progress,
                .attempt = task->attempt,
                .priority = task->job->priority,
                .mcpus = task->current ? task->current->mcpus : task->job->mcpus,
                .memory = task->current ? task->current->memory : task->job->memory,
                .queued_at = task->queued_at,
                .started_at = task->started_at,
                .ended_at = task->ended_at,
                .kind = task->outcome_kind,
                .runs = task->runs,
                .n_runs = task->n_runs,
                .log = task->log,
        };
}

void history_view(HistoryEntry *entry, TaskView *ret) {
        *ret = (TaskView){
                .entry = entry,
                .id = entry->id,
                .job = entry->job,
                .state = "ended",
                .name = entry->name,
                .owner = entry->owner,
                .node = or_null(entry->node),
                .unit = or_null(entry->unit),
                .outcome = or_null(entry->outcome),
                .receipt = or_null(entry->receipt),
                .attempt = entry->attempt,
                .priority = entry->priority,
                .mcpus = entry->mcpus,
                .memory = entry->memory,
                .queued_at = entry->queued_at,
                .started_at = entry->started_at,
                .ended_at = entry->ended_at,
                .kind = entry->kind,
                .runs = entry->runs,
                .n_runs = entry->n_runs,
                .log = entry->log,
        };
}

int task_find(Manager *m, const char *hex, TaskView *ret) {
        size_t size = strlen(hex), found = 0;
        Task *task;
        Id id;

        if (size < PREFIX_MIN || size >= ID_HEX_SIZE || strspn(hex, "0123456789abcdef") != size)
                return -EINVAL;
        if (id_from_hex(hex, &id) >= 0) {
                HistoryEntry *entry;

                task = manager_task(m, id);
                if (task) {
                        task_view(task, ret);
                        return 0;
                }
                entry = history_find(m->history, id);
                if (!entry)
                        return -ENOENT;
                history_view(entry, ret);
                return 0;
        }
        HASHMAP_FOREACH(task, m->tasks)
        if (startswith(ID_HEX(task->id), hex)) {
                task_view(task, ret);
                found++;
        }
        LIST_FOREACH(HistoryEntry, entry, link, &m->history->list)
        if (!manager_task(m, entry->id) && startswith(ID_HEX(entry->id), hex)) {
                history_view(entry, ret);
                found++;
        }
        return found == 0 ? -ENOENT : found > 1 ? -ENOTUNIQ : 0;
}
