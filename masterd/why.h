/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "history.h"
#include "types.h"

/* One sentence that a person can act on: why a task ended as it did (what, limit and actual, node, unit,
 * what to do next), or why it does not run yet. From malloc; NULL without memory. */
char *why_sentence(Manager *m, const TaskView *view);

/* Of a task that has not ended and does not run: the reason alone, "no node has 64 CPUs: …". NULL when it
 * runs or without memory. */
char *why_waiting(Manager *m, const Task *task);

/* No node there is could ever run one of its tasks: somebody has to do something. */
bool why_is_hopeless(Manager *m, const Job *job);

/* Of a task that did not end with a value: an entry in the journal, and a record for those who ask `why`
 * when the task itself is forgotten. */
void why_log(Task *task);
#define WHY_MESSAGE_ID "5c2f0a7de1f84c0d9b1b5f5c7c0e6a31"
