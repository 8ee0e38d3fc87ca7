/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>

#include "memory-util.h"
#include "types.h"

/* Calls that outlive their client and the master: what they need is written down below the state directory.
 */

/* Writes the task down and begins to fetch its argument and code. Returns 0, -errno. */
int detached_task_new(Task *task);
Detached *detached_free(Detached *d);

/* Its client is gone. Returns whether it goes on without. */
bool detached_keep(Task *task);
/* It has ended. Returns whether the result is not yet to be told. */
bool detached_task_ended(Task *task);
/* Its client has the result. */
void detached_acknowledged(Task *task);
/* A client of the same user wants it back. */
int detached_attach(Task *task, Session *session);
/* At the master's start. */
int detached_load(Manager *m);
