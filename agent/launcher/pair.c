/* SPDX-License-Identifier: Apache-2.0 */
#include "pair.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "attempt.h"
#include "device-set.h"
#include "device.h"
#include "fd-util.h"
#include "journal-stream.h"
#include "log.h"
#include "pair-end.h"
#include "sandbox-switch.h"
#include "spawner.h"
#include "sweep.h"
#include "time-util.h"
#include "upgrade.h"
#include "zygote.h"

#define START_TIMEOUT (30 * USEC_PER_SEC)

enum {
        MESSAGES_PER_EVENT = 16,
        MESSAGES_AT_END = 4096, /* more than the socket holds */
        NOFILE = 65536,
};

static const char *const pair_state_table[_PAIR_STATE_MAX] = {
        [PAIR_BUILDING] = "building",   [PAIR_FORKING] = "forking", [PAIR_JOINING] = "joining",
        [PAIR_READY] = "ready",         [PAIR_RUNNING] = "running", [PAIR_ENDING] = "ending",
        [PAIR_LINGERING] = "lingering",
};

const char *pair_state_to_string(PairState state) {
        return (size_t) state < _PAIR_STATE_MAX ? pair_state_table[state] : "?";
}

static bool is_starting(PairState state) {
        return state <= PAIR_JOINING;
}

static void ready_link(Pair *pair) {
        list_append(&pair->zygote->ready, &pair->ready);
        pair->ready_linked = true;
        pair->zygote->n_ready++;
        pair->manager->n_warm++;
}

static void ready_unlink(Pair *pair) {
        if (!pair->ready_linked)
                return;
        list_remove(&pair->ready);
        pair->ready_linked = false;
        pair->zygote->n_ready--;
        pair->manager->n_warm--;
}

/* Nowhere else does it change. */
void pair_set_state(Pair *pair, PairState state) {
        Zygote *zygote = pair->zygote;

        if (pair->state == state)
                return;
        log_debug("%s: %s → %s", pair->scope.name, pair_state_to_string(pair->state),
                  pair_state_to_string(state));
        if (is_starting(pair->state) && !is_starting(state)) {
                zygote_start_over(zygote);
                if (pair->refill)
                        zygote->n_refilling--;
                pair->refill = false;
        }
        ready_unlink(pair);
        pair->state = state;
        if (state == PAIR_READY && !pair->attempt)
                ready_link(pair);
}

bool pair_is_alive(const Pair *pair) {
        return pair->state < PAIR_ENDING;
}

Pair *pair_by_token(Manager *manager, const char *token) {
        for (unsigned i = 0; i < PAIRS_MAX; i++)
                if (manager->pairs[i] && streq(manager->pairs[i]->token, token))
                        return manager->pairs[i];
        return NULL;
}

/* Result and end can be ready together, and the loop may take the end first: so it drains this before it
 * decides. */
static void drain_task_socket(Pair *pair, unsigned max) {
        for (unsigned i = 0; i < max && pair->on_task_socket; i++) {
                TaskMessage message;
                int passed = -EBADF;
                size_t n_fds = 0;
                ssize_t n = fd_receive_with_fds(pair->task_socket, &message, sizeof(message), &passed, 1,
                                                &n_fds);
                _cleanup_(close_fdp) int passed_fd = n >= 0 && n_fds > 0 ? passed : -EBADF;

                if (n == -EAGAIN)
                        return;
                if (n == -EMSGSIZE)
                        continue;
                if (n < 0) {
                        pair->on_task_socket = sd_event_source_disable_unref(pair->on_task_socket);
                        return;
                }
                if (n == sizeof(ZygoteReply) &&
                    (pair->state == PAIR_FORKING || pair->state == PAIR_JOINING)) {
                        ZygoteReply reply;
                        memcpy(&reply, &message, sizeof(reply));
                        pair->task_ready = pair->task_ready || reply.op == ZYGOTE_READY;
                } else if (n == sizeof(message) && pair->state == PAIR_RUNNING && pair->attempt)
                        attempt_message(pair->attempt, &message, TAKE_FD(passed_fd));
        }
}

