/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <unistd.h>

#include "fd-util.h"
#include "message-socket.h"
#include "zygote-python.h"

#define WORK_FOLDER "/tmp/work" /* made by the init */

enum { FD_PID, FD_MOUNT, FD_IPC, FD_NETWORK, FD_SOCKET, FD_JOURNAL };

/* Not yet a task: the launcher sees the end, the journal of the zygote the reason. */
_Noreturn static void fail(const char *what) {
        (void) dprintf(STDERR_FILENO, "clupy-zygote: a task's %s: %s\n", what, strerrordesc_np(errno));
        _exit(EX_OSERR);
}

static void check(bool good, const char *what) {
        if (!good)
                fail(what);
}

static void enter(const ZygoteRequest *request, const int *fds) {
        check(setns(fds[FD_MOUNT], CLONE_NEWNS) == 0, "mount namespace");
        check(setns(fds[FD_IPC], CLONE_NEWIPC) == 0, "IPC namespace");
        if (!(request->flags & ZYGOTE_FLAG_HOST_NETWORK))
                check(setns(fds[FD_NETWORK], CLONE_NEWNET) == 0, "network namespace");
}

/* Of its scope this one is to be taken, never the init. */
static void offer_to_oom_killer(void) {
        _cleanup_(close_fdp) int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        check(fd >= 0 && write(fd, "1000", 4) == 4, "oom_score_adj");
}

static void take_fds(const int *fds) {
        int kept[] = { open("/dev/null", O_RDONLY | O_CLOEXEC), fds[FD_JOURNAL], fds[FD_JOURNAL],
                       fds[FD_SOCKET] };
        int r = kept[0] < 0 ? -errno : fds_arrange(0, kept, ELEMENTSOF(kept));

        errno = r < 0 ? -r : 0;
        check(r >= 0, "file descriptors");
        /* What it executes shall not have it. */
        check(fcntl(TASK_CONTROL_FD, F_SETFD, FD_CLOEXEC) == 0, "file descriptors");
}

static void take_limits(const ZygoteRequest *request) {
        const struct rlimit none = {};
        struct rlimit files;

        check(setrlimit(RLIMIT_CORE, &none) == 0, "core limit");
        check(getrlimit(RLIMIT_NOFILE, &files) == 0, "file limit");
        files.rlim_max = MIN(files.rlim_max, (rlim_t) request->nofile);
        files.rlim_cur = files.rlim_max;
        check(setrlimit(RLIMIT_NOFILE, &files) == 0, "file limit");
}

/* A change of uid clears PDEATHSIG and makes the process "not dumpable", which takes away its own
 * /proc/self/fd: both are set behind it. Leaving uid 0 drops the capabilities. */
static void take_identity(uint32_t uid) {
        check(setgroups(0, NULL) == 0 && setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0,
              "uid");
        check(prctl(PR_SET_DUMPABLE, 1) == 0, "dumpable");
}

static void take_filter(const struct sock_fprog *program) {
        check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) == 0, "final filter");
        check(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "PDEATHSIG");
}

static void send_result(const TaskMessage *message, int memfd) {
        int r = 0;

        if (memfd >= 0)
                r = memfd_seal(memfd);
        if (r >= 0)
                r = message_send(TASK_CONTROL_FD, message, sizeof(*message), &memfd, memfd >= 0 ? 1 : 0);
        if (r < 0) {
                (void) dprintf(STDERR_FILENO, "clupy: the result cannot be handed over: %s\n",
                               strerrordesc_np(-r));
                _exit(EX_SOFTWARE);
        }
}

void task_main(const ZygoteRequest *request, int *fds, int filter) {
        const ZygoteReply ready = { .op = ZYGOTE_READY, .slot = request->slot };
        TaskMessage message;
        int work[2], memfd;
        struct stat st;
        ZygoteGo go;

        check(fstat(filter, &st) == 0, "final filter");
        const size_t size = (size_t) st.st_size;
        const struct sock_fprog program = {
                .len = (unsigned short) (size / sizeof(struct sock_filter)),
                .filter = mmap(NULL, size, PROT_READ, MAP_PRIVATE, filter, 0),
        };
        check(program.filter != MAP_FAILED, "final filter");

        enter(request, fds);
        offer_to_oom_killer();
        take_fds(fds);
        take_limits(request);
        take_identity(request->uid);
        (void) umask(022);
        take_filter(&program);
        check(munmap((void *) program.filter, size) == 0 && chdir(WORK_FOLDER) == 0, "working directory");

        python_after_fork_child(); /* runs the hooks of packages: from here on it is a stranger's */
        if (python_rehearse() < 0)
                _exit(EX_SOFTWARE);
        if (message_send(TASK_CONTROL_FD, &ready, sizeof(ready), NULL, 0) < 0 ||
            message_receive(TASK_CONTROL_FD, &go, sizeof(go), work, ELEMENTSOF(work)) < 0)
                _exit(EXIT_SUCCESS); /* not wanted any more, or the launcher is gone */
        if (go.op != ZYGOTE_GO || work[0] < 0 || work[1] < 0)
                _exit(EX_PROTOCOL);
        if (python_run(&go, work[0], work[1], &message, &memfd) < 0)
                _exit(EX_SOFTWARE);
        send_result(&message, memfd);
        _exit(EXIT_SUCCESS);
}
