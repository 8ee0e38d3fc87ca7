/* SPDX-License-Identifier: Apache-2.0 */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/vfs.h>

#include "fd-util.h"
#include "macros.h"

int disk_read(pid_t init, const char *place, LauncherDisk *ret) {
        struct statfs s;
        char path[64];

        if (!streq(place, DISK_TMP) && !streq(place, DISK_SHM))
                return -EINVAL;
        /* Both are mount points upon a root that the task cannot write to: no link of its own is on the way.
         */
        (void) snprintf(path, sizeof(path), "/proc/%d/root%s", (int) init, place);
        _cleanup_(close_fdp) int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstatfs(fd, &s) < 0)
                return -errno;
        if (s.f_type != TMPFS_MAGIC)
                return -ENOTSUP;
        *ret = (LauncherDisk){
                .limit = (uint64_t) s.f_blocks * (uint64_t) s.f_bsize,
                .used = (uint64_t) (s.f_blocks - s.f_bfree) * (uint64_t) s.f_bsize,
                .files_limit = (uint64_t) s.f_files,
                .files_used = (uint64_t) (s.f_files - s.f_ffree),
        };
        return 0;
}

void disk_read_all(pid_t init, LauncherDisk *ret_tmp, LauncherDisk *ret_shm) {
        if (disk_read(init, DISK_TMP, ret_tmp) < 0)
                *ret_tmp = (LauncherDisk){ 0 };
        if (disk_read(init, DISK_SHM, ret_shm) < 0)
                *ret_shm = (LauncherDisk){ 0 };
}
