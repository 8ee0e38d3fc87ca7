/* SPDX-License-Identifier: Apache-2.0 */
#include "connection.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/epoll.h>

#include "connection-internal.h"
#include "connection-transport.h"
#include "fd-util.h"
#include "json-util.h"
#include "resolver.h"
#include "send-queue.h"
#include "time-util.h"

enum {
        SCRATCH_SIZE = 64 << 10,
        READ_MAX = 1 << 20,      /* bytes read in one go before others get their turn */
        WRITE_MAX = 4 << 20,     /* bytes written likewise */
        QUEUE_VECTORS = 64,      /* chunks of the queue in one write */
        COALESCE_MAX = 64 << 10, /* from here on copying costs more than a system call */
};

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
        sd_event_source *io, *deferred, *hello_timer, *timer;
        uint32_t io_events, read_events, write_events;
        uint64_t write_iteration; /* the loop's iteration of the last write: see connection_send_text() */
        uint64_t frame_since;     /* CLOCK_MONOTONIC when the frame that is not whole yet began, 0: none */
        uint64_t frame_timeout;

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

/* Where reads go. One for all connections: what is not consumed at once is copied, so that idle connections
 * hold no memory. */
static uint8_t scratch[SCRATCH_SIZE];

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata);
static int on_deferred(sd_event_source *source, void *userdata);
static int on_hello_timer(sd_event_source *source, uint64_t usec, void *userdata);
static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

static void connection_defer(Connection *c) {
        (void) sd_event_source_set_enabled(c->deferred, SD_EVENT_ONESHOT);
}

static void connection_update_events(Connection *c) {
        uint32_t events = 0;

        if (!c->io)
                return;
        switch (c->state) {
        case STATE_CONNECTING:
                events = EPOLLOUT;
                break;
        case STATE_HANDSHAKING:
                events = c->read_events;
                break;
        case STATE_OPEN:
        case STATE_FINISHING:
                if (!c->paused)
                        events |= c->read_events;
                if (c->blocked)
                        events |= c->write_events;
                break;
        case STATE_CLOSED:
                return;
        }
        if (events == c->io_events)
                return;
        if (sd_event_source_set_io_events(c->io, events) >= 0)
                c->io_events = events;
}

static void watcher_tell(Connection *c, bool established) {
        ConnectionWatcher watcher = c->watcher;

        if (!watcher)
                return;
        if (!established)
                c->watcher = NULL;
        watcher(c, established, c->watcher_userdata);
}

/* Gives everything back but the object itself. */
static void connection_release(Connection *c) {
        c->io = sd_event_source_disable_unref(c->io);
        c->hello_timer = sd_event_source_disable_unref(c->hello_timer);
        c->timer = sd_event_source_disable_unref(c->timer);
        if (c->transport_data) {
                c->transport->close(c->transport_data);
                c->transport_data = NULL;
        }
        c->fd = close_fd(c->fd);
        send_queue_clear(&c->queue);
        c->backlog = mfree(c->backlog);
        c->backlog_size = 0;
        if (!c->delivering)
                frame_decoder_done(&c->decoder);
}

static Connection *connection_free(Connection *c) {
        watcher_tell(c, false);
        connection_release(c);
        sd_event_source_disable_unref(c->deferred);
        sd_event_unref(c->event);
        free(c->close_why);
        free(c->peer);
        free(c->peer_host);
        return mfree(c);
}

Connection *connection_ref(Connection *c) {
        c->n_ref++;
        return c;
}

Connection *connection_unref(Connection *c) {
        if (!c || --c->n_ref > 0)
                return NULL;
        return connection_free(c);
}

/* The first reason counts: what comes later are its consequences. */
static void connection_set_reason(Connection *c, int error, const char *why) {
        if (c->close_why)
                return;
        error = error > 0 ? -error : error;
        c->close_error = error;
        if (why)
                c->close_why = strdup(why);
        else
                c->close_why = strdup(error == 0 ? "Closed" : strerrordesc_np(-error) ?: "Unknown error");
}

