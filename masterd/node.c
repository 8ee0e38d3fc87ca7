/* SPDX-License-Identifier: Apache-2.0 */
#include "node.h"

#include <errno.h>

#include "detached.h"
#include "environment-order.h"
#include "environments.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node-link.h"
#include "parse-util.h"
#include "peer.h"
#include "recovery.h"
#include "session.h"
#include "time-util.h"

enum {
        REST_AFTER = 3,       /* failures in a row */
        REST_FIRST_MS = 1000, /* doubling */
        REST_MAX_MS = 30000,
};

static const char *const node_state_table[_NODE_STATE_MAX] = {
        [NODE_REPORTING] = "reporting", [NODE_READY] = "ready",       [NODE_SUSPECT] = "suspect",
        [NODE_LOST] = "lost",           [NODE_DRAINING] = "draining", [NODE_DRAINED] = "drained",
};

DEFINE_NAME_TABLE(node_state, NodeState, node_state_table);

int node_new(Manager *manager, const char *name, Node **ret) {
        _cleanup_(node_freep) Node *node = NULL;
        int r;

        if (hashmap_size(manager->nodes) >= MANAGER_NODES_MAX)
                return -ENOSPC;
        node = new0(Node);
        if (!node)
                return -ENOMEM;
        node->manager = manager;
        node->state = NODE_SUSPECT;
        node->heartbeat_at = manager_now(manager);
        node->dispatch = BATCH_INIT(FRAME_DISPATCH, "tasks");
        node->dispatch.with_epoch = true;
        node->dispatch.epoch = manager->epoch;
        node->stop = BATCH_INIT(FRAME_STOP, "tasks");
        node->release = BATCH_INIT(FRAME_RELEASE, "tasks");
        node->default_mcpus = 1000;
        node->default_memory = MIB(512);
        node->name = strdup(name);
        if (!node->name)
                return -ENOMEM;
        r = hashmap_new(HASHMAP_ID, &node->attempts);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &node->environments);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &node->order_askers);
        if (r < 0)
                return r;
        r = hashmap_put(manager->nodes, node->name, node);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(node);
        return 0;
}

Node *node_free(Node *node) {
        Attempt *attempt;

        if (!node)
                return NULL;
        HASHMAP_FOREACH(attempt, node->attempts)
                attempt_free(attempt);
        hashmap_free(node->attempts);
        node_environments_clear(node);
        environments_node_freed(node);
        hashmap_free(node->environments);
        hashmap_free(node->order_askers);
        strv_free(node->pythons);
        strv_free(node->labels);
        resources_done(&node->resources);
        free(node->platform);
        if (node->name)
                (void) hashmap_remove(node->manager->nodes, node->name);
        sd_event_source_disable_unref(node->timer);
        batch_done(&node->dispatch);
        batch_done(&node->stop);
        batch_done(&node->release);
        free(node->name);
        free(node->address);
        free(node->python);
        free(node->software);
        return mfree(node);
}

static NodeState node_state_now(const Node *node) {
        if (node->lost)
                return NODE_LOST;
        if (!node->peer || node->silent)
                return NODE_SUSPECT;
        if (!node->reconciled)
                return NODE_REPORTING;
        if (node->drain)
                return node->n_charged > 0 ? NODE_DRAINING : NODE_DRAINED;
        return NODE_READY;
}

static void node_set_state(Node *node, NodeState state) {
        Manager *m = node->manager;
        NodeState old = node->state;

        if (old == state)
                return;
        node->state = state;
        if (node->reserved && state != NODE_READY) {
                node->reserved->reserved = NULL;
                node->reserved = NULL;
        }
        if (state == NODE_LOST)
                log_warning("Node %s is lost: nothing was heard of it for %s; what it ran is run elsewhere",
                            node->name, FORMAT_DURATION(m->config->lease + m->config->lease_margin));
        else
                log_info("Node %s: %s -> %s", node->name, node_state_to_string(old),
                         node_state_to_string(state));
        environments_wake(m);
        manager_schedule(m);
        manager_notify(m);
}

void node_update(Node *node) {
        node_set_state(node, node_state_now(node));
}

bool node_is_accounted(const Node *node) {
        return node->lost || (node->peer && node->reconciled);
}

