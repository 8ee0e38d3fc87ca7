/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "manager.h"

/* The socket on which the agent asks. One agent is served at a time; a newer one replaces it. */
int agent_link_new(Manager *manager, AgentLink **ret);
AgentLink *agent_link_free(AgentLink *link);
DEFINE_CLEANUP(AgentLink, agent_link_free);

/* Tells the agent, if there is one. fd stays the caller's; -EBADF: none. An agent that does not read is
 * dropped; it will ask LIST when it comes back. */
void agent_link_send(AgentLink *link, const LauncherEvent *event, int fd);
bool agent_link_is_connected(const AgentLink *link);
