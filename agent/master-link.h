/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "connection.h"
#include "id.h"
#include "memory-util.h"
#include "parse-util.h"

/* The agent's connection to the master: finds it among its addresses, says hello, and does so again with
 * growing pauses whenever it is lost. Knows the wire, not what the node does. */
typedef struct MasterLink MasterLink;

typedef enum MasterLinkState {
        MASTER_LINK_STOPPED,   /* nobody wants it yet */
        MASTER_LINK_WAITING,   /* for the next try */
        MASTER_LINK_RESOLVING, /* an address */
        MASTER_LINK_GREETING,  /* connecting, then waiting for the answer to our hello */
        MASTER_LINK_REPORTING, /* welcome; until the master has said what is superseded */
        MASTER_LINK_UP,
        _MASTER_LINK_STATE_MAX,
} MasterLinkState;

const char *master_link_state_to_string(MasterLinkState state);

typedef struct MasterWelcome {
        uint64_t epoch;
        uint64_t heartbeat_usec, lease_usec;
} MasterWelcome;

typedef struct MasterLinkHandlers {
        /* Adds to the hello what only the node knows. Returns 0, -ENOMEM. */
        int (*hello)(json_object *hello, void *userdata);
        /* Returns 0, a negative errno to close the connection: -ESTALE for a master of a past epoch. */
        int (*welcome)(const MasterWelcome *welcome, void *userdata);
        /* A frame after the welcome. Returns 0, a negative errno to close the connection. */
        int (*frame)(const Frame *frame, void *userdata);
        /* It has gone after a welcome. */
        void (*down)(void *userdata);
        /* What was queued has been sent. */
        void (*drained)(void *userdata);
} MasterLinkHandlers;

/* addresses must outlive the link. Does nothing until it is started. */
int master_link_new(sd_event *event, const Address *addresses, size_t n_addresses,
                    const MasterLinkHandlers *handlers, void *userdata, MasterLink **ret);
MasterLink *master_link_free(MasterLink *l);
DEFINE_CLEANUP(MasterLink, master_link_free);

/* Connects if it has not yet. */
/* Connections from now on speak TLS (NULL: plaintext). Referenced. */
void master_link_set_tls(MasterLink *l, TlsContext *tls);
/* NULL: plaintext. */
const TlsContext *master_link_tls(const MasterLink *l);

void master_link_start(MasterLink *l);
/* Disconnects and stays so. `down` is called if there was a welcome. */
void master_link_stop(MasterLink *l, const char *why);
/* Disconnects, calls `down`, and connects again: another hello. Without effect on a stopped one. */
void master_link_restart(MasterLink *l, const char *why);
/* The master has reconciled. */
void master_link_reconciled(MasterLink *l);

/* As connection_send(); -ENOTCONN before the welcome. */
int master_link_send(MasterLink *l, FrameType type, json_object *json, const struct iovec *payloads,
                     size_t n_payloads);
/* Makes another connection to the same master, with the same certificate; the hello is the caller's. Returns
 * as connection_new_outgoing_tls(), -ENOTCONN before the welcome. */
int master_link_dial(const MasterLink *l, const ConnectionHandlers *handlers, void *handlers_userdata,
                     Connection **ret);
bool master_link_is_congested(const MasterLink *l);
MasterLinkState master_link_state(const MasterLink *l);
/* "10.0.0.1:7878", where it is or was last tried; "" before the first try. */
const char *master_link_peer(const MasterLink *l);
