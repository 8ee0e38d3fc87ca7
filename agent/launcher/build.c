/* SPDX-License-Identifier: Apache-2.0 */
#include "build.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent-link.h"
#include "cgroup.h"
#include "environment-stamp.h"
#include "environment.h"
#include "fd-util.h"
#include "journal-stream.h"
#include "log.h"
#include "pythons.h"
#include "sandbox-switch.h"
#include "settings.h"
#include "spawner.h"
#include "time-util.h"
#include "verify.h"
#include "zygote-start.h"

#define BUILD_SLICE "clupy-builds.slice"
#define POLICY "build" /* of seccomp; where an administrator has none of that name, that of tasks */

enum {
        UNIT_DIGITS = 16, /* of the name */
        END_SEC = 10,     /* a stage that was told to end, or is not wanted any more */
        LEFTOVERS_MAX = 4096,
};

typedef struct Build {
        Builds *builds;
        unsigned slot;
        BuildState state;
        LauncherBuild order;
        char token[CGROUP_TOKEN_SIZE], folder[BUILD_FOLDER_MAX];
        char unit[SCOPE_NAME_SIZE];
        int fds[_BUILD_FD_MAX]; /* until the stage has them */
        Scope scope;
        Cgroup cgroup;
        pid_t pid; /* its stage */
        int pidfd, socket;
        sd_event_source *on_exit, *on_message, *timer;
        uint64_t started_usec;

        OutcomeKind ordered; /* why it was told to end */
        char ordered_detail[NOTE_MAX];
        bool is_spawning; /* its stage is ordered, and is not there yet */
        bool is_told;     /* the agent that ordered it is there yet */
        BuildStageReply reply;
        CgroupFigures figures;
        int said, report;
} Build;

struct Builds {
        Manager *manager;
        Build *slots[BUILDS_MAX];
        char **leftovers; /* folders to be removed */
        pid_t remover;
        int remover_pidfd, remover_socket;
        sd_event_source *on_remover_exit;
        bool remover_ordered;
};

static const char *const build_state_table[_BUILD_STATE_MAX] = {
        [BUILD_STARTING] = "starting",
        [BUILD_RUNNING] = "running",
        [BUILD_ENDING] = "ending",
};

const char *build_state_to_string(BuildState state) {
        return (size_t) state < _BUILD_STATE_MAX ? build_state_table[state] : "?";
}

static void build_set_state(Build *build, BuildState state) {
        if (build->state == state)
                return;
        log_info("%s (environment %s): %s → %s", build->unit, build->order.environment,
                 build_state_to_string(build->state), build_state_to_string(state));
        build->state = state;
}

/* ---- what is left */

static void remove_next(Builds *builds);

static int on_remover_exit(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Builds *builds = userdata;
        siginfo_t information = {};

        (void) waitid(P_PIDFD, (id_t) fd, &information, WEXITED | __WALL);
        if (information.si_code != CLD_EXITED || information.si_status != 0)
                log_warning("A folder in %s could not be removed; the next launcher tries again",
                            BUILDING_FOLDER);
        builds->on_remover_exit = sd_event_source_disable_unref(builds->on_remover_exit);
        builds->remover_pidfd = close_fd(builds->remover_pidfd);
        builds->remover_socket = close_fd(builds->remover_socket);
        builds->remover = 0;
        builds->remover_ordered = false;
        remove_next(builds);
        manager_kick(builds->manager);
        return 0;
}

static void remove_next(Builds *builds) {
        const Manager *manager = builds->manager;
        int pair[2];

        if (builds->remover_ordered || !builds->leftovers || !builds->leftovers[0] || manager->stopping ||
            manager->upgrade)
                return;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return;
        if (spawner_order(manager->spawner, SPAWN_REMOVER, 0, pair[1]) < 0)
                pair[0] = close_fd(pair[0]);
        else
                builds->remover_ordered = true;
        close_fd(pair[1]);
        builds->remover_socket = pair[0];
}

