/* SPDX-License-Identifier: Apache-2.0 */
#include "node-link.h"

#include <errno.h>

#include "attempt.h"
#include "batch.h"
#include "client-link.h"
#include "environment-job.h"
#include "environment-link.h"
#include "environments.h"
#include "history.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "outcome-json.h"
#include "owner.h"
#include "parse-util.h"
#include "peer.h"
#include "recovery.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

enum { ENTRIES_MAX = 20000, UNIT_MAX = 255 };

/* So long after a task's end there may come what it has printed. */
#define LAST_WORDS_USEC (10 * USEC_PER_SEC)

json_object *node_link_dispatch_entry(const Task *task, const Attempt *attempt) {
        _cleanup_(json_putp) json_object *e = NULL;
        const Job *job = task->job;
        uint64_t now = manager_now(task->manager);

        if (json_new_object(&e) < 0 || json_add_id(e, "id", attempt->id) < 0 ||
            json_add_uint64(e, "attempt", attempt->number) < 0 ||
            json_add_string(e, "owner", task->session->user) < 0 ||
            json_add_id(e, "session", task->session->key) < 0 || json_add_id(e, "job", job->id) < 0 ||
            json_add_string(e, "name", job->name) < 0 || json_add_string(e, "code", job->code) < 0 ||
            json_add_uint64(e, "code_size", job->code_size) < 0 ||
            json_add_double(e, "cpus", attempt->mcpus / 1000.0) < 0 ||
            json_add_uint64(e, "memory", attempt->memory) < 0 ||
            json_add_string(e, "policy", job->policy) < 0 ||
            json_add_string(e, "isolation", job->isolation) < 0 ||
            json_add_string(e, "network", job->network) < 0 ||
            json_add_string(e, "environment",
                            environments_dispatch_name(task->manager, job, attempt->node)) < 0 ||
            json_add_uint64(e, "size", task->size) < 0 || json_add_int64(e, "priority", job->priority) < 0)
                return NULL;
        if (job->tasks_max > 0 && json_add_uint64(e, "tasks_max", job->tasks_max) < 0)
                return NULL;
        if (job->requires.n > 0 && resources_add_json(&job->requires, e, "devices") < 0)
                return NULL;
        if (job->timeout_ms > 0 && json_add_uint64(e, "timeout_ms", job->timeout_ms) < 0)
                return NULL;
        if (task->deadline != USEC_INFINITY &&
            json_add_uint64(e, "deadline_ms", usec_sub(task->deadline, now) / USEC_PER_MSEC) < 0)
                return NULL;
        return TAKE_PTR(e);
}

/* The attempt that an entry of STARTED, ENDED, LOG, PROGRESS is about. Returns 0 (*ret NULL: not a present
 * one), -EBADMSG. */
static int entry_attempt(Node *node, json_object *entry, Id *ret_id, uint32_t *ret_number, Attempt **ret) {
        Attempt *attempt;
        uint64_t number;

        if (!json_object_is_type(entry, json_type_object) || json_get_id(entry, "id", ret_id) < 0 ||
            json_get_uint64(entry, "attempt", UINT32_MAX, &number) < 0)
                return -EBADMSG;
        *ret_number = (uint32_t) number;
        attempt = hashmap_get(node->attempts, ret_id);
        *ret = attempt && attempt->number == number ? attempt : NULL;
        return 0;
}

static int on_heartbeat(Peer *peer, json_object *json) {
        _cleanup_(json_putp) json_object *answer = NULL;
        Node *node = peer->node;
        uint64_t seq, unreleased;

        if (json_get_uint64(json, "seq", UINT64_MAX / 2, &seq) < 0 ||
            json_get_uint64_optional(json, "unreleased", UINT64_MAX / 4, 0, &unreleased) < 0 ||
            json_get_double_optional(json, "load", 0, 1e9, 0, &node->load) < 0)
                return -EBADMSG;
        if (unreleased < node->unreleased)
                manager_schedule(node->manager);
        node->unreleased = unreleased;
        node_heartbeat(node);
        if (json_new_object(&answer) < 0 || json_add_uint64(answer, "seq", seq) < 0)
                return -ENOMEM;
        return connection_send(peer->connection, FRAME_HEARTBEAT_ACK, answer, NULL, 0);
}

