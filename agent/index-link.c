/* SPDX-License-Identifier: Apache-2.0 */
#include "index-link.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "build-config.h"
#include "fd-util.h"
#include "json-util.h"
#include "list.h"
#include "log.h"
#include "parse-util.h"
#include "send-queue.h"
#include "time-util.h"

#define ACCEPT_PAUSE_USEC (100 * USEC_PER_MSEC)

enum {
        BURST_MAX = 4,  /* pieces read before others get their turn */
        PIECES_MAX = 8, /* written at once */
        CODE_MAX = 64,
        SENTENCE_MAX = 512,
};

struct IndexPort {
        sd_event *event;
        sd_event_source *io, *again;
        int fd;
        char *node, *build;
        IndexRate *rate;
        unsigned links_max, n_links;
        ListLink links;
        IndexDial dial;
        void *userdata;
        char *failure;
        bool paused;
};

/* One connection of the build, and its counterpart to the master. */
typedef struct IndexLink {
        IndexPort *port;
        ListLink links;
        int fd; /* the build's end; -EBADF when it is closed */
        sd_event_source *io;
        Connection *connection; /* NULL when it is closed */
        bool welcome;
        bool paused;
        bool build_ended;  /* the build has closed its connection */
        bool master_ended; /* the index has: what waits is still written */
        SendQueue queue;   /* for the build */
} IndexLink;

/* Takes one connection out of the bucket, unless it is empty. Returns 0, or how many µs it takes until there
 * is one. */
static uint64_t index_rate_take(IndexRate *rate) {
        const uint64_t one = USEC_PER_SEC / INDEX_RATE, now = now_usec(CLOCK_MONOTONIC);
        const uint64_t until = MAX(rate->used_until, now) + one;

        if (until > now + INDEX_BURST_MAX * one)
                return until - (now + INDEX_BURST_MAX * one);
        rate->used_until = until;
        return 0;
}

/* Takes no connections for a while: they wait in the socket's queue. */
static void index_port_pause(IndexPort *p, uint64_t usec) {
        (void) sd_event_source_set_enabled(p->io, SD_EVENT_OFF);
        (void) sd_event_source_set_time_relative(p->again, usec);
        (void) sd_event_source_set_enabled(p->again, SD_EVENT_ONESHOT);
        p->paused = true;
}

static void index_port_update(IndexPort *p) {
        if (p->paused)
                return;
        (void) sd_event_source_set_enabled(p->io, p->n_links < p->links_max ? SD_EVENT_ON : SD_EVENT_OFF);
}

static void index_port_failed(IndexPort *p, const char *why) {
        char *copy = text_for_message(why, SENTENCE_MAX);

        if (!copy)
                return;
        log_debug("Build %s: a request to the index failed: %s", p->build, copy);
        free(p->failure);
        p->failure = copy;
}

static void index_link_close_build(IndexLink *l) {
        l->io = sd_event_source_disable_unref(l->io);
        l->fd = close_fd(l->fd);
        send_queue_clear(&l->queue);
}

static IndexLink *index_link_free(IndexLink *l) {
        if (!l)
                return NULL;
        index_link_close_build(l);
        connection_unref(l->connection);
        if (list_is_linked(&l->links)) {
                list_remove(&l->links);
                l->port->n_links--;
        }
        return mfree(l);
}
DEFINE_CLEANUP(IndexLink, index_link_free);

/* Frees it when both its ends are closed. */
static void index_link_check(IndexLink *l) {
        IndexPort *p = l->port;

        if (l->connection || l->fd >= 0)
                return;
        index_link_free(l);
        index_port_update(p);
}

static void index_link_update(IndexLink *l) {
        uint32_t events = 0;

        if (!l->io)
                return;
        if (l->welcome && l->connection && connection_is_open(l->connection) &&
            !connection_is_congested(l->connection))
                events |= EPOLLIN;
        if (l->queue.size > 0)
                events |= EPOLLOUT;
        (void) sd_event_source_set_io_events(l->io, events);
}

/* The build does not need it any more. */
static void index_link_build_ended(IndexLink *l) {
        l->build_ended = true;
        index_link_close_build(l);
        if (!l->connection)
                return;
        if (l->welcome && !l->master_ended)
                (void) connection_send(l->connection, FRAME_END, NULL, NULL, 0);
        connection_finish(l->connection, 0, "the build has ended the request");
}

