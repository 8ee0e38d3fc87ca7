/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What is left of the file system that builds write to. Measuring a build's files by their names does not
 * see those that it has deleted and keeps open; the file system does. */
typedef struct DiskRoom {
        uint64_t bytes, size;       /* free for all but root; in all */
        uint64_t files, files_size; /* likewise inodes; 0 in all: it has no bound */
} DiskRoom;

/* fd: anything on it. Returns 0, -errno. */
int disk_room_read(int fd, DiskRoom *ret);

/* Whether others would soon find no room any more. */
bool disk_room_is_short(const DiskRoom *room);

/* Whether more of it has gone since a build began than this one and those beside it (builds: all of them)
 * may have taken, bytes each, and the rest of the node in that time. */
bool disk_room_is_overdrawn(const DiskRoom *before, const DiskRoom *now, uint64_t disk_max, unsigned builds);
