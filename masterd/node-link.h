/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>

#include "frame.h"
#include "types.h"

/* What agents say, and what is said to them. */

/* Returns <0 to close the connection. */
int node_link_frame(Peer *peer, const Frame *frame);

/* A task as DISPATCH carries it, without its payload. NULL without memory. */
json_object *node_link_dispatch_entry(const Task *task, const Attempt *attempt);
