/* SPDX-License-Identifier: Apache-2.0 */
#include "history.h"

#include <errno.h>
#include <string.h>

#include "attempt.h"
#include "hashmap.h"
#include "job.h"
#include "log-tail.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "receipt-pack.h"
#include "session.h"

enum {
        PREFIX_MIN = 4,
        /* Over malloc's threshold for a mapping of its own (see daemon_new()). */
        BLOCK_SIZE = 256 << 10,
};

/* Entries come and go in order, so they lie one after the other in blocks: among the tasks on the heap they
 * would keep all of it from being given back. */
typedef struct HistoryBlock {
        unsigned n_entries;
        size_t used; /* bytes of data */
        char data[] __attribute__((aligned(16)));
} HistoryBlock;

struct History {
        Manager *manager;
        unsigned max;
        size_t n_entries;
        Hashmap *wires; /* by their ids on the wire, the latest each */
        ListLink list;
        HistoryBlock *block; /* the one that is being filled */
};

int history_new(Manager *manager, unsigned max, History **ret) {
        _cleanup_(history_freep) History *history = new0(History);
        int r;

        if (!history)
                return -ENOMEM;
        history->manager = manager;
        history->max = max;
        list_init(&history->list);
        r = hashmap_new(HASHMAP_ID, &history->wires);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(history);
        return 0;
}

static HistoryEntry *entry_allocate(History *history, size_t size) {
        HistoryBlock *block = history->block;
        HistoryEntry *entry;

        size = ALIGN_TO(size, (size_t) 16);
        if (!block || block->used + size > BLOCK_SIZE - sizeof(*block)) {
                block = malloc(MAX((size_t) BLOCK_SIZE, sizeof(*block) + size));
                if (!block)
                        return NULL;
                *block = (HistoryBlock){ 0 };
                if (history->block && history->block->n_entries == 0)
                        free(history->block);
                history->block = block;
        }
        entry = (HistoryEntry *) (block->data + block->used);
        block->used += size;
        block->n_entries++;
        *entry = (HistoryEntry){ .block = block };
        return entry;
}

static void entry_release(History *history, HistoryEntry *entry) {
        HistoryBlock *block = entry->block;

        if (--block->n_entries == 0 && block != history->block)
                free(block);
}

static void entry_free(History *history, HistoryEntry *entry) {
        (void) hashmap_remove(entry->owner->history, &entry->id);
        if (history_find_wire(history, entry->wire) == entry)
                (void) hashmap_remove(history->wires, &entry->wire);
        list_remove(&entry->link);
        history->n_entries--;
        for (unsigned i = 0; i < entry->n_runs; i++) {
                free(entry->runs[i].node);
                free(entry->runs[i].unit);
        }
        free(entry->runs);
        log_tail_free(&history->manager->logs, entry->log);
        owner_unref(entry->owner);
        entry_release(history, entry);
}

History *history_free(History *history) {
        if (!history)
                return NULL;
        LIST_FOREACH(HistoryEntry, entry, link, &history->list)
                entry_free(history, entry);
        hashmap_free(history->wires);
        free(history->block);
        return mfree(history);
}

/* What nearly all have is left out. */
static const char plain_value[] = "{\"kind\":\"value\"}";

static char *pack(char *p, const char *s) {
        return stpcpy(p, strempty(s)) + 1;
}

static const char *unpack(const char **p) {
        const char *s = *p;

        *p += strlen(s) + 1;
        return s[0] ? s : NULL;
}

