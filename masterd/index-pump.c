/* SPDX-License-Identifier: Apache-2.0 */
#include "index-pump.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "dependency-config.h"
#include "digest.h"
#include "fd-util.h"
#include "log.h"
#include "manager.h"
#include "master-config.h"
#include "node.h"
#include "peer.h"

enum {
        PIECE = 64 << 10,
        WAITING_MAX = 1 << 20, /* bytes for the index: the node is not read from then */
        WAITING_LOW = 256 << 10,
        MANIFEST_MAX = 1 << 20,
        /* The index goes by a changed manifest a moment after the master does. */
        CURRENT_PERIOD_US = 100000,
        CURRENT_TRIES = 300,
};

struct IndexPump {
        Peer *peer;
        Node *node;
        int fd;                          /* <0: there is no index, it has ended, or is not connected yet */
        sd_event_source *source, *timer; /* timer: waits until the index is current */
        int tries;
        uint8_t *waiting; /* for the index */
        size_t n_waiting, capacity;
        bool paused;      /* the node is not read from */
        bool ended;       /* the node has said all */
        bool half_closed; /* the index knows */
        bool answered;    /* the end, or the error, has been sent */
        int error;        /* why there is no index */
};

IndexPump *index_pump_free(IndexPump *pump) {
        if (!pump)
                return NULL;
        pump->node->n_pumps--;
        sd_event_source_disable_unref(pump->source);
        sd_event_source_disable_unref(pump->timer);
        close_fd(pump->fd);
        free(pump->waiting);
        return mfree(pump);
}

unsigned index_pump_count(const Node *node) {
        return node->n_pumps;
}

static Connection *link_of(const IndexPump *pump) {
        return pump->peer->connection;
}

/* Both sides have ended, or one cannot go on. */
static void finish(IndexPump *pump) {
        if (pump->answered)
                return;
        pump->answered = true;
        (void) connection_send(link_of(pump), FRAME_END, NULL, NULL, 0);
        connection_finish(link_of(pump), 0, "All of it has been sent");
        pump->source = sd_event_source_disable_unref(pump->source);
        pump->fd = close_fd(pump->fd);
}

/* What a build's installer shows to its user. */
static void send_error(IndexPump *pump) {
        _cleanup_(freep) char *body = NULL, *answer = NULL;

        if (pump->answered)
                return;
        body = strformat("The cluster's package index does not run (%s): on the master's machine look at "
                         "`systemctl status clupy-index.socket clupy-index.service`, and whether nginx is "
                         "installed there.\n",
                         strerrordesc_np(-pump->error) ?: "unknown error");
        answer = body ? strformat("HTTP/1.1 502 Package index not running\r\nContent-Type: text/plain\r\n"
                                  "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                                  strlen(body), body)
                      : NULL;
        if (answer)
                (void) connection_send(link_of(pump), FRAME_INDEX, NULL,
                                       &(struct iovec){ answer, strlen(answer) }, 1);
        finish(pump);
}

static void pause_node(IndexPump *pump, bool pause) {
        if (pump->paused == pause)
                return;
        pump->paused = pause;
        connection_pause(link_of(pump), pause);
}

static void set_events(IndexPump *pump) {
        uint32_t events = 0;

        if (!pump->source)
                return;
        if (!connection_is_congested(link_of(pump)))
                events |= EPOLLIN;
        if (pump->n_waiting > 0)
                events |= EPOLLOUT;
        (void) sd_event_source_set_io_events(pump->source, events);
}

/* Returns 0, or -errno when the index takes no more. */
static int write_waiting(IndexPump *pump) {
        while (pump->n_waiting > 0) {
                ssize_t n = send(pump->fd, pump->waiting, pump->n_waiting, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 0 : -errno;
                pump->n_waiting -= (size_t) n;
                memmove(pump->waiting, pump->waiting + n, pump->n_waiting);
        }
        pump->waiting = mfree(pump->waiting);
        pump->capacity = 0;
        if (pump->ended && !pump->half_closed) {
                pump->half_closed = true;
                (void) shutdown(pump->fd, SHUT_WR);
        }
        return 0;
}

/* Returns 1 while there may be more, 0 for now, -errno; -ECONNRESET at the end. */
static int read_piece(IndexPump *pump) {
        uint8_t buffer[PIECE];
        ssize_t n = recv(pump->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (n == 0)
                return -ECONNRESET;
        return connection_send(link_of(pump), FRAME_INDEX, NULL, &(struct iovec){ buffer, (size_t) n }, 1) <
                               0
                       ? -ENOTCONN
                       : 1;
}

static int on_index(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        IndexPump *pump = userdata;
        int r = 0;

        if (events & EPOLLOUT)
                r = write_waiting(pump);
        /* Some pieces, and then the others get their turn. */
        for (int i = 0; i < 8 && r >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)); i++) {
                if (connection_is_congested(link_of(pump)))
                        break;
                r = read_piece(pump);
                if (r == 0)
                        break;
        }
        if (r < 0) {
                finish(pump);
                return 0;
        }
        if (pump->n_waiting <= WAITING_LOW)
                pause_node(pump, false);
        set_events(pump);
        return 0;
}

static int index_connect(IndexPump *pump) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        const char *path = pump->peer->manager->config->index_socket;
        int r;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        pump->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (pump->fd < 0)
                return -errno;
        if (connect(pump->fd, (struct sockaddr *) &address, sizeof(address)) < 0)
                return -errno;
        r = sd_event_add_io(pump->peer->manager->event, &pump->source, pump->fd, EPOLLIN, on_index, pump);
        if (r < 0)
                return r;
        /* A build fetches much; heartbeats come first. */
        return sd_event_source_set_priority(pump->source, SD_EVENT_PRIORITY_NORMAL + 5);
}

