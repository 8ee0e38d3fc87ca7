/* SPDX-License-Identifier: Apache-2.0 */
#include "zygote-start.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "environment.h"
#include "fd-util.h"
#include "journal-stream.h"
#include "log.h"
#include "pair.h"
#include "parse-util.h"
#include "pythons.h"
#include "sandbox-protocol.h"
#include "sandbox-switch.h"
#include "seccomp-notify.h"
#include "settings.h"
#include "spawner.h"
#include "time-util.h"
#include "upgrade.h"
#include "verify.h"
#include "zygote-protocol.h"

#define POLICY_FOLDER "/run/clupy/seccomp"

enum {
        FILTER_SIZE_MAX = 4096 * sizeof(struct sock_filter), /* what the kernel takes */
        START_TIMEOUT_SEC = 60,
        TASKS_MAX = 1024, /* pairs are born here before they move to their scopes */
};
#define ZYGOTE_MEMORY_MAX (UINT64_C(4) << 30)

int filter_open(const char *policy, const char *which) {
        char path[128];
        _cleanup_(freep) void *buffer = malloc(FILTER_SIZE_MAX);
        int r;

        if (!buffer)
                return -ENOMEM;
        (void) snprintf(path, sizeof(path), POLICY_FOLDER "/%s.%s.bpf", policy, which);
        r = trusted_file_read(path, buffer, FILTER_SIZE_MAX);
        if (r < 0)
                return r;
        if (r == 0 || (size_t) r % sizeof(struct sock_filter) != 0)
                return -EBADMSG;
        return memfd_new_sealed("clupy-filter", buffer, (size_t) r);
}

/* In the place of one, where there is no sandbox. */
static int filter_open_allowing_all(void) {
        const struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);

        return memfd_new_sealed("clupy-filter", &all, sizeof(all));
}

static int make_socket(int *ret_own, int *ret_other) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        *ret_own = pair[0];
        *ret_other = pair[1];
        return 0;
}

static int on_start_late(sd_event_source *source, uint64_t usec, void *userdata) {
        zygote_fail(userdata, "it did not get ready in time");
        return 0;
}

int zygote_start(Zygote *zygote) {
        Manager *manager = zygote->manager;
        _cleanup_(close_fdp) int stage = -EBADF;
        int r;

        zygote->outer = filter_open(zygote->key.policy, "outer");
        if (zygote->outer < 0)
                return zygote->outer;
        zygote->final =
                SANDBOX_IS_OFF ? filter_open_allowing_all() : filter_open(zygote->key.policy, "final");
        if (zygote->final < 0)
                return zygote->final;
        r = make_socket(&zygote->builder_socket, &zygote->child_fds[0]);
        if (r >= 0)
                r = make_socket(&zygote->zygote_socket, &zygote->child_fds[1]);
        if (r >= 0)
                r = make_socket(&zygote->stage_socket, &stage);
        if (r < 0)
                return r;
        char unit[SCOPE_NAME_SIZE];
        (void) snprintf(unit, sizeof(unit), "clupy-zygote-%s.scope", zygote->token);
        zygote->child_fds[2] = journal_stream_open("clupy-zygote", unit);
        if (zygote->child_fds[2] < 0)
                return zygote->child_fds[2];
        r = sd_event_add_time_relative(manager->event, &zygote->start_timer, CLOCK_MONOTONIC,
                                       START_TIMEOUT_SEC * USEC_PER_SEC, 0, on_start_late, zygote);
        return r < 0 ? r : spawner_order(manager->spawner, SPAWN_ZYGOTE, zygote->slot, stage);
}

static void drop_children_fds(Zygote *zygote) {
        for (size_t i = 0; i < ELEMENTSOF(zygote->child_fds); i++)
                zygote->child_fds[i] = close_fd(zygote->child_fds[i]);
        zygote->outer = close_fd(zygote->outer);
        zygote->final = close_fd(zygote->final);
}

static int on_zygote_message(sd_event_source *source, int fd, uint32_t events, void *userdata);
static int on_builder_message(sd_event_source *source, int fd, uint32_t events, void *userdata);

/* What the stage, and the future zygote before its exec, report. */
static int on_stage_message(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Zygote *zygote = userdata;
        StageReply reply;
        int fds[3], r = 0;
        size_t n_fds;
        ssize_t n = fd_receive_with_fds(fd, &reply, sizeof(reply), fds, ELEMENTSOF(fds), &n_fds);

        if (n == -EAGAIN)
                return 0;
        if (n != sizeof(reply)) { /* both ends of it are closed */
                zygote->on_stage = sd_event_source_disable_unref(zygote->on_stage);
                zygote->stage_socket = close_fd(zygote->stage_socket);
                if (zygote->pidfds[ZYGOTE_PROCESS_ZYGOTE] < 0)
                        zygote_fail(zygote, "its stage ended");
                return 0;
        }
        if (reply.op == STAGE_LISTENER && n_fds == 1 && zygote->listener < 0) {
                zygote->listener = fds[0];
                r = seccomp_notify_attach(zygote);
        } else if (reply.op == STAGE_DONE && n_fds == 3 && zygote->pidfds[ZYGOTE_PROCESS_ANCHOR] < 0) {
                drop_children_fds(zygote);
                for (int i = 0; i < 3; i++) {
                        int r2 = zygote_watch(zygote, (ZygoteProcess) (ZYGOTE_PROCESS_ANCHOR + i), fds[i]);
                        r = r < 0 ? r : r2;
                }
        } else {
                close_many(fds, n_fds);
                char why[128];
                reply.what[sizeof(reply.what) - 1] = '\0';
                (void) snprintf(why, sizeof(why), "%s: %s", reply.what,
                                strerrordesc_np(-reply.error) ?: "?");
                zygote_fail(zygote, why);
                return 0;
        }
        if (r < 0)
                zygote_fail(zygote, strerrordesc_np(-r));
        return 0;
}

