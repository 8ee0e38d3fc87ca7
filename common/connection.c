/* SPDX-License-Identifier: Apache-2.0 */
#include "connection.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/epoll.h>

#include "connection-internal.h"
#include "connection-tls.h"
#include "fd-util.h"
#include "resolver.h"
#include "time-util.h"

/* A client's part of a TLS handshake: its chain may have 16 KiB. */
enum { HANDSHAKE_SIZE_MAX = 32 << 10 };

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata);
static int on_deferred(sd_event_source *source, void *userdata);
static int on_hello_timer(sd_event_source *source, uint64_t usec, void *userdata);
static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

void connection_defer(Connection *c) {
        (void) sd_event_source_set_enabled(c->deferred, SD_EVENT_ONESHOT);
}

void connection_update_events(Connection *c) {
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
        c->again = sd_event_source_disable_unref(c->again);
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
void connection_set_reason(Connection *c, int error, const char *why) {
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

void connection_transport_failed(Connection *c, int error) {
        connection_close(c, error, c->transport->why(c->transport_data));
}

void connection_fail(Connection *c, int error, const char *format, ...) {
        char why[256];
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(why, sizeof(why), format, arguments);
        va_end(arguments);
        connection_close(c, error, why);
}

void connection_arm_timer(Connection *c, uint64_t usec) {
        if (!c->timer) {
                (void) sd_event_add_time(c->event, &c->timer, CLOCK_MONOTONIC, usec, USEC_PER_SEC / 2,
                                         on_timer, c);
                return;
        }
        (void) sd_event_source_set_time(c->timer, usec);
        (void) sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
}

uint64_t connection_now(const Connection *c) {
        uint64_t now = 0;

        return sd_event_now(c->event, CLOCK_MONOTONIC, &now) >= 0 ? now : now_usec(CLOCK_MONOTONIC);
}

/* Notes when the frame that is not whole yet began. The timer is not stopped when a frame ends, only looked
 * at when it fires: a stream of large frames then costs one wake-up in 30 s and not one change of the timer
 * per frame. */
void connection_watch_frame(Connection *c) {
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

        if (c->state == STATE_HANDSHAKING)
                connection_fail(c, -ETIMEDOUT, "The TLS handshake with %s did not end within %g s", c->peer,
                                (double) c->hello_timeout / USEC_PER_SEC);
        else if (c->state == STATE_CONNECTING)
                connection_fail(c, -ETIMEDOUT, "No connection to %s within %g s", c->peer,
                                (double) c->hello_timeout / USEC_PER_SEC);
        else
                connection_fail(c, -ETIMEDOUT, "No hello within %g s",
                                (double) c->hello_timeout / USEC_PER_SEC);
        return 0;
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
                connection_transport_failed(c, r);
                return;
        }
        c->state = STATE_OPEN;
        c->read_events = EPOLLIN;
        connection_read_again(c);
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
                if (revents & c->write_events && c->blocked)
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
                                        connection_transport_failed(c, c->write_error);
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
                .hello_timeout = CONNECTION_HELLO_TIMEOUT_S * USEC_PER_SEC,
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

/* host: of an outgoing connection. */
static int connection_set_tls(Connection *c, TlsContext *tls, int fd, const char *host) {
        TlsLink *link;
        int r;

        if (!tls)
                return 0;
        r = tls_link_new(tls, fd, host, &link);
        if (r < 0)
                return r;
        c->transport = &CONNECTION_TRANSPORT_TLS;
        c->transport_data = link;
        return 0;
}

int connection_new_accepted_tls(sd_event *event, int fd, TlsContext *tls, const ConnectionHandlers *handlers,
                                void *userdata, Connection **ret) {
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
        r = connection_set_tls(c, tls, fd, NULL);
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

int connection_new_accepted(sd_event *event, int fd, const ConnectionHandlers *handlers, void *userdata,
                            Connection **ret) {
        return connection_new_accepted_tls(event, fd, NULL, handlers, userdata, ret);
}

int connection_new_outgoing_tls(sd_event *event, const struct sockaddr *address, socklen_t size,
                                TlsContext *tls, const char *host, const ConnectionHandlers *handlers,
                                void *userdata, Connection **ret) {
        _cleanup_(connection_unrefp) Connection *c = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        r = connection_new(event, address, size, handlers, userdata, &c);
        if (r < 0)
                return r;
        r = connection_set_tls(c, tls, fd, host);
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

int connection_new_outgoing(sd_event *event, const struct sockaddr *address, socklen_t size,
                            const ConnectionHandlers *handlers, void *userdata, Connection **ret) {
        return connection_new_outgoing_tls(event, address, size, NULL, NULL, handlers, userdata, ret);
}

/* What others ask */

static TlsLink *connection_tls(const Connection *c) {
        return c->transport == &CONNECTION_TRANSPORT_TLS ? c->transport_data : NULL;
}

bool connection_is_open(const Connection *c) {
        return c->state < STATE_FINISHING && c->write_error == 0;
}

void connection_established(Connection *c) {
        if (c->established || c->state >= STATE_FINISHING)
                return;
        c->established = true;
        if (connection_tls(c))
                tls_link_bound(connection_tls(c), UINT64_MAX);
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
        connection_set_hello_limits(c, hello_usec, 0);
        c->frame_timeout = frame_usec;
}

void connection_set_hello_limits(Connection *c, uint64_t usec, uint64_t bytes) {
        if (usec > 0) {
                c->hello_timeout = usec;
                if (c->hello_timer)
                        (void) sd_event_source_set_time_relative(c->hello_timer, usec);
        }
        if (bytes > 0) {
                c->hello_bytes = bytes;
                /* What TLS needs for itself is not seen here, so that its bytes have a bound of their own.
                 */
                if (connection_tls(c))
                        tls_link_bound(connection_tls(c), HANDSHAKE_SIZE_MAX + bytes);
        }
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

/* The other end's certificate */

bool connection_is_secure(const Connection *c) {
        return c->transport == &CONNECTION_TRANSPORT_TLS;
}

const Identity *connection_identity(const Connection *c) {
        TlsLink *link = connection_tls(c);

        return link ? tls_link_identity(link) : NULL;
}

int connection_check_peer(Connection *c, const char **ret_why) {
        TlsLink *link = connection_tls(c);

        return link ? tls_link_check(link, ret_why) : 0;
}
