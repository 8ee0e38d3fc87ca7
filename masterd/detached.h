/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "list.h"
#include "memory-util.h"
#include "types.h"

/* Calls that outlive their client and the master. What they are is in the state store (detached/<id>),
 * argument, code and result are files in <state_directory>/.detached. Until its client goes such a task is
 * like any other; then it moves to a session of its user's that never ends, until a client attaches to it or
 * its result has been kept long enough. */

/* Soon writes the task down and begins to fetch its argument and code; what cannot be kept then is logged,
 * and ends with its client. Returns 0, -EFBIG when the argument is over `detached.size`, -ENOMEM; likewise.
 */
int detached_task_new(Task *task);
Detached *detached_free(Detached *d);

/* It is about to run: with `retries: 0` that must not be forgotten. */
void detached_started(Task *task);
/* Its client is gone for good. Returns whether it goes on without. */
bool detached_keep(Task *task);
/* It has ended: the result is fetched to disk, and released once it is there. */
void detached_ended(Task *task);
/* That result is gone, it runs again. */
void detached_retried(Task *task);
/* Whether the result needs no node any more. */
bool detached_has_result(const Task *task);
/* Its client has the result: everything is removed. */
void detached_acknowledged(Task *task);
/* A client of the same user wants it back. Returns 0, -ENOMEM. */
int detached_attach(Task *task, Session *session);
/* At the master's start. Logs what it cannot read. Returns 0, -errno. */
int detached_load(Manager *m);

/* A file with "args", "code" or "result" to read from, opened at that offset. Returns the descriptor,
 * -ENOENT. */
int detached_open(const Task *task, const char *what, uint64_t offset);
