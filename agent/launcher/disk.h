/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <sys/types.h>

#include "launcher-protocol.h"

/* The file systems that are a sandbox's own. */

#define DISK_TMP "/tmp"
#define DISK_SHM "/dev/shm"

/* What its init sees of one of them; place: DISK_TMP or DISK_SHM. The init must not have been reaped, so
 * that its pid is its own. Returns 0, -EINVAL for another place, -ENOTSUP where it is not a tmpfs, -errno.
 */
int disk_read(pid_t init, const char *place, LauncherDisk *ret);

/* Both of them; what cannot be read has limit 0. */
void disk_read_all(pid_t init, LauncherDisk *ret_tmp, LauncherDisk *ret_shm);
