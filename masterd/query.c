/* SPDX-License-Identifier: Apache-2.0 */
#include "query.h"

#include <errno.h>

#include "batch.h"
#include "build-config.h"
#include "detached.h"
#include "environment-query.h"
#include "frame.h"
#include "history.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "recovery.h"
#include "session.h"
#include "task.h"
#include "time-util.h"
#include "why-file.h"
#include "why.h"

enum { TASKS_MAX = 10000, IDS_MAX = 20000, PREFIXES_MAX = 100, LOGGED_MAX = 100, ANSWER_MAX = 768 << 10 };

static const char *const query_error_table[_QUERY_ERROR_MAX] = {
        [QUERY_OK] = "ok",
        [QUERY_NOT_FOUND] = "not-found",
        [QUERY_INVALID_ARGUMENT] = "invalid-argument",
        [QUERY_NOT_ALLOWED] = "not-allowed",
        [QUERY_FAILED] = "failed",
};

DEFINE_NAME_TABLE(query_error, QueryError, query_error_table);

typedef struct Query {
        Manager *m;
        const QueryAsker *asker;
        json_object *args, *result;
        char *message;
        size_t n_cancelled; /* of others */
} Query;

typedef QueryError (*QueryRun)(Query *q);

static QueryError _printf_(3, 4) fail(Query *q, QueryError error, const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        if (vasprintf(&q->message, format, arguments) < 0)
                q->message = NULL;
        va_end(arguments);
        return error;
}

int query_add_text(json_object *object, const char *key, const char *data, size_t size) {
        _cleanup_(freep) char *text = memdup_nul(data, size);

        if (!text)
                return -ENOMEM;
        if (!utf8_is_valid(text, size))
                for (size_t i = 0; i < size; i++)
                        if ((unsigned char) text[i] >= 0x80)
                                text[i] = '?';
        for (size_t i = 0; i < size; i++)
                if (text[i] == '\0')
                        text[i] = '?';
        return json_add(object, key, json_object_new_string_len(text, (int) size));
}

static unsigned rights_of(Manager *m, const QueryAsker *asker) {
        AccessLimits limits;

        if (asker->privileged)
                return ~0U;
        if (!asker->user)
                return asker->granted;
        access_resolve(m->config->access, asker->user, &limits);
        if (asker->claimed)
                limits.rights &= ~(unsigned) (ACCESS_VIEW_ALL | ACCESS_MANAGE_ALL);
        return limits.rights | asker->granted;
}

static bool may_view_all(const Query *q) {
        return rights_of(q->m, q->asker) & (ACCESS_VIEW_ALL | ACCESS_MANAGE_ALL);
}

static bool may_manage_all(const Query *q) {
        return rights_of(q->m, q->asker) & ACCESS_MANAGE_ALL;
}

int query_scope(Manager *m, const QueryAsker *asker, const Owner **ret) {
        *ret = NULL;
        if (rights_of(m, asker) & (ACCESS_VIEW_ALL | ACCESS_MANAGE_ALL))
                return 0;
        *ret = asker->user ? owner_find(m, asker->user) : NULL;
        return *ret ? 0 : -ENOENT;
}

void query_log_refusal(const QueryAsker *asker, const char *verb, const char *message) {
        _cleanup_(freep) char *what = strformat("%s: %s", verb, strempty(message));

        access_log_refusal(strempty(asker->user), asker->from, "not-allowed", strempty(what));
}

static bool log_if_others(const Manager *m, const QueryAsker *asker, const char *verb, const char *hex) {
        const Owner *owner;
        TaskView view;
        Id id;

        if (!hex || id_from_hex(hex, &id) < 0)
                return false;
        HASHMAP_FOREACH(owner, m->owners)
                if ((!asker->user || !streq(asker->user, owner->name)) &&
                    task_find_id(owner, id, &view) >= 0) {
                        _cleanup_(freep) char *message =
                                strformat("Task %s is %s's and was said not to be there", hex, owner->name);

                        query_log_refusal(asker, verb, message);
                        return true;
                }
        return false;
}

void query_log_not_found(const Manager *m, const QueryAsker *asker, const char *verb, json_object *args) {
        json_object *ids = NULL;
        const char *hex = NULL;

        if (json_get_string_optional(args, "id", ID_HEX_SIZE - 1, NULL, &hex) >= 0 &&
            log_if_others(m, asker, verb, hex))
                return;
        if (json_get_array_optional(args, "ids", IDS_MAX, &ids) < 0 || !ids)
                return;
        for (size_t i = 0; i < json_object_array_length(ids); i++)
                if (log_if_others(m, asker, verb, json_object_get_string(json_object_array_get_idx(ids, i))))
                        return;
}

