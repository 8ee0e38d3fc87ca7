/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fd-util.h"
#include "sandbox-switch.h"
#include "sandbox.h"

#define WORK_FOLDER "/tmp/work" /* an attempt's working directory */

static int mounts_make(const ZygoteRequest *request) {
        char options[96];

        if (SANDBOX_IS_OFF) /* the node's own */
                return mkdir(WORK_FOLDER, 0755) < 0 && errno != EEXIST ? -errno : 0;
        (void) snprintf(options, sizeof(options), "size=%" PRIu64 ",nr_inodes=100000,mode=1777",
                        request->tmp_max);
        if (request->flags & ZYGOTE_FLAG_DEVICES) {
                int r = devices_mount(0);
                if (r < 0)
                        return r;
        }
        if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options) < 0 ||
            mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, options) < 0 ||
            mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
                return -errno;
        if (mkdir(WORK_FOLDER, 0700) < 0 || chown(WORK_FOLDER, request->uid, request->uid) < 0)
                return -errno;
        return 0;
}

/* Kills and waits for all that is left. The kernel would do the first too when this process is killed, but
 * then without waiting: CPU time and bytes of living orphans would be in nobody's account. */
_noreturn_ static void end_all(void) {
        if (!SANDBOX_IS_OFF)
                (void) kill(-1, SIGKILL);
        while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR)
                ;
        _exit(0);
}

/* PID 1 of an attempt: mounts what is its own, reaps orphans, keeps the cgroup alive until its figures are
 * read. Its exit status, when it is not 0, is the errno of what failed. */
void init_main(int socket, const ZygoteRequest *request, bool host_network) {
        const ZygoteReply ready = { .op = ZYGOTE_READY, .slot = request->slot };
        struct signalfd_siginfo information;
        sigset_t set;
        int r;

        sandbox_title_set("clupy-init");
        r = fds_arrange(0, &socket, 1);
        /* A mapped uid first: files of others on the new file systems would be refused (EOVERFLOW). */
        if (r >= 0 && (prctl(PR_SET_KEEPCAPS, 1) < 0 || (r = identity_set(0)) < 0))
                r = r < 0 ? r : -errno;
        if (r >= 0)
                r = capabilities_raise();
        if (r >= 0)
                r = mounts_make(request);
        if (r >= 0 && !host_network && !SANDBOX_IS_OFF)
                r = loopback_up();
        if (r >= 0)
                r = capabilities_set(CAPABILITY_BIT(CAP_KILL));
        if (r >= 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                r = -errno;
        if (r >= 0)
                r = die_with_launcher(0);
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGCHLD);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        int signals = r < 0 ? r : signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (r >= 0 && signals < 0)
                r = -errno;
        if (r >= 0)
                r = message_send(0, &ready, sizeof(ready), NULL, 0);
        if (r < 0)
                _exit(-r);

        for (;;) {
                struct pollfd p[] = { { .fd = 0, .events = POLLIN }, { .fd = signals, .events = POLLIN } };

                if (poll(p, ELEMENTSOF(p), -1) < 0 && errno != EINTR)
                        end_all();
                while (read(signals, &information, sizeof(information)) > 0)
                        ;
                while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
                        ;
                if (p[0].revents) /* the launcher has closed it: the attempt is over */
                        end_all();
        }
}
