/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "environment-name.h"
#include "macros.h"
#include "memory-util.h"
#include "types.h"

/* What a node offers, and which environments are there. */

typedef enum NodeEnvironmentState {
        NODE_ENVIRONMENT_ORDERED,
        NODE_ENVIRONMENT_BUILDING,
        NODE_ENVIRONMENT_READY,
        NODE_ENVIRONMENT_FAILED,
        _NODE_ENVIRONMENT_STATE_MAX,
} NodeEnvironmentState;

DEFINE_NAME_TABLE_DECLARATION(node_environment_state, NodeEnvironmentState);

enum {
        NODE_ENVIRONMENTS_MAX = 10000, /* that are remembered of one node */
        NODE_WORDS_MAX = 4 << 20,      /* bytes of words about its failures, in all */
        NODE_WORDS_CUT = 1 << 10,      /* bytes of each one's, when there are too many */
        NODE_PYTHONS_MAX = 32,
        NODE_LABELS_MAX = 256,
        NODE_RESOURCES_MAX = 64,
};

typedef struct NodeEnvironment {
        Node *node;
        char name[ENVIRONMENT_NAME_SIZE];
        NodeEnvironmentState state;
        uint64_t since;    /* BOOTTIME µs of the state */
        uint64_t retry_at; /* BOOTTIME µs; of one that failed */
        unsigned failures; /* in a row */
        bool given_up; /* it is not this node's fault: tried no more there, see environment_try_again() */
        char *reason, *log; /* of one that failed; the latter: words, see node_environment_set_words() */
        char *asker;        /* whom it is built for, NULL: everybody, or it is not being built */
        uint64_t bytes, files, in_use;
        uint64_t used_at; /* realtime ms, 0: not known */
        double seconds;   /* that its build took */
} NodeEnvironment;

NodeEnvironment *node_environment_find(const Node *node, const char *name);
bool node_environment_is_ready(const Node *node, const char *name);
/* The one there is, or a new one in the state `ordered`. Returns 0, -ENOMEM, -ENOSPC. */
int node_environment_get(Node *node, const char *name, NodeEnvironment **ret);
/* A node's queue is first come, first served: whoever asks (a user, or ENVIRONMENT_OWNER_SHARED, who may
 * always) has one order at a time on it. what: any pointer that stands for the order. */
bool node_order_is_free(const Node *node, const char *asker);
int node_order_take(Node *node, const char *asker, void *what);
void node_order_give(Node *node, const char *asker, const void *what);

/* It has been ordered, for this one. Returns 0, -ENOMEM. */
int node_environment_order(NodeEnvironment *e, const char *asker);
/* The only place where a state changes. */
void node_environment_set_state(NodeEnvironment *e, NodeEnvironmentState state);
/* Why it failed, copied: the end of the words where the node has said too much already. */
void node_environment_set_words(NodeEnvironment *e, const char *reason, const char *words);
NodeEnvironment *node_environment_free(NodeEnvironment *e);
/* All that the node is not known to have for good: its connection is gone. */
void node_environments_forget_orders(Node *node);
void node_environments_clear(Node *node);

/* Counted things ("gpu", 2): those of a node, or those that a job requires. */
typedef struct Resource {
        char *name;
        uint64_t total, used;
} Resource;

typedef struct Resources {
        Resource *items;
        size_t n;
} Resources;

void resources_done(Resources *resources);
/* Adds n of it. Returns 0, -ENOMEM. */
int resources_add(Resources *resources, const char *name, uint64_t n);
int resources_copy(const Resources *from, Resources *ret);
const Resource *resources_find(const Resources *resources, const char *name);
/* Whether a node that is empty (that is as it is now) has what is required. */
bool resources_suffice(const Resources *node, const Resources *required, bool now);
/* Takes or gives back. What the node does not have is left out. */
void resources_charge(Resources *node, const Resources *required, bool take);
/* Other totals, what is taken stays so. */
int resources_replace(Resources *node, Resources *totals);

/* name=value; every one of `required` is among `labels`. */
bool labels_match(char *const *labels, char *const *required);
