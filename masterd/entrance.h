/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "gate.h"
#include "listener.h"
#include "types.h"

/* Strangers on the network take no place from the accounts of this machine. */
typedef enum EntranceGate {
        ENTRANCE_NETWORK,
        ENTRANCE_LOCAL, /* UNIX sockets */
        _ENTRANCE_GATE_MAX,
} EntranceGate;

/* Where the manager is called: its listeners, the gates before them, and the count of those who were turned
 * away. Part of the manager; all zero before entrance_open(). */
typedef struct Entrance {
        Listener **listeners;
        size_t n_listeners;
        Gate *gates[_ENTRANCE_GATE_MAX]; /* NULL before entrance_open() */
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

/* Other bounds from now on, of each gate. */
void entrance_set_limits(Entrance *entrance, const MasterConfig *config);

/* How many have not shown yet who they are. */
unsigned entrance_unproven(const Entrance *entrance);
/* How many were turned away since the start, for this reason and for whatever reason. */
uint64_t entrance_refused_for(const Entrance *entrance, GateReason reason);
uint64_t entrance_refused(const Entrance *entrance);