void connection_close(Connection *c, int error, const char *why) {
        if (c->state == STATE_CLOSED)
                return;
        connection_set_reason(c, error, why);
        c->state = STATE_CLOSED;
        c->closed_due = true;
        watcher_tell(c, false);
        connection_release(c);
        connection_defer(c);
}

static void _printf_(3, 4) connection_fail(Connection *c, int error, const char *format, ...) {
        char why[256];
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(why, sizeof(why), format, arguments);
        va_end(arguments);
        connection_close(c, error, why);
}

static void connection_arm_timer(Connection *c, uint64_t usec) {
        if (!c->timer) {
                (void) sd_event_add_time(c->event, &c->timer, CLOCK_MONOTONIC, usec, USEC_PER_SEC / 2,
                                         on_timer, c);
                return;
        }
        (void) sd_event_source_set_time(c->timer, usec);
        (void) sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
}

static uint64_t connection_now(const Connection *c) {
        uint64_t now = 0;

        return sd_event_now(c->event, CLOCK_MONOTONIC, &now) >= 0 ? now : now_usec(CLOCK_MONOTONIC);
}

/* Notes when the frame that is not whole yet began. The timer is not stopped when a frame ends, only looked
 * at when it fires: a stream of large frames then costs one wake-up in 30 s and not one change of the timer
 * per frame. */
static void connection_watch_frame(Connection *c) {
        int enabled = SD_EVENT_OFF;

        if (c->state != STATE_OPEN || c->paused || !frame_decoder_is_partial(&c->decoder)) {
                c->frame_since = 0;
                return;
        }
        if (c->frame_since == 0)
                c->frame_since = connection_now(c);
        if (c->timer)
                (void) sd_event_source_get_enabled(c->timer, &enabled);
        if (enabled == SD_EVENT_OFF)
                connection_arm_timer(c, c->frame_since + c->frame_timeout);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Connection *c = userdata;
        uint64_t due;

        if (c->state == STATE_FINISHING) {
                connection_close(c, c->close_error, NULL);
                return 0;
        }
        if (c->frame_since == 0)
                return 0;
        due = c->frame_since + c->frame_timeout;
        if (connection_now(c) < due)
                connection_arm_timer(c, due);
        else
                connection_fail(c, -ETIMEDOUT, "A frame that had begun did not end within %d s",
                                CONNECTION_FRAME_TIMEOUT_S);
        return 0;
}

static int on_hello_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Connection *c = userdata;

        if (c->state == STATE_CONNECTING || c->state == STATE_HANDSHAKING)
                connection_fail(c, -ETIMEDOUT, "No connection to %s within %d s", c->peer,
                                CONNECTION_HELLO_TIMEOUT_S);
        else
                connection_fail(c, -ETIMEDOUT, "No hello within %d s", CONNECTION_HELLO_TIMEOUT_S);
        return 0;
}

/* Writing */

static void connection_check_low_water(Connection *c) {
        if (c->congested && c->queue.size <= c->low_water) {
                c->congested = false;
                c->drained_due = true;
                connection_defer(c);
        }
}

/* What the peer sent before it went away (a REFUSED with the reason, say) is still to be read, so this is
 * not yet the end. */
static void connection_write_failed(Connection *c, int error) {
        c->write_error = error;
        send_queue_clear(&c->queue);
        c->blocked = false;
        c->read_due = true;
        connection_defer(c);
}

/* One write. Returns the number of bytes, 0 when the socket is full or broken. */
static size_t connection_write(Connection *c, const struct iovec *iov, size_t n_iov) {
        uint32_t events = EPOLLOUT;
        ssize_t n;

        n = c->transport->writev(c->transport_data, c->fd, iov, (int) n_iov, &events);
        if (n == -EAGAIN) {
                c->blocked = true;
                c->write_events = events;
                return 0;
        }
        if (n < 0) {
                connection_write_failed(c, (int) n);
                return 0;
        }
        c->statistics.bytes_out += (uint64_t) n;
        return (size_t) n;
}

