/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "manager.h"

/* The socket on which the agent asks. One agent is served at a time; a newer one replaces it. state is that
 * of a former version, or NULL: then the agent goes on with what it has. Returns 0, -errno. */
typedef struct ManagerRecord ManagerRecord;
int agent_link_new(Manager *manager, const ManagerRecord *state, AgentLink **ret);
void agent_link_save(const AgentLink *link, ManagerRecord *record);
AgentLink *agent_link_free(AgentLink *link);
DEFINE_CLEANUP(AgentLink, agent_link_free);

/* Tells the agent, if there is one. fd stays the caller's; -EBADF: none. An agent that does not read is
 * dropped; it will ask LIST when it comes back. */
void agent_link_send(AgentLink *link, const LauncherEvent *event, int fd);
/* The same with up to two. */
void agent_link_send_many(AgentLink *link, const LauncherEvent *event, const int *fds, size_t n_fds);
/* Whether nothing waits for the agent to read. */
bool agent_link_is_flushed(const AgentLink *link);
void agent_link_drop(AgentLink *link, const char *why);
bool agent_link_is_connected(const AgentLink *link);
