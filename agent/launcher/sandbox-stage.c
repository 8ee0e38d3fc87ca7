/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpf-list.h"
#include "environment-name.h"
#include "fd-util.h"
#include "pythons.h"
#include "sandbox-switch.h"
#include "sandbox.h"
#include "text-file.h"

/* Says what failed and ends. */
_noreturn_ static void fail(int error, const char *what) {
        StageReply reply = { .op = STAGE_FAILED, .error = error };

        (void) snprintf(reply.what, sizeof(reply.what), "%s", what);
        (void) message_send(SANDBOX_CONTROL_FD, &reply, sizeof(reply), NULL, 0);
        _exit(EXIT_FAILURE);
}

static void check(int r, const char *what) {
        if (r < 0)
                fail(r, what);
}

#define CHECK_ERRNO(r, what) check((r) < 0 ? -errno : 0, what)

/* The builder's uid, with all capabilities kept: the user namespace then belongs to it, and not to root. */
static void become_builder(uid_t uid) {
        if (SANDBOX_IS_OFF)
                return;
        CHECK_ERRNO(prctl(PR_SET_KEEPCAPS, 1), "keepcaps");
        check(identity_set(uid), "builder's uid");
        check(capabilities_raise(), "builder's capabilities");
}

/* proc of that PID namespace, made from within it. Nothing may ever be mounted upon it: each task's own proc
 * needs one that is wholly visible. */
static void mount_proc(void) {
        int status;
        pid_t pid = fork();

        if (pid == 0)
                _exit(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ? errno
                                                                                                 : 0);
        CHECK_ERRNO(pid, "proc");
        CHECK_ERRNO(waitpid(pid, &status, 0), "proc");
        check(WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD, "proc");
}

static void map_ids(const StageRequest *request) {
        char map[64];

        (void) snprintf(map, sizeof(map), "0 %u %u\n", request->uid_start, request->uid_count - 1);
        check(text_file_write(map, "/proc/1/uid_map"), "uid_map");
        check(text_file_write(map, "/proc/1/gid_map"), "gid_map");
}

/* The order is forced: the PID namespace must belong to the user namespace, or the zygote could not go back
 * into it; its proc must be mounted before the mount namespace is the user namespace's, from within the PID
 * namespace; so the anchor takes its mount namespace last. */
static int start_anchor(const StageRequest *request, int *ret_pidfd) {
        int pair[2], pidfd = -EBADF;
        char go = 0;

        CHECK_ERRNO(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), "anchor's socket");
        pid_t pid =
                sandbox_clone(CLONE_PARENT | (SANDBOX_IS_OFF ? 0 : CLONE_NEWUSER | CLONE_NEWPID), &pidfd);
        if (pid == 0) {
                close_fd(pair[0]); /* or the end of the stage would not be seen */
                anchor_main(pair[1], SANDBOX_CONTROL_FD);
        }
        check(pid, "anchor");
        close_fd(pair[1]);
        if (!SANDBOX_IS_OFF) {
                CHECK_ERRNO(setns(pidfd, CLONE_NEWPID), "anchor's PID namespace"); /* of the next children */
                mount_proc();
                map_ids(request);
        }
        check(message_send(pair[0], &go, sizeof(go), NULL, 0), "anchor");
        check(message_receive(pair[0], &go, sizeof(go), NULL, 0), "anchor");
        close_fd(pair[0]);
        *ret_pidfd = pidfd;
        return 0;
}

static void enter(int anchor) {
        if (SANDBOX_IS_OFF)
                return;
        CHECK_ERRNO(setns(anchor, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC), "namespaces");
}

_noreturn_ static void become_builder_process(int anchor, int *fds, bool host_network) {
        int kept[] = { fds[STAGE_FD_BUILDER] };

        enter(anchor);
        check(die_with_launcher(fds[STAGE_FD_BUILDER]), "builder");
        check(fds_arrange(SANDBOX_CONTROL_FD, kept, ELEMENTSOF(kept)), "builder's fds");
        builder_main(SANDBOX_CONTROL_FD, host_network);
}

static void drop_capabilities(void) {
        const uint64_t kept = CAPABILITY_BIT(CAP_SYS_ADMIN) | CAPABILITY_BIT(CAP_SYS_CHROOT) |
                              CAPABILITY_BIT(CAP_SETUID) |
                              CAPABILITY_BIT(CAP_SETGID); /* for setns(2), and for the tasks' uids */

        if (SANDBOX_IS_OFF)
                return;
        check(capabilities_bound(kept), "bounding set");
        CHECK_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
        check(capabilities_set(kept), "zygote's capabilities");
}

/* The floor first, so that the outer filter is the younger one. The one listener of the whole chain is taken
 * here, by trusted code: no child can omit or forge it, and the imports are watched too. */
static void install_filters(int outer) {
        struct stat st;

        if (SANDBOX_IS_OFF)
                return;
        CHECK_ERRNO(fstat(outer, &st), "outer filter");
        size_t size = (size_t) st.st_size;
        const void *program = mmap(NULL, size, PROT_READ, MAP_PRIVATE, outer, 0);
        if (program == MAP_FAILED)
                fail(-errno, "outer filter");
        check(bpf_floor_install(), "floor filter");
        int listener = bpf_install(program, (unsigned short) (size / sizeof(struct sock_filter)),
                                   SECCOMP_FILTER_FLAG_NEW_LISTENER);
        check(listener, "outer filter");
        StageReply reply = { .op = STAGE_LISTENER };
        check(message_send(SANDBOX_CONTROL_FD, &reply, sizeof(reply), &listener, 1), "listener");
}

