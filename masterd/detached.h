/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "list.h"
#include "memory-util.h"
#include "types.h"

/* Calls that outlive their client and the master. What they are is in the state store
 * (detached/<owner>/<id>), argument, code and result are files in <state_directory>/.detached. Until its
 * client goes or has its result, such a task is like any other; then it moves to a session of its user's
 * that never ends. From there a client may attach to it, and again, until its result has been kept long
 * enough. */

/* Soon writes the task down and begins to fetch its argument and code. hold: it is not in a queue before all
 * of that is on disk, and is refused to its client if it cannot be; else it goes on as an ordinary one then.
 * Returns 0, -EFBIG over `detached.size`, -EUSERS over the owner's share of `detached.total`, -EDQUOT over
 * that, -ENOSPC, -ENOMEM. */
int detached_task_new(Task *task, bool hold);
/* Refuses the task to its client for that error. */
void detached_refuse(Task *task, int error);
/* Why, for people. From malloc. */
char *detached_refusal(const Task *task, int error);
/* Its argument and code are being written down. */
bool detached_is_held(const Task *task);
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
/* Its client has the result. Returns whether it is kept; else everything is removed. */
bool detached_acknowledged(Task *task);
/* Nobody wants a result any more that is kept. Frees the task; returns false when that is not so. */
bool detached_drop(Task *task);
/* A client of the same user wants it back: it is that one's from now on. A client that has it already hears
 * of its end next, when this one has the result or has gone. Returns 0, -EUSERS when too many wait so,
 * -ENOMEM. */
int detached_attach(Task *task, Session *session);
/* Whether that client waits for its turn. */
bool detached_is_watched(const Task *task, const Session *session);
/* It waits for nothing any more. */
void detached_session_gone(Session *session);
/* At the master's start. Logs what it cannot read. Returns 0, -errno. */
int detached_load(Manager *m);

/* A file with "args", "code" or "result" to read from, opened at that offset. Returns the descriptor,
 * -ENOENT. */
int detached_open(const Task *task, const char *what, uint64_t offset);
