/* SPDX-License-Identifier: Apache-2.0 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

#include "connection-internal.h"
#include "fd-util.h"
#include "gate.h"
#include "list.h"
#include "resolver.h"
#include "time-util.h"

enum { ACCEPT_BURST = 32, CONNECTIONS_MAX = 10000, BACKLOG = 1024, REST_MSEC = 100 };

/* Outlives listener_free() for as long as there are connections that it counts. */
struct Listener {
        unsigned n_ref;
        int fd;
        int reserve; /* given up when file descriptors run out, to turn a caller away instead of spinning */
        sd_event *event;
        sd_event_source *io, *rest;
        ListenerOptions options;
        ListenerAccept accept;
        void *userdata;
        char *address;
        uint16_t port;
        ListenerStatistics statistics;
};

/* What a connection's watcher holds. */
typedef struct Watch {
        Listener *listener;
        Connection *connection;
        bool waiting;  /* at the gate, with this ticket */
        size_t ticket; /* of the gate */
        ListLink link; /* then: in gate_waiting() */
} Watch;

static Listener *listener_unref(Listener *l) {
        if (!l || --l->n_ref > 0)
                return NULL;
        gate_unref(l->options.gate);
        tls_context_unref(l->options.tls);
        free(l->address);
        return mfree(l);
}

Listener *listener_free(Listener *l) {
        if (!l)
                return NULL;
        l->io = sd_event_source_disable_unref(l->io);
        l->rest = sd_event_source_disable_unref(l->rest);
        l->event = sd_event_unref(l->event);
        l->fd = close_fd(l->fd);
        l->reserve = close_fd(l->reserve);
        return listener_unref(l);
}

static void on_connection(Connection *c, bool established, void *userdata) {
        Watch *watch = userdata;
        Listener *l = watch->listener;

        if (watch->waiting) {
                gate_leave(l->options.gate, watch->ticket);
                if (!established)
                        gate_count(l->options.gate, GATE_HELLO);
        }
        watch->waiting = false;
        list_remove(&watch->link);
        if (established)
                return;
        l->statistics.open--;
        listener_unref(l);
        free(watch);
}

/* The oldest of those who have shown no certificate goes, else the oldest who has, so that who says nothing
 * holds a place no longer than others need it. Not one whose request is being worked on: it may have used up
 * a token. */
static bool put_out_oldest(void *userdata) {
        Connection *oldest = NULL;
        Gate *gate = userdata;

        LIST_FOREACH(Watch, watch, link, gate_waiting(gate)) {
                Connection *c = watch->connection;

                /* One that ended while it was accepted leaves when it is freed, which is soon. */
                if (c->state == STATE_CLOSED || c->paused)
                        continue;
                if (!connection_identity(c)) {
                        oldest = c;
                        break;
                }
                oldest = oldest ?: c;
        }
        if (!oldest)
                return false;
        connection_close(oldest, -EBUSY, "It had not said hello yet, and others came");
        return true;
}

/* Asks the gate, before anything has been spent on the caller. Returns 0, -EUSERS. */
static int listener_let_in(Listener *l, int fd, Watch *watch) {
        struct sockaddr_storage address = { 0 };
        socklen_t size = sizeof(address);
        struct ucred who = { .uid = (uid_t) -1 };
        GateOrigin origin;

        if (getpeername(fd, (struct sockaddr *) &address, &size) < 0)
                return -errno;
        if (address.ss_family == AF_UNIX) {
                size = sizeof(who);
                if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
                        return -errno;
        }
        origin = gate_origin((struct sockaddr *) &address, who.uid);
        if (gate_enter_instead(l->options.gate, &origin, now_usec(CLOCK_MONOTONIC), put_out_oldest,
                               l->options.gate, &watch->ticket) != GATE_OPEN)
                return -EUSERS;
        watch->waiting = true;
        return 0;
}

static int listener_take(Listener *l, int fd_taken) {
        _cleanup_(connection_unrefp) Connection *c = NULL;
        _cleanup_(close_fdp) int fd = fd_taken;
        _cleanup_(freep) Watch *watch = NULL;
        Gate *gate = l->options.gate;
        int r;

        if (l->statistics.open >= l->options.connections_max) {
                if (gate)
                        gate_count(gate, GATE_RESOURCES);
                return -EUSERS;
        }
        watch = new0(Watch);
        if (!watch)
                return -ENOMEM;
        if (gate) {
                r = listener_let_in(l, fd, watch);
                if (r < 0)
                        return r;
        }
        r = connection_new_accepted_tls(l->event, fd, l->options.tls, l->options.handlers, NULL, &c);
        if (r < 0) {
                if (watch->waiting) {
                        gate_leave(gate, watch->ticket);
                        gate_count(gate, GATE_RESOURCES);
                }
                return r;
        }
        TAKE_FD(fd);
        connection_set_hello_limits(c, l->options.hello_timeout, l->options.hello_bytes);
        watch->listener = l;
        watch->connection = c;
        if (watch->waiting)
                list_append(gate_waiting(gate), &watch->link);
        l->n_ref++;
        l->statistics.open++;
        connection_set_watcher(c, on_connection, TAKE_PTR(watch));
        return l->accept(l, c, l->userdata);
}

