/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "agent.h"

/* What the master hears of attempts. News are gathered and sent together, at the end of what made them. */

/* Notes that the master has to hear of it. */
void attempt_news(Attempt *a, AttemptNews news);
/* Sends what has been noted, if the master has reconciled and the connection is not congested. */
void agent_send_news(Agent *agent);
/* Every attempt: what is noted so far is told thereby. Returns 0, -ENOMEM, -errno of sending. */
int agent_send_report(Agent *agent);
/* That the node does not hold this attempt (any more). */
void agent_send_unknown(Agent *agent, Id task, uint32_t attempt);
