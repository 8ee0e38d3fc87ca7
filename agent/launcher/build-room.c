/* SPDX-License-Identifier: Apache-2.0 */
#include "build-room.h"

#include <errno.h>
#include <sys/statvfs.h>

#include "macros.h"

#define RESERVE_MAX GIB(1)   /* bytes that stay free for others, or 2 % of a smaller disk */
#define RESERVE_FILES 100000 /* inodes likewise */
#define OTHERS_MAX GIB(1)    /* bytes that journals and the like may grow by meanwhile */

int disk_room_read(int fd, DiskRoom *ret) {
        struct statvfs s;

        if (fstatvfs(fd, &s) < 0)
                return -errno;
        *ret = (DiskRoom){
                .bytes = (uint64_t) s.f_bavail * s.f_frsize,
                .size = (uint64_t) s.f_blocks * s.f_frsize,
                .files = s.f_favail,
                .files_size = s.f_files,
        };
        return 0;
}

bool disk_room_is_short(const DiskRoom *room) {
        return room->bytes < MIN(room->size / 50, (uint64_t) RESERVE_MAX) ||
               room->files < MIN(room->files_size / 50, (uint64_t) RESERVE_FILES);
}

bool disk_room_is_overdrawn(const DiskRoom *before, const DiskRoom *now, uint64_t disk_max,
                            unsigned builds) {
        uint64_t allowed;

        if (now->bytes >= before->bytes || __builtin_mul_overflow(disk_max, (uint64_t) builds, &allowed) ||
            __builtin_add_overflow(allowed, (uint64_t) OTHERS_MAX, &allowed))
                return false;
        return before->bytes - now->bytes > allowed;
}
