/* SPDX-License-Identifier: Apache-2.0 */
#include "build-stage.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpf-list.h"
#include "build-config.h"
#include "fd-util.h"
#include "pythons.h"
#include "sandbox.h"
#include "text-file.h"

#define BUILDER CLUPY_PYTHON_DIR "/clupy/_build.py"

enum {
        INDEX_BACKLOG = 128,
        FILES_SOFT = 1024,
        FILES_MAX = 65536, /* open ones */
};

/* Says what failed and ends, and with it all that there is of the sandbox. */
_noreturn_ static void fail(int socket, int error, const char *what) {
        BuildInitMessage message = { .op = BUILD_INIT_FAILED, .error = error };

        (void) snprintf(message.what, sizeof(message.what), "%s", what);
        (void) message_send(socket, &message, sizeof(message), NULL, 0);
        _exit(EXIT_FAILURE);
}

static void check(int socket, int r, const char *what) {
        if (r < 0)
                fail(socket, r, what);
}

static int show(const BuildRequest *request, const Python *python, const char **ret_what) {
        char folder[sizeof(BUILDING_FOLDER) + BUILD_FOLDER_MAX + 8], temporary[sizeof(folder)],
                target[sizeof(ENVIRONMENT_FOLDER) + ENVIRONMENT_NAME_MAX + 1];

        (void) snprintf(folder, sizeof(folder), BUILDING_FOLDER "/%s/env", request->folder);
        (void) snprintf(temporary, sizeof(temporary), BUILDING_FOLDER "/%s/tmp", request->folder);
        (void) snprintf(target, sizeof(target), ENVIRONMENT_FOLDER "/%s", request->environment);
        /* What is installed knows its place, so it is made where it will be. */
        const ViewMount mounts[] = {
                { .source = python->prefix, .target = python->prefix },
                { .source = folder, .target = target, .writable = true },
                { .source = temporary, .target = "/tmp", .writable = true },
        };
        int r = view_make(mounts, ELEMENTSOF(mounts), ret_what);
        if (r < 0)
                return r;
        *ret_what = "proc";
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ||
            mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV,
                  "size=256m,nr_inodes=10000,mode=1777") < 0)
                return -errno;
        return 0;
}

/* A uid that is not mapped inside, so that the builder can neither signal nor trace this process; it owns
 * the user namespace, and that the network, in which there is nothing but lo. */
static int leave_root(const BuildSandbox *sandbox) {
        BuildInitMessage message = { .op = BUILD_INIT_UNSHARED };
        int r;

        if (prctl(PR_SET_KEEPCAPS, 1) < 0)
                return -errno;
        r = identity_set(sandbox->request->init_uid);
        if (r >= 0)
                r = capabilities_raise();
        if (r >= 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) < 0)
                r = -errno;
        if (r >= 0)
                r = message_send(sandbox->socket, &message, sizeof(message), NULL, 0);
        return r < 0 ? r : message_receive(sandbox->socket, &message, sizeof(message), NULL, 0);
}

static int index_listen(void) {
        const struct sockaddr_in address = {
                .sin_family = AF_INET,
                .sin_port = htons(BUILD_INDEX_PORT),
                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        };
        _cleanup_(close_fdp) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0 || bind(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ||
            listen(fd, INDEX_BACKLOG) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int filter_install(int fd) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        const size_t size = (size_t) st.st_size;
        const void *program = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (program == MAP_FAILED)
                return -errno;
        int r = bpf_install(program, (unsigned short) (size / sizeof(struct sock_filter)), 0);
        (void) munmap((void *) program, size);
        return r;
}

static int limits_set(const BuildRequest *request) {
        const struct rlimit none = {}, size = { request->disk_max, request->disk_max };
        struct rlimit files;

        if (getrlimit(RLIMIT_NOFILE, &files) < 0)
                return -errno;
        files.rlim_max = MIN(files.rlim_max, (rlim_t) FILES_MAX);
        files.rlim_cur = MIN(files.rlim_max, (rlim_t) FILES_SOFT);
        if (setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_FSIZE, &size) < 0 ||
            setrlimit(RLIMIT_NOFILE, &files) < 0)
                return -errno;
        return text_file_write("1000", "/proc/self/oom_score_adj");
}