static void connection_flush(Connection *c) {
        size_t written = 0;

        if ((c->state != STATE_OPEN && c->state != STATE_FINISHING) || c->write_error < 0)
                return;
        c->blocked = false;
        while (c->queue.size > 0 && !c->blocked) {
                struct iovec iov[QUEUE_VECTORS];
                size_t n_iov = send_queue_peek(&c->queue, iov, ELEMENTSOF(iov)), n;

                n = connection_write(c, iov, n_iov);
                if (c->write_error < 0)
                        return;
                send_queue_consume(&c->queue, n);
                written += n;
                if (written >= WRITE_MAX && c->queue.size > 0) {
                        c->blocked = true;
                        c->write_events = EPOLLOUT;
                }
        }
        if (c->state == STATE_FINISHING && c->queue.size == 0 && !c->shut_down) {
                uint32_t events = EPOLLOUT;
                int r = c->transport->shutdown(c->transport_data, c->fd, &events);

                if (r == -EAGAIN) {
                        c->blocked = true;
                        c->write_events = events;
                } else if (r < 0) {
                        connection_close(c, c->close_error, NULL);
                        return;
                } else
                        c->shut_down = true;
        }
        connection_check_low_water(c);
        connection_update_events(c);
}

int connection_send_text(Connection *c, FrameType type, const char *json, size_t json_size,
                         const struct iovec *payloads, size_t n_payloads) {
        uint8_t head[FRAME_HEADER_SIZE + 4 * FRAME_PAYLOAD_COUNT_MAX];
        struct iovec iov[QUEUE_VECTORS + 2 + FRAME_PAYLOAD_COUNT_MAX];
        size_t n_queued, n_iov, total, written = 0;
        uint64_t iteration = 0;
        ssize_t head_size;
        int r;

        if (c->state == STATE_FINISHING || c->state == STATE_CLOSED || c->write_error < 0)
                return -ENOTCONN;
        head_size = frame_head_write(head, type, json_size, payloads, n_payloads);
        if (head_size < 0)
                return (int) head_size;

        n_queued = n_iov = send_queue_peek(&c->queue, iov, QUEUE_VECTORS);
        iov[n_iov++] = (struct iovec){ head, (size_t) head_size };
        if (json_size > 0)
                iov[n_iov++] = (struct iovec){ (char *) json, json_size };
        for (size_t i = 0; i < n_payloads; i++)
                if (payloads[i].iov_len > 0)
                        iov[n_iov++] = payloads[i];
        total = 0;
        for (size_t i = n_queued; i < n_iov; i++)
                total += iov[i].iov_len;
        if (c->queue.size + total > CONNECTION_QUEUE_MAX)
                return -ENOBUFS;

        /* Written at once: the first frame within one event handler (nobody waits for it longer than
         * needed), and from COALESCE_MAX on (copying would cost more than it saves). Everything else goes
         * out together when the handler has returned: the loop handles one event per iteration. */
        (void) sd_event_get_iteration(c->event, &iteration);
        if (c->state == STATE_OPEN && !c->blocked && n_queued < QUEUE_VECTORS &&
            ((c->queue.size == 0 && c->write_iteration != iteration) ||
             c->queue.size + total >= COALESCE_MAX)) {
                size_t queued = c->queue.size;

                c->write_iteration = iteration;
                written = connection_write(c, iov, n_iov);
                if (c->write_error < 0)
                        return 0;
                if (written < queued) {
                        send_queue_consume(&c->queue, written);
                        written = 0;
                } else {
                        send_queue_consume(&c->queue, queued);
                        written -= queued;
                }
                /* A socket that took a part only is full. */
                if (written < total)
                        c->blocked = true;
        }
        if (written < total) {
                r = send_queue_append(&c->queue, iov + n_queued, n_iov - n_queued, written);
                if (r < 0) {
                        /* A frame of which a part is on the wire cannot be taken back. */
                        if (written > 0)
                                connection_close(c, -ENOMEM, NULL);
                        return r;
                }
                if (c->queue.size > c->high_water)
                        c->congested = true;
                if (!c->blocked)
                        connection_defer(c);
        }
        c->statistics.frames_out++;
        connection_check_low_water(c);
        connection_update_events(c);
        return 0;
}