static void add_time(json_object *object, const char *key, uint64_t usec) {
        if (usec > 0)
                (void) json_add_uint64(object, key, usec / USEC_PER_MSEC);
        else
                (void) json_add_null(object, key);
}

static void add_string_or_null(json_object *object, const char *key, const char *value) {
        if (value)
                (void) json_add_string(object, key, value);
        else
                (void) json_add_null(object, key);
}

static QueryError query_version(Query *q) {
        (void) json_add_string(q->result, "software", CLUPY_VERSION);
        (void) json_add_uint64(q->result, "protocol", FRAME_PROTOCOL_VERSION);
        (void) json_add_string(q->result, "python", CLUPY_PYTHON_VERSION);
        (void) json_add_uint64(q->result, "epoch", q->m->epoch);
        return QUERY_OK;
}

static void add_nodes_summary(Query *q) {
        uint64_t memory = 0, memory_used = 0, mcpus = 0, mcpus_used = 0;
        unsigned n[_NODE_STATE_MAX] = { 0 };
        json_object *nodes;
        Node *node;

        HASHMAP_FOREACH(node, q->m->nodes) {
                n[node->state]++;
                if (node->state == NODE_LOST || !node->known)
                        continue;
                mcpus += node->mcpus;
                mcpus_used += node->mcpus_used;
                memory += node->memory;
                memory_used += node->memory_used + node->unreleased;
        }
        if (json_add_new_object(q->result, "nodes", &nodes) < 0)
                return;
        (void) json_add_uint64(nodes, "ready", n[NODE_READY]);
        (void) json_add_uint64(nodes, "suspect", n[NODE_SUSPECT] + n[NODE_REPORTING]);
        (void) json_add_uint64(nodes, "lost", n[NODE_LOST]);
        (void) json_add_uint64(nodes, "drained", n[NODE_DRAINED] + n[NODE_DRAINING]);
        (void) json_add_double(q->result, "cpus", (double) mcpus / 1000.0);
        (void) json_add_double(q->result, "cpus_used", (double) mcpus_used / 1000.0);
        (void) json_add_uint64(q->result, "memory", memory);
        (void) json_add_uint64(q->result, "memory_used", memory_used);
}

/* It runs on a node that is out of reach: what it does there is not known. */
static bool is_unreachable(const Task *task) {
        const Node *node = task->current && task_is_placed(task) ? task->current->node : NULL;

        return node && (node->state == NODE_SUSPECT || node->state == NODE_LOST);
}

static const char *state_shown(const TaskView *view) {
        return view->task && is_unreachable(view->task) ? "unreachable" : view->state;
}

/* Each task in one state. */
static void add_tasks_summary(Manager *m, json_object *tasks) {
        uint64_t away[_TASK_STATE_MAX] = { 0 }, unreachable = 0;
        Attempt *attempt;
        Node *node;

        HASHMAP_FOREACH(node, m->nodes) {
                if (node->state != NODE_SUSPECT && node->state != NODE_LOST)
                        continue;
                HASHMAP_FOREACH(attempt, node->attempts)
                        if (attempt->task && attempt->task->current == attempt &&
                            is_unreachable(attempt->task)) {
                                away[attempt->task->state]++;
                                unreachable++;
                        }
        }
        for (TaskState s = TASK_WAITING; s <= TASK_FROZEN; s++)
                (void) json_add_uint64(tasks, task_state_to_string(s), m->n_state[s] - away[s]);
        (void) json_add_uint64(tasks, "unreachable", unreachable);
        (void) json_add_uint64(tasks, "ended", m->n_ended);
        (void) json_add_uint64(tasks, "failed", m->n_failed);
}

/* Connections that have not shown who they are, and those that were turned away since the start, by reason.
 */
static void add_strangers(Query *q) {
        const Entrance *entrance = &q->m->entrance;
        json_object *strangers, *refused;

        if (json_add_new_object(q->result, "strangers", &strangers) < 0)
                return;
        (void) json_add_uint64(strangers, "unproven", entrance_unproven(entrance));
        if (json_add_new_object(strangers, "refused", &refused) < 0)
                return;
        for (GateReason reason = GATE_OPEN + 1; reason < _GATE_REASON_MAX; reason++)
                (void) json_add_uint64(refused, gate_reason_to_string(reason),
                                       entrance_refused_for(entrance, reason));
}