static int send_order(Zygote *zygote) {
        Manager *manager = zygote->manager;
        StageRequest request = {
                .uid_start = zygote->uid_start,
                .uid_count = zygote->uid_count,
                .flags = zygote->key.host_network ? STAGE_FLAG_HOST_NETWORK : 0,
        };
        int fds[_STAGE_FD_MAX] = {
                [STAGE_FD_BUILDER] = zygote->child_fds[0],
                [STAGE_FD_ZYGOTE] = zygote->child_fds[1],
                [STAGE_FD_OUTER] = zygote->outer,
                [STAGE_FD_FINAL] = zygote->final,
                [STAGE_FD_JOURNAL] = zygote->child_fds[2],
                [STAGE_FD_NETWORK] = zygote->key.host_network || SANDBOX_IS_OFF ? manager->network_host
                                                                                : manager->network_empty,
        };
        int r;

        const Python *python;
        r = environment_find(zygote->key.environment, zygote->key.owner, &python);
        if (r < 0)
                return r;
        environment_touch(zygote->key.environment);
        COPY_TEXT(request.environment, zygote->key.environment);
        (void) snprintf(request.python, sizeof(request.python), "%s", python->series);
        r = sd_event_add_io(manager->event, &zygote->on_stage, zygote->stage_socket, EPOLLIN,
                            on_stage_message, zygote);
        if (r >= 0)
                r = sd_event_add_io(manager->event, &zygote->on_zygote, zygote->zygote_socket, EPOLLIN,
                                    on_zygote_message, zygote);
        if (r >= 0)
                r = sd_event_add_io(manager->event, &zygote->on_builder, zygote->builder_socket, EPOLLIN,
                                    on_builder_message, zygote);
        return r < 0 ? r
                     : fd_send_with_fds(zygote->stage_socket, &request, sizeof(request), fds,
                                        ELEMENTSOF(fds));
}

/* Only now does the stage go on: what it makes is born in the scope, and what is imported is charged there.
 */
static void on_scope_changed(Scope *scope, const char *why, void *userdata) {
        Zygote *zygote = userdata;
        char text[128];
        int r;

        switch (scope->state) {
        case SCOPE_ACTIVE:
                r = send_order(zygote);
                if (r < 0)
                        zygote_fail(zygote, strerrordesc_np(-r));
                break;
        case SCOPE_FAILED:
                (void) snprintf(text, sizeof(text), "systemd refused its scope: %s", why);
                zygote_fail(zygote, text);
                break;
        default:
                zygote_maybe_free(zygote);
                break;
        }
}

void zygote_stage_made(Zygote *zygote, int error, int pidfd) {
        char name[SCOPE_NAME_SIZE], description[256];
        int r = error;

        if (zygote->state != ZYGOTE_STARTING || zygote->pidfds[ZYGOTE_PROCESS_STAGE] >= 0) {
                if (pidfd >= 0)
                        (void) pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
                close_fd(pidfd);
                return;
        }
        if (r >= 0)
                r = pidfd < 0 ? -EBADF : zygote_watch(zygote, ZYGOTE_PROCESS_STAGE, pidfd);
        (void) snprintf(name, sizeof(name), "clupy-zygote-%s.scope", zygote->token);
        (void) snprintf(description, sizeof(description), "CluPy zygote of %s, environment %s, policy %s%s",
                        zygote->key.owner, zygote->key.environment, zygote->key.policy,
                        zygote->key.host_network ? ", host network" : "");
        const ScopeSpec spec = {
                .name = name,
                .slice = "clupy-zygotes.slice",
                .description = description,
                .limits = { ZYGOTE_MEMORY_MAX, UINT64_MAX, TASKS_MAX },
                .pids = &zygote->pids[ZYGOTE_PROCESS_STAGE],
                .n_pids = 1,
        };
        if (r >= 0)
                r = scope_start(zygote->manager->bus, &zygote->scope, &spec, on_scope_changed, zygote);
        if (r < 0)
                zygote_fail(zygote, strerrordesc_np(-r));
}

static Pair *pair_of_reply(Zygote *zygote, uint32_t slot) {
        Pair *pair = slot < PAIRS_MAX ? zygote->manager->pairs[slot] : NULL;

        return pair && pair->zygote == zygote ? pair : NULL;
}