static void remover_made(Builds *builds, int pidfd) {
        RemoveRequest request = {};
        char *folder = builds->leftovers[0];
        int r = -EBADF;

        for (char **name = builds->leftovers; *name; name++)
                name[0] = name[1];
        (void) snprintf(request.folder, sizeof(request.folder), "%s", folder);
        free(folder);
        builds->remover_pidfd = pidfd;
        if (pidfd >= 0) {
                builds->remover = pidfd_to_pid(pidfd);
                r = sd_event_add_io(builds->manager->event, &builds->on_remover_exit, pidfd, EPOLLIN,
                                    on_remover_exit, builds);
        }
        if (r >= 0)
                r = fd_send_with_fds(builds->remover_socket, &request, sizeof(request), NULL, 0);
        if (r < 0)
                log_warning_errno(r, "Cannot remove %s/%s", BUILDING_FOLDER, request.folder);
        if (pidfd >= 0 && (builds->manager->stopping || builds->manager->upgrade))
                (void) pidfd_send_signal(pidfd, SIGKILL, NULL, 0); /* the next launcher does it */
        if (pidfd < 0) {
                builds->remover_socket = close_fd(builds->remover_socket);
                builds->remover_ordered = false;
        }
}

/* The folder of that name is nobody's any more. */
static void leave(Builds *builds, const char *folder) {
        if (strv_length(builds->leftovers) < LEFTOVERS_MAX)
                (void) strv_extend(&builds->leftovers, folder);
        remove_next(builds);
}

static void find_leftovers(Builds *builds) {
        DIR *listing = opendir(BUILDING_FOLDER);

        if (!listing)
                return;
        for (struct dirent *entry; (entry = readdir(listing));)
                if (entry->d_name[0] != '.' && strlen(entry->d_name) < BUILD_FOLDER_MAX)
                        leave(builds, entry->d_name);
        (void) closedir(listing);
}

int builds_drop_environment(Builds *builds, const char *name) {
        char token[CGROUP_TOKEN_SIZE], folder[BUILD_FOLDER_MAX], from[192], to[192];
        int r = token_make(token);

        if (r < 0)
                return r;
        (void) snprintf(folder, sizeof(folder), "%.63s.%s", name, token);
        (void) snprintf(from, sizeof(from), ENVIRONMENT_FOLDER "/%s", name);
        (void) snprintf(to, sizeof(to), BUILDING_FOLDER "/%s", folder);
        if (rename(from, to) < 0)
                return -errno;
        leave(builds, folder);
        return 0;
}

int builds_new(Manager *manager, Builds **ret) {
        Builds *builds = new0(Builds);

        if (!builds)
                return -ENOMEM;
        *builds = (Builds){ .manager = manager, .remover_pidfd = -EBADF, .remover_socket = -EBADF };
        int r = environments_prepare();
        if (r < 0)
                log_error_errno(r, "Cannot use %s, no environment can be built", STATE_FOLDER);
        else
                find_leftovers(builds);
        *ret = builds;
        return 0;
}

/* ---- one build */

static Build *build_free(Build *build) {
        if (!build)
                return NULL;
        build->builds->slots[build->slot] = NULL;
        scope_release(&build->scope);
        sd_event_source_disable_unref(build->on_exit);
        sd_event_source_disable_unref(build->on_message);
        sd_event_source_disable_unref(build->timer);
        close_many(build->fds, ELEMENTSOF(build->fds));
        close_fd(build->pidfd);
        close_fd(build->socket);
        close_fd(build->said);
        close_fd(build->report);
        free(build);
        return NULL;
}

Builds *builds_free(Builds *builds) {
        if (!builds)
                return NULL;
        for (size_t i = 0; i < BUILDS_MAX; i++)
                build_free(builds->slots[i]);
        sd_event_source_disable_unref(builds->on_remover_exit);
        close_fd(builds->remover_pidfd);
        close_fd(builds->remover_socket);
        strv_free(builds->leftovers);
        free(builds);
        return NULL;
}

static Build *build_find(const Builds *builds, const char *name) {
        for (size_t i = 0; i < BUILDS_MAX; i++)
                if (builds->slots[i] && streq(builds->slots[i]->order.environment, name))
                        return builds->slots[i];
        return NULL;
}

static void decide(Build *build, OutcomeKind outcome, const char *detail) {
        build->reply = (BuildStageReply){ .outcome = (uint32_t) outcome };
        (void) snprintf(build->reply.detail, sizeof(build->reply.detail), "%s", detail);
}