static QueryError query_status(Query *q) {
        Manager *m = q->m;
        _cleanup_(strv_freep) char **warnings = NULL;
        json_object *list, *tasks;
        uint64_t until = 0;
        bool recovering = !list_is_empty(&m->waiting) && recovery_is_pending(m, &until);

        (void) json_add_string(q->result, "version", CLUPY_VERSION);
        (void) json_add_uint64(q->result, "epoch", m->epoch);
        add_time(q->result, "started_at", m->started_at);
        (void) json_add_bool(q->result, "insecure", m->config->insecure != NULL);
        if (json_add_new_array(q->result, "warnings", &list) < 0)
                return QUERY_FAILED;
        (void) master_tls_warnings(m, &warnings);
        for (char **s = warnings; s && *s; s++)
                (void) json_append_string(list, *s);
        (void) reload_add(&m->reload, q->result, list);
        (void) environment_status_add(m, q->result, list);
        (void) json_add_string(q->result, "python", CLUPY_PYTHON_VERSION);
        if (json_add_new_array(q->result, "listen", &list) < 0)
                return QUERY_FAILED;
        for (size_t i = 0; i < m->entrance.n_listeners; i++)
                (void) json_append_string(list, listener_address(m->entrance.listeners[i]));
        add_nodes_summary(q);
        (void) json_add_uint64(q->result, "clients", m->n_clients);
        if (m->entrance.gates[ENTRANCE_NETWORK])
                add_strangers(q);
        if (json_add_new_object(q->result, "tasks", &tasks) < 0)
                return QUERY_FAILED;
        add_tasks_summary(m, tasks);
        (void) json_add_bool(q->result, "recovering", recovering);
        if (recovering)
                add_time(q->result, "recovering_until",
                         now_usec(CLOCK_REALTIME) + usec_sub(until, manager_now(m)));
        else
                (void) json_add_null(q->result, "recovering_until");
        return QUERY_OK;
}

static int add_node(Manager *m, json_object *array, const Node *node) {
        uint64_t now = manager_now(m), lease_end = node->heartbeat_at + m->config->lease;
        json_object *e;
        char hex[ID_HEX_SIZE];

        if (json_append_new_object(array, &e) < 0)
                return -ENOMEM;
        (void) json_add_string(e, "name", node->name);
        (void) json_add_string(e, "state", node_state_to_string(node->state));
        (void) json_add_string(e, "address", strempty(node->address));
        (void) json_add_string(e, "python", strempty(node->python));
        (void) json_add_string(e, "software", strempty(node->software));
        (void) json_add_string(e, "boot_id", id_to_hex(node->boot_id, hex));
        (void) json_add_double(e, "cpus", node->mcpus / 1000.0);
        (void) json_add_double(e, "cpus_used", node->mcpus_used / 1000.0);
        (void) json_add_uint64(e, "memory", node->memory);
        (void) json_add_uint64(e, "memory_used", node->memory_used);
        (void) json_add_uint64(e, "unreleased", node->unreleased);
        (void) json_add_uint64(e, "running", node->n_charged);
        (void) json_add_double(e, "load", node->load);
        (void) json_add_uint64(e, "last_heartbeat_ms", usec_sub(now, node->heartbeat_at) / USEC_PER_MSEC);
        (void) json_add_uint64(e, "lease_left_ms", usec_sub(lease_end, now) / USEC_PER_MSEC);
        add_time(e, "connected_at", node->connected_at);
        return 0;
}

static int node_by_name(const void *left, const void *right) {
        return strcmp((*(Node *const *) left)->name, (*(Node *const *) right)->name);
}

static QueryError query_nodes(Query *q) {
        _cleanup_(freep) Node **nodes = newn0(Node *, hashmap_size(q->m->nodes) + 1);
        json_object *array;
        size_t n = 0;
        Node *node;

        if (!nodes || json_add_new_array(q->result, "nodes", &array) < 0)
                return QUERY_FAILED;
        HASHMAP_FOREACH(node, q->m->nodes)
                nodes[n++] = node;
        qsort(nodes, n, sizeof(*nodes), node_by_name);
        for (size_t i = 0; i < n; i++)
                if (add_node(q->m, array, nodes[i]) < 0)
                        return QUERY_FAILED;
        return QUERY_OK;
}

