/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "manager.h"

/* Stops and removes everything named clupy-task-* and clupy-zygote-* that the table does not hold: what a
 * launcher that was killed has left. Waits for systemd's list of units: only for the start. */
int sweep_start(Manager *manager);
/* What was still dying the last time. */
void sweep_again(Manager *manager);
/* Whether that child is one of ours that is not reaped. */
bool sweep_is_ordered(Manager *manager, pid_t pid);
/* Kills and reaps children that nobody ordered: a hostile zygote can make some. */
void sweep_strangers(Manager *manager);