void node_drop_attempts(Node *node, bool may_have_run, const char *why) {
        Attempt *attempt;

        HASHMAP_FOREACH(attempt, node->attempts) {
                Task *task = attempt->task;

                if (task && (task_is_unfinished(task) || (task->result_size > 0 && !task->payload_sent)))
                        /* Ended, but the result was only there. */
                        task_retry(task, may_have_run, why);
                attempt_free(attempt);
        }
        recovery_check(node->manager);
}

void node_set_instance(Node *node, Id boot_id, Id instance) {
        bool same = id_equal(node->boot_id, boot_id) && id_equal(node->instance, instance);

        if (!same && hashmap_size(node->attempts) > 0) {
                log_notice("Node %s is back with another %s: its %zu former attempts are dead", node->name,
                           id_equal(node->boot_id, boot_id) ? "launcher" : "boot",
                           hashmap_size(node->attempts));
                node_drop_attempts(node, true, "its node restarted");
        }
        node->boot_id = boot_id;
        node->instance = instance;
        if (!same || !node->known)
                manager_store_node(node->manager, node);
        node->known = true;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        node_check(userdata);
        return 0;
}

/* Whatever it says shows that it is there, while its heartbeats may be behind a large frame; its lease,
 * though, is renewed by heartbeats only. */
static uint64_t node_heard_at(const Node *node) {
        if (!node->peer || !node->peer->connection)
                return node->heartbeat_at;
        return MAX(node->heartbeat_at, connection_statistics(node->peer->connection)->last_frame_usec);
}

static void node_arm(Node *node) {
        const MasterConfig *config = node->manager->config;
        uint64_t due = USEC_INFINITY;

        if (!node->lost)
                due = node->peer && !node->silent
                              ? usec_add(node_heard_at(node), config->heartbeat_timeout)
                              : usec_add(node->heartbeat_at, config->lease + config->lease_margin);
        if (!node->lost)
                due = MIN(due, usec_add(node->heartbeat_at, config->lease + config->lease_margin));
        manager_timer(node->manager, &node->timer, due, on_timer, node);
}

void node_connected(Node *node, Peer *peer) {
        node->peer = peer;
        node->reconciled = false;
        node->connected_at = now_usec(CLOCK_REALTIME);
        node_heartbeat(node);
}

void node_disconnected(Node *node) {
        node->peer = NULL;
        node->reconciled = false;
        batch_done(&node->stop);
        batch_done(&node->release);
        /* What is in this batch never left: the next REPORT (or the lease) says so. */
        batch_done(&node->dispatch);
        environments_node_gone(node);
        node_update(node);
        node_arm(node);
}

void node_heartbeat(Node *node) {
        node->heartbeat_at = manager_now(node->manager);
        node->silent = false;
        if (node->lost && node->peer)
                node->lost = false;
        node_arm(node);
        node_update(node);
}

void node_check(Node *node) {
        const MasterConfig *config = node->manager->config;
        uint64_t now = manager_now(node->manager), silence = usec_sub(now, node->heartbeat_at);

        if (node->lost)
                return;
        if (silence >= config->lease + config->lease_margin) {
                Peer *peer = node->peer;

                node->lost = true;
                if (peer) {
                        /* The attempts there are superseded from here on; a new REPORT is to say what is. */
                        node_disconnected(node);
                        peer->node = NULL;
                        peer_close(peer, -ETIMEDOUT, "No heartbeat for the length of the lease");
                }
                node_update(node);
                node_drop_attempts(node, true, "its node was lost");
        } else if (node->peer && usec_sub(now, node_heard_at(node)) >= config->heartbeat_timeout)
                node->silent = true;
        node_arm(node);
        node_update(node);
}

int node_set_drain(Node *node, bool drain) {
        int r;

        if (node->drain == drain)
                return 0;
        r = manager_store_drain(node->manager, node, drain);
        if (r < 0)
                return log_error_errno(r, "Cannot write down that node %s is %s", node->name,
                                       drain ? "drained" : "in service");
        node->drain = drain;
        log_notice("Node %s: %s", node->name, drain ? "drained by request" : "in service again");
        node_update(node);
        return 0;
}

uint32_t node_mcpus_free(const Node *node) {
        return node->mcpus > node->mcpus_used ? node->mcpus - node->mcpus_used : 0;
}

uint64_t node_memory_capacity(const Node *node) {
        return (uint64_t) ((double) node->memory * node->manager->config->overcommit_memory);
}