/* From the execve(2) on this is what strangers make of it. */
_noreturn_ static void builder_exec(const BuildSandbox *sandbox, const Python *python) {
        char *const arguments[] = { (char *) python->interpreter, (char *) "-I", (char *) "-B",
                                    (char *) BUILDER, NULL };
        char *const variables[] = { (char *) "PATH=/usr/local/bin:/usr/bin:/bin", (char *) "LC_ALL=C.UTF-8",
                                    (char *) "HOME=/tmp", (char *) "TMPDIR=/tmp", NULL };
        const int socket = sandbox->socket;
        int kept[] = { open("/dev/null", O_RDONLY | O_CLOEXEC), sandbox->log, sandbox->log, sandbox->order,
                       sandbox->report };

        check(socket, kept[0] < 0 ? -errno : 0, "/dev/null");
        check(socket, identity_set(BUILD_USER_INSIDE), "uid");
        /* Its files in /proc are root's otherwise. There is nobody yet who could look into it. */
        check(socket, prctl(PR_SET_DUMPABLE, 1) < 0 ? -errno : 0, "dumpable");
        check(socket, limits_set(sandbox->request), "limits");
        check(socket, capabilities_bound(0), "bounding set");
        check(socket, capabilities_set(0), "capabilities");
        check(socket, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0, "no_new_privs");
        check(socket, setsid() < 0 || chdir("/tmp") < 0 ? -errno : 0, "working folder");
        (void) umask(022);
        /* What a policy would have a task die for is ENOSYS here: nobody listens. */
        check(socket, bpf_floor_install(), "floor filter");
        check(socket, bpf_build_install(), "filter of builds");
        check(socket, filter_install(sandbox->outer), "outer filter");
        check(socket, filter_install(sandbox->final), "final filter");
        if (fds_arrange(STDIN_FILENO, kept, ELEMENTSOF(kept)) < 0)
                _exit(EXIT_FAILURE);
        (void) execve(python->interpreter, arguments, variables);
        _exit(127);
}

static void wait_for_builder(pid_t builder, siginfo_t *ret) {
        for (;;) {
                *ret = (siginfo_t){};
                if (waitid(P_ALL, 0, ret, WEXITED | __WALL) < 0) {
                        if (errno == EINTR)
                                continue;
                        return;
                }
                if (ret->si_pid == builder)
                        return;
        }
}

void build_init_main(const BuildSandbox *sandbox) {
        const int socket = sandbox->socket;
        const Python *python = python_find(sandbox->request->python);
        BuildInitMessage message = { .op = BUILD_INIT_RUNS };
        _cleanup_(close_fdp) int index = -EBADF;
        const char *what = "Python";
        siginfo_t end;

        sandbox_title_set("clupy-init");
        check(socket, python ? show(sandbox->request, python, &what) : -ENOENT, what);
        check(socket, leave_root(sandbox), "user namespace");
        check(socket, die_with_launcher(socket), "parent");
        check(socket, loopback_up(), "lo");
        if (sandbox->request->flags & BUILD_FLAG_INDEX) {
                index = index_listen();
                check(socket, index, "socket for the index");
        }
        pid_t builder = fork();
        if (builder == 0)
                builder_exec(sandbox, python);
        check(socket, builder < 0 ? -errno : 0, "builder");
        check(socket, capabilities_set(0), "capabilities");
        check(socket, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0, "no_new_privs");
        check(socket, message_send(socket, &message, sizeof(message), &index, index >= 0 ? 1 : 0),
              "stage's socket");
        int kept[] = { socket };
        if (fds_arrange(0, kept, ELEMENTSOF(kept)) < 0)
                _exit(EXIT_FAILURE);

        wait_for_builder(builder, &end);
        message = (BuildInitMessage){ .op = BUILD_INIT_ENDED, .code = end.si_code, .status = end.si_status };
        (void) message_send(0, &message, sizeof(message), NULL, 0);
        _exit(EXIT_SUCCESS);
}
