/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "list.h"
#include "memory-util.h"

/* What strangers may take before they have shown who they are: how many of them there may be, in all and of
 * one origin, and how fast an origin may come. An origin is an IPv4 address, an IPv6 network of 64 bits, or
 * the user behind a UNIX socket. One gate stands before all listeners that the same callers reach.
 *
 * Its memory is bounded and does not depend on who calls: origins share a table of fixed size, in which one
 * that finds no place of its own inherits what its place's former owner had left. */
typedef struct Gate Gate;

typedef struct GateLimits {
        unsigned unproven;            /* connections without a hello, of all origins; 0: no bound */
        unsigned unproven_per_origin; /* and of one; 0: no bound */
        unsigned rate, burst; /* new connections of one origin: per second, and at once; rate 0: no bound */
} GateLimits;

typedef enum GateReason {
        GATE_OPEN,       /* let in */
        GATE_UNPROVEN,   /* too many strangers in all */
        GATE_PER_ORIGIN, /* of this origin */
        GATE_RATE,       /* it comes too fast */
        GATE_RESOURCES,  /* for the listener: out of descriptors or memory, or too many connections in all */
        GATE_HELLO,      /* let in, and gone or put out before the hello was there or accepted */
        _GATE_REASON_MAX,
} GateReason;

DEFINE_NAME_TABLE_DECLARATION(gate_reason, GateReason);

/* Who calls, as a key. */
typedef struct GateOrigin {
        uint64_t kind, value;
} GateOrigin;

/* Of AF_INET and AF_INET6 (with IPv4 mapped into it). uid: the one behind an AF_UNIX socket. */
GateOrigin gate_origin(const struct sockaddr *address, uid_t uid);

/* Returns 0, -ENOMEM. */
int gate_new(const GateLimits *limits, Gate **ret);
/* Others from now on. Who is in stays in. */
void gate_set_limits(Gate *gate, const GateLimits *limits);
Gate *gate_ref(Gate *gate);
Gate *gate_unref(Gate *gate); /* takes NULL, returns NULL */
DEFINE_CLEANUP(Gate, gate_unref);

/* Someone calls. now: CLOCK_MONOTONIC, µs, never less than the last time. Returns GATE_OPEN and a ticket
 * that is given back with gate_leave(), else what speaks against it; that is counted. */
GateReason gate_enter(Gate *gate, const GateOrigin *origin, uint64_t now, size_t *ret_ticket);
/* The same; only when there are too many in all, room() may first put one of them out, whose ticket it gives
 * back. Returns whether it has. */
GateReason gate_enter_instead(Gate *gate, const GateOrigin *origin, uint64_t now,
                              bool (*room)(void *userdata), void *userdata, size_t *ret_ticket);
/* For those who let in: a list of whom they let in, of all listeners together, the oldest first. */
ListLink *gate_waiting(Gate *gate);
/* Has shown who it is, or is gone. */
void gate_leave(Gate *gate, size_t ticket);

/* One more was turned away, by somebody else than the gate. */
void gate_count(Gate *gate, GateReason reason);

/* Told of each one that is turned away, after it has been counted. NULL: nobody is. */
void gate_set_notify(Gate *gate, void (*notify)(Gate *gate, GateReason reason, void *userdata),
                     void *userdata);

/* How many have not shown yet who they are, and how many were turned away since the start. */
unsigned gate_unproven(const Gate *gate);
uint64_t gate_refused(const Gate *gate, GateReason reason);
