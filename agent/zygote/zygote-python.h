/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "zygote-protocol.h"

/* The embedded interpreter. */

/* Starts it as if it were that program, which decides what can be imported, and imports what all tasks
 * share. Ends the process (ZYGOTE_EXIT_ENVIRONMENT) when that fails. */
void python_start(const char *interpreter);

/* Around the fork. */
void python_before_fork(void);
void python_after_fork_parent(void);
void python_after_fork_child(void);

/* Goes the way of a call once, for the pages that it touches. Returns 0, -EIO (and has printed why). */
int python_rehearse(void);

/* Runs a call. Returns 0 and fills message; *ret_memfd is the payload, not yet sealed, or -EBADF. Returns
 * -EIO when the runtime itself failed (and has printed why). code and args belong to the callee. */
int python_run(const ZygoteGo *go, int code, int args, TaskMessage *message, int *ret_memfd);

/* In the forked child: enters its sandbox and does one call. fds are in the order of the request; filter is
 * the final one. */
_Noreturn void task_main(const ZygoteRequest *request, int *fds, int filter);
