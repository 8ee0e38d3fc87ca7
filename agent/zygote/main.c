/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fd-util.h"
#include "message-socket.h"
#include "zygote-python.h"

/* A warm Python that forks tasks. It is started by trusted code that has taken away all but four
 * capabilities and has installed the outer filter, and from its first import on it is what a stranger makes
 * of it: the launcher believes nothing it says. */

enum { REQUEST_FDS = 6, TCB_WORDS = 1024 };

static int *tid_address; /* where libc keeps this thread's id */
static void *robust_list;
static size_t robust_list_size;

/* The kernel was told at the thread's start. Kernels without CHECKPOINT_RESTORE do not tell it again; then
 * it is looked for. */
static int find_tid(void) {
        const pid_t tid = (pid_t) syscall(SYS_gettid);
        int *address = NULL;

        if (prctl(PR_GET_TID_ADDRESS, &address) < 0) {
                int *words = (int *) pthread_self();
                for (size_t i = 0; i < TCB_WORDS && !address; i++)
                        if (words[i] == tid)
                                address = &words[i];
        }
        if (!address || *address != tid)
                return -ENOTSUP;
        tid_address = address;
        return syscall(SYS_get_robust_list, 0, &robust_list, &robust_list_size) < 0 ? -errno : 0;
}

static unsigned count_threads(void) {
        unsigned n = 0;
        DIR *directory = opendir("/proc/self/task");

        if (!directory)
                return 0;
        for (struct dirent *entry; (entry = readdir(directory));)
                n += entry->d_name[0] != '.';
        (void) closedir(directory);
        return n;
}

/* fork(2), but as the launcher's child, and with libc's idea of the thread's id and its robust list renewed,
 * which fork() does and clone(2) does not. Returns 0 in the child, the pid, -errno. */
static pid_t fork_for_launcher(int *ret_pidfd) {
        const unsigned long flags =
                CLONE_PARENT | CLONE_PIDFD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
        int pidfd = -EBADF;
        long pid = syscall(SYS_clone, flags, NULL, &pidfd, tid_address, 0);

        if (pid < 0)
                return -errno;
        if (pid == 0)
                (void) syscall(SYS_set_robust_list, robust_list, robust_list_size);
        else
                *ret_pidfd = pidfd;
        return (pid_t) pid;
}

static int make_task(const ZygoteRequest *request, int *fds, int own_pid_namespace, int *ret_pidfd) {
        if (setns(fds[0], CLONE_NEWPID) < 0)
                return -errno;
        python_before_fork();
        pid_t pid = fork_for_launcher(ret_pidfd); /* ENOMEM: that namespace's init is dead already */
        if (pid == 0)
                task_main(request, fds, ZYGOTE_FILTER_FD);
        python_after_fork_parent();
        if (setns(own_pid_namespace, CLONE_NEWPID) < 0) {
                perror("clupy-zygote: cannot come back to its PID namespace");
                _exit(EXIT_FAILURE);
        }
        return pid < 0 ? (int) pid : 0;
}

static int serve(int own_pid_namespace) {
        for (;;) {
                ZygoteRequest request;
                int fds[REQUEST_FDS], pidfd = -EBADF;
                int r = message_receive(ZYGOTE_CONTROL_FD, &request, sizeof(request), fds, ELEMENTSOF(fds));

                if (r < 0)
                        return r == -ECONNRESET ? 0 : r;
                ZygoteReply reply = { .op = ZYGOTE_MADE, .slot = request.slot };
                if (request.op != ZYGOTE_MAKE || fds[REQUEST_FDS - 1] < 0)
                        reply.error = -EBADMSG;
                else
                        reply.error = make_task(&request, fds, own_pid_namespace, &pidfd);
                close_many(fds, ELEMENTSOF(fds));
                r = message_send(ZYGOTE_CONTROL_FD, &reply, sizeof(reply), &pidfd, pidfd >= 0 ? 1 : 0);
                close_fd(pidfd);
                if (r < 0)
                        return r;
        }
}

int main(int argc, char *argv[]) {
        const ZygoteReply ready = { .op = ZYGOTE_READY };
        struct pollfd launcher = { .fd = ZYGOTE_CONTROL_FD };

        (void) unsetenv("LD_BIND_NOW"); /* was for this process alone */
        /* What really guards is the anchor: when that ends, all do. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || poll(&launcher, 1, 0) < 0 ||
            (launcher.revents & (POLLNVAL | POLLHUP | POLLERR)))
                return EXIT_FAILURE;
        int own_pid_namespace = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
        if (own_pid_namespace < 0 || fd_set_cloexec(ZYGOTE_CONTROL_FD, true) < 0 ||
            fd_set_cloexec(ZYGOTE_FILTER_FD, true) < 0) {
                perror("clupy-zygote");
                return EXIT_FAILURE;
        }
        if (find_tid() < 0) {
                (void) fprintf(stderr, "clupy-zygote: libc's thread id is not found\n");
                return EXIT_FAILURE;
        }
        python_start(argc == 2 ? argv[1] : NULL);
        if (count_threads() != 1) {
                (void) fprintf(stderr, "clupy-zygote: a package has started a thread while it was imported; "
                                       "a forked task would not "
                                       "have it\n");
                return ZYGOTE_EXIT_ENVIRONMENT;
        }
        if (message_send(ZYGOTE_CONTROL_FD, &ready, sizeof(ready), NULL, 0) < 0)
                return EXIT_FAILURE;
        return serve(own_pid_namespace) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