/* What both processes have used until they were ready is not the task's. */
static void note_figures_before(Pair *pair) {
        uint64_t init, task;

        process_files_open(&pair->task_files, pair->task_pid);
        process_files_open(&pair->init_files, pair->init_pid);
        cgroup_open_files(&pair->cgroup);
        if (cgroup_counts_cpu(&pair->cgroup)) /* else nothing that it tells is more than 0 yet */
                cgroup_read_figures(&pair->cgroup, &pair->figures_before);
        process_bytes_add(&pair->bytes_before, &pair->task_files, pair->task_pid);
        if (!(pair->figures_before.known & RECEIPT_CPU) &&
            process_cpu_read(&pair->init_files, pair->init_pid, &init) &&
            process_cpu_read(&pair->task_files, pair->task_pid, &task))
                pair->cpu_before_usec = init + task;
}

/* Where all three are ready: the pair is as ordered, or it is not used. */
static void advance(Pair *pair) {
        int r;

        if (pair->state != PAIR_JOINING || !pair->task_ready || pair->scope.state != SCOPE_ACTIVE)
                return;
        const char *wrong = SANDBOX_IS_OFF ? NULL : verify_task(pair->task_pid, &pair->expected);
        if (wrong) {
                log_warning("%s: the task's %s is not as ordered", pair->scope.name, wrong);
                pair_discard(pair, wrong, 0);
                return;
        }
        r = cgroup_attach(&pair->cgroup, pair->token, pair->scope.name, pair->init_pid, pair->task_pid);
        if (r < 0) {
                pair_discard(pair, "cgroup", r);
                return;
        }
        note_figures_before(pair);
        pair->timer = sd_event_source_disable_unref(pair->timer);
        pair_set_state(pair, PAIR_READY);
        if (pair->attempt)
                attempt_pair_ready(pair->attempt);
        else if (pair->zygote->state != ZYGOTE_WARM) /* nobody is going to take it */
                pair_discard(pair, NULL, 0);
        manager_kick(pair->manager);
}

static int on_task_socket(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Pair *pair = userdata;

        drain_task_socket(pair, MESSAGES_PER_EVENT);
        advance(pair);
        return 0;
}

static int on_task_exit(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Pair *pair = userdata;
        siginfo_t information = {};
        uint64_t cpu_usec;

        pair->on_task_exit = sd_event_source_disable_unref(pair->on_task_exit);
        if (pair->state == PAIR_RUNNING)
                drain_task_socket(pair, MESSAGES_AT_END);
        if (!pair->leaving) { /* while it still is a zombie: its bytes go with the reaping */
                process_bytes_add(&pair->bytes, &pair->task_files, pair->task_pid);
                cgroup_read_figures(&pair->cgroup, &pair->figures);
        }
        /* Somebody killed the init or the anchor, and the kernel the rest with it, in any order. */
        if (pair->state == PAIR_RUNNING && !pair->leaving && pair->init_pidfd >= 0 &&
            (process_is_exiting(pair->init_pid) || zygote_is_collapsing(pair->zygote)))
                pair->sandbox_broke = true;
        /* Reaped before the init is waited for: a dying PID 1 waits for zombies whose parent is elsewhere.
         */
        if (process_reap(fd, &information, &cpu_usec) >= 0)
                pair->cpu_usec += cpu_usec;
        pair->task_reaped = true;
        pair->on_task_socket = sd_event_source_disable_unref(pair->on_task_socket);

        if (pair->state == PAIR_RUNNING && pair->attempt)
                attempt_task_exited(pair->attempt, &information);
        else if (!pair->failed && !pair->leaving) {
                pair->failed = true;
                pair_refill_put_off(pair->zygote);
                log_warning("The task of %s ended before it had its function (%s %d)", pair->scope.name,
                            information.si_code == CLD_EXITED ? "status" : "signal", information.si_status);
                Attempt *attempt = pair->attempt;
                pair->attempt = NULL;
                if (attempt)
                        attempt_pair_failed(attempt, "The sandboxed process ended before it was ready",
                                            false);
        }
        pair_end_init(pair);
        return 0;
}

