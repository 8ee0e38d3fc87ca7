/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <systemd/sd-event.h>

#include "memory-util.h"
#include "server-config.h"
#include "tls-context.h"

/* The node's certificate, which is warned of before it expires. */
typedef struct AgentTls AgentTls;

/* config is borrowed. Logs what is wrong with the files: then the configuration has to be put right. Returns
 * 0, -errno. */
int agent_tls_new(sd_event *event, const ServerConfig *config, AgentTls **ret);
AgentTls *agent_tls_free(AgentTls *t);
DEFINE_CLEANUP(AgentTls, agent_tls_free);

/* NULL: the master is to be spoken to in plaintext. */
TlsContext *agent_tls_context(const AgentTls *t);