static void take_ready(Zygote *zygote) {
        if (zygote->state != ZYGOTE_STARTING)
                return;
        zygote->start_timer = sd_event_source_disable_unref(zygote->start_timer);
        zygote_set_state(zygote, ZYGOTE_WARM);
}

/* A line of what it says is wrong with its environment: a stranger's words. */
static void take_words(Zygote *zygote, int fd) {
        char *words = zygote->words;

        /* Only of memory is it sure that it does not have one wait. */
        ssize_t n = fcntl(fd, F_GET_SEALS) < 0 ? -1 : pread(fd, words, sizeof(zygote->words) - 1, 0);
        words[MAX(n, (ssize_t) 0)] = '\0';
        words[strcspn(words, "\r\n")] = '\0';
        for (char *c = words; *c; c++)
                if ((unsigned char) *c < ' ' || *c == 127)
                        *c = ' ';
        while (!utf8_is_valid(words, strlen(words))) /* cut within a character */
                words[strlen(words) - 1] = '\0';
}

static int on_zygote_message(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Zygote *zygote = userdata;
        ZygoteReply reply;
        int pidfd = -EBADF;
        size_t n_fds = 0;
        ssize_t n = fd_receive_with_fds(fd, &reply, sizeof(reply), &pidfd, 1, &n_fds);

        if (n == -EAGAIN)
                return 0;
        if (n != sizeof(reply)) {
                if (n >= 0 && n_fds > 0)
                        close_fd(pidfd);
                zygote->on_zygote = sd_event_source_disable_unref(zygote->on_zygote);
                /* It ends, or has closed its socket and goes on. */
                zygote_distrust(zygote, "it does not speak to the launcher any more");
                return 0;
        }
        if (n_fds == 0)
                pidfd = -EBADF;
        if (reply.op == ZYGOTE_READY && pidfd < 0) {
                take_ready(zygote);
                return 0;
        }
        if (reply.op == ZYGOTE_BROKEN && pidfd >= 0 && zygote->state == ZYGOTE_STARTING) {
                take_words(zygote, pidfd);
                close_fd(pidfd);
                return 0;
        }
        Pair *pair = reply.op == ZYGOTE_MADE ? pair_of_reply(zygote, reply.slot) : NULL;
        if (pair && pair->task_ordered && pair->task_pidfd < 0)
                pair_task_made(pair, reply.error, pidfd);
        else
                close_fd(pidfd); /* a lie; a child that nobody ordered is found by the sweep */
        return 0;
}

void zygote_hear(Zygote *zygote) {
        if (zygote->on_zygote)
                (void) on_zygote_message(zygote->on_zygote, zygote->zygote_socket, EPOLLIN, zygote);
}

static int on_builder_message(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Zygote *zygote = userdata;
        ZygoteReply reply;
        int pidfd = -EBADF;
        size_t n_fds = 0;
        ssize_t n = fd_receive_with_fds(fd, &reply, sizeof(reply), &pidfd, 1, &n_fds);

        if (n == -EAGAIN)
                return 0;
        if (n != sizeof(reply)) {
                zygote->on_builder = sd_event_source_disable_unref(zygote->on_builder);
                return 0;
        }
        if (n_fds == 0)
                pidfd = -EBADF;
        Pair *pair = reply.op == ZYGOTE_MADE ? pair_of_reply(zygote, reply.slot) : NULL;
        if (pair && pair->init_ordered)
                pair_init_made(pair, reply.error, pidfd);
        else
                close_fd(pidfd);
        return 0;
}

int zygote_start_resume(Zygote *zygote, const ZygoteRecord *record) {
        sd_event *event = zygote->manager->event;
        char name[SCOPE_NAME_SIZE];
        int r = 0;

        (void) snprintf(name, sizeof(name), "clupy-zygote-%s.scope", zygote->token);
        if (record->scope_state != SCOPE_NONE)
                r = scope_restore(zygote->manager->bus, &zygote->scope, name,
                                  (ScopeState) record->scope_state, on_scope_changed, zygote);
        if (r >= 0 && record->flags & ZYGOTE_WATCHES_STAGE)
                r = sd_event_add_io(event, &zygote->on_stage, zygote->stage_socket, EPOLLIN,
                                    on_stage_message, zygote);
        if (r >= 0 && record->flags & ZYGOTE_WATCHES_BUILDER)
                r = sd_event_add_io(event, &zygote->on_builder, zygote->builder_socket, EPOLLIN,
                                    on_builder_message, zygote);
        if (r >= 0 && record->flags & ZYGOTE_WATCHES_ZYGOTE)
                r = sd_event_add_io(event, &zygote->on_zygote, zygote->zygote_socket, EPOLLIN,
                                    on_zygote_message, zygote);
        if (r >= 0 && record->flags & ZYGOTE_WATCHES_LISTENER)
                r = seccomp_notify_attach(zygote);
        return r < 0 ? r
                     : upgrade_timer_restore(event, &zygote->start_timer, record->start_until_usec,
                                             on_start_late, zygote);
}
