/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-link.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "attempt.h"
#include "build.h"
#include "cgroup.h"
#include "device.h"
#include "environment.h"
#include "fd-util.h"
#include "lease.h"
#include "log.h"
#include "request-check.h"
#include "upgrade-record.h"
#include "zygote.h"

#define USER_NAME "clupy"

enum {
        SEND_BUFFER = 8 << 20,
        QUEUE_MAX = 65536, /* events that an agent has not read */
        REQUESTS_PER_EVENT = 64,
        EVENT_FDS = 2,
};

typedef struct Queued {
        ListLink queue;
        LauncherEvent event;
        int fds[EVENT_FDS]; /* duplicates: the attempt may be released meanwhile */
        size_t n_fds;
} Queued;

struct AgentLink {
        Manager *manager;
        int listener, connection;
        uid_t uid; /* of the user that agents run as; 0: there is none, only root may connect */
        sd_event_source *on_connect, *on_request;
        ListLink queue;
        size_t n_queued;
};

static void queued_free(Queued *queued) {
        if (queued)
                close_many(queued->fds, queued->n_fds);
        free(queued);
}

void agent_link_drop(AgentLink *link, const char *why) {
        if (link->connection < 0)
                return;
        log_info("Agent gone: %s; everything goes on", why);
        link->on_request = sd_event_source_disable_unref(link->on_request);
        link->connection = close_fd(link->connection);
        LIST_FOREACH(Queued, queued, queue, &link->queue) {
                list_remove(&queued->queue);
                queued_free(queued);
        }
        link->n_queued = 0;
        builds_end_all(link->manager->builds, OUTCOME_CANCELLED, "The agent is gone.");
        manager_status(link->manager);
}

bool agent_link_is_flushed(const AgentLink *link) {
        return !link || link->n_queued == 0;
}

bool agent_link_is_connected(const AgentLink *link) {
        return link && link->connection >= 0;
}

static void enqueue(AgentLink *link, const LauncherEvent *event, const int *fds, size_t n_fds) {
        Queued *queued = link->n_queued < QUEUE_MAX ? new0(Queued) : NULL;
        bool good = queued != NULL;

        if (queued)
                queued->event = *event;
        for (size_t i = 0; i < n_fds && good; i++) {
                queued->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
                good = queued->fds[i] >= 0;
                queued->n_fds += good;
        }
        if (!good) {
                queued_free(queued);
                agent_link_drop(link, "it does not read what it is told");
                return;
        }
        list_append(&link->queue, &queued->queue);
        if (link->n_queued++ == 0)
                (void) sd_event_source_set_io_events(link->on_request, EPOLLIN | EPOLLOUT);
}

void agent_link_send_many(AgentLink *link, const LauncherEvent *event, const int *fds, size_t n_fds) {
        if (!agent_link_is_connected(link))
                return;
        int r = link->n_queued > 0 ? -EAGAIN
                                   : fd_send_with_fds(link->connection, event, sizeof(*event), fds, n_fds);
        if (r == -EAGAIN)
                enqueue(link, event, fds, n_fds);
        else if (r < 0)
                agent_link_drop(link, strerrordesc_np(-r));
}

void agent_link_send(AgentLink *link, const LauncherEvent *event, int fd) {
        agent_link_send_many(link, event, &fd, fd >= 0 ? 1 : 0);
}

static void flush(AgentLink *link) {
        Queued *queued;

        while ((queued = LIST_FIRST(Queued, queue, &link->queue))) {
                int r = fd_send_with_fds(link->connection, &queued->event, sizeof(queued->event),
                                         queued->fds, queued->n_fds);
                if (r == -EAGAIN)
                        return;
                if (r < 0) {
                        agent_link_drop(link, strerrordesc_np(-r));
                        return;
                }
                list_remove(&queued->queue);
                queued_free(queued);
                link->n_queued--;
        }
        (void) sd_event_source_set_io_events(link->on_request, EPOLLIN);
}

/* ---- requests */

/* What environment a request is about; empty for others. */
static const char *request_environment(const LauncherRequest *request) {
        switch (request->op) {
        case LAUNCHER_BUILD:
                return request->build.environment;
        case LAUNCHER_BUILD_STOP:
        case LAUNCHER_ENVIRONMENT_REMOVE:
                return request->environment.environment;
        default:
                return "";
        }
}

static void refuse(AgentLink *link, const LauncherRequest *request, int error, const char *why) {
        LauncherEvent event = {
                .version = LAUNCHER_PROTOCOL_VERSION,
                .op = LAUNCHER_REFUSED,
                .error = error,
        };

        if (request) {
                event.attempt = request->attempt;
                memcpy(event.task, request->task, sizeof(event.task));
        }
        (void) snprintf(event.refused.text, sizeof(event.refused.text), "%s", why);
        if (request)
                (void) snprintf(event.refused.environment, sizeof(event.refused.environment), "%.*s",
                                ENVIRONMENT_NAME_MAX - 1, request_environment(request));
        log_debug_errno(error, "Refused a request: %s", why);
        agent_link_send(link, &event, -EBADF);
}