_noreturn_ static void become_zygote(const StageRequest *request, int anchor, int *fds) {
        const Python *python = python_find(request->python);
        char environment[96], interpreter[192];
        char *const arguments[] = { (char *) "clupy-zygote", interpreter, NULL };
        char *const variables[] = {
                (char *) "PATH=/usr/local/bin:/usr/bin:/bin", (char *) "LC_ALL=C.UTF-8",
                (char *) "HOME=/tmp",
                /* Looked up once, and not by each child in pages that it has to copy. Not passed on. */
                (char *) "LD_BIND_NOW=1",
                /* Threads that a library starts on import would not be in a forked child. */
                (char *) "OMP_NUM_THREADS=1", (char *) "OPENBLAS_NUM_THREADS=1",
                (char *) "MKL_NUM_THREADS=1", (char *) "NUMEXPR_NUM_THREADS=1", environment, NULL
        };
        int kept[] = { fds[STAGE_FD_ZYGOTE], fds[STAGE_FD_FINAL] };

        check(python ? environment_interpreter(request->environment, python, interpreter,
                                               sizeof(interpreter))
                     : -ENOENT,
              "Python");
        (void) snprintf(environment, sizeof(environment), "CLUPY_ENVIRONMENT=%s", request->environment);
        /* The daemon's -900 is inherited: of all in the scope this one is to be taken. */
        check(text_file_write("300", "/proc/self/oom_score_adj"), "oom_score_adj");
        enter(anchor);
        check(identity_set(0), "zygote's uid");
        drop_capabilities();
        check(die_with_launcher(fds[STAGE_FD_ZYGOTE]), "zygote");
        _cleanup_(close_fdp) int null = fds[STAGE_FD_JOURNAL];
        CHECK_ERRNO(dup2(fds[STAGE_FD_JOURNAL], STDOUT_FILENO), "zygote's output");
        CHECK_ERRNO(dup2(fds[STAGE_FD_JOURNAL], STDERR_FILENO), "zygote's output");
        install_filters(fds[STAGE_FD_OUTER]);
        if (chdir("/tmp") < 0 || fds_arrange(ZYGOTE_CONTROL_FD, kept, ELEMENTSOF(kept)) < 0)
                _exit(EXIT_FAILURE);
        (void) execve(python->zygote, arguments, variables);
        _exit(127);
}

/* The standard library of its Python and its packages, where they are not below /usr. */
static int make_view(const StageRequest *request, const char **ret_what) {
        const Python *python = python_find(request->python);
        char folder[sizeof(ENVIRONMENT_FOLDER) + sizeof(request->environment)], series[PYTHON_NAME_MAX];
        EnvironmentKind kind;
        int r = environment_name_parse(request->environment, &kind, series);

        *ret_what = "environment";
        if (r < 0 || !python)
                return r < 0 ? r : -ENOENT;
        (void) snprintf(folder, sizeof(folder), ENVIRONMENT_FOLDER "/%s", request->environment);
        const ViewMount mounts[] = {
                { .source = python->prefix, .target = python->prefix },
                { .source = folder, .target = folder },
        };
        return view_make(mounts, kind == ENVIRONMENT_BUILT ? 2 : 1, ret_what);
}

void stage_main(void) {
        int fds[_STAGE_FD_MAX], pidfds[3];
        StageRequest request;
        const char *what = "view";
        int r;

        /* The launcher puts this process into the zygote's scope before it says this. */
        if (die_with_launcher(SANDBOX_CONTROL_FD) < 0 ||
            message_receive(SANDBOX_CONTROL_FD, &request, sizeof(request), fds, _STAGE_FD_MAX) < 0)
                _exit(EXIT_FAILURE);
        request.environment[sizeof(request.environment) - 1] = '\0';
        request.python[sizeof(request.python) - 1] = '\0';
        if (fds[STAGE_FD_NETWORK] < 0 || request.uid_count < 3)
                fail(-EINVAL, "request");
        bool host_network = request.flags & STAGE_FLAG_HOST_NETWORK;
        CHECK_ERRNO(setns(fds[STAGE_FD_NETWORK], CLONE_NEWNET), "network namespace");
        r = SANDBOX_IS_OFF ? 0 : make_view(&request, &what);
        check(r, what);
        become_builder(request.uid_start + request.uid_count - 1);
        (void) start_anchor(&request, &pidfds[0]);

        pid_t pid = sandbox_clone(CLONE_PARENT, &pidfds[1]);
        if (pid == 0)
                become_builder_process(pidfds[0], fds, host_network);
        check(pid, "builder");
        pid = sandbox_clone(CLONE_PARENT, &pidfds[2]);
        if (pid == 0)
                become_zygote(&request, pidfds[0], fds);
        check(pid, "zygote");

        StageReply reply = { .op = STAGE_DONE };
        r = message_send(SANDBOX_CONTROL_FD, &reply, sizeof(reply), pidfds, ELEMENTSOF(pidfds));
        _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}