/* What is told: an environment that is there stays, whatever was wanted meanwhile; what was ordered is the
 * reason of what came of it; the kernel's word for memory comes before what the installer made of it. */
static void settle(Build *build) {
        const uint32_t outcome = build->reply.outcome;

        if (outcome == OUTCOME_VALUE && !(build->order.flags & BUILD_FLAG_RESOLVE))
                return;
        if (build->ordered != OUTCOME_NONE) {
                build->reply.outcome = (uint32_t) build->ordered;
                build->reply.limit = build->ordered == OUTCOME_TIMEOUT ? build->order.timeout_usec : 0;
                COPY_TEXT(build->reply.detail, build->ordered_detail);
        } else if ((outcome == OUTCOME_EXIT || outcome == OUTCOME_SIGNAL || outcome == OUTCOME_NONE) &&
                   build->figures.oom_kills > 0) {
                build->reply.outcome = OUTCOME_MEMORY;
                build->reply.limit = build->order.memory_max;
                (void) snprintf(build->reply.detail, sizeof(build->reply.detail),
                                "It needs more than %" PRIu64 " bytes of memory.", build->order.memory_max);
        } else if (outcome == OUTCOME_NONE || outcome == OUTCOME_CANCELLED)
                decide(build, OUTCOME_INFRASTRUCTURE, "The build's sandbox ended.");
}

static void tell_ended(Build *build) {
        const BuildStageReply *reply = &build->reply;
        LauncherEvent event = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_BUILD_ENDED };
        const int fds[] = { build->said, build->report };

        COPY_TEXT(event.build_ended.environment, build->order.environment);
        event.build_ended.outcome = reply->outcome;
        event.build_ended.status = reply->status;
        event.build_ended.limit = reply->limit;
        event.build_ended.bytes = reply->bytes;
        event.build_ended.files = reply->files;
        event.build_ended.run_usec = now_usec(CLOCK_MONOTONIC) - build->started_usec;
        event.build_ended.cpu_usec =
                build->figures.known & RECEIPT_CPU ? build->figures.cpu_usec : reply->cpu_usec;
        COPY_TEXT(event.build_ended.detail, reply->detail);
        agent_link_send_many(build->builds->manager->link, &event, fds,
                             build->said < 0     ? 0
                             : build->report < 0 ? 1
                                                 : 2);
}

/* Once its stage is reaped, and systemd has taken note of it: the name of the unit is free again. */
static void maybe_finish(Build *build, bool now) {
        Builds *builds = build->builds;

        if (build->is_spawning || build->pidfd >= 0 ||
            (!now && (build->scope.state == SCOPE_STARTING || build->scope.state == SCOPE_ACTIVE)))
                return;
        if (build->scope.state == SCOPE_ACTIVE)
                scope_stop(builds->manager->bus, build->unit);
        settle(build);
        build->reply.detail[sizeof(build->reply.detail) - 1] = '\0';
        log_info("%s (environment %s) ended: %s%s%s", build->unit, build->order.environment,
                 outcome_kind_to_string((OutcomeKind) build->reply.outcome),
                 build->reply.detail[0] ? ": " : "", build->reply.detail);
        if (build->is_told)
                tell_ended(build);
        leave(builds, build->folder);
        build_free(build);
        manager_kick(builds->manager);
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata);

static void timer_set(Build *build, uint64_t usec) {
        build->timer = sd_event_source_disable_unref(build->timer);
        (void) sd_event_add_time_relative(build->builds->manager->event, &build->timer, CLOCK_MONOTONIC,
                                          usec, 0, on_time, build);
}

/* Its stage is to end, with all that is in its sandbox. */
static void kill_stage(Build *build) {
        if (build->pidfd >= 0)
                (void) pidfd_send_signal(build->pidfd, SIGKILL, NULL, 0);
        timer_set(build, END_SEC * USEC_PER_SEC);
        maybe_finish(build, false);
}

