/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "gate.h"
#include "listener.h"
#include "types.h"

/* Where the manager is called: its listeners, the gate before them, and the count of those who were turned
 * away. Part of the manager; all zero before entrance_open(). */
typedef struct Entrance {
        Listener **listeners;
        size_t n_listeners;
        Gate *gate;
        sd_event_source *report;         /* armed while there is something to tell */
        uint64_t told[_GATE_REASON_MAX]; /* what the journal has heard of */
} Entrance;

/* Listens on the addresses of the configuration and on the UNIX socket: that which systemd has handed over,
 * else the one that the configuration names. Logs what fails. Returns 0, -errno. */
int entrance_open(Manager *m);
/* Nobody new comes in. Those who are in stay. */
void entrance_close(Entrance *entrance);
/* Gives everything back. */
void entrance_done(Entrance *entrance);

/* How many were turned away since the start, for whatever reason. */
uint64_t entrance_refused(const Entrance *entrance);
