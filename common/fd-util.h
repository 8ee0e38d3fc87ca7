/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <errno.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "macros.h"
#include "memory-util.h"

/* Closes fd when it is ≥ 0; errno is kept. Returns -EBADF: `fd = close_fd(fd)`. */
int close_fd(int fd);

/* _cleanup_(close_fdp) int fd = -EBADF; */
static inline void close_fdp(int *fd) {
        close_fd(*fd);
}

void close_many(int *fds, size_t n);

/* Returns 0, -errno. */
int fd_set_nonblock(int fd, bool nonblock);
int fd_set_cloexec(int fd, bool cloexec);

/* Writes everything to a blocking fd. Returns 0, -errno. */
int fd_write_all(int fd, const void *data, size_t size);

/* Reads until `size` bytes or the end. Returns the number of bytes, -errno. */
ssize_t fd_read_full(int fd, void *buffer, size_t size);

/* The whole of a file as a NUL-terminated buffer. Returns 0, -EFBIG when it is over `max` bytes, -errno. */
int read_file_full(const char *path, size_t max, char **ret_contents, size_t *ret_size);
int read_fd_full(int fd, size_t max, char **ret_contents, size_t *ret_size);

enum { FD_PASS_MAX = 253 }; /* the kernel's SCM_MAX_FD */

/* Sends one SEQPACKET (or STREAM) message with up to FD_PASS_MAX fds, which stay the caller's. MSG_NOSIGNAL
 * and MSG_DONTWAIT. Returns 0, -EAGAIN when the socket is full, -EPIPE/-ECONNRESET when the peer is gone,
 * -EINVAL for too many fds, -EMSGSIZE, -errno. */
int fd_send_with_fds(int socket, const void *data, size_t size, const int *fds, size_t n_fds);
int fd_sendv_with_fds(int socket, const struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds);

/* Receives one message of up to `size` bytes with up to `max_fds` fds (CLOEXEC). MSG_DONTWAIT: waiting is
 * the event loop's affair.
 *
 * Returns the number of bytes and fills fds/ret_n_fds. Returns -EAGAIN when nothing is there, -ECONNRESET at
 * the end of the stream (a SEQPACKET message of no bytes looks the same), -EMSGSIZE when the message or its
 * fds were more than fit, -errno. On every error all fds that came with the message are closed; none leaks,
 * not surplus ones either. */
ssize_t fd_receive_with_fds(int socket, void *buffer, size_t size, int *fds, size_t max_fds,
                            size_t *ret_n_fds);

/* A CLOEXEC memfd that allows sealing. Returns the fd, -errno. */
int memfd_new(const char *name);
/* Seals size, contents and the seals themselves. Returns 0, -EBUSY while it is mapped writable, -errno. */
int memfd_seal(int fd);
/* A sealed memfd with that content, offset 0. Returns the fd, -errno. */
int memfd_new_sealed(const char *name, const void *data, size_t size);
/* Returns 0 when fd is a memfd sealed against shrinking, growing and writing; -EPERM when it is not; -errno.
 */
int memfd_check_sealed(int fd, uint64_t *ret_size);