void history_add(History *history, Task *task) {
        const char *name = task->job->name;
        Owner *owner = task->session->owner;
        _cleanup_(freep) char *receipt = NULL;
        const char *outcome = strempty(task->outcome);
        HistoryEntry *entry, *same;
        size_t size;
        char *p;

        if (history->max == 0)
                return;
        if (task->outcome_kind == OUTCOME_VALUE && streq(outcome, plain_value))
                outcome = "";
        receipt = malloc(strlen(strempty(task->receipt)) + 1);
        if (!receipt)
                return;
        size = strlen(name) + strlen(strempty(task->node_name)) + strlen(strempty(task->unit)) +
               strlen(outcome) + receipt_pack(strempty(task->receipt), receipt) + 5;
        entry = entry_allocate(history, sizeof(*entry) + size);
        if (!entry)
                return;
        *entry = (HistoryEntry){
                .block = entry->block,
                .id = task->id,
                .job = task->job->id,
                .wire = task->wire,
                .owner = owner_ref(owner),
                .attempt = task->attempt,
                .priority = task->job->priority,
                .mcpus = task->given_mcpus ?: task->job->mcpus,
                .memory = task->given_memory ?: task->job->memory,
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
        p = pack(p, name);
        p = pack(p, task->node_name);
        p = pack(p, task->unit);
        p = pack(p, outcome);
        (void) pack(p, receipt);
        same = history_find(owner, task->id);
        if (same)
                entry_free(history, same);
        list_append(&history->list, &entry->link);
        history->n_entries++;
        if (hashmap_put(owner->history, &entry->id, entry) < 0) {
                entry_free(history, entry);
                return;
        }
        (void) hashmap_replace(history->wires, &entry->wire, entry, NULL);
        while (history->n_entries > history->max) {
                HistoryEntry *oldest = LIST_FIRST(HistoryEntry, link, &history->list);

                if (!oldest)
                        break;
                entry_free(history, oldest);
        }
}

HistoryEntry *history_find(const Owner *owner, Id id) {
        return owner ? hashmap_get(owner->history, &id) : NULL;
}

HistoryEntry *history_find_wire(const History *history, Id wire) {
        return hashmap_get(history->wires, &wire);
}

bool history_is_from(const HistoryEntry *entry, const Node *node) {
        return streq(entry->text + strlen(entry->text) + 1, node->name);
}

ListLink *history_list(History *history) {
        return &history->list;
}

size_t history_size(const History *history) {
        return history->n_entries;
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
                .receipt_text = task->receipt,
                .progress = task->progress,
                .attempt = task->attempt,
                .priority = task->job->priority,
                .mcpus = task->given_mcpus ?: task->job->mcpus,
                .memory = task->given_memory ?: task->job->memory,
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
        const char *p = entry->text;
        *ret = (TaskView){
                .entry = entry,
                .id = entry->id,
                .job = entry->job,
                .state = "ended",
                .owner = entry->owner->name,
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
        ret->name = strempty(unpack(&p));
        ret->node = unpack(&p);
        ret->unit = unpack(&p);
        ret->outcome = unpack(&p);
        ret->receipt_packed = unpack(&p);
        if (!ret->outcome && entry->kind == OUTCOME_VALUE)
                ret->outcome = plain_value;
}

char *task_view_receipt(const TaskView *view) {
        if (view->receipt_text)
                return strdup(view->receipt_text);
        return view->receipt_packed ? receipt_unpack(view->receipt_packed) : NULL;
}

int task_find_id(const Owner *owner, Id id, TaskView *ret) {
        Task *task = owner_task(owner, id);
        HistoryEntry *entry = task ? NULL : history_find(owner, id);

        if (task)
                task_view(task, ret);
        else if (entry)
                history_view(entry, ret);
        return task || entry ? 0 : -ENOENT;
}

static size_t find_among(const Owner *owner, const char *hex, TaskView *ret) {
        HistoryEntry *entry;
        size_t found = 0;
        Task *task;
        Id id;

        if (id_from_hex(hex, &id) >= 0)
                return task_find_id(owner, id, ret) >= 0;
        HASHMAP_FOREACH(task, owner->tasks)
                if (startswith(ID_HEX(task->id), hex)) {
                        task_view(task, ret);
                        found++;
                }
        HASHMAP_FOREACH(entry, owner->history)
                if (!owner_task(owner, entry->id) && startswith(ID_HEX(entry->id), hex)) {
                        history_view(entry, ret);
                        found++;
                }
        return found;
}

int task_find(Manager *m, const Owner *owner, const char *hex, TaskView *ret) {
        size_t size = strlen(hex), found = 0;
        Owner *other;

        if (size < PREFIX_MIN || size >= ID_HEX_SIZE || strspn(hex, "0123456789abcdef") != size)
                return -EINVAL;
        if (owner)
                found = find_among(owner, hex, ret);
        else
                HASHMAP_FOREACH(other, m->owners)
                        found += find_among(other, hex, ret);
        return found == 0 ? -ENOENT : found > 1 ? -ENOTUNIQ : 0;
}