/* As kill_stage(), but what was said so far is wanted. */
static void end(Build *build, OutcomeKind why, const char *detail) {
        const char stop = 0;

        if (build->state == BUILD_ENDING || build->ordered != OUTCOME_NONE)
                return;
        build->ordered = why;
        (void) snprintf(build->ordered_detail, sizeof(build->ordered_detail), "%s", detail);
        if (build->state == BUILD_RUNNING &&
            fd_send_with_fds(build->socket, &stop, sizeof(stop), NULL, 0) >= 0) {
                timer_set(build, END_SEC * USEC_PER_SEC);
                return;
        }
        build_set_state(build, BUILD_ENDING);
        kill_stage(build);
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata) {
        Build *build = userdata;

        if (build->state == BUILD_ENDING) {
                if (build->pidfd >= 0)
                        kill_stage(build);
                else
                        maybe_finish(build, true); /* systemd has not said that the scope is gone */
        } else if (build->ordered == OUTCOME_NONE)
                end(build, OUTCOME_TIMEOUT, "It did not end in time.");
        else {
                build_set_state(build, BUILD_ENDING);
                kill_stage(build);
        }
        return 0;
}

static void break_off(Build *build, const char *detail) {
        if (build->state != BUILD_ENDING)
                decide(build, OUTCOME_INFRASTRUCTURE, detail);
        build_set_state(build, BUILD_ENDING);
        kill_stage(build);
}

static void fill_environment(const Build *build, LauncherEvent *event) {
        COPY_TEXT(event->environment.environment, build->order.environment);
        COPY_TEXT(event->environment.owner, build->order.owner);
        COPY_TEXT(event->environment.python, build->order.python);
        COPY_TEXT(event->environment.unit, build->unit);
}

static void take_ended(Build *build, const BuildStageReply *reply, int fds[static 2], size_t n_fds) {
        build->reply = *reply;
        if (n_fds > 0)
                build->said = fds[0];
        if (n_fds > 1)
                build->report = fds[1];
        cgroup_read_figures(&build->cgroup, &build->figures);
        build_set_state(build, BUILD_ENDING);
        build->on_message = sd_event_source_disable_unref(build->on_message);
        build->socket = close_fd(build->socket); /* its stage ends */
        timer_set(build, END_SEC * USEC_PER_SEC);
}

static int on_message(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Build *build = userdata;
        BuildStageReply reply;
        int fds[2] = { -EBADF, -EBADF };
        size_t n_fds = 0;
        ssize_t n = fd_receive_with_fds(fd, &reply, sizeof(reply), fds, ELEMENTSOF(fds), &n_fds);

        if (n == -EAGAIN)
                return 0;
        if (n != sizeof(reply)) { /* it has ended, or cannot be understood */
                if (n >= 0)
                        close_many(fds, n_fds);
                build->on_message = sd_event_source_disable_unref(build->on_message);
                break_off(build, "The build's sandbox ended.");
        } else if (reply.op == BUILD_STAGE_ENDED)
                take_ended(build, &reply, fds, n_fds);
        else {
                LauncherEvent event = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_BUILD_STARTED };
                fill_environment(build, &event);
                if (build->is_told)
                        agent_link_send(build->builds->manager->link, &event, n_fds > 0 ? fds[0] : -EBADF);
                close_many(fds, n_fds);
        }
        return 0;
}

static int send_request(Build *build) {
        const Manager *manager = build->builds->manager;
        const LauncherSettings *settings = &manager->settings;
        const uint32_t first = settings->uid_start + settings->uid_count - UIDS_FOR_BUILDS + 2 * build->slot;
        BuildRequest request = {
                .flags = build->order.flags,
                .init_uid = first,
                .build_uid = first + 1,
                .disk_max = build->order.disk_max,
                .files_max = build->order.files_max,
        };
        int r = cgroup_attach(&build->cgroup, build->token, build->unit, build->pid, build->pid);

        if (r < 0)
                return r;
        COPY_TEXT(request.environment, build->order.environment);
        COPY_TEXT(request.owner, build->order.owner);
        COPY_TEXT(request.python, build->order.python);
        COPY_TEXT(request.folder, build->folder);
        r = sd_event_add_io(manager->event, &build->on_message, build->socket, EPOLLIN, on_message, build);
        if (r >= 0)
                r = fd_send_with_fds(build->socket, &request, sizeof(request), build->fds,
                                     ELEMENTSOF(build->fds));
        close_many(build->fds, ELEMENTSOF(build->fds));
        for (size_t i = 0; i < ELEMENTSOF(build->fds); i++)
                build->fds[i] = -EBADF;
        if (r >= 0)
                build_set_state(build, BUILD_RUNNING);
        return r;
}