static void welcome(AgentLink *link) {
        Manager *manager = link->manager;
        LauncherEvent event = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_WELCOME };

        memcpy(event.welcome.instance, manager->instance, sizeof(event.welcome.instance));
        event.welcome.cgroup_v2 = cgroup_layout()->unified;
        event.welcome.memory_known = RECEIPT_CPU | RECEIPT_MEMORY_PEAK | RECEIPT_READ_CHARS |
                                     RECEIPT_WRITE_CHARS | RECEIPT_READ_BYTES | RECEIPT_WRITE_BYTES;
        if (cgroup_layout()->unified && access("/proc/pressure/cpu", R_OK) == 0)
                event.welcome.memory_known |= RECEIPT_PRESSURE;
        agent_link_send(link, &event, -EBADF);
        devices_tell(manager);
}

static void list(AgentLink *link) {
        const LauncherEvent end = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_LIST_END };
        Attempt *attempt;

        HASHMAP_FOREACH(attempt, link->manager->attempts)
                attempt_tell(attempt, LAUNCHER_FLAG_REPLAYED);
        agent_link_send(link, &end, -EBADF);
}

static void start(AgentLink *link, const LauncherRequest *request, int *fds) {
        const char *why = "The attempt cannot be started.";
        Attempt *attempt;
        int r = attempt_start(link->manager, request, fds, &attempt, &why);

        if (r < 0)
                refuse(link, request, r, why);
        if (r != 0)
                close_many(fds, 2);
        if (r == 1)
                attempt_tell(attempt, LAUNCHER_FLAG_REPLAYED);
}

static void set_pool(AgentLink *link, const LauncherRequest *request) {
        const LauncherKey *key = &request->pool.key;
        Zygote *zygote = zygote_find(link->manager, key);
        const char *why = "No pair can wait warm for this key.";
        int r = 0;

        if (!zygote && request->pool.count == 0)
                return;
        if (!zygote)
                r = environment_check(key, &why);
        if (r >= 0 && !zygote)
                r = zygote_get(link->manager, key, &zygote);
        if (r < 0) {
                refuse(link, request, r, why);
                return;
        }
        zygote->pool_target = request->pool.count;
        manager_kick(link->manager);
}

static void build(AgentLink *link, const LauncherRequest *request, int fd) {
        const char *why = "The build cannot be started.";
        int r = build_start(link->manager->builds, &request->build, fd, &why);

        if (r < 0) {
                close_fd(fd);
                refuse(link, request, r, why);
        }
}

static void stop_build(AgentLink *link, const LauncherRequest *request) {
        if (!build_stop(link->manager->builds, request->environment.environment))
                refuse(link, request, -ENOENT, "There is no such build.");
}

static void remove_environment(AgentLink *link, const LauncherRequest *request) {
        const char *why = "The environment cannot be removed.";
        int r = environment_remove(link->manager, request->environment.environment, &why);

        if (r < 0)
                refuse(link, request, r, why);
}

static void handle(AgentLink *link, const LauncherRequest *request, int *fds) {
        Attempt *attempt;
        int r;

        switch (request->op) {
        case LAUNCHER_HELLO:
                welcome(link);
                return;
        case LAUNCHER_LIST:
                list(link);
                return;
        case LAUNCHER_START:
                start(link, request, fds);
                return;
        case LAUNCHER_LEASE:
                lease_set(link->manager, request->lease.until_usec);
                return;
        case LAUNCHER_POOL:
                set_pool(link, request);
                return;
        case LAUNCHER_BUILD:
                build(link, request, fds[0]);
                return;
        case LAUNCHER_BUILD_STOP:
                stop_build(link, request);
                return;
        case LAUNCHER_ENVIRONMENTS:
                environments_tell(link->manager);
                return;
        case LAUNCHER_ENVIRONMENT_REMOVE:
                remove_environment(link, request);
                return;
        default:
                break;
        }
        attempt = attempt_find(link->manager, request->task, request->attempt);
        if (!attempt) {
                refuse(link, request, -ENOENT, "There is no such attempt.");
                return;
        }
        if (request->op == LAUNCHER_STOP) {
                attempt_stop(attempt, request->stop.why, request->stop.grace_usec, request->stop.by);
                return;
        }
        r = attempt_release(attempt);
        if (r < 0)
                refuse(link, request, r, "The attempt has not ended.");
}

