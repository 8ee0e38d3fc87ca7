/* SPDX-License-Identifier: Apache-2.0 */
#include "message-socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "fd-util.h"

int fds_arrange(int first, int *fds, size_t n) {
        /* Out of the way first, so that no target is still somebody's source. */
        for (size_t i = 0; i < n; i++) {
                fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, first + (int) n);
                if (fds[i] < 0)
                        return -errno;
        }
        for (size_t i = 0; i < n; i++)
                if (dup2(fds[i], first + (int) i) < 0)
                        return -errno;
        return close_range((unsigned) first + (unsigned) n, ~0U, 0) < 0 ? -errno : 0;
}

int message_receive(int socket, void *message, size_t size, int *fds, size_t n_fds) {
        struct pollfd p = { .fd = socket, .events = POLLIN };
        size_t received = 0;
        ssize_t n;

        do {
                if (poll(&p, 1, -1) < 0 && errno != EINTR)
                        return -errno;
                n = fd_receive_with_fds(socket, message, size, fds, n_fds, &received);
        } while (n == -EAGAIN);
        if (n < 0)
                return (int) n;
        for (size_t i = received; i < n_fds; i++)
                fds[i] = -EBADF;
        if ((size_t) n != size) {
                close_many(fds, received);
                return -EBADMSG;
        }
        return 0;
}

int message_send(int socket, const void *message, size_t size, const int *fds, size_t n_fds) {
        struct pollfd p = { .fd = socket, .events = POLLOUT };

        for (;;) {
                int r = fd_send_with_fds(socket, message, size, fds, n_fds);
                if (r != -EAGAIN)
                        return r;
                if (poll(&p, 1, -1) < 0 && errno != EINTR)
                        return -errno;
        }
}