/* A TASKROW. */
static void fill_task(Manager *m, json_object *e, const TaskView *view) {
        _cleanup_(freep) char *why = view->task ? why_waiting(m, view->task) : NULL;
        char hex[ID_HEX_SIZE];

        (void) json_add_string(e, "id", id_to_hex(view->id, hex));
        (void) json_add_string(e, "name", view->name);
        (void) json_add_string(e, "job", id_to_hex(view->job, hex));
        (void) json_add_string(e, "owner", view->owner);
        (void) json_add_string(e, "state", state_shown(view));
        if (view->task && is_unreachable(view->task))
                (void) json_add_uint64(e, "freezes_ms",
                                       usec_sub(view->task->current->node->heartbeat_at + m->config->lease,
                                                manager_now(m)) /
                                               USEC_PER_MSEC);
        else
                (void) json_add_null(e, "freezes_ms");
        add_string_or_null(e, "node", view->node);
        add_string_or_null(e, "unit", view->unit);
        (void) json_add_uint64(e, "attempt", view->attempt);
        (void) json_add_uint64(e, "attempts", view->attempt);
        (void) json_add_int64(e, "priority", view->priority);
        /* The default of a node that has not been found yet. */
        (void) (view->mcpus > 0 ? json_add_double(e, "cpus", view->mcpus / 1000.0)
                                : json_add_null(e, "cpus"));
        (void) (view->memory > 0 ? json_add_uint64(e, "memory", view->memory) : json_add_null(e, "memory"));
        add_time(e, "queued_at", view->queued_at);
        add_time(e, "started_at", view->started_at);
        add_time(e, "ended_at", view->ended_at);
        add_string_or_null(e, "why_waiting", why);
        (void) json_add_raw(e, "outcome", view->outcome);
        (void) json_add_raw(e, "progress", view->progress);
}

typedef struct TaskFilter {
        const char *state, *owner, *node, *job;
        uint64_t limit, total;
        size_t bytes; /* about, of what is in the array: an answer is one frame */
        json_object *array;
} TaskFilter;

static void filter_task(Query *q, TaskFilter *f, const TaskView *view) {
        json_object *e;

        if ((f->state && !streq(f->state, state_shown(view))) ||
            (f->owner && !streq(f->owner, view->owner)) || (f->node && !streq_ptr(f->node, view->node)) ||
            (f->job && !startswith(ID_HEX(view->job), f->job) && !streq(f->job, view->name)))
                return;
        f->total++;
        if (f->total > f->limit || f->bytes > ANSWER_MAX || json_append_new_object(f->array, &e) < 0)
                return;
        fill_task(q->m, e, view);
        f->bytes += 640 + strlen(view->name) + strlen(strempty(view->outcome)) +
                    strlen(strempty(view->progress));
}

static void filter_owner(Query *q, TaskFilter *f, const Owner *owner, bool ended) {
        TaskView view = { 0 };
        Task *task;

        HASHMAP_FOREACH(task, owner->tasks) {
                if (!ended && !task_is_unfinished(task))
                        continue;
                task_view(task, &view);
                filter_task(q, f, &view);
        }
}

static QueryError query_tasks(Query *q) {
        TaskFilter f = { 0 };
        TaskView view = { 0 };
        bool ended = false;
        const Owner *only;
        Owner *owner;

        if (json_get_string_optional(q->args, "state", 16, NULL, &f.state) < 0 ||
            json_get_string_optional(q->args, "owner", 64, NULL, &f.owner) < 0 ||
            json_get_string_optional(q->args, "node", 64, NULL, &f.node) < 0 ||
            json_get_string_optional(q->args, "job", JOB_NAME_MAX, NULL, &f.job) < 0 ||
            json_get_uint64_optional(q->args, "limit", TASKS_MAX, 100, &f.limit) < 0 ||
            json_get_bool_optional(q->args, "ended", false, &ended) < 0)
                return fail(q, QUERY_INVALID_ARGUMENT,
                            "state, owner, node and job are strings, limit is a number up to %d, ended a "
                            "boolean",
                            TASKS_MAX);
        if (f.state && streq(f.state, "ended"))
                ended = true;
        if (json_add_new_array(q->result, "tasks", &f.array) < 0)
                return QUERY_FAILED;
        if (query_scope(q->m, q->asker, &only) < 0) {
                (void) json_add_uint64(q->result, "total", 0);
                return QUERY_OK;
        }
        HASHMAP_FOREACH(owner, q->m->owners)
                if (!only || only == owner)
                        filter_owner(q, &f, owner, ended);
        /* The latest first. */
        if (ended) {
                ListLink *list = history_list(q->m->history);

                for (ListLink *link = list->previous; link != list; link = link->previous) {
                        HistoryEntry *entry = LIST_ENTRY(HistoryEntry, link, link);

                        if (only && entry->owner != only)
                                continue;
                        history_view(entry, &view);
                        filter_task(q, &f, &view);
                }
        }
        (void) json_add_uint64(q->result, "total", f.total);
        return QUERY_OK;
}

