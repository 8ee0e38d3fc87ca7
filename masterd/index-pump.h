/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "frame.h"
#include "memory-util.h"
#include "types.h"

/* A connection of a build on a node with the package index: bytes of HTTP that go to the index's UNIX socket
 * and back, unread. Neither side is read from while the other does not take what there is. */

enum { INDEX_PUMPS_MAX = 64 /* of one node */ };

/* Returns 0, -ENOMEM, -errno. An index that is not there is answered with an HTTP error that says so. */
int index_pump_new(Peer *peer, Node *node, IndexPump **ret);
IndexPump *index_pump_free(IndexPump *pump);
DEFINE_CLEANUP(IndexPump, index_pump_free);

unsigned index_pump_count(const Node *node);

/* INDEX and END. Returns <0 to close the connection. */
int index_pump_frame(Peer *peer, const Frame *frame);
/* The node takes more. */
void index_pump_drained(IndexPump *pump);