/* Writes what waits. Returns 0, also when the socket is full; -errno when it is gone. */
static int index_link_flush(IndexLink *l) {
        while (l->queue.size > 0) {
                struct iovec iov[PIECES_MAX];
                struct msghdr message = { .msg_iov = iov };
                ssize_t n;

                message.msg_iovlen = send_queue_peek(&l->queue, iov, ELEMENTSOF(iov));
                n = sendmsg(l->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
                send_queue_consume(&l->queue, (size_t) n);
        }
        return 0;
}

/* After something was written, or came to be: who may go on? */
static void index_link_written(IndexLink *l) {
        bool pause = l->queue.size > (l->paused ? INDEX_BUFFER_LOW : INDEX_BUFFER_MAX);

        if (l->connection && pause != l->paused) {
                l->paused = pause;
                connection_pause(l->connection, pause);
        }
        if (l->master_ended && l->queue.size == 0)
                index_link_close_build(l);
        index_link_update(l);
}

/* Passes on what the build says. Returns 1, 0 when there is nothing now or any more, -errno. */
static int index_link_read(IndexLink *l) {
        static uint8_t buffer[INDEX_PIECE];
        struct iovec iov = { .iov_base = buffer };
        ssize_t n;
        int r;

        n = recv(l->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (n == 0) {
                index_link_build_ended(l);
                return 0;
        }
        iov.iov_len = (size_t) n;
        r = connection_send(l->connection, FRAME_INDEX, NULL, &iov, 1);
        if (r < 0) {
                connection_close(l->connection, r, "a request cannot be passed on");
                return 0;
        }
        return 1;
}

static int on_build_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        IndexLink *l = userdata;
        int r = 0;

        if (events & EPOLLOUT)
                r = index_link_flush(l);
        if (r >= 0 && events & EPOLLIN) {
                r = 1;
                for (unsigned i = 0; i < BURST_MAX && r > 0 && !connection_is_congested(l->connection); i++)
                        r = index_link_read(l);
        } else if (events & (EPOLLERR | EPOLLHUP))
                r = -ECONNRESET;
        if (r < 0)
                index_link_build_ended(l);
        index_link_written(l);
        index_link_check(l);
        return 0;
}

static int send_hello(IndexLink *l) {
        _cleanup_(json_putp) json_object *hello = NULL;
        json_object *range;
        int r;

        r = json_new_object(&hello);
        if (r >= 0)
                r = json_add_string(hello, "role", "index");
        if (r >= 0)
                r = json_add_string(hello, "name", l->port->node);
        if (r >= 0)
                r = json_add_new_array(hello, "protocol", &range);
        for (int i = 0; i < 2 && r >= 0; i++)
                r = json_append(range, json_object_new_int(FRAME_PROTOCOL_VERSION));
        if (r >= 0)
                r = json_add_string(hello, "software", CLUPY_VERSION);
        if (r >= 0)
                r = json_add_string(hello, "build", l->port->build);
        return r < 0 ? r : connection_send(l->connection, FRAME_HELLO, hello, NULL, 0);
}

static void on_connected(Connection *c, void *userdata) {
        int r;

        r = send_hello(userdata);
        if (r < 0)
                connection_close(c, r, "cannot say hello");
}

static int on_refused(const Frame *frame, Connection *c) {
        const char *message = "no reason given", *code = "?";
        char why[SENTENCE_MAX + CODE_MAX];

        if (frame->json) {
                (void) json_get_string_optional(frame->json, "error", CODE_MAX, code, &code);
                (void) json_get_string_optional(frame->json, "message", SENTENCE_MAX - CODE_MAX, message,
                                                &message);
        }
        snprintf(why, sizeof(why), "the master refused (%s): %s", code, message);
        connection_close(c, -ECONNREFUSED, why);
        return 0;
}

static int on_index(IndexLink *l, const Frame *frame) {
        int r;

        if (!l->welcome || l->master_ended || frame->json || frame->n_payloads != 1)
                return -EBADMSG;
        if (l->fd < 0)
                return 0; /* on its way when the build ended it */
        r = send_queue_append(&l->queue, frame->payloads, 1, 0);
        if (r < 0)
                return r;
        r = index_link_flush(l);
        if (r < 0)
                index_link_build_ended(l);
        index_link_written(l);
        return 0;
}

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        IndexLink *l = userdata;

        switch (frame->type) {
        case FRAME_WELCOME:
                if (l->welcome)
                        return -EBADMSG;
                connection_established(c);
                l->welcome = true;
                index_link_update(l);
                return 0;
        case FRAME_REFUSED:
                return on_refused(frame, c);
        case FRAME_INDEX:
                return on_index(l, frame);
        case FRAME_END:
                if (!l->welcome)
                        return -EBADMSG;
                l->master_ended = true;
                l->port->failure = mfree(l->port->failure); /* it gets through (again) */
                connection_finish(c, 0, "the index has ended the request");
                index_link_written(l);
                return 0;
        case FRAME_GOODBYE:
                connection_close(c, -ECONNRESET, "the master is shutting down");
                return 0;
        default:
                return -EBADMSG;
        }
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        IndexLink *l = userdata;

        if (!l->build_ended && !l->master_ended)
                index_port_failed(l->port, why);
        l->connection = connection_unref(l->connection);
        if (!l->master_ended || l->queue.size == 0)
                index_link_close_build(l);
        index_link_update(l);
        index_link_check(l);
}