/* By id, or the beginning of one: the asker's own first, then whatever else it may see. Returns as
 * task_find(). */
static int find_hex(Query *q, const char *hex, TaskView *ret) {
        const char *user = NULL;
        const Owner *only;
        int r;

        if (json_get_string_optional(q->args, "owner", 64, NULL, &user) < 0)
                return -EINVAL;
        r = query_scope(q->m, q->asker, &only);
        if (r < 0)
                /* The question itself is judged all the same. */
                return task_find(q->m, NULL, hex, ret) == -EINVAL ? -EINVAL : -ENOENT;
        if (only)
                return user && !streq(user, only->name) ? -ENOENT : task_find(q->m, only, hex, ret);
        if (user) {
                only = owner_find(q->m, user);
                return only ? task_find(q->m, only, hex, ret) : -ENOENT;
        }
        only = q->asker->user ? owner_find(q->m, q->asker->user) : NULL;
        if (only) {
                r = task_find(q->m, only, hex, ret);
                if (r >= 0 || r == -EINVAL)
                        return r;
        }
        return task_find(q->m, NULL, hex, ret);
}

/* The task that args.id names. */
static QueryError find(Query *q, TaskView *ret) {
        const char *hex;
        int r;

        if (json_get_string(q->args, "id", ID_HEX_SIZE - 1, &hex) < 0)
                return fail(q, QUERY_INVALID_ARGUMENT, "id: expected a task's id or the beginning of one");
        r = find_hex(q, hex, ret);
        if (r == -EINVAL)
                return fail(
                        q, QUERY_INVALID_ARGUMENT,
                        "'%s' is not a task's id: expected 32 hexadecimal digits, or at least the first 4",
                        hex);
        if (r == -ENOTUNIQ)
                return fail(q, QUERY_INVALID_ARGUMENT,
                            "More than one task's id begins with %s: give more digits, or owner", hex);
        if (r < 0)
                return fail(q, QUERY_NOT_FOUND,
                            "No task %s here: of those that have ended the last %u since the master's start "
                            "are remembered (`clupyctl tasks --ended`), and for %d days why one failed",
                            hex, q->m->config->history, WHY_KEEP_DAYS);
        return QUERY_OK;
}

static QueryError query_task(Query *q) {
        _cleanup_(freep) char *receipt = NULL;
        json_object *runs;
        TaskView view = { 0 };
        QueryError error;

        error = find(q, &view);
        if (error != QUERY_OK)
                return error;
        fill_task(q->m, q->result, &view);
        receipt = task_view_receipt(&view);
        (void) json_add_raw(q->result, "receipt", receipt);
        if (json_add_new_array(q->result, "history", &runs) < 0)
                return QUERY_FAILED;
        for (unsigned i = 0; i < view.n_runs; i++) {
                const TaskRun *run = view.runs + i;
                json_object *e;

                if (json_append_new_object(runs, &e) < 0)
                        return QUERY_FAILED;
                (void) json_add_uint64(e, "attempt", run->attempt);
                add_string_or_null(e, "node", run->node);
                add_string_or_null(e, "unit", run->unit);
                (void) json_add_string(e, "outcome", outcome_kind_to_string(run->outcome) ?: "none");
                add_time(e, "started_at", run->started_at);
                add_time(e, "ended_at", run->ended_at);
        }
        (void) json_add_uint64(q->result, "log_bytes", view.log ? view.log->end : 0);
        return QUERY_OK;
}

/* A task that has been forgotten here may be among the failures that were written down. */
static QueryError why_forgotten(Query *q, const char *hex) {
        const char *user = NULL, *asker = q->asker->user;
        uint64_t now = now_usec(CLOCK_REALTIME);
        json_object *outcome;
        WhyRecord record;
        int r;

        (void) json_get_string_optional(q->args, "owner", 64, NULL, &user);
        if (!may_view_all(q)) {
                if (!asker || (user && !streq(user, asker)))
                        return QUERY_NOT_FOUND;
                user = asker;
        }
        if (!q->m->failures)
                return QUERY_NOT_FOUND;
        r = why_file_find(q->m->failures, user, hex, usec_sub(now, WHY_KEEP_DAYS * USEC_PER_DAY), &record);
        if (r == -ENOTUNIQ) {
                q->message = mfree(q->message);
                return fail(q, QUERY_INVALID_ARGUMENT,
                            "More than one task's id begins with %s: give more digits, or owner", hex);
        }
        if (r < 0)
                return QUERY_NOT_FOUND;
        q->message = mfree(q->message);
        (void) json_add_id(q->result, "id", record.id);
        (void) json_add_string(q->result, "state", "ended");
        if (json_add_new_object(q->result, "outcome", &outcome) < 0)
                return QUERY_FAILED;
        (void) json_add_string(outcome, "kind", record.kind);
        return json_add(q->result, "sentence", json_object_new_string(record.sentence)) < 0 ? QUERY_FAILED
                                                                                            : QUERY_OK;
}

