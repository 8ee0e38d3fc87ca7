/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <systemd/sd-event.h>

#include "launcher/launcher-protocol.h"
#include "memory-util.h"

/* The agent's end of the launcher's socket: connects, says hello, asks for the list, and does so again
 * whenever the launcher has gone away. Knows packets, not what they mean. */
typedef struct LauncherLink LauncherLink;

typedef struct LauncherLinkHandlers {
        /* A launcher is there; what it answers to LIST follows, ending with LAUNCHER_LIST_END. */
        void (*welcome)(const LauncherEvent *event, void *userdata);
        /* Everything else that it says. fds came beside it: those that the handler keeps it replaces by
         * -EBADF, the others are closed. */
        void (*event)(const LauncherEvent *event, int *fds, size_t n_fds, void *userdata);
        /* All that was there to read has been read: a good moment to pass things on together. */
        void (*batch_end)(void *userdata);
        /* It has gone after a welcome. What was queued for it is lost. */
        void (*down)(int error, void *userdata);
} LauncherLinkHandlers;

enum { LAUNCHER_QUEUE_MAX = 8192 }; /* requests that wait while the socket is full */

/* Begins to connect to path at once. Returns 0, -ENOMEM, -errno. */
int launcher_link_new(sd_event *event, const char *path, const LauncherLinkHandlers *handlers,
                      void *userdata, LauncherLink **ret);
LauncherLink *launcher_link_free(LauncherLink *l);
DEFINE_CLEANUP(LauncherLink, launcher_link_free);

/* Sends one request (its version is filled in) with up to two fds, which stay the caller's. Returns 0,
 * -ENOTCONN before the welcome, -ENOBUFS when the queue is full, -ENOMEM. */
int launcher_link_send(LauncherLink *l, LauncherRequest *request, const int *fds, size_t n_fds);

bool launcher_link_is_up(const LauncherLink *l);
