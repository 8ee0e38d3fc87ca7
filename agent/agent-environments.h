/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

typedef struct Agent Agent;

/* Makes the agent's table of environments, between its launcher, its master and its tasks. Returns 0,
 * -ENOMEM, -errno. */
int agent_environments_new(Agent *agent);
