/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fd-util.h"
#include "sandbox.h"

static char *title;
static size_t title_size;

void sandbox_title_prepare(int argc, char *argv[]) {
        title = argv[0];
        title_size = (size_t) (argv[argc - 1] + strlen(argv[argc - 1]) - title);
}

void sandbox_title_set(const char *name) {
        (void) prctl(PR_SET_NAME, name);
        if (title_size < strlen(name))
                return;
        memset(title, 0, title_size);
        memcpy(title, name, strlen(name) + 1);
}

pid_t sandbox_clone(uint64_t flags, int *ret_pidfd) {
        int pidfd = -EBADF;
        long pid = syscall(SYS_clone, flags | CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, 0);

        if (pid < 0)
                return -errno;
        if (pid > 0)
                *ret_pidfd = pidfd;
        return (pid_t) pid;
}

int capabilities_set(uint64_t capabilities) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {
                { .effective = (uint32_t) capabilities, .permitted = (uint32_t) capabilities },
                { .effective = (uint32_t) (capabilities >> 32),
                  .permitted = (uint32_t) (capabilities >> 32) },
        };

        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int capabilities_raise(void) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2];

        if (syscall(SYS_capget, &header, data) < 0)
                return -errno;
        return capabilities_set(data[0].permitted | (uint64_t) data[1].permitted << 32);
}

int identity_set(uid_t id) {
        if (setgroups(0, NULL) < 0 || setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0)
                return -errno;
        return 0;
}

int loopback_up(void) {
        struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
        _cleanup_(close_fdp) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

int capabilities_bound(uint64_t kept) {
        for (int capability = 0; capability < 64; capability++)
                if (!(kept & CAPABILITY_BIT(capability)) && prctl(PR_CAPBSET_DROP, capability) < 0 &&
                    errno != EINVAL)
                        return -errno;
        return 0;
}

int die_with_launcher(int socket) {
        struct pollfd p = { .fd = socket };

        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                return -errno;
        /* getppid() tells nothing from within another PID namespace; the socket's end does. */
        if (poll(&p, 1, 0) < 0)
                return -errno;
        return p.revents & (POLLHUP | POLLERR) ? -EPIPE : 0;
}