static int parse_reported(json_object *entry, ReportedAttempt *ret) {
        json_object *outcome = NULL, *receipt = NULL;
        const char *state;
        uint64_t number;
        double cpus;

        *ret = (ReportedAttempt){ 0 };
        if (!json_object_is_type(entry, json_type_object) || json_get_id(entry, "id", &ret->id) < 0 ||
            json_get_uint64(entry, "attempt", UINT32_MAX, &number) < 0 ||
            json_get_string(entry, "state", 16, &state) < 0 ||
            attempt_state_from_string(state, &ret->state) < 0 ||
            json_get_string(entry, "owner", 64, &ret->owner) < 0 || !owner_name_is_valid(ret->owner) ||
            json_get_id(entry, "session", &ret->session) < 0 ||
            json_get_double_optional(entry, "cpus", 0, 4096, 0, &cpus) < 0 ||
            json_get_uint64_optional(entry, "memory", UINT64_MAX / 4, 0, &ret->memory) < 0 ||
            json_get_string_optional(entry, "unit", UNIT_MAX, NULL, &ret->unit) < 0 ||
            json_get_uint64_optional(entry, "size", UINT64_MAX / 4, 0, &ret->size) < 0 ||
            json_get_object_optional(entry, "devices", &ret->devices) < 0 ||
            json_get_object_optional(entry, "outcome", &outcome) < 0 ||
            json_get_object_optional(entry, "receipt", &receipt) < 0)
                return -EBADMSG;
        ret->number = (uint32_t) number;
        ret->mcpus = (uint32_t) (cpus * 1000 + 0.5);
        if (ret->state != ATTEMPT_ENDED)
                return 0;
        if (!outcome || outcome_from_json(outcome, &ret->kind, &ret->retry) < 0)
                return -EBADMSG;
        ret->outcome = json_text(outcome, NULL);
        ret->receipt = receipt ? json_text(receipt, NULL) : NULL;
        if (!ret->outcome || strlen(ret->outcome) > TASK_OUTCOME_MAX ||
            (ret->receipt && strlen(ret->receipt) > TASK_OUTCOME_MAX))
                return -EBADMSG;
        return 0;
}

static int add_entry(Batch *batch, Connection *connection, const ReportedAttempt *r) {
        json_object *entry;

        if (!batch_has_room(batch, 80, 0)) {
                int q = batch_send(batch, connection);

                if (q < 0)
                        return q;
        }
        if (json_new_object(&entry) < 0)
                return -ENOMEM;
        (void) json_add_id(entry, "id", r->id);
        (void) json_add_uint64(entry, "attempt", r->number);
        return batch_add(batch, entry, 80, NULL, false);
}

/* Stops are collected in node->stop (its key is that of STOP) and turned into RECONCILE at the end. */
static int send_reconcile(Peer *peer, Node *node) {
        _cleanup_(json_putp) json_object *json = NULL;
        json_object *stop;

        if (json_new_object(&json) < 0 || json_add_uint64(json, "epoch", node->manager->epoch) < 0)
                return -ENOMEM;
        if (node->stop.array) {
                if (json_add(json, "stop", json_object_get(node->stop.array)) < 0)
                        return -ENOMEM;
        } else if (json_add_new_array(json, "stop", &stop) < 0)
                return -ENOMEM;
        batch_done(&node->stop);
        return connection_send(peer->connection, FRAME_RECONCILE, json, NULL, 0);
}