static QueryError query_why(Query *q) {
        _cleanup_(freep) char *sentence = NULL;
        const char *hex = "";
        TaskView view = { 0 };
        QueryError error;

        error = find(q, &view);
        if (error == QUERY_NOT_FOUND && json_get_string(q->args, "id", ID_HEX_SIZE - 1, &hex) >= 0)
                return why_forgotten(q, hex);
        if (error != QUERY_OK)
                return error;
        sentence = why_sentence(q->m, &view);
        (void) json_add_string(q->result, "id", ID_HEX(view.id));
        (void) json_add_string(q->result, "state", state_shown(&view));
        (void) json_add_raw(q->result, "outcome", view.outcome);
        (void) json_add_string(q->result, "sentence", strempty(sentence));
        return QUERY_OK;
}

static bool may_manage(const Query *q, const char *owner) {
        return may_manage_all(q) || (owner && q->asker->user && streq(q->asker->user, owner));
}

static QueryError query_logs(Query *q) {
        uint64_t offset, end;
        const char *data;
        TaskView view = { 0 };
        QueryError error;
        size_t size;

        if (json_get_uint64_optional(q->args, "offset", UINT64_MAX / 2, 0, &offset) < 0)
                return fail(q, QUERY_INVALID_ARGUMENT, "offset: expected a number of bytes");
        error = find(q, &view);
        if (error != QUERY_OK)
                return error;
        if (!may_manage(q, view.owner))
                return fail(q, QUERY_NOT_ALLOWED,
                            "Task %s is %s's: only its owner and an administrator may read what it prints",
                            ID_HEX(view.id), view.owner);
        size = log_tail_read(view.log, offset, &data, &end);
        if (query_add_text(q->result, "text", data, size) < 0)
                return QUERY_FAILED;
        (void) json_add_uint64(q->result, "offset", end);
        (void) json_add_bool(q->result, "ended", !view.task || !task_is_unfinished(view.task));
        return QUERY_OK;
}

QueryError query_find_log(Manager *m, const QueryAsker *asker, json_object *args, TaskView *ret) {
        Query q = { .m = m, .asker = asker, .args = args };
        QueryError error = find(&q, ret);

        free(q.message);
        return error == QUERY_OK && !may_manage(&q, ret->owner) ? QUERY_NOT_ALLOWED : error;
}

/* What somebody did who may do it, to others' or to all's: who, from where, to what. */
static void log_action(const Query *q, const char *action, const char *node, const char *task,
                       const char *owner, const char *message) {
        const QueryAsker *asker = q->asker;

        log_struct(LOG_NOTICE,
                   log_field("MESSAGE=%s%s%s %s", isempty(asker->user) ? "somebody" : asker->user,
                             asker->from ? " at " : "", strempty(asker->from), message),
                   log_field("MESSAGE_ID=" QUERY_ACTION_MESSAGE_ID), log_field("CLUPY_ACTION=%s", action),
                   log_field("CLUPY_OPERATOR=%s", strempty(asker->user)),
                   log_field("CLUPY_PEER=%s", strempty(asker->from)),
                   log_field("CLUPY_NODE=%s", strempty(node)), log_field("CLUPY_TASK_ID=%s", strempty(task)),
                   log_field("CLUPY_OWNER=%s", strempty(owner)));
}

/* At most so many one by one: somebody may cancel thousands. */
static void log_cancelled(Query *q, const Task *task) {
        _cleanup_(freep) char *message = NULL;

        if (q->asker->user && streq(q->asker->user, task->session->user))
                return;
        if (++q->n_cancelled > LOGGED_MAX)
                return;
        message = strformat("cancelled task %s (%s) of %s", ID_HEX(task->id), task->job->name,
                            task->session->user);
        log_action(q, "cancel", NULL, ID_HEX(task->id), task->session->user, strempty(message));
}

