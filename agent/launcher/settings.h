/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

#include "launcher-protocol.h"

/* What clupy-policyc has left for the launcher, or built-in defaults. */

/* Fills in the defaults. */
void settings_default(LauncherSettings *ret);

enum {
        BUILDS_MAX = 4,                   /* that run at one time */
        UIDS_FOR_BUILDS = 2 * BUILDS_MAX, /* the last ones of the range */
};

/* The number of uids of each zygote. */
uint32_t settings_zygote_uids(const LauncherSettings *settings);

/* Are all figures within their bounds? Returns 0, -EINVAL. */
int settings_check(const LauncherSettings *settings);

/* Reads a file that must be root's and writable for nobody else. Returns 0, -ENOENT, -EPERM (owner or mode),
 * -EBADMSG (size, magic, version), -EINVAL, -errno. */
int settings_read(const char *path, LauncherSettings *ret);

/* Reads a whole file that must be a regular one, root's, and writable for nobody else. Returns the size,
 * -EPERM, -EFBIG, -errno. */
int trusted_file_read(const char *path, void *buffer, size_t size);
