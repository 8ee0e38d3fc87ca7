/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "zygote.h"

/* A zygote's way from nothing to its imports: sockets and filters, stage, scope, anchor, builder, zygote.
 * Every step is an event. */

/* One of a policy's two filters, "outer" or "final", as a sealed memfd. Returns the fd, -ENOENT, -EPERM,
 * -EBADMSG, -errno. */
int filter_open(const char *policy, const char *which);

/* Returns 0, -ENOENT without such a policy, -EPERM when its file is not trusted, -errno. */
int zygote_start(Zygote *zygote);

/* Watches a process of it and takes the pidfd. Returns 0, -errno. */
int zygote_watch(Zygote *zygote, ZygoteProcess which, int pidfd);

/* After an upgrade: goes on where it was. Returns 0, -errno. */
int zygote_start_resume(Zygote *zygote, const ZygoteRecord *record);

/* Takes what it has said before its end. */
void zygote_hear(Zygote *zygote);

/* For zygote.c. */
void zygote_set_state(Zygote *zygote, ZygoteState state);
void zygote_maybe_free(Zygote *zygote);