int listener_peer_uid(const Connection *c, uid_t *ret) {
        struct ucred who;
        socklen_t size = sizeof(who);
        int family;

        if (c->fd < 0)
                return -ENOTCONN;
        if (getsockopt(c->fd, SOL_SOCKET, SO_DOMAIN, &family, &(socklen_t){ sizeof(family) }) < 0)
                return -errno;
        if (family != AF_UNIX)
                return -ENOTSUP;
        if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
                return -errno;
        *ret = who.uid;
        return 0;
}

static int on_rest(sd_event_source *source, uint64_t usec, void *userdata) {
        Listener *l = userdata;

        (void) sd_event_source_set_enabled(l->io, SD_EVENT_ON);
        return 0;
}

/* Without file descriptors the pending caller would wake the loop for ever. The reserve lets it in and out
 * again; if even that does not help, nobody is accepted for a moment. */
static void listener_out_of_fds(Listener *l) {
        int fd;

        l->reserve = close_fd(l->reserve);
        fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
                close_fd(fd);
                l->statistics.refused++;
                if (l->options.gate)
                        gate_count(l->options.gate, GATE_RESOURCES);
        }
        l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && l->reserve >= 0)
                return;
        (void) sd_event_source_set_enabled(l->io, SD_EVENT_OFF);
        if (l->rest) {
                (void) sd_event_source_set_time_relative(l->rest, REST_MSEC * USEC_PER_MSEC);
                (void) sd_event_source_set_enabled(l->rest, SD_EVENT_ONESHOT);
        }
}

static int on_accept(sd_event_source *source, int listening, uint32_t revents, void *userdata) {
        Listener *l = userdata;

        /* The accept handler may free the listener. */
        l->n_ref++;
        for (size_t i = 0; i < ACCEPT_BURST && l->fd >= 0; i++) {
                int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

                if (fd < 0) {
                        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                                listener_out_of_fds(l);
                                break;
                        }
                        if (errno == EAGAIN)
                                break;
                        /* Everything else is the error of that one caller (ECONNABORTED and what accept(2)
                         * lists). */
                        continue;
                }
                if (listener_take(l, fd) < 0)
                        l->statistics.refused++;
                else
                        l->statistics.accepted++;
        }
        listener_unref(l);
        return 0;
}

int listener_new_from_fd(sd_event *event, int fd, const ListenerOptions *options, ListenerAccept accept,
                         void *userdata, Listener **ret) {
        _cleanup_(listener_freep) Listener *l = NULL;
        struct sockaddr_storage address = { 0 };
        socklen_t size = sizeof(address);
        char text[SOCKADDR_STRING_SIZE];
        int r;

        l = new0(Listener);
        if (!l)
                return -ENOMEM;
        *l = (Listener){
                .n_ref = 1,
                .fd = -EBADF,
                .reserve = -EBADF,
                .event = sd_event_ref(event),
                .options = *options,
                .accept = accept,
                .userdata = userdata,
        };
        l->options.tls = options->tls ? tls_context_ref(options->tls) : NULL;
        l->options.connections_max = options->connections_max ?: CONNECTIONS_MAX;
        if (options->gate)
                l->options.gate = gate_ref(options->gate);
        if (getsockname(fd, (struct sockaddr *) &address, &size) < 0)
                return -errno;
        if (address.ss_family == AF_INET)
                l->port = ntohs(((struct sockaddr_in *) &address)->sin_port);
        else if (address.ss_family == AF_INET6)
                l->port = ntohs(((struct sockaddr_in6 *) &address)->sin6_port);
        l->address = strdup(sockaddr_to_string((struct sockaddr *) &address, size, true, text));
        if (!l->address)
                return -ENOMEM;
        r = fd_set_nonblock(fd, true);
        if (r < 0)
                return r;
        l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
        r = sd_event_add_time_relative(event, &l->rest, CLOCK_MONOTONIC, 0, 0, on_rest, l);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(l->rest, SD_EVENT_OFF);
        if (r < 0)
                return r;
        r = sd_event_add_io(event, &l->io, fd, EPOLLIN, on_accept, l);
        if (r < 0)
                return r;
        l->fd = fd;
        *ret = TAKE_PTR(l);
        return 0;
}

int listener_new(sd_event *event, const struct sockaddr *address, socklen_t size,
                 const ListenerOptions *options, ListenerAccept accept, void *userdata, Listener **ret) {
        _cleanup_(close_fdp) int fd = -EBADF;
        const int on = 1;
        int r;

        fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (address->sa_family != AF_UNIX && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
                return -errno;
        /* An address is what it says: [::] and 0.0.0.0 side by side. */
        if (address->sa_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
                return -errno;
        if (bind(fd, address, size) < 0)
                return -errno;
        if (listen(fd, options->backlog > 0 ? options->backlog : BACKLOG) < 0)
                return -errno;
        r = listener_new_from_fd(event, fd, options, accept, userdata, ret);
        if (r < 0)
                return r;
        TAKE_FD(fd);
        return 0;
}

const char *listener_address(const Listener *l) {
        return l->address;
}

uint16_t listener_port(const Listener *l) {
        return l->port;
}

const ListenerStatistics *listener_statistics(const Listener *l) {
        return &l->statistics;
}