static int on_report(Peer *peer, json_object *json) {
        Node *node = peer->node;
        json_object *attempts;
        bool more;
        int r;

        if (node->reconciled || json_get_array(json, "attempts", ENTRIES_MAX, &attempts) < 0 ||
            json_get_bool_optional(json, "more", false, &more) < 0)
                return -EBADMSG;
        if (!peer->heard) {
                peer->heard = true;
                recovery_report_begin(node);
        }
        for (size_t i = 0; i < json_object_array_length(attempts); i++) {
                ReportedAttempt attempt;
                bool stop, release;

                r = parse_reported(json_object_array_get_idx(attempts, i), &attempt);
                if (r < 0)
                        return r;
                r = recovery_report(node, &attempt, &stop, &release);
                if (r < 0)
                        return r;
                if (stop) {
                        r = add_entry(&node->stop, peer->connection, &attempt);
                        if (r < 0)
                                return r;
                }
                if (release) {
                        r = add_entry(&node->release, peer->connection, &attempt);
                        if (r < 0)
                                return r;
                }
        }
        node_heartbeat(node);
        if (more)
                return 0;
        r = send_reconcile(peer, node);
        if (r < 0)
                return r;
        recovery_report_end(node);
        node->flush_due = true;
        manager_flush(node->manager);
        log_info("Node %s has reported: %zu attempts", node->name, hashmap_size(node->attempts));
        return 0;
}

static int on_started(Peer *peer, json_object *json) {
        Node *node = peer->node;
        json_object *tasks;

        if (json_get_array(json, "tasks", ENTRIES_MAX, &tasks) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(tasks); i++) {
                json_object *entry = json_object_array_get_idx(tasks, i);
                Attempt *attempt;
                const char *unit;
                uint32_t number;
                Id id;

                if (entry_attempt(node, entry, &id, &number, &attempt) < 0 ||
                    json_get_string_optional(entry, "unit", UNIT_MAX, NULL, &unit) < 0)
                        return -EBADMSG;
                if (!attempt || attempt->state != ATTEMPT_STARTING)
                        continue;
                free_and_strdup(&attempt->unit, unit);
                attempt_set_state(attempt, ATTEMPT_RUNNING);
                if (attempt->task && task_is_unfinished(attempt->task)) {
                        free_and_strdup(&attempt->task->unit, unit);
                        attempt->task->started_at = now_usec(CLOCK_REALTIME);
                        task_set_state(attempt->task, TASK_RUNNING);
                }
        }
        return 0;
}

/* The node does not know how long a task waited here: that figure of the receipt is ours. */
static void receipt_complete(json_object *receipt, const Task *task) {
        if (task->dispatched_at >= task->queued_at)
                (void) json_add_uint64(receipt, "queued_us", task->dispatched_at - task->queued_at);
}

typedef struct Ended {
        OutcomeKind kind;
        bool retry;
        const char *outcome, *receipt, *unit;
        uint64_t size, started_ms; /* since 1970, 0: not told */
        const struct iovec *payload;
} Ended;

static int parse_ended(json_object *entry, const Frame *frame, const Task *task, Ended *ret) {
        json_object *outcome, *receipt = NULL;
        uint64_t index;
        int r;

        *ret = (Ended){ 0 };
        if (json_get_object(entry, "outcome", &outcome) < 0 ||
            outcome_from_json(outcome, &ret->kind, &ret->retry) < 0 ||
            json_get_object_optional(entry, "receipt", &receipt) < 0 ||
            json_get_string_optional(entry, "unit", UNIT_MAX, NULL, &ret->unit) < 0 ||
            json_get_uint64_optional(entry, "size", UINT64_MAX / 4, 0, &ret->size) < 0)
                return -EBADMSG;
        if (receipt && json_get_uint64_optional(receipt, "started_at", UINT64_MAX / USEC_PER_SEC, 0,
                                                &ret->started_ms) < 0)
                return -EBADMSG;
        if (receipt && task)
                receipt_complete(receipt, task);
        /* The node knows only what was left of it when it got the task. */
        if (ret->kind == OUTCOME_DEADLINE && task &&
            json_add_uint64(outcome, "limit_ms", task->deadline_limit_ms) < 0)
                return -ENOMEM;
        ret->outcome = json_text(outcome, NULL);
        ret->receipt = receipt ? json_text(receipt, NULL) : NULL;
        if (!ret->outcome || strlen(ret->outcome) > TASK_OUTCOME_MAX ||
            (ret->receipt && strlen(ret->receipt) > TASK_OUTCOME_MAX))
                return -EBADMSG;
        r = json_get_uint64(entry, "payload", FRAME_PAYLOAD_COUNT_MAX, &index);
        if (r == -ENOENT)
                return 0;
        if (r < 0 || index >= frame->n_payloads || frame->payloads[index].iov_len != ret->size)
                return -EBADMSG;
        ret->payload = frame->payloads + index;
        return 0;
}