static void on_scope_changed(Scope *scope, const char *why, void *userdata) {
        Build *build = userdata;
        char text[NOTE_MAX];
        int r;

        switch (scope->state) {
        case SCOPE_ACTIVE:
                r = build->state == BUILD_STARTING ? send_request(build) : 0;
                if (r < 0)
                        break_off(build, strerrordesc_np(-r));
                break;
        case SCOPE_FAILED:
                (void) snprintf(text, sizeof(text), "systemd refused its scope: %s", why);
                break_off(build, text);
                break;
        default:
                maybe_finish(build, false);
                break;
        }
}

static int on_stage_exit(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Build *build = userdata;
        siginfo_t information = {};

        (void) waitid(P_PIDFD, (id_t) fd, &information, WEXITED | __WALL);
        build->on_exit = sd_event_source_disable_unref(build->on_exit);
        build->pidfd = close_fd(build->pidfd);
        build->pid = 0;
        if (build->state != BUILD_ENDING)
                break_off(build, "The build's sandbox ended.");
        else
                maybe_finish(build, false);
        return 0;
}

static void stage_made(Build *build, int error, int pidfd) {
        Manager *manager = build->builds->manager;
        char description[256];
        int r = error < 0 ? error : pidfd < 0 ? -EBADF : pidfd_to_pid(pidfd);

        build->is_spawning = false;
        if (pidfd >= 0) {
                build->pidfd = pidfd;
                build->pid = MAX(r, 0);
                int r2 = sd_event_add_io(manager->event, &build->on_exit, pidfd, EPOLLIN, on_stage_exit,
                                         build);
                r = r < 0 ? r : r2;
        }
        if (build->state == BUILD_ENDING) {
                kill_stage(build);
                return;
        }
        (void) snprintf(description, sizeof(description), "CluPy %s of environment %s, Python %s%s%s",
                        build->order.flags & BUILD_FLAG_RESOLVE ? "resolving" : "build",
                        build->order.environment, build->order.python, build->order.owner[0] ? ", of " : "",
                        build->order.owner);
        const ScopeSpec spec = {
                .name = build->unit,
                .slice = BUILD_SLICE,
                .description = description,
                .limits = { build->order.memory_max, build->order.cpu_quota_usec, build->order.tasks_max },
                .pids = &build->pid,
                .n_pids = 1,
        };
        if (r >= 0)
                r = scope_start(manager->bus, &build->scope, &spec, on_scope_changed, build);
        if (r < 0)
                break_off(build, strerrordesc_np(-r));
}

void builds_process_made(Builds *builds, SpawnKind kind, unsigned slot, int error, int pidfd) {
        Build *build = kind == SPAWN_BUILD && slot < BUILDS_MAX ? builds->slots[slot] : NULL;

        if (kind == SPAWN_REMOVER && builds->remover_ordered && builds->remover_pidfd < 0)
                remover_made(builds, pidfd);
        else if (build && build->is_spawning)
                stage_made(build, error, pidfd);
        else if (pidfd >= 0) {
                (void) pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
                close_fd(pidfd); /* reaped as one that nobody knows */
        }
}

/* ---- orders */

static int open_filter(const char *which) {
        int fd = filter_open(POLICY, which);

        return fd == -ENOENT ? filter_open("default", which) : fd;
}

static int prepare(Build *build) {
        Manager *manager = build->builds->manager;
        int pair[2], r = token_make(build->token);

        if (r < 0)
                return r;
        (void) snprintf(build->folder, sizeof(build->folder), "%.63s.%s", build->order.environment,
                        build->token);
        (void) snprintf(build->unit, sizeof(build->unit), "clupy-build-%.*s.scope", UNIT_DIGITS,
                        build->order.environment);
        if ((build->fds[BUILD_FD_OUTER] = open_filter("outer")) < 0)
                return build->fds[BUILD_FD_OUTER];
        if ((build->fds[BUILD_FD_FINAL] = open_filter("final")) < 0)
                return build->fds[BUILD_FD_FINAL];
        if ((build->fds[BUILD_FD_JOURNAL] = journal_stream_open("clupy-build", build->unit)) < 0)
                return build->fds[BUILD_FD_JOURNAL];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        build->socket = pair[0];
        r = spawner_order(manager->spawner, SPAWN_BUILD, build->slot, pair[1]);
        close_fd(pair[1]);
        if (r < 0)
                return r;
        build->is_spawning = true;
        timer_set(build, build->order.timeout_usec);
        return 0;
}

