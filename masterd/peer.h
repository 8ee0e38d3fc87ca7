/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "connection.h"
#include "hashmap.h"
#include "join.h"
#include "list.h"
#include "memory-util.h"
#include "types.h"

/* MESSAGE_ID= of the journal's records of refusals. */
#define PEER_REFUSED_MESSAGE_ID "6576eb304b7982977cf77b256bb9a5eb"

typedef enum PeerRole {
        PEER_UNKNOWN, /* has not said hello */
        PEER_CLIENT,
        PEER_AGENT,
        PEER_OPERATOR,
        PEER_INDEX, /* a build on a node, through its agent, with the package index */
        _PEER_ROLE_MAX,
} PeerRole;

DEFINE_NAME_TABLE_DECLARATION(peer_role, PeerRole);

/* One connection and who is behind it. */
struct Peer {
        Manager *manager;
        Connection *connection;
        PeerRole role;
        /* Who the transport says it is, with certainty: the user of a UNIX socket, the name in a
         * certificate. NULL: it says nothing (plaintext TCP), and the hello is believed. */
        char *owner;
        bool admin;   /* may do everything */
        bool local;   /* came over the UNIX socket: no agent */
        uid_t uid;    /* then: of the user there */
        char *user;   /* client, operator: whose calls these are. The owner, else what the hello says. */
        bool placed;  /* counted in manager.n_places */
        Owner *share; /* client, operator: in whose n_peers it is counted; a reference */
        JoinRequest *join; /* of one who asks for a certificate */
        unsigned n_own;    /* streams that the master itself has from it, flowing */
        Session *session;  /* a client's, until it is evicted or says goodbye */
        Node *node;        /* an agent's, likewise */
        IndexPump *pump;   /* of one with the package index */
        ListLink link;
        Hashmap *asked, *owned; /* number → Stream: those it asked for, those it was asked for */
        uint64_t next_stream;   /* even */
        unsigned n_flowing;
        Hashmap *follows;                     /* query id → Follow */
        bool heard;                           /* agent: its REPORT has begun */
        uint64_t query_iteration, query_usec; /* of the event loop, and what queries have taken in it */
};

/* Takes a reference to the connection. For the listener's accept callback. */
int peer_new(Manager *manager, Connection *connection, Peer **ret);

/* Unhooks it from everything and frees it; silent. */
Peer *peer_free(Peer *peer);

extern const ConnectionHandlers PEER_HANDLERS;

/* Says REFUSED and ends the connection in an orderly way. details: more members of the frame (taken), NULL.
 */
void peer_refuse(Peer *peer, const char *code, const char *message, json_object *details);
/* Whether the transport says who it is: by a certificate or a UNIX socket. */
bool peer_has_proof(const Peer *peer);
/* REFUSED with the code not-allowed, and a record in the journal of who (NULL: not known), from where, and
 * why; of those who have proved nothing once a second for each address. */
void peer_refuse_not_allowed(Peer *peer, const char *who, const char *message);
/* Ends it at once. The peer is freed from the loop later. */
void peer_close(Peer *peer, int error, const char *why);

/* Another connection has taken over: unhooked from session and node, told so. */
void peer_evict(Peer *peer, const char *message);