/* The order to the zygote: where the task is to live. */
static int order_task(Pair *pair) {
        const bool host_network = pair->zygote->key.host_network;
        const ZygoteRequest request = {
                .op = ZYGOTE_MAKE,
                .slot = pair->slot,
                .uid = SANDBOX_IS_OFF ? 0 : pair->uid,
                .flags = host_network ? ZYGOTE_FLAG_HOST_NETWORK : 0,
                .nofile = NOFILE,
        };
        int fds[VERIFY_NAMESPACES + 2], sockets[2], r = 0;
        size_t n = 0;
        struct stat st;
        char path[64];

        for (; n < VERIFY_NAMESPACES && r >= 0; n++) {
                /* A pid is safe here: a child of ours that is not reaped. */
                (void) snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int) pair->init_pid,
                                verify_namespaces[n]);
                fds[n] = open(path, O_RDONLY | O_CLOEXEC);
                if (fds[n] < 0 || fstat(fds[n], &st) < 0)
                        r = -errno;
                else
                        pair->expected.namespaces[n] = st.st_ino;
        }
        if (r >= 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
                r = -errno;
        if (r >= 0) {
                pair->task_socket = sockets[0];
                fds[VERIFY_NAMESPACES] = sockets[1];
                fds[VERIFY_NAMESPACES + 1] = pair->journal;
                r = sd_event_add_io(pair->manager->event, &pair->on_task_socket, pair->task_socket, EPOLLIN,
                                    on_task_socket, pair);
                if (r >= 0)
                        r = fd_send_with_fds(pair->zygote->zygote_socket, &request, sizeof(request), fds,
                                             ELEMENTSOF(fds));
                close_fd(sockets[1]);
        }
        close_many(fds, n);
        if (r >= 0)
                pair->task_ordered = true;
        return r;
}

/* When the launcher has the init's pidfd and the init has made its mounts, in whichever order it hears of
 * them. */
static void begin_forking(Pair *pair) {
        if (pair->state != PAIR_BUILDING || pair->init_pidfd < 0 || !pair->init_ready || pair->failed)
                return;
        pair_set_state(pair, PAIR_FORKING);
        int r = order_task(pair);
        if (r < 0)
                pair_discard(pair, "the zygote cannot be asked", r);
}

static int on_init_socket(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Pair *pair = userdata;
        ZygoteReply reply;
        ssize_t n = fd_receive_with_fds(fd, &reply, sizeof(reply), NULL, 0, NULL);

        pair->on_init_socket = sd_event_source_disable_unref(pair->on_init_socket);
        if (n != sizeof(reply) || reply.op != ZYGOTE_READY)
                return 0; /* its exit tells the rest */
        pair->init_ready = true;
        begin_forking(pair);
        return 0;
}

static int on_start_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Pair *pair = userdata;

        log_warning("%s: init %s, task %s, scope %s", pair->scope.name,
                    pair->init_ready ? "ready" : "not ready", pair->task_ready ? "ready" : "not ready",
                    scope_state_to_string(pair->scope.state));
        /* While an answer is owed the slot cannot be given away. */
        if (pair->task_ordered && pair->task_pidfd < 0)
                zygote_distrust(pair->zygote, "it did not make a task in time");
        pair_discard(pair, "it did not get ready in time", -ETIMEDOUT);
        return 0;
}

