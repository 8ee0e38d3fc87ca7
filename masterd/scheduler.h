/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "types.h"

/* Who runs where. One pass costs as many steps as there are jobs with queued tasks, times the nodes, plus
 * the tasks placed: a job's tasks are alike, so that its first one speaks for all.
 *
 * Order: the user with the fewest running CPUs first, likewise among the user's clients; within one the
 * highest priority, then who came first. What would go over a user's quota waits, and keeps no node free.
 * Place: the least loaded node with room; with a server_count only nodes that the job holds or may take.
 * A job that has waited for RESERVE_AFTER_S while smaller tasks took what became free gets a node for
 * itself. */

enum { SCHEDULER_RESERVE_AFTER_S = 5, SCHEDULER_TELL_AFTER_S = 10, SCHEDULER_TELL_INTERVAL_S = 2 };

void scheduler_run(Manager *m);

/* Who asks for more than any node has would wait for ever without a word: their clients are told, once a
 * job. */
void scheduler_tell(Manager *m);

/* The node that could take the job's first task now, NULL. For tests and for why.c. */
Node *scheduler_pick(Manager *m, Job *job);
