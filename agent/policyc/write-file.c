/* SPDX-License-Identifier: Apache-2.0 */
#include "write-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd-util.h"

int write_file_atomic(const char *path, mode_t mode, const void *data, size_t size) {
        _cleanup_(close_fdp) int fd = -EBADF;
        _cleanup_(freep) char *temporary = strformat("%s.tmp", path);
        int r;

        if (!temporary)
                return -ENOMEM;
        /* The folder is ours alone: a file of that name is left from a run that was cut short. */
        if (unlink(temporary) < 0 && errno != ENOENT)
                return -errno;
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        r = fd_write_all(fd, data, size);
        if (r >= 0 && fchmod(fd, mode) < 0)
                r = -errno;
        if (r >= 0 && rename(temporary, path) < 0)
                r = -errno;
        if (r < 0)
                (void) unlink(temporary);
        return r;
}