static void on_drained(Connection *c, void *userdata) {
        index_link_update(userdata);
}

static const ConnectionHandlers connection_handlers = {
        .frame = on_frame,
        .connected = on_connected,
        .closed = on_closed,
        .drained = on_drained,
};

/* fd becomes the link's on success. */
static int index_link_new(IndexPort *p, int fd) {
        _cleanup_(index_link_freep) IndexLink *l = NULL;
        int r;

        l = new0(IndexLink);
        if (!l)
                return -ENOMEM;
        l->port = p;
        l->fd = -EBADF;
        r = p->dial(&connection_handlers, l, &l->connection, p->userdata);
        if (r >= 0)
                r = sd_event_add_io(p->event, &l->io, fd, 0, on_build_io, l);
        if (r < 0)
                return r;
        l->fd = fd;
        list_append(&p->links, &l->links);
        p->n_links++;
        TAKE_PTR(l);
        return 0;
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        IndexPort *p = userdata;
        uint64_t wait;
        int accepted, r;

        wait = index_rate_take(p->rate);
        if (wait > 0) {
                index_port_pause(p, wait);
                return 0;
        }
        accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (accepted < 0) {
                if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                        return 0;
                /* Out of descriptors or memory: it is still there after a pause. */
                index_port_failed(p, strerror(errno));
                index_port_pause(p, ACCEPT_PAUSE_USEC);
                return 0;
        }
        r = index_link_new(p, accepted);
        if (r < 0) {
                index_port_failed(p, r == -ENOTCONN ? "there is no connection to the master" : strerror(-r));
                close_fd(accepted);
        }
        index_port_update(p);
        return 0;
}

static int on_again(sd_event_source *source, uint64_t usec, void *userdata) {
        IndexPort *p = userdata;

        p->paused = false;
        index_port_update(p);
        return 0;
}

int index_port_new(sd_event *event, int listening_fd, const char *node, const char *build,
                   unsigned links_max, IndexRate *rate, IndexDial dial, void *userdata, IndexPort **ret) {
        _cleanup_(index_port_freep) IndexPort *p = NULL;
        int r;

        p = new0(IndexPort);
        if (!p)
                return -ENOMEM;
        p->event = sd_event_ref(event);
        p->fd = -EBADF;
        p->links_max = links_max;
        p->rate = rate;
        p->dial = dial;
        p->userdata = userdata;
        list_init(&p->links);
        p->node = strdup(node);
        p->build = strdup(build);
        if (!p->node || !p->build)
                return -ENOMEM;
        r = fd_set_nonblock(listening_fd, true);
        if (r >= 0)
                r = sd_event_add_io(event, &p->io, listening_fd, EPOLLIN, on_accept, p);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &p->again, CLOCK_MONOTONIC, 0, 0, on_again, p);
        if (r >= 0)
                r = sd_event_source_set_enabled(p->again, SD_EVENT_OFF);
        if (r < 0)
                return r;
        p->fd = listening_fd;
        *ret = TAKE_PTR(p);
        return 0;
}

IndexPort *index_port_free(IndexPort *p) {
        if (!p)
                return NULL;
        LIST_FOREACH(IndexLink, l, links, &p->links)
                index_link_free(l);
        sd_event_source_disable_unref(p->io);
        sd_event_source_disable_unref(p->again);
        close_fd(p->fd);
        free(p->node);
        free(p->build);
        free(p->failure);
        sd_event_unref(p->event);
        return mfree(p);
}

const char *index_port_failure(const IndexPort *p) {
        return p->failure;
}

unsigned index_port_links(const IndexPort *p) {
        return p->n_links;
}
