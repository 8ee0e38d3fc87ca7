/* SPDX-License-Identifier: Apache-2.0 */
#include "launcher-link.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fd-util.h"
#include "list.h"
#include "log.h"
#include "time-util.h"

#define RETRY_FIRST_USEC (50 * USEC_PER_MSEC)
#define RETRY_LAST_USEC (2 * USEC_PER_SEC)

enum {
        REQUEST_FDS_MAX = 2,
        EVENT_FDS_MAX = 2,
        BURST_MAX = 64, /* packets read before others get their turn */
};

typedef struct QueuedRequest {
        ListLink queue;
        size_t n_fds;
        int fds[REQUEST_FDS_MAX];
        LauncherRequest request;
} QueuedRequest;

struct LauncherLink {
        sd_event *event;
        sd_event_source *io, *retry;
        int fd;
        bool up;   /* the welcome has come */
        bool told; /* that it cannot be reached, in the log */
        uint64_t retry_usec;
        ListLink queue;
        size_t n_queued;
        const LauncherLinkHandlers *handlers;
        void *userdata;
        struct sockaddr_un address;
};

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata);

static QueuedRequest *queued_request_free(QueuedRequest *q) {
        if (!q)
                return NULL;
        list_remove(&q->queue);
        close_many(q->fds, q->n_fds);
        return mfree(q);
}
DEFINE_CLEANUP(QueuedRequest, queued_request_free);

/* NULL without memory or descriptors. */
static QueuedRequest *queued_request_new(const LauncherRequest *request, const int *fds, size_t n_fds) {
        _cleanup_(queued_request_freep) QueuedRequest *q = NULL;

        q = new0(QueuedRequest);
        if (!q)
                return NULL;
        q->request = *request;
        for (size_t i = 0; i < n_fds; i++) {
                q->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
                if (q->fds[i] < 0)
                        return NULL;
                q->n_fds++;
        }
        return TAKE_PTR(q);
}

static void launcher_link_disconnect(LauncherLink *l) {
        l->io = sd_event_source_disable_unref(l->io);
        l->fd = close_fd(l->fd);
        l->up = false;
        LIST_FOREACH(QueuedRequest, q, queue, &l->queue)
                queued_request_free(q);
        l->n_queued = 0;
}

LauncherLink *launcher_link_free(LauncherLink *l) {
        if (!l)
                return NULL;
        launcher_link_disconnect(l);
        sd_event_source_disable_unref(l->retry);
        sd_event_unref(l->event);
        return mfree(l);
}

static void launcher_link_retry(LauncherLink *l) {
        (void) sd_event_source_set_time_relative(l->retry, l->retry_usec);
        (void) sd_event_source_set_enabled(l->retry, SD_EVENT_ONESHOT);
        l->retry_usec = MIN(l->retry_usec * 2, RETRY_LAST_USEC);
}

static void launcher_link_fail(LauncherLink *l, int error) {
        bool was_up = l->up;

        launcher_link_disconnect(l);
        launcher_link_retry(l);
        if (was_up)
                l->handlers->down(error, l->userdata);
}

static int launcher_link_connect(LauncherLink *l) {
        _cleanup_(close_fdp) int fd = -EBADF;
        LauncherRequest hello = { .op = LAUNCHER_HELLO, .version = LAUNCHER_PROTOCOL_VERSION };
        int r;

        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *) &l->address, sizeof(l->address)) < 0)
                return -errno;
        r = fd_send_with_fds(fd, &hello, sizeof(hello), NULL, 0);
        if (r < 0)
                return r;
        r = sd_event_add_io(l->event, &l->io, fd, EPOLLIN, on_io, l);
        if (r < 0)
                return r;
        l->fd = TAKE_FD(fd);
        return 0;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        LauncherLink *l = userdata;
        int r;

        r = launcher_link_connect(l);
        if (r < 0) {
                log_full_errno(l->told ? LOG_DEBUG : LOG_WARNING, r,
                               "Cannot reach the launcher at %s (clupy-launcher.service), trying on",
                               l->address.sun_path);
                l->told = true;
                launcher_link_retry(l);
        }
        return 0;
}