uint64_t node_memory_free(const Node *node) {
        uint64_t used = usec_add(node->memory_used, node->unreleased);

        return usec_sub(node_memory_capacity(node), used);
}

static void node_flush_due(Node *node) {
        node->flush_due = true;
        manager_flush(node->manager);
}

static json_object *attempt_entry(Id id, uint32_t number) {
        _cleanup_(json_putp) json_object *entry = NULL;

        if (json_new_object(&entry) < 0 || json_add_id(entry, "id", id) < 0 ||
            json_add_uint64(entry, "attempt", number) < 0)
                return NULL;
        return TAKE_PTR(entry);
}

void node_stop_attempt(Node *node, Id id, uint32_t number, const char *why, const char *by) {
        json_object *entry;

        if (!node->peer || !node->reconciled)
                return;
        entry = attempt_entry(id, number);
        if (!entry)
                return;
        (void) json_add_string(entry, "why", why);
        (void) json_add_string(entry, "by", by);
        if (!batch_has_room(&node->stop, 256, 0))
                (void) batch_send(&node->stop, node->peer->connection);
        (void) batch_add(&node->stop, entry, 256, NULL, false);
        node_flush_due(node);
}

void node_release(Node *node, Id id, uint32_t number) {
        json_object *entry;

        if (!node->peer || !node->reconciled)
                return;
        entry = attempt_entry(id, number);
        if (!entry)
                return;
        if (!batch_has_room(&node->release, 80, 0))
                (void) batch_send(&node->release, node->peer->connection);
        (void) batch_add(&node->release, entry, 80, NULL, false);
        node_flush_due(node);
}

int node_dispatch(Node *node, Task *task) {
        Job *job = task->job;
        Manager *m = node->manager;
        uint32_t mcpus = job_mcpus(job, node);
        uint64_t memory = job_memory(job, node);
        struct iovec payload = { 0 };
        Attempt *attempt;
        json_object *entry;
        size_t room;
        Id wire;
        int r;

        r = attempt_wire_id(node, task, &wire);
        if (r >= 0)
                r = attempt_new(node, task->session->owner, wire, task->attempt + 1, mcpus, memory,
                                &attempt);
        if (r < 0)
                return r;
        task_attach(task, attempt);
        task_set_state(task, TASK_STARTING);
        task->dispatched_at = now_usec(CLOCK_REALTIME);
        if (task->detached)
                detached_started(task);
        if (!node->peer)
                return 0;
        /* To a congested link go no payloads: the agent fetches them, with credits. */
        if (task->argument && connection_is_congested(node->peer->connection))
                task_drop_argument(task);
        payload = (struct iovec){ task->argument, task->size };
        room = 1024 + 2 * strlen(job->name);
        if (!batch_has_room(&node->dispatch, room, task->argument ? task->size : 0))
                (void) batch_send(&node->dispatch, node->peer->connection);
        entry = node_link_dispatch_entry(task, attempt);
        if (!entry)
                return -ENOMEM;
        if (task->argument) {
                m->inline_memory -= task->size;
                task->argument = NULL;
                r = batch_add(&node->dispatch, entry, room, &payload, true);
        } else
                r = batch_add(&node->dispatch, entry, room, NULL, false);
        node_flush_due(node);
        return r;
}

void node_flush(Node *node) {
        Connection *connection = node->peer ? node->peer->connection : NULL;

        node->flush_due = false;
        /* Stops first: what they free may be what the dispatches need. */
        (void) batch_send(&node->stop, connection);
        (void) batch_send(&node->release, connection);
        (void) batch_send(&node->dispatch, connection);
}

void node_note_failure(Node *node) {
        uint64_t rest;

        if (++node->failures < REST_AFTER)
                return;
        rest = MIN((uint64_t) REST_FIRST_MS << MIN(node->failures - REST_AFTER, 10U),
                   (uint64_t) REST_MAX_MS);
        node->rest_until = manager_now(node->manager) + rest * USEC_PER_MSEC;
        log_warning("Node %s could not run %u tasks in a row; it gets no new ones for %s", node->name,
                    node->failures, FORMAT_DURATION(rest * USEC_PER_MSEC));
        manager_rest_until(node->manager, node->rest_until);
}

void node_note_success(Node *node) {
        node->failures = 0;
        node->rest_until = 0;
}
