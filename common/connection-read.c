/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/epoll.h>

#include "connection-internal.h"

enum {
        SCRATCH_SIZE = 64 << 10,
        READ_MAX = 1 << 20, /* bytes read in one go before others get their turn */
};

/* Where reads go. One for all connections: what is not consumed at once is copied, so that idle connections
 * hold no memory. */
static uint8_t scratch[SCRATCH_SIZE];

static void connection_protocol_error(Connection *c, int error) {
        static const char refused[] = "{\"error\":\"protocol\",\"message\":\"Only version 1 of the protocol "
                                      "is spoken here\",\"server\":[1,1]}";

        switch (error) {
        case -EPROTONOSUPPORT:
                if (!c->outgoing && !c->established &&
                    connection_send_text(c, FRAME_REFUSED, refused, sizeof(refused) - 1, NULL, 0) >= 0)
                        connection_finish(c, error, "The peer speaks another version of the protocol");
                else
                        connection_close(c, error, "The peer speaks another version of the protocol");
                break;
        case -EMSGSIZE:
                connection_close(c, error,
                                 c->established ? "A frame was over its bounds"
                                                : "A frame was over the bounds that hold before the hello");
                break;
        case -EBADMSG:
                connection_close(c, error, "What the peer sent is no valid frame");
                break;
        default:
                connection_close(c, error, NULL);
        }
}

/* Decodes bytes and hands out their frames. */
static void connection_deliver(Connection *c, const uint8_t *data, size_t size) {
        c->delivering = true;
        while (c->state == STATE_OPEN && !c->paused) {
                Frame frame;
                int r;

                r = frame_decoder_next(&c->decoder, &data, &size, &frame);
                if (r < 0) {
                        connection_protocol_error(c, r);
                        break;
                }
                if (r == 0)
                        break;
                c->frame_since = 0;
                c->statistics.frames_in++;
                (void) sd_event_now(c->event, CLOCK_BOOTTIME, &c->statistics.last_frame_usec);
                r = c->handlers->frame(c, &frame, c->userdata);
                if (r < 0)
                        connection_fail(c, r, "The frame %s was not accepted",
                                        frame_type_to_string(frame.type));
        }
        c->delivering = false;
        if (c->state == STATE_CLOSED || c->state == STATE_FINISHING) {
                frame_decoder_done(&c->decoder);
                return;
        }
        frame_decoder_release(&c->decoder);
        if (size > 0) {
                c->backlog = memdup(data, size);
                if (!c->backlog) {
                        connection_close(c, -ENOMEM, NULL);
                        return;
                }
                c->backlog_size = size;
        }
        connection_watch_frame(c);
}

void connection_deliver_backlog(Connection *c) {
        _cleanup_(freep) uint8_t *backlog = TAKE_PTR(c->backlog);
        size_t size = c->backlog_size;

        if (!backlog)
                return;
        c->backlog_size = 0;
        connection_deliver(c, backlog, size);
}

static void connection_read_end(Connection *c, int error) {
        if (c->state == STATE_FINISHING)
                connection_close(c, c->close_error, NULL);
        else if (error < 0)
                connection_transport_failed(c, error);
        else if (frame_decoder_is_partial(&c->decoder))
                connection_close(c, -ECONNRESET, "The peer closed the connection in the middle of a frame");
        else
                connection_close(c, 0, "The peer closed the connection");
}

/* The begin of a TLS handshake's first record, at a connection without. */
static bool is_tls(const Connection *c, const uint8_t *data, size_t size) {
        return c->transport == &CONNECTION_TRANSPORT_PLAIN && size >= 3 && data[0] == 0x16 &&
               data[1] == 0x03;
}

/* How much the peer may say yet, as far as that matters to one read. */
static size_t connection_allowance(const Connection *c) {
        if (c->established || c->hello_bytes == 0)
                return SIZE_MAX;
        return (size_t) MIN(c->hello_bytes - MIN(c->hello_bytes, c->statistics.bytes_in),
                            (uint64_t) SIZE_MAX);
}

void connection_read(Connection *c) {
        size_t taken = 0;

        while (taken < READ_MAX && !c->paused && (c->state == STATE_OPEN || c->state == STATE_FINISHING)) {
                uint32_t events = EPOLLIN;
                struct iovec iov[2];
                size_t n_iov = 0, room = 0, used, allowed, offered;
                void *buffer;
                ssize_t n;

                /* Not behind what is still to be decoded. */
                if (c->backlog) {
                        connection_deliver_backlog(c);
                        continue;
                }
                allowed = connection_allowance(c);
                if (allowed == 0 && c->state == STATE_OPEN) {
                        connection_close(c, -EMSGSIZE, "More was sent than may be before the hello");
                        return;
                }
                if (c->state == STATE_OPEN)
                        room = MIN(frame_decoder_room(&c->decoder, &buffer), allowed);
                if (room > 0)
                        iov[n_iov++] = (struct iovec){ buffer, room };
                offered = c->state == STATE_OPEN ? MIN(sizeof(scratch), allowed - room) : sizeof(scratch);
                if (offered > 0)
                        iov[n_iov++] = (struct iovec){ scratch, offered };
                n = c->transport->readv(c->transport_data, c->fd, iov, (int) n_iov, &events);
                if (n == -EAGAIN) {
                        c->read_events = events;
                        break;
                }
                if (n <= 0) {
                        connection_read_end(c, (int) n);
                        return;
                }
                c->read_events = EPOLLIN;
                if (c->statistics.bytes_in == 0 && room == 0 && is_tls(c, scratch, (size_t) n)) {
                        connection_close(c, -EPROTONOSUPPORT,
                                         "The peer speaks TLS to an address for plaintext");
                        return;
                }
                c->statistics.bytes_in += (uint64_t) n;
                taken += (size_t) n;
                if (c->state == STATE_OPEN) {
                        used = MIN((size_t) n, room);
                        frame_decoder_filled(&c->decoder, used);
                        connection_deliver(c, scratch, (size_t) n - used);
                }
                /* What fills less than was offered has emptied the socket: no need to ask it. */
                if ((size_t) n < room + offered)
                        break;
        }
        connection_read_again(c);
        connection_update_events(c);
}

static int on_again(sd_event_source *source, void *userdata) {
        _cleanup_(connection_unrefp) Connection *c = connection_ref(userdata);

        if (!c->paused && (c->state == STATE_OPEN || c->state == STATE_FINISHING))
                connection_read(c);
        return 0;
}

void connection_read_again(Connection *c) {
        if (c->paused || (c->state != STATE_OPEN && c->state != STATE_FINISHING) ||
            !c->transport->pending(c->transport_data))
                return;
        /* At the sockets' priority, not the deferred source's: what a fast peer sends must not keep others
         * waiting. */
        if (!c->again)
                (void) sd_event_add_defer(c->event, &c->again, on_again, c);
        else
                (void) sd_event_source_set_enabled(c->again, SD_EVENT_ONESHOT);
}

void connection_pause(Connection *c, bool pause) {
        if (c->paused == pause || c->state == STATE_CLOSED || c->state == STATE_FINISHING)
                return;
        c->paused = pause;
        if (!pause) {
                (void) sd_event_source_set_enabled(c->io, SD_EVENT_ON);
                if (c->backlog) {
                        c->read_due = true;
                        connection_defer(c);
                }
        }
        /* The time that is spent paused is not the peer's. */
        c->frame_since = 0;
        if (!c->delivering)
                connection_watch_frame(c);
        connection_read_again(c);
        connection_update_events(c);
}
