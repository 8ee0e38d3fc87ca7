/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "connection-transport.h"
#include "connection.h"
#include "send-queue.h"

/* For the listener, which counts: told once when the connection is established and once when it is closed or
 * freed. */
typedef void (*ConnectionWatcher)(Connection *c, bool established, void *userdata);
void connection_set_watcher(Connection *c, ConnectionWatcher watcher, void *userdata);

/* For tests, which cannot wait for the real ones. µs; before anything has been received. */
void connection_set_timeouts(Connection *c, uint64_t hello_usec, uint64_t frame_usec);

/* Of one that was accepted just now: how long the hello may take (µs) and how many bytes may be read before
 * it has been accepted, to which 32 KiB are added for TLS itself. 0: as it is. */
void connection_set_hello_limits(Connection *c, uint64_t usec, uint64_t bytes);

/* The rest is between connection.c, connection-read.c and connection-write.c. */

typedef enum ConnectionState {
        STATE_CONNECTING,
        STATE_HANDSHAKING,
        STATE_OPEN,
        STATE_FINISHING, /* the queue is flushed, then the peer's end awaited */
        STATE_CLOSED,    /* no socket any more; `closed` is called or about to be */
} ConnectionState;

struct Connection {
        unsigned n_ref;
        ConnectionState state;
        int fd;
        bool outgoing : 1;
        bool established : 1;
        bool paused : 1;
        bool congested : 1;
        bool blocked : 1;    /* the socket took no more: wait for write_events */
        bool delivering : 1; /* the decoder is in use further up the stack */
        bool shut_down : 1;
        bool connected_due : 1; /* what the deferred source has to do */
        bool closed_due : 1;
        bool drained_due : 1;
        bool read_due : 1;
        int write_error; /* writing failed; what the peer said before its end is still read */

        sd_event *event;
        sd_event_source *io, *deferred, *again, *hello_timer, *timer;
        uint32_t io_events, read_events, write_events;
        uint64_t write_iteration; /* the loop's iteration of the last write: see connection_send_text() */
        uint64_t frame_since;     /* CLOCK_MONOTONIC when the frame that is not whole yet began, 0: none */
        uint64_t frame_timeout;
        uint64_t hello_timeout, hello_bytes; /* hello_bytes 0: no bound */

        const ConnectionTransport *transport;
        void *transport_data;
        FrameDecoder decoder;
        uint8_t *backlog; /* read but not decoded: the connection was paused meanwhile */
        size_t backlog_size;
        SendQueue queue;
        size_t high_water, low_water;

        const ConnectionHandlers *handlers;
        void *userdata;
        ConnectionWatcher watcher;
        void *watcher_userdata;

        int close_error;
        char *close_why;
        char *peer, *peer_host;
        ConnectionStatistics statistics;
};

/* Has the deferred source see what is due. */
void connection_defer(Connection *c);
/* Has epoll wait for what the state asks for. */
void connection_update_events(Connection *c);
/* Of the end; the first one counts. */
void connection_set_reason(Connection *c, int error, const char *why);
/* connection_close() with a formatted reason. */
void connection_fail(Connection *c, int error, const char *format, ...) _printf_(3, 4);
/* For the state: the end of a frame, or of finishing. CLOCK_MONOTONIC, µs. */
void connection_arm_timer(Connection *c, uint64_t usec);
/* The loop's CLOCK_MONOTONIC, µs. */
uint64_t connection_now(const Connection *c);
/* Notes whether a frame has begun that is not whole, for the timer. */
void connection_watch_frame(Connection *c);
/* Writes what waits, as far as the socket takes it. */
void connection_flush(Connection *c);
/* Reads what is there and hands out its frames. */
void connection_read(Connection *c);
/* Has the loop read once more, after others had their turn, when the transport has something that epoll does
 * not tell of. */
void connection_read_again(Connection *c);
/* connection_close() for an error of the transport, in its words. */
void connection_transport_failed(Connection *c, int error);
/* Hands out what was read before a pause. */
void connection_deliver_backlog(Connection *c);
