/* SPDX-License-Identifier: Apache-2.0 */
#include "build-stage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "build-room.h"
#include "build-tree.h"
#include "environment-stamp.h"
#include "fd-util.h"
#include "sandbox-switch.h"
#include "sandbox.h"
#include "text-file.h"
#include "time-util.h"

/* A build as seen from outside its sandbox: root, and trusted. It makes the sandbox, bounds what it writes,
 * and makes an environment of it when all that was in the sandbox is dead. */

enum {
        LOOK_MSEC = 200, /* how often the disk is looked at, and what it has written is measured, … */
        LOOK_SHARE = 5,  /* … and the share of the time that this may take at most: a fifth */
        BUILDS_SEEN_MAX = 64,
        SAID_MAX = BUILD_LOG_MAX,
};
typedef struct Stage {
        BuildRequest request;
        int fds[_BUILD_FD_MAX];
        int building;                       /* where all builds have their folders */
        int folder, environment, temporary; /* on the disk */
        DiskRoom room;                      /* when it began */
        int init_socket, init, log, report; /* init: a pidfd */
        bool stopped, over;                 /* over: its builder has ended by itself */
        BuildInitMessage end;
        char said[SAID_MAX]; /* a ring */
        uint64_t n_said;
        BuildStageReply reply;
} Stage;

static Stage stage;

static void decide(OutcomeKind outcome, int status, const char *detail) {
        if (stage.reply.outcome != OUTCOME_NONE)
                return; /* the first one is the cause */
        stage.reply.outcome = (uint32_t) outcome;
        stage.reply.status = status;
        (void) snprintf(stage.reply.detail, sizeof(stage.reply.detail), "%s", detail);
}

static void decide_broken(const char *what, int error) {
        char detail[NOTE_MAX];

        (void) snprintf(detail, sizeof(detail), "%s: %s", what, strerrordesc_np(-error) ?: "?");
        decide(OUTCOME_INFRASTRUCTURE, 0, detail);
}

/* ---- what it says */

