/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>

typedef struct Agent Agent;

/* Adds to a HELLO what only this node knows: its name, what it is, what it has. Returns 0, -ENOMEM. */
int node_hello_fill(const Agent *agent, json_object *hello);
