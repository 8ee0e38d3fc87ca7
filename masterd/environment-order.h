/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>

#include "environment-node.h"
#include "environments.h"

/* Who resolves, who builds, and when it is tried again. */

enum {
        ORDER_ATTEMPTS = 4,            /* of a request to resolve, each time elsewhere if possible */
        ORDER_NODE_ATTEMPTS = 5,       /* of a build on one node, when it was not the packages' fault */
        ORDER_NODES_GIVEN_UP = 3,      /* so many nodes say the same: it fails everywhere */
        ORDER_RESOLVE_MAX_S = 1200,    /* from when the node begins */
        ORDER_WAIT_MAX_S = 7200,       /* until it does */
        ORDER_BACKOFF_FIRST_MS = 1000, /* doubling */
        ORDER_BACKOFF_MAX_MS = 60000,
};

/* Everything that is due. For tests; else see environments_wake(). */
void environments_work(Manager *m);

/* For tasks of the job that wait and for which no node with room has the environment: has it built where
 * there is room, on as many nodes as the tasks need; on one while all are full. */
void environments_order_for(Manager *m, Job *job);

/* It has said all that it has. */
void environments_node_complete(Node *node);
/* Its connection is gone. */
void environments_node_gone(Node *node);
/* It is about to be freed. */
void environments_node_freed(Node *node);
/* Its Pythons have come, as its hello has them. */
void environments_node_hello(Node *node);

/* Whether a node could build it or have it. */
bool environment_fits_node(const Environment *e, const Node *node);
bool environment_is_ready_on_all(const Environment *e);

/* Nobody needs it any more: what nodes have not begun is taken back. */
void environment_withdraw(Environment *e);
/* The node has begun. */
void environment_resolve_begun(Environment *e);

/* What nodes answer; that packages cannot be had counts once two say so, if there are two. reason: see the
 * protocol; words: of the installer, or a sentence. */
void environment_resolve_failed(Environment *e, const char *reason, const char *words);
void environment_build_failed(NodeEnvironment *there, const char *reason, const char *words);
/* One of that name has changed on a node. */
void environments_there_changed(Manager *m, const char *name);

/* Which ones are the default ones now. */
void environments_tell_kept(Manager *m);

/* Whether the words are about the packages, and will be the same elsewhere. */
bool environment_reason_is_final(const char *reason);
