/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "attempt.h"
#include "batch.h"
#include "environment-node.h"
#include "hashmap.h"
#include "id.h"
#include "memory-util.h"
#include "types.h"

typedef enum NodeState {
        NODE_REPORTING, /* connected; what it runs is not known yet */
        NODE_READY,
        NODE_SUSPECT, /* silent or not connected: gets no new work */
        NODE_LOST,    /* its lease is over: what it ran is run elsewhere */
        NODE_DRAINING,
        NODE_DRAINED,
        _NODE_STATE_MAX,
} NodeState;

DEFINE_NAME_TABLE_DECLARATION(node_state, NodeState);

/* A machine that has said hello once, or is in the registry. Lives as long as the master. */
struct Node {
        Manager *manager;
        char *name;
        NodeState state;
        bool drain;
        bool reconciled; /* on the present connection */
        bool silent, lost;
        bool known; /* has said hello to this master */

        Peer *peer; /* NULL: not connected */
        Id boot_id, instance;
        char *address, *python, *software;
        uint32_t mcpus, mcpus_used;
        uint64_t memory, memory_used; /* bytes */
        uint64_t unreleased;
        uint32_t default_mcpus;
        uint64_t default_memory;
        uint32_t default_tasks_max;
        double load;

        Hashmap *attempts; /* by their ids */
        unsigned n_charged;
        uint64_t heartbeat_at; /* BOOTTIME µs of the last sign of life */
        uint64_t connected_at; /* realtime µs */
        sd_event_source *timer;

        char **pythons; /* "3.11", its main one first; NULL: not known */
        char *platform; /* "linux-x86_64" */
        char **labels;  /* "zone=a" */
        Resources resources;
        Hashmap *environments; /* name → NodeEnvironment */
        Hashmap *order_askers; /* who asked for what it looks up or builds → for what: one at a time each */
        unsigned n_orders;     /* that it has not answered, of both kinds */
        size_t words_size;     /* bytes of what they say of their failures */
        unsigned n_pumps;      /* connections of its builds with the package index */
        bool environments_known; /* it has said which it has, on the present connection */

        Job *reserved;       /* nothing else starts here until its next task has */
        unsigned failures;   /* infrastructure failures without a success between */
        uint64_t rest_until; /* BOOTTIME µs */

        Batch dispatch, stop, release;
        bool flush_due;
};

/* Registers it. Returns 0, -EEXIST, -ENOMEM. */
int node_new(Manager *manager, const char *name, Node **ret);
Node *node_free(Node *node);
DEFINE_CLEANUP(Node, node_free);

/* Works out the state from the facts (connection, heartbeats, report, drain) and does what a change needs.
 */
void node_update(Node *node);

/* Whether its last report and the connection it came over are good: nothing can run there that the table
 * does not know. A lost node counts: what it ran is no longer waited for. */
bool node_is_accounted(const Node *node);

/* What a REPORT and the registry's hello are compared by. Another boot or launcher: all former attempts are
 * dead, and run again. */
void node_set_instance(Node *node, Id boot_id, Id instance);

void node_connected(Node *node, Peer *peer);
void node_disconnected(Node *node);
/* A frame of that kind came; renews the clock. */
void node_heartbeat(Node *node);
/* Looks at the clock: silent, lost. Arms the timer for the next look. */
void node_check(Node *node);
/* All attempts are gone. may_have_run: they count as retries. */
void node_drop_attempts(Node *node, bool may_have_run, const char *why);

/* Writes it down first. Returns 0, -errno when that fails: logged, and the node stays as it is. */
int node_set_drain(Node *node, bool drain);

uint32_t node_mcpus_free(const Node *node);
uint64_t node_memory_free(const Node *node);
/* Bytes that may be promised in all. */
uint64_t node_memory_capacity(const Node *node);

/* Into the next frame to it. Without effect while it is not connected: then its REPORT settles it. */
void node_stop_attempt(Node *node, Id id, uint32_t number, const char *why, const char *by);
void node_release(Node *node, Id id, uint32_t number);
int node_dispatch(Node *node, Task *task);
void node_flush(Node *node);

/* An attempt ended because of the node (ended well): nodes that break everything are given a rest. */
void node_note_failure(Node *node);
void node_note_success(Node *node);