int connection_send(Connection *c, FrameType type, json_object *json, const struct iovec *payloads,
                    size_t n_payloads) {
        const char *text = NULL;
        size_t size = 0;

        if (json) {
                text = json_text(json, &size);
                if (!text)
                        return -ENOMEM;
        }
        return connection_send_text(c, type, text, size, payloads, n_payloads);
}

size_t connection_queued(const Connection *c) {
        return c->queue.size;
}

bool connection_is_congested(const Connection *c) {
        return c->congested;
}

void connection_set_watermarks(Connection *c, size_t high, size_t low) {
        c->high_water = high;
        c->low_water = MIN(low, high);
}

void connection_finish(Connection *c, int error, const char *why) {
        if (c->state == STATE_CLOSED || c->state == STATE_FINISHING)
                return;
        if (c->state != STATE_OPEN || c->write_error < 0) {
                connection_close(c, error, why);
                return;
        }
        connection_set_reason(c, error, why);
        c->state = STATE_FINISHING;
        c->paused = false;
        (void) sd_event_source_set_enabled(c->io, SD_EVENT_ON);
        c->hello_timer = sd_event_source_disable_unref(c->hello_timer);
        c->backlog = mfree(c->backlog);
        c->backlog_size = 0;
        c->frame_since = 0;
        connection_arm_timer(c, connection_now(c) + CONNECTION_FINISH_TIMEOUT_S * USEC_PER_SEC);
        if (!c->blocked)
                connection_defer(c);
        connection_update_events(c);
}

/* Reading */

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

static void connection_deliver_backlog(Connection *c) {
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
                connection_close(c, error, NULL);
        else if (frame_decoder_is_partial(&c->decoder))
                connection_close(c, -ECONNRESET, "The peer closed the connection in the middle of a frame");
        else
                connection_close(c, 0, "The peer closed the connection");
}

