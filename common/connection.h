/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>

#include "frame.h"
#include "identity.h"
#include "memory-util.h"
#include "tls-context.h"

/* Either end of a TCP (or UNIX stream) connection that carries frames, on an sd_event loop.
 *
 * Reference-counted. The creator has one reference and drops it, usually in `closed`. Dropping the last
 * reference of an open connection closes it at once and silently (`closed` is not called any more). */
typedef struct Connection Connection;

typedef struct ConnectionHandlers {
        /* One whole frame, valid during the call only. Returns 0, or a negative errno to close the
         * connection with that error. After connection_pause() or connection_close() no further frame comes.
         */
        int (*frame)(Connection *c, const Frame *frame, void *userdata);

        /* The link is up (and later: authenticated). Outgoing connections only. May be NULL. */
        void (*connected)(Connection *c, void *userdata);

        /* Exactly once, from the event loop, never from within a connection_*() call. error: 0 when the peer
         * closed between two frames or connection_close() said so, else a negative errno: -ETIMEDOUT (no
         * hello, no end of a frame, dead link), -EBADMSG, -EMSGSIZE, -EPROTONOSUPPORT (the peer broke the
         * protocol), -ECONNRESET, -ECONNREFUSED, …, or what the frame handler returned. why: a sentence for
         * the log, without a full stop. */
        void (*closed)(Connection *c, int error, const char *why, void *userdata);

        /* The send queue fell to the low-water mark after it had been above the high one. May be NULL.
         * Called from the event loop. */
        void (*drained)(Connection *c, void *userdata);
} ConnectionHandlers;

enum {
        CONNECTION_QUEUE_MAX = 64 << 20, /* bytes; connection_send() gives -ENOBUFS beyond */
        CONNECTION_HIGH_WATER = 1 << 20, /* defaults */
        CONNECTION_LOW_WATER = 256 << 10,
        CONNECTION_HELLO_TIMEOUT_S = 10, /* from connect() or accept() to connection_established() */
        CONNECTION_FRAME_TIMEOUT_S = 30, /* from the first byte of a frame to its last */
        CONNECTION_FINISH_TIMEOUT_S = 5,
};

/* handlers must stay valid (a static const table). fd becomes the connection's on success only. Return 0,
 * -ENOMEM, -errno. Errors of connecting itself (refused, unreachable) come through `closed`, also when they
 * are known at once. */
int connection_new_accepted(sd_event *event, int fd, const ConnectionHandlers *handlers, void *userdata,
                            Connection **ret);
int connection_new_outgoing(sd_event *event, const struct sockaddr *address, socklen_t size,
                            const ConnectionHandlers *handlers, void *userdata, Connection **ret);

/* With TLS from the first byte on; tls NULL: without. host is the name or address that was dialled: the
 * other end's certificate must be a master's with that name. Return also -EINVAL for a host that no
 * certificate can have. What goes wrong in the handshake comes through `closed`: -EKEYEXPIRED, -EKEYREVOKED,
 * -EKEYREJECTED (a certificate, the sentence says whose), -EPROTONOSUPPORT (the peer speaks plaintext, or
 * TLS to a connection without), -EPROTO. */
int connection_new_accepted_tls(sd_event *event, int fd, TlsContext *tls, const ConnectionHandlers *handlers,
                                void *userdata, Connection **ret);
int connection_new_outgoing_tls(sd_event *event, const struct sockaddr *address, socklen_t size,
                                TlsContext *tls, const char *host, const ConnectionHandlers *handlers,
                                void *userdata, Connection **ret);

Connection *connection_ref(Connection *c);
Connection *connection_unref(Connection *c); /* takes NULL, returns NULL */
DEFINE_CLEANUP(Connection, connection_unref);

/* Ends it: the socket is closed at once, what was queued is lost, `closed` follows from the loop. why may be
 * NULL, is copied. Without effect on one that is closed already. */
void connection_close(Connection *c, int error, const char *why);
/* The orderly end: what is queued is still written, then the stream is shut down and the peer's end awaited,
 * 5 s in all; what still comes in is dropped unread. Then `closed` with that error and reason. Use it after
 * a REFUSED or GOODBYE, which a plain close might destroy on its way. */
void connection_finish(Connection *c, int error, const char *why);
/* False from connection_close(), connection_finish() or an error on. */
bool connection_is_open(const Connection *c);

/* The hello has passed: raises the limits of frames, stops the hello timer. */
void connection_established(Connection *c);
bool connection_is_established(const Connection *c);

/* Another owner: from the next callback on. handlers NULL: keep them. */
void connection_set_handlers(Connection *c, const ConnectionHandlers *handlers, void *userdata);
void *connection_userdata(const Connection *c);

/* Sends one frame. json is borrowed and may be NULL; payloads are copied if they cannot be written at once.
 * Before an outgoing link is up frames wait in the queue. Returns 0, -ENOTCONN when the connection is closed
 * or finishing, -ENOBUFS when the queue would pass CONNECTION_QUEUE_MAX (the frame is not sent), -EMSGSIZE
 * when it breaks FRAME_LIMITS, -ENOMEM. Errors of writing come through `closed`.
 *
 * The first frame sent from within one event handler is written at once, further ones to the same connection
 * together right after the handler returns. */
int connection_send(Connection *c, FrameType type, json_object *json, const struct iovec *payloads,
                    size_t n_payloads);
/* The same with JSON text that is there already. */
int connection_send_text(Connection *c, FrameType type, const char *json, size_t json_size,
                         const struct iovec *payloads, size_t n_payloads);

/* Bytes that wait to be written. */
size_t connection_queued(const Connection *c);
/* connection_queued() is above the high-water mark; `drained` will be called. */
bool connection_is_congested(const Connection *c);
void connection_set_watermarks(Connection *c, size_t high, size_t low);

/* Stops or resumes reading: back-pressure to the peer. Bytes that were read already are kept. */
void connection_pause(Connection *c, bool pause);

/* "10.0.0.2:4242", "[::1]:4242", "unix"; never NULL. */
const char *connection_peer(const Connection *c);
/* "10.0.0.2": without the port. */
const char *connection_peer_host(const Connection *c);

typedef struct ConnectionStatistics {
        uint64_t bytes_in, bytes_out, frames_in, frames_out;
        uint64_t last_frame_usec; /* CLOCK_BOOTTIME of the last frame that came in, 0: none yet */
} ConnectionStatistics;
const ConnectionStatistics *connection_statistics(const Connection *c);
sd_event *connection_event(const Connection *c);

/* It speaks TLS. */
bool connection_is_secure(const Connection *c);
/* Who the other end is by its certificate, until the connection is closed; NULL when it has shown none, and
 * without TLS. */
const Identity *connection_identity(const Connection *c);
/* Whether its certificate would still be accepted: for when TlsContextHandlers.changed was called, and once
 * in a while for those that expire. Returns 0, or -EKEYREVOKED, -EKEYREJECTED, -EKEYEXPIRED with a sentence
 * that is valid until the next call. */
int connection_check_peer(Connection *c, const char **ret_why);