int pair_new(Zygote *zygote, const Limits *limits, uint64_t tmp_max, const char *description,
             Attempt *attempt, Pair **ret) {
        Manager *manager = zygote->manager;
        unsigned slot = 0;
        int sockets[2], r;

        while (slot < PAIRS_MAX && manager->pairs[slot])
                slot++;
        if (slot == PAIRS_MAX)
                return -EAGAIN;
        int uid = zygote_uid_take(zygote);
        if (uid < 0)
                return uid;
        Pair *pair = new0(Pair);
        if (!pair) {
                zygote_uid_give_back(zygote, (uint32_t) uid);
                return -ENOMEM;
        }
        *pair = (Pair){
                .manager = manager,
                .zygote = zygote,
                .attempt = attempt,
                .refill = !attempt,
                .slot = slot,
                .uid = (uint32_t) uid,
                .limits = *limits,
                .tmp_max = tmp_max,
                .devices = attempt ? attempt->start.devices : (LauncherDevices){},
                .init_pidfd = -EBADF,
                .task_pidfd = -EBADF,
                .init_socket = -EBADF,
                .task_socket = -EBADF,
                .journal = -EBADF,
                .expected = { .uid = zygote->uid_start + (uint32_t) uid,
                              .filters = manager->base_filters + 3 },
        };
        manager->pairs[slot] = pair;
        manager->n_pairs++;
        zygote_start_begun(zygote);
        zygote->n_pairs++;
        zygote->n_refilling += pair->refill;
        (void) snprintf(pair->description, sizeof(pair->description), "%s", description);

        r = token_make(pair->token);
        if (r >= 0) {
                (void) snprintf(pair->scope.name, sizeof(pair->scope.name), "clupy-task-%s.scope",
                                pair->token);
                pair->journal = journal_stream_open("clupy-task", pair->scope.name);
                r = pair->journal;
        }
        if (r >= 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
                r = -errno;
        if (r >= 0) {
                const bool devices = !device_set_is_empty(&pair->devices) && !SANDBOX_IS_OFF;
                const ZygoteRequest request = { .op = ZYGOTE_MAKE,
                                                .slot = slot,
                                                .uid = pair->uid,
                                                .flags = devices ? ZYGOTE_FLAG_DEVICES : 0,
                                                .tmp_max = tmp_max };
                pair->init_socket = sockets[0];
                r = sd_event_add_io(manager->event, &pair->on_init_socket, pair->init_socket, EPOLLIN,
                                    on_init_socket, pair);
                if (r >= 0)
                        r = sd_event_add_time_relative(manager->event, &pair->timer, CLOCK_MONOTONIC,
                                                       START_TIMEOUT, 0, on_start_late, pair);
                if (r >= 0 && devices) /* they wait in its socket for the init */
                        r = spawner_order_devices(manager->spawner, &pair->devices, pair->init_socket);
                if (r >= 0)
                        r = fd_send_with_fds(zygote->builder_socket, &request, sizeof(request), &sockets[1],
                                             1);
                pair->init_ordered = r >= 0;
                close_fd(sockets[1]);
        }
        if (r < 0) {
                zygote_start_over(zygote);
                zygote->n_refilling -= pair->refill;
                pair_free(pair);
                return r;
        }
        *ret = pair;
        return 0;
}

/* pidfd becomes *ret_pidfd in any case. */
static int take_child(Pair *pair, int pidfd, pid_t pid, int *ret_pidfd, pid_t *ret_pid,
                      sd_event_source **ret_source, sd_event_io_handler_t handler) {
        *ret_pidfd = pidfd;
        if (pid < 0)
                return pid;
        *ret_pid = pid;
        return sd_event_add_io(pair->manager->event, ret_source, pidfd, EPOLLIN, handler, pair);
}

void pair_init_made(Pair *pair, int error, int pidfd) {
        int r = error < 0 ? error : -EPROTO;

        pair->init_ordered = false;
        if (error < 0 || pidfd < 0 || !verify_is_child(pidfd)) {
                close_fd(pidfd);
                if (pair->state >= PAIR_ENDING)
                        pair_end_init(pair);
                else
                        pair_discard(pair, "the builder made no init", r);
                return;
        }
        r = take_child(pair, pidfd, pidfd_to_pid(pidfd), &pair->init_pidfd, &pair->init_pid,
                       &pair->on_init_exit, pair_on_init_exit);
        if (pair->failed)
                pair_end_init(pair);
        else if (r < 0)
                pair_discard(pair, "its init cannot be watched", r);
        else
                begin_forking(pair);
}

static void on_scope_changed(Scope *scope, const char *why, void *userdata) {
        Pair *pair = userdata;

        if (scope->state == SCOPE_ACTIVE)
                advance(pair);
        else if (scope->state == SCOPE_FAILED) {
                log_warning("systemd did not start %s: %s", scope->name, why);
                pair_discard(pair, "systemd refused its scope", 0);
        }
        /* GONE: systemd sometimes says so too early. What counts is that the processes have ended. */
}

/* At once: what the task touches before it is in the scope is charged to the zygote for good. */
static int order_scope(Pair *pair) {
        const pid_t pids[] = { pair->init_pid, pair->task_pid };
        char name[SCOPE_NAME_SIZE], slice[48];
        const char *devices[DEVICES_OF_TASK_MAX];
        size_t n_devices = device_paths(&pair->manager->settings, &pair->devices, devices);

        COPY_TEXT(name, pair->scope.name);
        /* On v1, a unit that has the controller of devices brings it upon all that are beside it. */
        if (n_devices > 0)
                (void) snprintf(slice, sizeof(slice), "clupy-tasks-devices.slice");
        else
                (void) snprintf(slice, sizeof(slice), "clupy-tasks-%u.slice", pair->slot / PAIRS_PER_SLICE);
        const ScopeSpec spec = {
                .name = name,
                .slice = slice,
                .description = pair->description,
                .limits = pair->limits,
                .pids = pids,
                .n_pids = ELEMENTSOF(pids),
                .devices = devices,
                .n_devices = n_devices,
        };
        return scope_start(pair->manager->bus, &pair->scope, &spec, on_scope_changed, pair);
}

void pair_task_made(Pair *pair, int error, int pidfd) {
        int r;

        if (error < 0 || pidfd < 0 || !verify_is_child(pidfd)) {
                close_fd(pidfd);
                pair->task_ordered = false;
                if (pair->state >= PAIR_ENDING)
                        pair_end_init(pair);
                else
                        pair_discard(pair, "the zygote made no task", error < 0 ? error : -EPROTO);
                return;
        }
        const pid_t pid = pidfd_to_pid(pidfd);
        if (sweep_is_ordered(pair->manager, pid)) { /* or it would be moved, killed, reaped twice */
                close_fd(pidfd);
                zygote_distrust(pair->zygote, "it passed another process off as the task");
                return; /* its end tells the pair */
        }
        r = take_child(pair, pidfd, pid, &pair->task_pidfd, &pair->task_pid, &pair->on_task_exit,
                       on_task_exit);
        if (pair->failed || pair->state >= PAIR_ENDING) {
                pair_kill(pair);
                return;
        }
        pair_set_state(pair, PAIR_JOINING);
        if (r >= 0)
                r = order_scope(pair);
        if (r < 0)
                pair_discard(pair, "systemd cannot be asked", r);
}

void pair_zygote_gone(Pair *pair, bool builder, bool zygote) {
        /* A child that was made and not told of is found by the sweep. */
        if (builder)
                pair->init_ordered = false;
        if (zygote && pair->task_pidfd < 0)
                pair->task_ordered = false;
        if (is_starting(pair->state) || pair->state == PAIR_READY)
                pair_discard(pair, "its zygote ended", 0);
        else if (pair->state == PAIR_ENDING)
                pair_linger_if_empty(pair);
}

void pair_take(Pair *pair, Attempt *attempt) {
        pair->attempt = attempt;
        attempt->pair = pair;
        ready_unlink(pair);
        attempt_pair_ready(attempt);
}

int pair_count_cpu(Pair *pair) {
        int r = cgroup_count_cpu(&pair->cgroup);

        if (r >= 0)
                cgroup_read_figures(&pair->cgroup, &pair->figures_before);
        return r;
}

void pair_close_files(Pair *pair) {
        process_files_close(&pair->task_files);
        process_files_close(&pair->init_files);
        cgroup_close_files(&pair->cgroup);
}

int pair_go(Pair *pair, const ZygoteGo *go, const int fds[static 2], const char *const *journal_fields) {
        int r = journal_fields_write(pair->scope.name, journal_fields);

        if (r < 0)
                return r;
        pair->fields_written = true;
        pair_set_state(pair, PAIR_RUNNING);
        return fd_send_with_fds(pair->task_socket, go, sizeof(*go), fds, 2);
}

/* ---- after an upgrade */

int pair_resume(Pair *pair, const PairRecord *record) {
        const struct {
                sd_event_source **source;
                sd_event_io_handler_t handler;
                uint32_t flag;
                int fd;
        } watched[] = {
                { &pair->on_init_exit, pair_on_init_exit, PAIR_WATCHES_INIT_EXIT, pair->init_pidfd },
                { &pair->on_init_socket, on_init_socket, PAIR_WATCHES_INIT_SOCKET, pair->init_socket },
                { &pair->on_task_exit, on_task_exit, PAIR_WATCHES_TASK_EXIT, pair->task_pidfd },
                { &pair->on_task_socket, on_task_socket, PAIR_WATCHES_TASK_SOCKET, pair->task_socket },
        };
        char name[SCOPE_NAME_SIZE];
        int r;

        (void) snprintf(name, sizeof(name), "clupy-task-%s.scope", pair->token);
        r = scope_restore(pair->manager->bus, &pair->scope, name, (ScopeState) record->scope_state,
                          on_scope_changed, pair);
        for (size_t i = 0; i < ELEMENTSOF(watched) && r >= 0; i++)
                if (record->flags & watched[i].flag)
                        r = sd_event_add_io(pair->manager->event, watched[i].source, watched[i].fd, EPOLLIN,
                                            watched[i].handler, pair);
        if (r >= 0)
                r = upgrade_timer_restore(pair->manager->event, &pair->timer, record->timer_usec,
                                          is_starting(pair->state) ? on_start_late : pair_end_timer(pair),
                                          pair);
        if (r < 0)
                return r;
        if (is_starting(pair->state))
                zygote_start_begun(pair->zygote);
        else if (pair->state == PAIR_READY && !pair->attempt)
                ready_link(pair);
        else if (pair->state == PAIR_LINGERING)
                return pair_linger_wait(pair->manager, pair);
        return 0;
}
