/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "memory-util.h"

typedef struct Agent Agent;

/* org.clupy.Agent1 on the system bus, for clupyctl and busctl on this node. Read only. A node without a bus
 * works as well; one that comes back is used again. */
typedef struct AgentBus AgentBus;

/* Returns 0, -ENOMEM; no bus is no error. */
int agent_bus_new(Agent *agent, AgentBus **ret);
AgentBus *agent_bus_free(AgentBus *b);
DEFINE_CLEANUP(AgentBus, agent_bus_free);

/* The connection to the master is another: tells who watches. Takes NULL. */
void agent_bus_changed(AgentBus *b);