static void task_ended(Attempt *attempt, const Ended *ended) {
        Task *task = attempt->task;
        Node *node = attempt->node;
        bool infrastructure = ended->kind == OUTCOME_INFRASTRUCTURE || ended->kind == OUTCOME_SUPERSEDED;

        free_and_strdup(&attempt->unit, ended->unit ?: attempt->unit);
        free_and_strdup(&task->unit, attempt->unit);
        if (task->started_at == 0 && !isempty(attempt->unit)) /* it was short, and did run */
                task->started_at = ended->started_ms * USEC_PER_MSEC;
        attempt_set_state(attempt, ATTEMPT_ENDED);
        if (infrastructure)
                node_note_failure(node);
        else
                node_note_success(node);
        if (infrastructure || (ended->retry && task->attempt <= task->job->retries)) {
                _cleanup_(json_putp) json_object *outcome = NULL;
                const char *message = NULL;

                (void) json_parse_strict_object(ended->outcome, strlen(ended->outcome), JSON_DEPTH_MAX,
                                                &outcome);
                if (outcome)
                        (void) json_get_string_optional(outcome, "message", TASK_OUTCOME_MAX, NULL,
                                                        &message);
                if (infrastructure)
                        log_warning("Node %s could not run task %s, attempt %u: %s", node->name,
                                    ID_HEX(task->id), attempt->number, strempty(message));
                node_release(node, attempt->id, attempt->number);
                task_retry(task, true, message ?: "its node could not run it");
                attempt_free(attempt);
                return;
        }
        task_end(task, ended->kind, ended->outcome, ended->receipt, ended->size, ended->payload);
}

static int on_ended(Peer *peer, const Frame *frame) {
        Node *node = peer->node;
        Manager *m = node->manager;
        json_object *tasks;
        int r = 0;

        if (json_get_array(frame->json, "tasks", ENTRIES_MAX, &tasks) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(tasks); i++) {
                json_object *entry = json_object_array_get_idx(tasks, i);
                Attempt *attempt;
                uint32_t number;
                Ended ended;
                Id id;

                r = entry_attempt(node, entry, &id, &number, &attempt);
                if (r < 0)
                        break;
                r = parse_ended(entry, frame, attempt ? attempt->task : NULL, &ended);
                if (r < 0)
                        break;
                if (attempt && attempt->task) {
                        if (task_is_unfinished(attempt->task))
                                task_ended(attempt, &ended);
                        continue; /* a second time: harmless */
                }
                if (attempt && attempt->orphan) {
                        free_and_strdup(&attempt->orphan->outcome, ended.outcome);
                        free_and_strdup(&attempt->orphan->receipt, ended.receipt);
                        attempt->orphan->size = ended.size;
                        attempt_set_state(attempt, ATTEMPT_ENDED);
                        continue;
                }
                if (!node->reconciled)
                        continue; /* its REPORT is still coming in, and will name it */
                node_release(node, id, number);
                attempt_free(attempt);
        }
        /* Payloads are borrowed from the frame: what goes along must go now. */
        manager_send_results(m);
        return r;
}

/* One that has ended on this node a moment ago and is kept, until it is acknowledged or because it is
 * detached: its attempt is gone, and it is not among the past ones yet. */
static Task *find_ended(const Node *node, Id wire, uint32_t attempt) {
        Task *task = hashmap_get(node->manager->kept, &wire);

        return task && task->state == TASK_ENDED && !task->current && task->attempt == attempt &&
                               streq(strempty(task->node_name), node->name) &&
                               now_usec(CLOCK_REALTIME) < task->ended_at + LAST_WORDS_USEC
                       ? task
                       : NULL;
}