static QueryError cancel_one(Query *q, Task *task, const char *by, json_object *cancelled) {
        Id id;

        if (!may_manage(q, task->session->user))
                return fail(q, QUERY_NOT_ALLOWED,
                            "Task %s is %s's: only its owner and an administrator may cancel it",
                            ID_HEX(task->id), task->session->user);
        id = task->id;
        if (task_is_unfinished(task)) {
                log_cancelled(q, task);
                task_cancel(task, by);
        } else {
                bool kept = task->detached && task->session->permanent;

                if (kept)
                        log_cancelled(q, task);
                if (!kept || !detached_drop(task)) /* gives back the disk that its result takes */
                        return QUERY_OK;
        }
        (void) json_append_id(cancelled, id);
        return QUERY_OK;
}

/* Of whose job ids begin so: of the asker's, or of all's. */
static QueryError cancel_job(Query *q, const char *job, const char *by, json_object *cancelled) {
        const Owner *only;
        QueryError error;
        Owner *owner;
        Task *task;

        if (query_scope(q->m, q->asker, &only) < 0)
                return QUERY_OK;
        HASHMAP_FOREACH(owner, q->m->owners) {
                if (only && only != owner)
                        continue;
                HASHMAP_FOREACH(task, owner->tasks) {
                        if (!task_is_unfinished(task) || !startswith(ID_HEX(task->job->id), job))
                                continue;
                        error = cancel_one(q, task, by, cancelled);
                        if (error != QUERY_OK)
                                return error;
                }
        }
        return QUERY_OK;
}

static bool all_are_whole(json_object *ids) {
        for (size_t i = 0; i < json_object_array_length(ids); i++) {
                const char *hex = json_object_get_string(json_object_array_get_idx(ids, i));

                if (!hex || strlen(hex) != ID_HEX_SIZE - 1)
                        return false;
        }
        return true;
}

static QueryError cancel_all(Query *q) {
        json_object *ids = NULL, *cancelled;
        const char *job = NULL, *by = "";
        QueryError error;
        TaskView view = { 0 };

        if (json_get_array_optional(q->args, "ids", IDS_MAX, &ids) < 0 ||
            json_get_string_optional(q->args, "job", ID_HEX_SIZE - 1, NULL, &job) < 0 ||
            json_get_string_optional(q->args, "by", 64, strempty(q->asker->user), &by) < 0 || (!ids && !job))
                return fail(q, QUERY_INVALID_ARGUMENT,
                            "Expected ids, a list of task ids, or job, a job's id");
        /* The beginning of an id is looked for among all tasks. */
        if (ids && json_object_array_length(ids) > PREFIXES_MAX && !all_are_whole(ids))
                return fail(q, QUERY_INVALID_ARGUMENT, "More than %d ids at once have to be whole ones",
                            PREFIXES_MAX);
        /* Nobody cancels in another's name. */
        if (!may_manage_all(q))
                by = strempty(q->asker->user);
        if (json_add_new_array(q->result, "cancelled", &cancelled) < 0)
                return QUERY_FAILED;
        for (size_t i = 0; ids && i < json_object_array_length(ids); i++) {
                const char *hex = json_object_get_string(json_object_array_get_idx(ids, i));
                int r = hex ? find_hex(q, hex, &view) : -EINVAL;

                if (r < 0)
                        return fail(q, r == -ENOENT ? QUERY_NOT_FOUND : QUERY_INVALID_ARGUMENT,
                                    r == -ENOENT ? "No task %s here" : "'%s' does not name one task",
                                    strempty(hex));
                if (!view.task)
                        continue;
                error = cancel_one(q, view.task, by, cancelled);
                if (error != QUERY_OK)
                        return error;
        }
        return job ? cancel_job(q, job, by, cancelled) : QUERY_OK;
}

static QueryError query_cancel(Query *q) {
        QueryError error = cancel_all(q);

        if (q->n_cancelled > LOGGED_MAX) {
                _cleanup_(freep) char *message =
                        strformat("cancelled %zu more tasks of others", q->n_cancelled - LOGGED_MAX);

                log_action(q, "cancel", NULL, NULL, NULL, strempty(message));
        }
        return error;
}

