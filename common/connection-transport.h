/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* The seam between a connection and its socket: plaintext or TLS. One object per connection, over a
 * connected non-blocking stream socket that stays the connection's.
 *
 * Each function may return -EAGAIN after setting *ret_events to the epoll events (EPOLLIN, EPOLLOUT) whose
 * arrival makes another try worthwhile. */
typedef struct ConnectionTransport {
        const char *name;
        /* Returns 0 when the link is ready for data, -EAGAIN, -errno. Called again until it is 0. */
        int (*handshake)(void *transport, int fd, uint32_t *ret_events);
        /* Bytes read (0: the peer's orderly end), -EAGAIN, -errno. */
        ssize_t (*readv)(void *transport, int fd, const struct iovec *iov, int n_iov, uint32_t *ret_events);
        /* Bytes written, -EAGAIN, -errno. */
        ssize_t (*writev)(void *transport, int fd, const struct iovec *iov, int n_iov, uint32_t *ret_events);
        /* Says that no more will be written. Returns 0, -EAGAIN, -errno. */
        int (*shutdown)(void *transport, int fd, uint32_t *ret_events);
        /* There is something to read that no epoll event will tell of. */
        bool (*pending)(const void *transport);
        /* A sentence about the last error, as `closed` gives it on; NULL when the errno says all. */
        const char *(*why)(const void *transport);
        /* Frees the object. */
        void (*close)(void *transport);
} ConnectionTransport;

extern const ConnectionTransport CONNECTION_TRANSPORT_PLAIN; /* its object is NULL */
