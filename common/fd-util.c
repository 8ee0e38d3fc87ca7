/* SPDX-License-Identifier: Apache-2.0 */
#include "fd-util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int close_fd(int fd) {
        if (fd >= 0) {
                int saved = errno;

                (void) close(fd);
                errno = saved;
        }
        return -EBADF;
}

void close_many(int *fds, size_t n) {
        for (size_t i = 0; i < n; i++)
                fds[i] = close_fd(fds[i]);
}

static int fd_change_flag(int fd, int get, int set, int flag, bool on) {
        int flags = fcntl(fd, get);

        if (flags < 0)
                return -errno;
        if (!!(flags & flag) == on)
                return 0;
        return fcntl(fd, set, on ? flags | flag : flags & ~flag) < 0 ? -errno : 0;
}

int fd_set_nonblock(int fd, bool nonblock) {
        return fd_change_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, nonblock);
}

int fd_set_cloexec(int fd, bool cloexec) {
        return fd_change_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, cloexec);
}

int fd_write_all(int fd, const void *data, size_t size) {
        const uint8_t *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (n == 0)
                        return -EIO;
                p += n;
                size -= (size_t) n;
        }
        return 0;
}

ssize_t fd_read_full(int fd, void *buffer, size_t size) {
        size_t filled = 0;

        while (filled < size) {
                ssize_t n = read(fd, (uint8_t *) buffer + filled, size - filled);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (n == 0)
                        break;
                filled += (size_t) n;
        }
        return (ssize_t) filled;
}

int read_fd_full(int fd, size_t max, char **ret_contents, size_t *ret_size) {
        _cleanup_(freep) char *contents = NULL;
        size_t capacity = 0, size = 0;

        /* Files in /proc and pipes have no size that could be asked for: grow. One byte more than the bound
         * tells that it is over it. */
        for (;;) {
                ssize_t n;

                if (ARRAY_RESERVE(contents, capacity, MIN(size + 4096, max + 2)) < 0)
                        return -ENOMEM;
                n = fd_read_full(fd, contents + size, MIN(capacity - 1, max + 1) - size);
                if (n < 0)
                        return (int) n;
                if (n == 0)
                        break;
                size += (size_t) n;
                if (size > max)
                        return -EFBIG;
        }
        contents[size] = '\0';
        *ret_contents = TAKE_PTR(contents);
        if (ret_size)
                *ret_size = size;
        return 0;
}

int read_file_full(const char *path, size_t max, char **ret_contents, size_t *ret_size) {
        _cleanup_(close_fdp) int fd = -EBADF;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return -errno;
        return read_fd_full(fd, max, ret_contents, ret_size);
}

int fd_sendv_with_fds(int socket, const struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds) {
        /* struct cmsghdr inside gives the alignment; uninitialised beyond what is used. */
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(sizeof(int) * FD_PASS_MAX)];
        } control;
        struct msghdr message = { .msg_iov = (struct iovec *) iov, .msg_iovlen = n_iov };
        size_t size = 0;
        ssize_t n;

        if (n_fds > FD_PASS_MAX)
                return -EINVAL;
        if (n_fds > 0) {
                memset(&control, 0, CMSG_SPACE(sizeof(int) * n_fds));
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n_fds);
                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        }
        for (size_t i = 0; i < n_iov; i++)
                size += iov[i].iov_len;
        do
                n = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EWOULDBLOCK ? -EAGAIN : -errno;
        return (size_t) n == size ? 0 : -EMSGSIZE;
}

int fd_send_with_fds(int socket, const void *data, size_t size, const int *fds, size_t n_fds) {
        struct iovec iov = { .iov_base = (void *) data, .iov_len = size };

        return fd_sendv_with_fds(socket, &iov, 1, fds, n_fds);
}

ssize_t fd_receive_with_fds(int socket, void *buffer, size_t size, int *fds, size_t max_fds,
                            size_t *ret_n_fds) {
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(sizeof(int) * FD_PASS_MAX)];
        } control;
        struct iovec iov = { .iov_base = buffer, .iov_len = size };
        struct msghdr message = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        bool overflow;
        size_t taken = 0;
        ssize_t n;

        do
                n = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EWOULDBLOCK ? -EAGAIN : -errno;

        overflow = message.msg_flags & (MSG_TRUNC | MSG_CTRUNC);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
                size_t n_fds;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n_fds; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (taken < max_fds) {
                                fds[taken++] = fd;
                                continue;
                        }
                        close_fd(fd);
                        overflow = true;
                }
        }
        if (overflow || n == 0) {
                close_many(fds, taken);
                return overflow ? -EMSGSIZE : -ECONNRESET;
        }
        if (ret_n_fds)
                *ret_n_fds = taken;
        return n;
}

int memfd_new(const char *name) {
        int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

        return fd < 0 ? -errno : fd;
}

int memfd_seal(int fd) {
        return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0 ? -errno
                                                                                                    : 0;
}

int memfd_new_sealed(const char *name, const void *data, size_t size) {
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        fd = memfd_new(name);
        if (fd < 0)
                return fd;
        r = fd_write_all(fd, data, size);
        if (r < 0)
                return r;
        r = memfd_seal(fd);
        if (r < 0)
                return r;
        if (lseek(fd, 0, SEEK_SET) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int memfd_check_sealed(int fd, uint64_t *ret_size) {
        const int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
        struct stat st;
        int seals;

        seals = fcntl(fd, F_GET_SEALS);
        if (seals < 0)
                return errno == EINVAL ? -EPERM : -errno;
        if ((seals & wanted) != wanted)
                return -EPERM;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (ret_size)
                *ret_size = (uint64_t) st.st_size;
        return 0;
}