static int on_log(Peer *peer, const Frame *frame) {
        Node *node = peer->node;
        Manager *m = node->manager;
        json_object *tasks;

        if (json_get_array(frame->json, "tasks", ENTRIES_MAX, &tasks) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(tasks); i++) {
                json_object *entry = json_object_array_get_idx(tasks, i);
                HistoryEntry *past = NULL;
                Task *kept;
                Attempt *attempt;
                LogTail **tail = NULL;
                uint32_t number;
                uint64_t index;
                Owner *owner;
                Id id, task;

                if (entry_attempt(node, entry, &id, &number, &attempt) < 0 ||
                    json_get_uint64(entry, "payload", FRAME_PAYLOAD_COUNT_MAX, &index) < 0 ||
                    index >= frame->n_payloads)
                        return -EBADMSG;
                if (attempt && attempt->task) {
                        tail = &attempt->task->log;
                        owner = attempt->owner;
                        task = attempt->task->id;
                } else if (!attempt && (past = history_find_wire(m->history, id)) &&
                           past->attempt == number && history_is_from(past, node)) {
                        /* The last words come after the end. */
                        tail = &past->log;
                        owner = past->owner;
                        task = past->id;
                } else if (!attempt && !past && (kept = find_ended(node, id, number))) {
                        tail = &kept->log;
                        owner = kept->session->owner;
                        task = kept->id;
                }
                if (!tail)
                        continue;
                if (log_tail_append(&m->logs, tail, frame->payloads[index].iov_base,
                                    frame->payloads[index].iov_len) < 0)
                        return -ENOMEM;
                client_link_log(owner, task, *tail, false);
        }
        return 0;
}

static int on_progress(Peer *peer, json_object *json) {
        json_object *tasks;

        if (json_get_array(json, "tasks", ENTRIES_MAX, &tasks) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(tasks); i++) {
                _cleanup_(json_putp) json_object *progress = NULL;
                json_object *entry = json_object_array_get_idx(tasks, i);
                Attempt *attempt;
                double done, total;
                uint32_t number;
                const char *note;
                Id id;

                if (entry_attempt(peer->node, entry, &id, &number, &attempt) < 0 ||
                    json_get_double_optional(entry, "done", -1e18, 1e18, 0, &done) < 0 ||
                    json_get_double_optional(entry, "total", -1e18, 1e18, 0, &total) < 0 ||
                    json_get_string_optional(entry, "note", TASK_PROGRESS_MAX, NULL, &note) < 0)
                        return -EBADMSG;
                if (!attempt || !attempt->task || !task_is_unfinished(attempt->task))
                        continue;
                if (json_new_object(&progress) < 0)
                        return -ENOMEM;
                (void) json_add_double(progress, "done", done);
                (void) json_add_double(progress, "total", total);
                (void) json_add_string(progress, "note", note);
                if (free_and_strdup(&attempt->task->progress, json_text(progress, NULL)) < 0)
                        return -ENOMEM;
                session_status_due(attempt->task->session, attempt->task);
        }
        return 0;
}

int node_link_frame(Peer *peer, const Frame *frame) {
        if (!peer->node)
                return -EPROTO;
        if (frame->type == FRAME_HEARTBEAT)
                return on_heartbeat(peer, frame->json);
        if (frame->type == FRAME_REPORT)
                return on_report(peer, frame->json);
        if (frame->type == FRAME_GOODBYE) {
                connection_finish(peer->connection, 0, "It said goodbye");
                return 0;
        }
        switch (frame->type) {
        case FRAME_STARTED:
                return on_started(peer, frame->json);
        case FRAME_ENDED:
                return on_ended(peer, frame);
        case FRAME_LOG:
                return on_log(peer, frame);
        case FRAME_PROGRESS:
                return on_progress(peer, frame->json);
        case FRAME_ENVIRONMENT_STATE:
                return environment_link_state(peer, frame);
        default:
                return -EPROTO;
        }
}