static QueryError set_drain(Query *q, bool drain) {
        _cleanup_(freep) char *message = NULL;
        const char *name = NULL;
        Node *node;
        int r;

        if (json_get_string(q->args, "node", 64, &name) < 0)
                return fail(q, QUERY_INVALID_ARGUMENT, "node: expected a node's name");
        node = hashmap_get(q->m->nodes, name);
        if (!node)
                return fail(q, QUERY_NOT_FOUND, "There is no node %s: `clupyctl nodes` lists them", name);
        if (!may_manage_all(q))
                return fail(q, QUERY_NOT_ALLOWED,
                            "Only root and administrators may take nodes out of service and back");
        r = node_set_drain(node, drain);
        if (r < 0)
                return fail(q, QUERY_FAILED,
                            "Node %s stays as it is: the master cannot write it down in %s: %s. Make room "
                            "there and ask again",
                            name, q->m->config->state_directory, strerrordesc_np(-r));
        message = strformat("%s node %s", drain ? "drained" : "undrained", node->name);
        log_action(q, drain ? "drain" : "undrain", node->name, NULL, NULL, strempty(message));
        (void) json_add_string(q->result, "node", node->name);
        (void) json_add_string(q->result, "state", node_state_to_string(node->state));
        (void) json_add_uint64(q->result, "running", node->n_charged);
        return QUERY_OK;
}

static QueryError query_drain(Query *q) {
        return set_drain(q, true);
}

static QueryError query_undrain(Query *q) {
        return set_drain(q, false);
}

static QueryError query_attach(Query *q) {
        Task *task = NULL;
        Id id;
        int r;

        if (json_get_id(q->args, "id", &id) < 0)
                return fail(q, QUERY_INVALID_ARGUMENT, "id: expected the whole id of a detached task");
        if (!q->asker->session)
                return fail(q, QUERY_NOT_ALLOWED, "Only clients can attach");
        task = owner_task(q->asker->session->owner, id);
        if (!task || !task->detached || detached_is_held(task))
                return fail(q, QUERY_NOT_FOUND,
                            "There is no detached task %s of %s (any more): results are kept for %s",
                            ID_HEX(id), q->asker->user, FORMAT_DURATION(q->m->config->detached_keep));
        r = detached_attach(task, q->asker->session);
        if (r < 0)
                return fail(q, QUERY_FAILED, "Task %s: %s", ID_HEX(id),
                            r == -EUSERS ? "too many clients are attached to it" : strerrordesc_np(-r));
        (void) json_add_id(q->result, "id", id);
        (void) json_add_string(q->result, "state", task_state_to_string(task->state));
        (void) json_add_string(q->result, "name", task->job->name);
        return QUERY_OK;
}

static QueryError run_environment(Query *q, EnvironmentQuery run) {
        const EnvironmentAsker asker = { .user = q->asker->user,
                                         .view_all = may_view_all(q),
                                         .manage_all = may_manage_all(q) };

        return run(q->m, &asker, q->args, q->result, &q->message);
}

static QueryError query_environments(Query *q) {
        return run_environment(q, environment_query_list);
}

static QueryError query_environment(Query *q) {
        return run_environment(q, environment_query_show);
}

static QueryError query_environment_sync(Query *q) {
        return run_environment(q, environment_query_sync);
}

static QueryError query_environment_remove(Query *q) {
        return run_environment(q, environment_query_remove);
}

static QueryError query_environment_lock(Query *q) {
        return run_environment(q, environment_query_lock);
}

static const struct {
        const char *name;
        QueryRun run;
        bool public;
} verbs[] = {
        { "version", query_version, true },
        { "status", query_status, true },
        { "nodes", query_nodes, true },
        { "tasks", query_tasks, false },
        { "task", query_task, false },
        { "why", query_why, false },
        { "logs", query_logs, false },
        { "cancel", query_cancel, false },
        { "drain", query_drain, false },
        { "undrain", query_undrain, false },
        { "attach", query_attach, false },
        { "environments", query_environments, false },
        { "environment", query_environment, false },
        { "environment-sync", query_environment_sync, false },
        { "environment-remove", query_environment_remove, false },
        { "environment-lock", query_environment_lock, true },
};

bool query_is_public(const char *verb) {
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (streq(verbs[i].name, verb))
                        return verbs[i].public;
        return true;
}

QueryError query_run(Manager *m, const QueryAsker *asker, const char *verb, json_object *args,
                     json_object **ret_result, char **ret_message) {
        Query q = { .m = m, .asker = asker, .args = args };
        QueryError error;

        if (json_new_object(&q.result) < 0)
                return QUERY_FAILED;
        error = fail(&q, QUERY_INVALID_ARGUMENT, "There is no verb '%s'", verb);
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (streq(verbs[i].name, verb)) {
                        q.message = mfree(q.message);
                        error = verbs[i].run(&q);
                        break;
                }
        if (error == QUERY_OK)
                *ret_result = q.result;
        else
                json_put(q.result);
        *ret_message = q.message;
        return error;
}