static int check(Builds *builds, const LauncherBuild *order, int fd, const char **ret_why) {
        const Manager *manager = builds->manager;
        EnvironmentStamp stamp;
        struct stat st;
        uint64_t size;

        *ret_why = "The launcher is about to end.";
        if (manager->stopping || manager->upgrade)
                return -EAGAIN;
        *ret_why = "There is no sandbox to build in.";
        if (SANDBOX_IS_OFF)
                return -EOPNOTSUPP;
        *ret_why = "The order must be sealed memory.";
        int r = memfd_check_sealed(fd, &size);
        if (r < 0)
                return r;
        *ret_why = "The order is too large.";
        if (size > BUILD_ORDER_MAX)
                return -EFBIG;
        *ret_why = "The node does not have this Python.";
        if (!python_find(order->python))
                return -ENOENT;
        *ret_why = "It is being built already.";
        if (build_find(builds, order->environment))
                return -EALREADY;
        *ret_why = "It is there already.";
        char path[192];
        (void) snprintf(path, sizeof(path), ENVIRONMENT_FOLDER "/%s", order->environment);
        if (!(order->flags & BUILD_FLAG_RESOLVE) && lstat(path, &st) == 0) {
                if (environment_stamp_read(order->environment, &stamp) >= 0)
                        return -EEXIST;
                *ret_why = "What is in its place cannot be removed."; /* it is none of ours */
                return builds_drop_environment(builds, order->environment);
        }
        return 0;
}

int build_start(Builds *builds, const LauncherBuild *order, int fd, const char **ret_why) {
        int r = check(builds, order, fd, ret_why);
        unsigned slot = 0;

        if (r < 0)
                return r;
        while (slot < BUILDS_MAX && builds->slots[slot])
                slot++;
        if (slot == BUILDS_MAX) {
                *ret_why = "Too many builds run at the moment.";
                return -EAGAIN;
        }
        *ret_why = "The build cannot be started.";
        Build *build = new0(Build);
        if (!build)
                return -ENOMEM;
        *build = (Build){
                .builds = builds,
                .slot = slot,
                .order = *order,
                .fds = { -EBADF, -EBADF, -EBADF, -EBADF },
                .pidfd = -EBADF,
                .socket = -EBADF,
                .said = -EBADF,
                .report = -EBADF,
                .is_told = true,
                .started_usec = now_usec(CLOCK_MONOTONIC),
        };
        builds->slots[slot] = build;
        r = prepare(build);
        if (r < 0) {
                build_free(build);
                return r;
        }
        build->fds[BUILD_FD_ORDER] = fd;
        return 0;
}

bool build_stop(Builds *builds, const char *name) {
        Build *build = build_find(builds, name);

        if (build)
                end(build, OUTCOME_CANCELLED, "It was stopped.");
        return build != NULL;
}

void builds_end_all(Builds *builds, OutcomeKind why, const char *detail) {
        for (size_t i = 0; i < BUILDS_MAX; i++)
                if (builds->slots[i]) {
                        if (why == OUTCOME_CANCELLED) /* by the agent's end */
                                builds->slots[i]->is_told = false;
                        end(builds->slots[i], why, detail);
                }
        if (why != OUTCOME_CANCELLED && builds->remover_pidfd >= 0)
                (void) pidfd_send_signal(builds->remover_pidfd, SIGKILL, NULL, 0);
}

bool builds_are_over(const Builds *builds) {
        for (size_t i = 0; i < BUILDS_MAX; i++)
                if (builds->slots[i])
                        return false;
        return !builds->remover_ordered;
}

bool builds_own_pid(const Builds *builds, pid_t pid) {
        for (size_t i = 0; i < BUILDS_MAX; i++)
                if (builds->slots[i] && builds->slots[i]->pid == pid)
                        return true;
        return builds->remover == pid;
}

bool builds_have_unit(const Builds *builds, const char *unit) {
        for (size_t i = 0; i < BUILDS_MAX; i++)
                if (builds->slots[i] && streq(builds->slots[i]->unit, unit))
                        return true;
        return false;
}
