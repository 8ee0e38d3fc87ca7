/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "agent.h"
#include "frame.h"

/* From DISPATCH to the launcher: takes orders apart, sees to code and arguments, starts what has both. */

/* All of these return 0, -EBADMSG when the frame is not what the protocol says, -ESTALE for an order of a
 * past epoch: the connection is then to be closed. */
int agent_dispatch_frame(Agent *agent, const Frame *frame);
int agent_stop_frame(Agent *agent, const Frame *frame);
int agent_release_frame(Agent *agent, const Frame *frame);
/* The `stop` of a RECONCILE. */
int agent_supersede_frame(Agent *agent, const Frame *frame);

/* Hands it to the launcher if nothing is missing any more; else does nothing. May free the attempt. */
void attempt_try_start(Attempt *a);
/* The same for all that are prepared, when the launcher is there (again). */
void agent_start_prepared(Agent *agent);
/* Those which the launcher has never heard of; the master will order them anew when it misses them. */
void agent_forget_preparing(Agent *agent);

/* The attempt waits for no code any more. */
void code_fetch_leave(Attempt *a);