/* Whether the index has seen the manifest that is on disk now: it says which one it goes by, or has refused,
 * in a file beside its socket. Without that file there is none that runs: it reads the manifest when it
 * starts. */
static bool index_is_current(const Manager *m) {
        _cleanup_(freep) char *path = NULL, *seen = NULL, *manifest = NULL;
        const char *socket = m->config->index_socket, *slash = strrchr(socket, '/');
        char hex[DIGEST_HEX_SIZE] = "-";
        Digest digest;
        size_t size;
        int r;

        if (!slash)
                return true;
        path = strformat("%.*s/nginx/manifest", (int) (slash - socket), socket);
        if (!path || read_file_full(path, DIGEST_HEX_SIZE, &seen, NULL) < 0)
                return true;
        r = read_file_full(m->config->dependencies, MANIFEST_MAX, &manifest, &size);
        if (r >= 0 && digest_sha256(manifest, size, &digest) >= 0)
                digest_to_hex(&digest, hex);
        seen[strcspn(seen, "\n")] = '\0';
        return (r < 0 && r != -ENOENT) || streq(seen, hex);
}

static void connect_now(IndexPump *pump) {
        int r = index_connect(pump);

        if (r >= 0)
                return;
        pump->source = sd_event_source_disable_unref(pump->source);
        pump->fd = close_fd(pump->fd);
        pump->error = r;
        log_warning_errno(r, "A build on node %s asks the package index, which cannot be reached at %s",
                          pump->node->name, pump->peer->manager->config->index_socket);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        IndexPump *pump = userdata;

        if (!index_is_current(pump->peer->manager) && pump->tries++ < CURRENT_TRIES &&
            sd_event_source_set_time_relative(source, CURRENT_PERIOD_US) >= 0 &&
            sd_event_source_set_enabled(source, SD_EVENT_ONESHOT) >= 0)
                return 0;
        pump->timer = sd_event_source_disable_unref(pump->timer);
        connect_now(pump);
        if (pump->error < 0)
                send_error(pump);
        else if (write_waiting(pump) < 0)
                finish(pump);
        else
                set_events(pump);
        return 0;
}

int index_pump_new(Peer *peer, Node *node, IndexPump **ret) {
        IndexPump *pump = new0(IndexPump);

        if (!pump)
                return -ENOMEM;
        *pump = (IndexPump){ .peer = peer, .node = node, .fd = -EBADF };
        node->n_pumps++;
        if (index_is_current(peer->manager) ||
            sd_event_add_time_relative(peer->manager->event, &pump->timer, CLOCK_BOOTTIME, CURRENT_PERIOD_US,
                                       0, on_timer, pump) < 0)
                connect_now(pump);
        *ret = pump;
        return 0;
}

static int append(IndexPump *pump, const struct iovec *piece) {
        if (ARRAY_RESERVE(pump->waiting, pump->capacity, pump->n_waiting + piece->iov_len) < 0)
                return -ENOMEM;
        memcpy(pump->waiting + pump->n_waiting, piece->iov_base, piece->iov_len);
        pump->n_waiting += piece->iov_len;
        return 0;
}

int index_pump_frame(Peer *peer, const Frame *frame) {
        IndexPump *pump = peer->pump;
        int r;

        if (!pump)
                return -EPROTO;
        if (frame->type == FRAME_GOODBYE) {
                connection_finish(peer->connection, 0, "It said goodbye");
                return 0;
        }
        if ((frame->type != FRAME_INDEX && frame->type != FRAME_END) || pump->ended)
                return -EPROTO;
        if (frame->type == FRAME_INDEX && (frame->n_payloads != 1 || frame->payloads[0].iov_len == 0))
                return -EBADMSG;
        if (pump->answered)
                return 0; /* it does not know yet */
        if (pump->fd < 0 && !pump->timer) {
                send_error(pump);
                return 0;
        }
        if (frame->type == FRAME_END)
                pump->ended = true;
        else {
                r = append(pump, frame->payloads);
                if (r < 0)
                        return r;
        }
        if (!pump->timer && write_waiting(pump) < 0) {
                finish(pump);
                return 0;
        }
        if (pump->n_waiting >= WAITING_MAX)
                pause_node(pump, true);
        set_events(pump);
        return 0;
}

void index_pump_drained(IndexPump *pump) {
        set_events(pump);
}
