/* SPDX-License-Identifier: Apache-2.0 */
#include "connection-transport.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int plain_handshake(void *transport, int fd, uint32_t *ret_events) {
        return 0;
}

static ssize_t plain_readv(void *transport, int fd, const struct iovec *iov, int n_iov,
                           uint32_t *ret_events) {
        ssize_t n;

        do
                n = readv(fd, iov, n_iov);
        while (n < 0 && errno == EINTR);
        if (n >= 0)
                return n;
        if (errno != EAGAIN)
                return -errno;
        *ret_events = EPOLLIN;
        return -EAGAIN;
}

static ssize_t plain_writev(void *transport, int fd, const struct iovec *iov, int n_iov,
                            uint32_t *ret_events) {
        struct msghdr message = { .msg_iov = (struct iovec *) iov, .msg_iovlen = (size_t) n_iov };
        ssize_t n;

        /* Not writev(): a peer that is gone must not raise SIGPIPE, whatever the program has set up. */
        do
                n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n >= 0)
                return n;
        if (errno != EAGAIN)
                return -errno;
        *ret_events = EPOLLOUT;
        return -EAGAIN;
}

static int plain_shutdown(void *transport, int fd, uint32_t *ret_events) {
        return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

static bool plain_pending(const void *transport) {
        return false;
}

static const char *plain_why(const void *transport) {
        return NULL;
}

static void plain_close(void *transport) {
}

const ConnectionTransport CONNECTION_TRANSPORT_PLAIN = {
        .name = "plain",
        .handshake = plain_handshake,
        .readv = plain_readv,
        .writev = plain_writev,
        .shutdown = plain_shutdown,
        .pending = plain_pending,
        .why = plain_why,
        .close = plain_close,
};