/* Writes what waits. Returns 0, also when the socket is full; -errno when it is gone. */
static int launcher_link_flush(LauncherLink *l) {
        int r = 0;

        LIST_FOREACH(QueuedRequest, q, queue, &l->queue) {
                r = fd_send_with_fds(l->fd, &q->request, sizeof(q->request), q->fds, q->n_fds);
                if (r < 0)
                        break;
                queued_request_free(q);
                l->n_queued--;
        }
        (void) sd_event_source_set_io_events(l->io, EPOLLIN | (l->n_queued > 0 ? EPOLLOUT : 0));
        return r == -EAGAIN ? 0 : r;
}

/* Handles one packet. Returns 1, 0 when there is none, -errno. */
static int launcher_link_receive(LauncherLink *l) {
        LauncherEvent event;
        int fds[EVENT_FDS_MAX];
        size_t n_fds = 0;
        ssize_t n;

        n = fd_receive_with_fds(l->fd, &event, sizeof(event), fds, ELEMENTSOF(fds), &n_fds);
        if (n == -EAGAIN)
                return 0;
        if (n < 0)
                return (int) n;
        if (n != sizeof(event) || event.version != LAUNCHER_PROTOCOL_VERSION) {
                close_many(fds, n_fds);
                return -EPROTO;
        }
        if (event.op == LAUNCHER_WELCOME) {
                LauncherRequest list = { .op = LAUNCHER_LIST };
                int r;

                close_many(fds, n_fds);
                if (l->up)
                        return -EPROTO;
                l->up = true;
                l->told = false;
                l->retry_usec = RETRY_FIRST_USEC;
                l->handlers->welcome(&event, l->userdata);
                r = launcher_link_send(l, &list, NULL, 0);
                return r < 0 ? r : 1;
        }
        if (!l->up) {
                close_many(fds, n_fds);
                return event.op == LAUNCHER_REFUSED ? -ECONNREFUSED : -EPROTO;
        }
        l->handlers->event(&event, fds, n_fds, l->userdata);
        close_many(fds, n_fds);
        return 1;
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        LauncherLink *l = userdata;
        int r = 1;

        if (events & EPOLLOUT) {
                r = launcher_link_flush(l);
                if (r < 0) {
                        launcher_link_fail(l, r);
                        return 0;
                }
                r = 1;
        }
        for (unsigned i = 0; i < BURST_MAX && r > 0; i++)
                r = launcher_link_receive(l);
        if (r < 0)
                launcher_link_fail(l, r);
        l->handlers->batch_end(l->userdata);
        return 0;
}

int launcher_link_new(sd_event *event, const char *path, const LauncherLinkHandlers *handlers,
                      void *userdata, LauncherLink **ret) {
        _cleanup_(launcher_link_freep) LauncherLink *l = NULL;
        size_t size;
        int r;

        l = new0(LauncherLink);
        if (!l)
                return -ENOMEM;
        l->event = sd_event_ref(event);
        l->fd = -EBADF;
        l->handlers = handlers;
        l->userdata = userdata;
        l->retry_usec = RETRY_FIRST_USEC;
        list_init(&l->queue);
        l->address.sun_family = AF_UNIX;
        size = strlen(path) + 1;
        if (size > sizeof(l->address.sun_path))
                return -ENAMETOOLONG;
        memcpy(l->address.sun_path, path, size);
        r = sd_event_add_time_relative(event, &l->retry, CLOCK_MONOTONIC, 0, 10 * USEC_PER_MSEC, on_retry,
                                       l);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

int launcher_link_send(LauncherLink *l, LauncherRequest *request, const int *fds, size_t n_fds) {
        QueuedRequest *q;
        int r;

        if (!l->up)
                return -ENOTCONN;
        request->version = LAUNCHER_PROTOCOL_VERSION;
        if (l->n_queued == 0) {
                r = fd_send_with_fds(l->fd, request, sizeof(*request), fds, n_fds);
                if (r >= 0)
                        return 0;
                /* A dead socket is noticed by on_io: failing here would call handlers within their own
                 * calls. */
                if (r != -EAGAIN)
                        return r == -ENOMEM ? r : -ENOTCONN;
        }
        if (l->n_queued >= LAUNCHER_QUEUE_MAX)
                return -ENOBUFS;
        q = queued_request_new(request, fds, n_fds);
        if (!q)
                return -ENOMEM;
        list_append(&l->queue, &q->queue);
        l->n_queued++;
        (void) sd_event_source_set_io_events(l->io, EPOLLIN | EPOLLOUT);
        return 0;
}

bool launcher_link_is_up(const LauncherLink *l) {
        return l->up;
}
