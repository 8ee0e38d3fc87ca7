/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "connection.h"
#include "gate.h"
#include "memory-util.h"

/* A listening stream socket (TCP or UNIX) whose accepted sockets become connections. What a peer does never
 * switches it off. */
typedef struct Listener Listener;

typedef struct ListenerOptions {
        const ConnectionHandlers *handlers; /* of each connection */
        unsigned connections_max;           /* open ones in all; 0: 10,000 */
        TlsContext *tls;                    /* NULL: plaintext. Referenced. */
        Gate *gate;                         /* for those that have not said hello; NULL: none. Referenced. */
        uint64_t hello_timeout;             /* µs from accepting to connection_established(); 0: 10 s */
        uint64_t hello_bytes;               /* at most read before it; 0: what one frame may have */
        int backlog;                        /* 0: 1024 */
} ListenerOptions;

/* A new connection, whose userdata is NULL until connection_set_handlers(). To keep it, take a reference
 * with connection_ref() and return 0. A negative return closes it silently; so does returning 0 without
 * taking a reference. */
typedef int (*ListenerAccept)(Listener *l, Connection *c, void *userdata);

/* Binds (SO_REUSEADDR; for IPv6 V6ONLY as the system has it) and listens. Returns 0, -EADDRINUSE, -EACCES,
 * …, -ENOMEM. */
int listener_new(sd_event *event, const struct sockaddr *address, socklen_t size,
                 const ListenerOptions *options, ListenerAccept accept, void *userdata, Listener **ret);
/* From a socket that listens already (socket activation); fd becomes the listener's on success. */
int listener_new_from_fd(sd_event *event, int fd, const ListenerOptions *options, ListenerAccept accept,
                         void *userdata, Listener **ret);
/* Stops listening. Connections live on. Takes NULL, returns NULL. */
Listener *listener_free(Listener *l);
DEFINE_CLEANUP(Listener, listener_free);

/* The user at the other end of a connection that came over a UNIX socket, from when it connected. Returns 0,
 * -ENOTSUP for other sockets, -ENOTCONN when it is closed, -errno. */
int listener_peer_uid(const Connection *c, uid_t *ret);

/* "0.0.0.0:7878", with the real port when 0 was asked for; "unix:/run/clupy/master.sock". */
const char *listener_address(const Listener *l);
uint16_t listener_port(const Listener *l);

typedef struct ListenerStatistics {
        uint64_t accepted,
                refused; /* since the start; refused: over one of the limits or out of file descriptors */
        unsigned open;   /* now */
} ListenerStatistics;
const ListenerStatistics *listener_statistics(const Listener *l);