static void connection_read(Connection *c) {
        size_t taken = 0;

        while (taken < READ_MAX && !c->paused && (c->state == STATE_OPEN || c->state == STATE_FINISHING)) {
                uint32_t events = EPOLLIN;
                struct iovec iov[2];
                size_t n_iov = 0, room = 0, used;
                void *buffer;
                ssize_t n;

                /* Not behind what is still to be decoded. */
                if (c->backlog) {
                        connection_deliver_backlog(c);
                        continue;
                }
                if (c->state == STATE_OPEN)
                        room = frame_decoder_room(&c->decoder, &buffer);
                if (room > 0)
                        iov[n_iov++] = (struct iovec){ buffer, room };
                iov[n_iov++] = (struct iovec){ scratch, sizeof(scratch) };
                n = c->transport->readv(c->transport_data, c->fd, iov, (int) n_iov, &events);
                if (n == -EAGAIN) {
                        c->read_events = events;
                        break;
                }
                if (n <= 0) {
                        connection_read_end(c, (int) n);
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
                if ((size_t) n < room + sizeof(scratch))
                        break;
        }
        connection_update_events(c);
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
        connection_update_events(c);
}

/* Coming up */

static void connection_up(Connection *c) {
        uint32_t events = EPOLLIN;
        int r;

        r = c->transport->handshake(c->transport_data, c->fd, &events);
        if (r == -EAGAIN) {
                c->state = STATE_HANDSHAKING;
                c->read_events = events;
                connection_update_events(c);
                return;
        }
        if (r < 0) {
                connection_close(c, r, NULL);
                return;
        }
        c->state = STATE_OPEN;
        c->read_events = EPOLLIN;
        connection_update_events(c);
        if (c->outgoing) {
                c->connected_due = true;
                connection_defer(c);
        }
}

/* The pending error of a socket as a negative errno, 0 when there is none. */
static int socket_error(int fd) {
        int error = 0;
        socklen_t size = sizeof(error);

        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
                return -errno;
        return -error;
}

static void connection_connect_result(Connection *c) {
        int error = socket_error(c->fd);

        if (error < 0)
                connection_fail(c, error, "No connection to %s: %s", c->peer,
                                strerrordesc_np(-error) ?: "unknown error");
        else
                connection_up(c);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        _cleanup_(connection_unrefp) Connection *c = connection_ref(userdata);

        switch (c->state) {
        case STATE_CONNECTING:
                connection_connect_result(c);
                break;
        case STATE_HANDSHAKING:
                connection_up(c);
                break;
        case STATE_OPEN:
        case STATE_FINISHING:
                if (revents & EPOLLOUT && c->blocked)
                        connection_flush(c);
                if (c->state == STATE_CLOSED)
                        break;
                if (!c->paused) {
                        connection_read(c);
                } else if (revents & EPOLLERR) {
                        int error = socket_error(c->fd);

                        connection_close(c, error < 0 ? error : -EPIPE, NULL);
                } else if (revents & EPOLLHUP)
                        /* epoll cannot be told not to report this; what was sent before it is read when
                         * reading resumes. */
                        (void) sd_event_source_set_enabled(c->io, SD_EVENT_OFF);
                break;
        case STATE_CLOSED:
                break;
        }
        return 0;
}

static int on_deferred(sd_event_source *source, void *userdata) {
        _cleanup_(connection_unrefp) Connection *c = connection_ref(userdata);

        if (c->connected_due) {
                c->connected_due = false;
                if (c->state == STATE_OPEN && c->handlers->connected)
                        c->handlers->connected(c, c->userdata);
        }
        if (!c->blocked)
                connection_flush(c);
        if (c->read_due) {
                c->read_due = false;
                if (c->state == STATE_OPEN || c->state == STATE_FINISHING) {
                        connection_deliver_backlog(c);
                        if (c->write_error < 0) {
                                connection_read(c);
                                if (c->state != STATE_CLOSED)
                                        connection_close(c, c->write_error, NULL);
                        }
                }
        }
        if (c->drained_due) {
                c->drained_due = false;
                if (c->state == STATE_OPEN && c->handlers->drained)
                        c->handlers->drained(c, c->userdata);
        }
        if (c->closed_due) {
                c->closed_due = false;
                c->handlers->closed(c, c->close_error, strempty(c->close_why), c->userdata);
        }
        return 0;
}

/* Making one */

static void socket_tune(int fd, int family) {
        /* Best effort: a connection without keepalive is better than none. */
        const int on = 1, idle = 15, interval = 5, count = 3, user_timeout = 30000;

        if (family != AF_INET && family != AF_INET6)
                return;
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        (void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        (void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
        (void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
        (void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
        (void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout));
}

static int connection_new(sd_event *event, const struct sockaddr *address, socklen_t size,
                          const ConnectionHandlers *handlers, void *userdata, Connection **ret) {
        _cleanup_(connection_unrefp) Connection *c = NULL;
        char text[SOCKADDR_STRING_SIZE];
        int r;

        c = new0(Connection);
        if (!c)
                return -ENOMEM;
        *c = (Connection){
                .n_ref = 1,
                .fd = -EBADF,
                .event = sd_event_ref(event),
                .handlers = handlers,
                .userdata = userdata,
                .transport = &CONNECTION_TRANSPORT_PLAIN,
                .read_events = EPOLLIN,
                .write_events = EPOLLOUT,
                .write_iteration = UINT64_MAX,
                .high_water = CONNECTION_HIGH_WATER,
                .low_water = CONNECTION_LOW_WATER,
                .frame_timeout = CONNECTION_FRAME_TIMEOUT_S * USEC_PER_SEC,
        };
        frame_decoder_init(&c->decoder, &FRAME_LIMITS_HELLO);
        c->peer = strdup(sockaddr_to_string(address, size, true, text));
        c->peer_host = strdup(sockaddr_to_string(address, size, false, text));
        if (!c->peer || !c->peer_host)
                return -ENOMEM;
        r = sd_event_add_defer(event, &c->deferred, on_deferred, c);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(c->deferred, SD_EVENT_OFF);
        if (r < 0)
                return r;
        /* Before other sockets get their turn: somebody waits for what is flushed there. */
        r = sd_event_source_set_priority(c->deferred, SD_EVENT_PRIORITY_IMPORTANT);
        if (r < 0)
                return r;
        r = sd_event_add_time_relative(event, &c->hello_timer, CLOCK_MONOTONIC,
                                       CONNECTION_HELLO_TIMEOUT_S * USEC_PER_SEC, USEC_PER_SEC / 4,
                                       on_hello_timer, c);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

static int connection_watch_fd(Connection *c, int fd) {
        int r;

        r = sd_event_add_io(c->event, &c->io, fd, 0, on_io, c);
        if (r < 0)
                return r;
        c->fd = fd;
        connection_update_events(c);
        return 0;
}

int connection_new_accepted(sd_event *event, int fd, const ConnectionHandlers *handlers, void *userdata,
                            Connection **ret) {
        _cleanup_(connection_unrefp) Connection *c = NULL;
        struct sockaddr_storage address = { 0 };
        socklen_t size = sizeof(address);
        int r;

        if (getpeername(fd, (struct sockaddr *) &address, &size) < 0)
                return -errno;
        r = fd_set_nonblock(fd, true);
        if (r < 0)
                return r;
        r = connection_new(event, (struct sockaddr *) &address, size, handlers, userdata, &c);
        if (r < 0)
                return r;
        socket_tune(fd, address.ss_family);
        c->state = STATE_HANDSHAKING;
        r = connection_watch_fd(c, fd);
        if (r < 0)
                return r;
        connection_up(c);
        *ret = TAKE_PTR(c);
        return 0;
}

int connection_new_outgoing(sd_event *event, const struct sockaddr *address, socklen_t size,
                            const ConnectionHandlers *handlers, void *userdata, Connection **ret) {
        _cleanup_(connection_unrefp) Connection *c = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        r = connection_new(event, address, size, handlers, userdata, &c);
        if (r < 0)
                return r;
        c->outgoing = true;
        socket_tune(fd, address->sa_family);
        do
                r = connect(fd, address, size) < 0 ? -errno : 0;
        while (r == -EINTR);
        if (r < 0 && r != -EINPROGRESS)
                connection_fail(c, r, "No connection to %s: %s", c->peer,
                                strerrordesc_np(-r) ?: "unknown error");
        else {
                c->state = STATE_CONNECTING;
                if (connection_watch_fd(c, fd) < 0)
                        return -ENOMEM;
                TAKE_FD(fd);
                if (r == 0)
                        connection_up(c);
        }
        *ret = TAKE_PTR(c);
        return 0;
}

/* What others ask */

bool connection_is_open(const Connection *c) {
        return c->state < STATE_FINISHING && c->write_error == 0;
}

void connection_established(Connection *c) {
        if (c->established || c->state >= STATE_FINISHING)
                return;
        c->established = true;
        c->hello_timer = sd_event_source_disable_unref(c->hello_timer);
        frame_decoder_set_limits(&c->decoder, &FRAME_LIMITS);
        watcher_tell(c, true);
}

bool connection_is_established(const Connection *c) {
        return c->established;
}

void connection_set_handlers(Connection *c, const ConnectionHandlers *handlers, void *userdata) {
        if (handlers)
                c->handlers = handlers;
        c->userdata = userdata;
}

void connection_set_watcher(Connection *c, ConnectionWatcher watcher, void *userdata) {
        c->watcher = watcher;
        c->watcher_userdata = userdata;
}

void connection_set_timeouts(Connection *c, uint64_t hello_usec, uint64_t frame_usec) {
        if (c->hello_timer)
                (void) sd_event_source_set_time_relative(c->hello_timer, hello_usec);
        c->frame_timeout = frame_usec;
}

void *connection_userdata(const Connection *c) {
        return c->userdata;
}

const char *connection_peer(const Connection *c) {
        return c->peer;
}

const char *connection_peer_host(const Connection *c) {
        return c->peer_host;
}

const ConnectionStatistics *connection_statistics(const Connection *c) {
        return &c->statistics;
}

sd_event *connection_event(const Connection *c) {
        return c->event;
}