static void said_add(const char *text, size_t size) {
        for (size_t i = 0; i < size; i++)
                stage.said[stage.n_said++ % SAID_MAX] = text[i];
        /* To the journal as far as that keeps up. */
        (void) send(stage.fds[BUILD_FD_JOURNAL], text, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void say(const char *words, const char *name) {
        char line[NOTE_MAX + NAME_MAX + 16];
        int n = snprintf(line, sizeof(line), "clupy: %s%s%s\n", words, name ? " " : "", name ?: "");

        said_add(line, n < 0 ? 0 : MIN((size_t) n, sizeof(line) - 1));
}

/* Returns false at the end of it. */
static bool read_said(void) {
        char buffer[16384];
        ssize_t n = read(stage.log, buffer, sizeof(buffer));

        if (n > 0)
                said_add(buffer, (size_t) n);
        return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static int said_seal(void) {
        char *text = malloc(SAID_MAX);
        const size_t size = (size_t) MIN(stage.n_said, (uint64_t) SAID_MAX);
        const uint64_t first = stage.n_said - size;

        if (!text)
                return -ENOMEM;
        for (size_t i = 0; i < size; i++)
                text[i] = stage.said[(first + i) % SAID_MAX];
        int fd = memfd_new_sealed("clupy-build-log", text, size);
        free(text);
        return fd;
}

/* A copy: its own memory may still grow in nobody's hands. Returns the fd, -ENODATA. */
static int report_seal(void) {
        struct stat st;

        if (fstat(stage.report, &st) < 0)
                return -errno;
        if (st.st_size == 0)
                return -ENODATA;
        if (st.st_size > BUILD_REPORT_MAX)
                return -EFBIG;
        _cleanup_(freep) char *text = malloc((size_t) st.st_size);
        if (!text)
                return -ENOMEM;
        ssize_t n = pread(stage.report, text, (size_t) st.st_size, 0);
        return n < 0 ? -errno : memfd_new_sealed("clupy-build-report", text, (size_t) n);
}

/* ---- before */

static int folder_make(int parent, const char *name, uid_t owner) {
        if (mkdirat(parent, name, 0700) < 0)
                return -errno;
        int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fchown(fd, owner, owner) < 0)
                return -errno;
        return fd;
}

static int folders_make(void) {
        const BuildRequest *request = &stage.request;
        int r;

        stage.building = open(BUILDING_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (stage.building < 0)
                return -errno;
        r = disk_room_read(stage.building, &stage.room);
        if (r < 0)
                return r;
        stage.folder = folder_make(stage.building, request->folder, 0);
        if (stage.folder < 0)
                return stage.folder;
        stage.environment = folder_make(stage.folder, "env", request->build_uid);
        if (stage.environment < 0)
                return stage.environment;
        stage.temporary = folder_make(stage.folder, "tmp", request->build_uid);
        return MIN(stage.temporary, 0);
}

static int ids_map(pid_t init) {
        char map[64];

        (void) snprintf(map, sizeof(map), "%d %u 1\n", BUILD_USER_INSIDE, stage.request.build_uid);
        int r = text_file_write(map, "/proc/%d/uid_map", (int) init);
        return r < 0 ? r : text_file_write(map, "/proc/%d/gid_map", (int) init);
}

/* The builder's order is read from its start, whoever wrote it. */
static int order_open(void) {
        char path[32];

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", stage.fds[BUILD_FD_ORDER]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

/* Returns 0, -EIO when the init says what failed, -errno. */
static int init_expect(BuildInitOp op, int *ret_fd) {
        BuildInitMessage message;
        int fd = -EBADF;
        int r = message_receive(stage.init_socket, &message, sizeof(message), &fd, 1);

        if (r < 0)
                return r;
        if (message.op == BUILD_INIT_FAILED) {
                message.what[sizeof(message.what) - 1] = '\0';
                decide_broken(message.what, message.error);
                r = -EIO;
        } else if (message.op != op)
                r = -EPROTO;
        if (r < 0 || !ret_fd)
                close_fd(fd);
        else
                *ret_fd = fd;
        return r;
}

static int sandbox_start(void) {
        BuildSandbox sandbox = { .request = &stage.request };
        const BuildInitMessage go = { .op = BUILD_INIT_UNSHARED };
        int pair[2], pipes[2], index = -EBADF, r;

        r = folders_make();
        if (r < 0)
                return r;
        sandbox.order = order_open();
        if (sandbox.order < 0)
                return sandbox.order;
        stage.report = sandbox.report = memfd_new("clupy-build-report");
        if (stage.report < 0)
                return stage.report;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 || pipe2(pipes, O_CLOEXEC) < 0)
                return -errno;
        sandbox.outer = stage.fds[BUILD_FD_OUTER];
        sandbox.final = stage.fds[BUILD_FD_FINAL];
        sandbox.socket = pair[1];
        sandbox.log = pipes[1];
        pid_t pid = sandbox_clone(CLONE_NEWPID | CLONE_NEWNS, &stage.init);
        if (pid == 0) {
                close_fd(pair[0]); /* or the end of the stage would not be seen */
                build_init_main(&sandbox);
        }
        close_fd(pair[1]);
        close_fd(pipes[1]);
        close_fd(sandbox.order);
        stage.init_socket = pair[0];
        stage.log = pipes[0];
        if (pid < 0)
                return pid;
        r = fd_set_nonblock(stage.log, true);
        if (r >= 0)
                r = init_expect(BUILD_INIT_UNSHARED, NULL);
        if (r >= 0)
                r = ids_map(pid);
        if (r >= 0)
                r = message_send(stage.init_socket, &go, sizeof(go), NULL, 0);
        if (r >= 0)
                r = init_expect(BUILD_INIT_RUNS, &index);
        if (r < 0)
                return r;
        BuildStageReply reply = { .op = BUILD_STAGE_RUNS };
        r = message_send(SANDBOX_CONTROL_FD, &reply, sizeof(reply), &index, index >= 0 ? 1 : 0);
        close_fd(index);
        return r;
}

/* ---- meanwhile */

static void stop(void) {
        (void) pidfd_send_signal(stage.init, SIGKILL, NULL, 0);
}

static void decide_full(void) {
        decide(OUTCOME_DISK, 0, "The node's disk is full."); /* no limit of its own */
}

/* What no installer makes of a package: tried elsewhere, it would be the same. */
static void decide_refused(const char *detail) {
        decide(OUTCOME_EXIT, EXIT_FAILURE, detail);
}

static void refuse_deep(void) {
        say("error: folders that are too deep within each other", NULL);
        decide_refused("Its folders are too deep within each other.");
}

static void decide_own_limit(const char *detail) {
        stage.reply.limit = stage.request.disk_max;
        decide(OUTCOME_DISK, 0, detail);
}

/* This one's, and those of others, which take of the disk as well. */
static unsigned count_builds(void) {
        unsigned n = 0;
        int fd = openat(stage.building, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *listing = fd < 0 ? NULL : fdopendir(fd);

        if (!listing) {
                close_fd(fd);
                return BUILDS_SEEN_MAX;
        }
        for (struct dirent *entry; n < BUILDS_SEEN_MAX && (entry = readdir(listing));)
                n += entry->d_name[0] != '.';
        (void) closedir(listing);
        return MAX(n, 1U);
}

/* Whether the node has room: asked often, as it costs little. */
static bool disk_has_room(void) {
        DiskRoom room;

        if (disk_room_read(stage.folder, &room) < 0)
                return true;
        /* First whose fault it is. */
        if (disk_room_is_overdrawn(&stage.room, &room, stage.request.disk_max, 1) &&
            disk_room_is_overdrawn(&stage.room, &room, stage.request.disk_max, count_builds())) {
                decide_own_limit(
                        "It takes more of the disk than its files have, such as by deleted ones that "
                        "are kept open.");
                return false;
        }
        if (!disk_room_is_short(&room))
                return true;
        decide_full();
        return false;
}

static void decide_too_large(const TreeFigures *figures) {
        char detail[NOTE_MAX];

        if (figures->files > stage.request.files_max)
                (void) snprintf(detail, sizeof(detail), "It has more than %" PRIu64 " files and folders.",
                                stage.request.files_max);
        else
                (void) snprintf(detail, sizeof(detail), "It takes more than %" PRIu64 " bytes of the disk.",
                                stage.request.disk_max);
        decide_own_limit(detail);
}

/* Whether what it has written is within its bounds. */
static bool look(void) {
        const TreeFigures limits = { stage.request.disk_max, stage.request.files_max };
        TreeFigures figures = {};
        int r = tree_measure(stage.environment, &limits, &figures);

        if (r >= 0)
                r = tree_measure(stage.temporary, &limits, &figures);
        stage.reply.bytes = figures.bytes;
        stage.reply.files = figures.files;
        if (r == -EDQUOT)
                decide_too_large(&figures);
        else if (r == -ELOOP)
                refuse_deep();
        else
                return true;
        return false;
}

static void take_init_message(void) {
        BuildInitMessage message;
        ssize_t n =
                fd_receive_with_fds(stage.init_socket, &message, sizeof(message), NULL, 0, &(size_t){ 0 });

        if (n != sizeof(message))
                return;
        if (message.op == BUILD_INIT_ENDED) {
                stage.end = message;
                stage.over = true;
        } else if (message.op == BUILD_INIT_FAILED) {
                message.what[sizeof(message.what) - 1] = '\0';
                decide_broken(message.what, message.error);
        }
}

/* The launcher wants its end, or has ended itself. */
static void take_launcher_message(void) {
        char c;
        ssize_t n = fd_receive_with_fds(SANDBOX_CONTROL_FD, &c, sizeof(c), NULL, 0, &(size_t){ 0 });

        if (n == -EAGAIN)
                return;
        if (n < 0)
                _exit(EXIT_FAILURE);
        stage.stopped = true;
        stop();
}

/* Until all that was in the sandbox is dead. */
static void watch(void) {
        uint64_t next = 0, next_walk = 0;
        bool open = true;

        for (;;) {
                struct pollfd p[] = {
                        { .fd = stage.init, .events = POLLIN },
                        { .fd = SANDBOX_CONTROL_FD, .events = stage.stopped ? 0 : POLLIN },
                        { .fd = open ? stage.log : -1, .events = POLLIN },
                };
                const uint64_t now = now_usec(CLOCK_MONOTONIC);
                if (now >= next) {
                        const bool walk = now >= next_walk;
                        if (!disk_has_room() || (walk && !look()))
                                stop();
                        const uint64_t after = now_usec(CLOCK_MONOTONIC);
                        if (walk)
                                next_walk = after + LOOK_SHARE * (after - now);
                        next = after + LOOK_MSEC * USEC_PER_MSEC;
                }
                if (poll(p, ELEMENTSOF(p), (int) MIN((next - now) / USEC_PER_MSEC + 1, UINT64_C(10000))) <
                            0 &&
                    errno != EINTR)
                        return;
                if (p[1].revents & POLLHUP && !(p[1].revents & POLLIN))
                        _exit(EXIT_FAILURE);
                if (p[1].revents & POLLIN)
                        take_launcher_message();
                if (p[2].revents)
                        open = read_said();
                if (p[0].revents)
                        return;
        }
}

/* Kills and reaps what there is of the sandbox, and takes the rest of what it said. */
static void sandbox_end(void) {
        siginfo_t information;

        if (stage.init < 0)
                return;
        stop();
        while (waitid(P_PIDFD, (id_t) stage.init, &information, WEXITED | __WALL) < 0 && errno == EINTR)
                ;
        take_init_message();
        take_init_message();
        for (uint64_t before = stage.n_said + 1; before != stage.n_said && stage.log >= 0;) {
                before = stage.n_said;
                (void) read_said();
        }
}

/* ---- after */

static int stamp_write(const TreeFigures *figures) {
        EnvironmentStamp stamp = { .bytes = figures->bytes,
                                   .files = figures->files,
                                   .built_at = now_usec(CLOCK_REALTIME) };
        char text[ENVIRONMENT_STAMP_MAX];

        COPY_TEXT(stamp.owner, stage.request.owner);
        COPY_TEXT(stamp.python, stage.request.python);
        int n = environment_stamp_format(&stamp, text, sizeof(text));
        if (n < 0)
                return n;
        _cleanup_(close_fdp) int fd = openat(stage.environment, ENVIRONMENT_STAMP,
                                             O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0)
                return -errno;
        int r = fd_write_all(fd, text, (size_t) n);
        return r < 0 ? r : fsync(fd) < 0 ? -errno : 0;
}

/* From now on it is there, whole, also after a power failure. */
static int publish(void) {
        _cleanup_(close_fdp) int environments = open(ENVIRONMENT_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (environments < 0 || syncfs(stage.environment) < 0 ||
            renameat2(stage.folder, "env", environments, stage.request.environment, RENAME_NOREPLACE) < 0 ||
            fsync(environments) < 0)
                return -errno;
        return 0;
}

static void finish(void) {
        TreeFigures figures = {};
        char name[NAME_MAX + 1] = "";
        /* Root's first: in another's folder that is sticky it may remove nothing. */
        int r = fchown(stage.environment, 0, 0) < 0 ? -errno : 0;

        if (r >= 0)
                r = tree_remove(stage.environment, ".cache"); /* the installer's */
        if (r >= 0)
                r = tree_finish(stage.environment, &figures, name);
        if (r == -EPERM && name[0]) {
                say("error: a device, socket, FIFO, link to a file elsewhere, or a reserved name:", name);
                decide_refused("It contains something that no environment may contain.");
                return;
        }
        if (r == -ELOOP) {
                refuse_deep();
                return;
        }
        stage.reply.bytes = figures.bytes;
        stage.reply.files = figures.files;
        if (r >= 0 && (figures.bytes > stage.request.disk_max || figures.files > stage.request.files_max)) {
                decide_too_large(&figures);
                return;
        }
        if (r >= 0)
                r = stamp_write(&figures);
        if (r >= 0)
                r = publish();
        if (r == -ENOSPC || r == -EDQUOT)
                decide_full();
        else if (r < 0)
                decide_broken("finishing", r);
}

static void decide_end(void) {
        const int status = stage.end.status;
        char detail[NOTE_MAX];

        if (!stage.over)
                decide(OUTCOME_INFRASTRUCTURE, 0, "The sandbox broke while it was building.");
        else if (stage.end.code != CLD_EXITED && status == SIGXFSZ)
                decide_own_limit("A file of it is larger than all may be.");
        else if (stage.end.code != CLD_EXITED) {
                (void) snprintf(detail, sizeof(detail), "It was ended by SIG%s.",
                                sigabbrev_np(status) ?: "?");
                decide(OUTCOME_SIGNAL, status, detail);
        } else if (status != 0) {
                (void) snprintf(detail, sizeof(detail), "The installer ended with status %d.", status);
                decide(OUTCOME_EXIT, status, detail);
        }
}

static void answer(void) {
        struct rusage usage;
        int fds[2] = { said_seal(), report_seal() };

        stage.reply.op = BUILD_STAGE_ENDED;
        if (getrusage(RUSAGE_CHILDREN, &usage) == 0)
                stage.reply.cpu_usec =
                        (uint64_t) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * USEC_PER_SEC +
                        (uint64_t) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
        if (fds[0] < 0)
                _exit(EXIT_FAILURE);
        (void) message_send(SANDBOX_CONTROL_FD, &stage.reply, sizeof(stage.reply), fds, fds[1] >= 0 ? 2 : 1);
}

void build_main(void) {
        int r = die_with_launcher(SANDBOX_CONTROL_FD);
        char c;

        stage.building = stage.folder = stage.environment = stage.temporary = stage.init_socket =
                stage.init = stage.log = stage.report = -EBADF;
        /* The launcher puts this process into the build's scope before it says this. */
        if (r < 0 ||
            message_receive(SANDBOX_CONTROL_FD, &stage.request, sizeof(stage.request), stage.fds,
                            _BUILD_FD_MAX) < 0 ||
            stage.fds[_BUILD_FD_MAX - 1] < 0)
                _exit(EXIT_FAILURE);
        sandbox_title_set("clupy-build");
        r = sandbox_start();
        if (r < 0)
                decide_broken("sandbox", r);
        else
                watch();
        sandbox_end();
        if (stage.stopped)
                decide(OUTCOME_CANCELLED, 0, "It was stopped.");
        if (stage.reply.outcome == OUTCOME_NONE)
                decide_end();
        if (stage.reply.outcome == OUTCOME_NONE && report_seal() == -EFBIG)
                decide_refused("Its report is too large.");
        if (stage.reply.outcome == OUTCOME_NONE && !(stage.request.flags & BUILD_FLAG_RESOLVE))
                finish();
        decide(OUTCOME_VALUE, 0, "");
        answer();
        /* The launcher reads the scope's figures as long as somebody is in it. */
        while (message_receive(SANDBOX_CONTROL_FD, &c, sizeof(c), NULL, 0) >= 0)
                ;
        _exit(EXIT_SUCCESS);
}

void remover_main(void) {
        RemoveRequest request;
        int r = die_with_launcher(SANDBOX_CONTROL_FD);

        if (r >= 0)
                r = message_receive(SANDBOX_CONTROL_FD, &request, sizeof(request), NULL, 0);
        if (r < 0)
                _exit(EXIT_FAILURE);
        request.folder[sizeof(request.folder) - 1] = '\0';
        sandbox_title_set("clupy-remover");
        int building = open(BUILDING_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _exit(building < 0 || tree_remove(building, request.folder) < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}
