/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "memory-util.h"

/* One heartbeat an interval, and what an answer to it is worth: the lease runs from when the answered one
 * was sent, on CLOCK_BOOTTIME, so that neither a slow network nor a suspended machine lengthens it. */
typedef struct Heartbeat Heartbeat;

typedef struct HeartbeatHandlers {
        void (*send)(uint64_t seq, void *userdata);
        /* The lease now lasts until then (µs of CLOCK_BOOTTIME). */
        void (*lease)(uint64_t until_usec, void *userdata);
        /* None has been answered for half a lease: the connection is of no use. */
        void (*silent)(void *userdata);
} HeartbeatHandlers;

int heartbeat_new(sd_event *event, const HeartbeatHandlers *handlers, void *userdata, Heartbeat **ret);
Heartbeat *heartbeat_free(Heartbeat *h);
DEFINE_CLEANUP(Heartbeat, heartbeat_free);

/* A new connection: the first goes out at once. Its answers renew nothing yet. Returns 0, -errno. */
int heartbeat_start(Heartbeat *h, uint64_t interval_usec, uint64_t lease_usec);
void heartbeat_stop(Heartbeat *h);
/* The master knows now what runs here: heartbeats sent from now on renew the lease, the first at once. */
void heartbeat_renew(Heartbeat *h);
/* An answer. One to a heartbeat that was not sent or is too old is worth nothing. */
void heartbeat_answered(Heartbeat *h, uint64_t seq);