/* Returns false when there is nothing more at the moment. */
static bool take_request(AgentLink *link) {
        LauncherRequest request = {};
        int fds[2] = { -EBADF, -EBADF };
        const char *why;
        size_t n_fds = 0;
        ssize_t n = fd_receive_with_fds(link->connection, &request, sizeof(request), fds, ELEMENTSOF(fds),
                                        &n_fds);

        if (n == -EAGAIN)
                return false;
        if (n == -EMSGSIZE) {
                refuse(link, NULL, -EMSGSIZE, "The request is too long.");
                return link->connection >= 0;
        }
        if (n < 0) {
                agent_link_drop(link,
                                n == -ECONNRESET ? "it closed the connection" : strerrordesc_np((int) -n));
                return false;
        }
        int r = request_check(&request, (size_t) n, n_fds, &why);
        if (r < 0) {
                close_many(fds, n_fds);
                refuse(link, r == -EINVAL ? &request : NULL, r, why);
        } else
                handle(link, &request, fds);
        return link->connection >= 0;
}

static int on_request(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        AgentLink *link = userdata;

        if (events & EPOLLOUT)
                flush(link);
        for (unsigned i = 0; i < REQUESTS_PER_EVENT && link->connection >= 0; i++)
                if (!take_request(link))
                        break;
        return 0;
}

/* ---- connections */

static bool peer_is_allowed(const AgentLink *link, int fd) {
        struct ucred credentials;
        socklen_t size = sizeof(credentials);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
                return false;
        return credentials.uid == 0 || credentials.uid == link->uid;
}

/* connection is the link's on success. */
static int serve(AgentLink *link, int connection) {
        int r = sd_event_add_io(link->manager->event, &link->on_request, connection, EPOLLIN, on_request,
                                link);

        if (r >= 0)
                link->connection = connection;
        return r;
}

static int on_connect(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        AgentLink *link = userdata;
        _cleanup_(close_fdp) int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        int size = SEND_BUFFER;

        if (connection < 0)
                return 0;
        if (!peer_is_allowed(link, connection)) {
                log_warning("Refused a connection from another user");
                return 0;
        }
        agent_link_drop(link, "another one has connected");
        if (setsockopt(connection, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
                (void) setsockopt(connection, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        if (serve(link, connection) < 0)
                return 0;
        (void) TAKE_FD(connection);
        log_info("Agent connected");
        manager_status(link->manager);
        return 0;
}

static int make_listener(gid_t gid) {
        const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = LAUNCHER_SOCKET };
        _cleanup_(close_fdp) int fd = -EBADF;

        if (sd_listen_fds(true) == 1)
                return SD_LISTEN_FDS_START;
        if (mkdir("/run/clupy", 0755) < 0 && errno != EEXIST)
                return -errno;
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || (unlink(LAUNCHER_SOCKET) < 0 && errno != ENOENT))
                return -errno;
        mode_t mask = umask(0177);
        int r = bind(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ? -errno : 0;
        (void) umask(mask);
        if (r < 0)
                return r;
        if (chown(LAUNCHER_SOCKET, 0, gid) < 0 || chmod(LAUNCHER_SOCKET, 0660) < 0 || listen(fd, 16) < 0)
                return -errno;
        return TAKE_FD(fd);
}

void agent_link_save(const AgentLink *link, ManagerRecord *record) {
        record->listener = link->listener;
        record->connection = link->connection >= 0 ? link->connection : UPGRADE_NONE;
}

int agent_link_new(Manager *manager, const ManagerRecord *state, AgentLink **ret) {
        _cleanup_(agent_link_freep) AgentLink *link = new0(AgentLink);
        gid_t gid = 0;
        int r;

        if (!link)
                return -ENOMEM;
        *link = (AgentLink){ .manager = manager, .listener = -EBADF, .connection = -EBADF };
        list_init(&link->queue);
        /* Before the loop turns, so it may wait for a name service. */
        const struct passwd *user = getpwnam(USER_NAME);
        if (user) {
                link->uid = user->pw_uid;
                gid = user->pw_gid;
        } else
                log_warning("There is no user '%s': only root may connect", USER_NAME);
        link->listener = state ? state->listener : make_listener(gid);
        if (link->listener < 0)
                return link->listener;
        r = sd_event_add_io(manager->event, &link->on_connect, link->listener, EPOLLIN, on_connect, link);
        if (r < 0)
                return r;
        if (state && state->connection >= 0) {
                /* One that speaks another version has to come again. */
                if (state->protocol_version == LAUNCHER_PROTOCOL_VERSION)
                        r = serve(link, state->connection);
                else
                        close_fd(state->connection);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(link);
        return 0;
}

AgentLink *agent_link_free(AgentLink *link) {
        if (!link)
                return NULL;
        link->manager->link = NULL;
        if (link->connection >= 0) {
                link->on_request = sd_event_source_disable_unref(link->on_request);
                link->connection = close_fd(link->connection);
        }
        sd_event_source_disable_unref(link->on_connect);
        close_fd(link->listener);
        free(link);
        return NULL;
}
