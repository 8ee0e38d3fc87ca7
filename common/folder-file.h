/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Files of a folder that are there as a whole or not at all, and several that belong together. */

typedef struct FolderFile {
        const char *name; /* without '/' */
        const void *data;
        size_t size;
        mode_t mode;
        char temporary[64]; /* written by folder_write() */
        bool placed;
} FolderFile;

enum {
        FOLDER_REPLACE =
                1 << 0, /* a file of that name gives way; else it is -EEXIST and nothing is changed */
};

/* Writes all of them to temporary files, flushes them, and only then gives them their names, in their order.
 * They belong to whom the folder belongs to (as far as the caller may give them away). On failure nothing is
 * left of them; of those that replace others, some may have done so if giving names itself failed, which
 * needs no more space. Returns 0, -EEXIST, -ENOSPC, -errno; ret_name (may be NULL): which file it was. */
int folder_write(int folder, FolderFile *files, size_t n, unsigned flags, const char **ret_name);

/* One file. */
int folder_write_file(int folder, const char *name, mode_t mode, const void *data, size_t size,
                      unsigned flags);

/* The whole of a file, NUL-terminated; no symbolic link. Returns 0, -ENOENT, -EFBIG over max bytes, -errno.
 */
int folder_read_file(int folder, const char *name, size_t max, char **ret, size_t *ret_size);

/* Opens a folder, to be closed; it is made first if make is set (with mode, and its parents with 0755) and
 * it is not there. Returns the descriptor, -errno. */
int folder_open(const char *path, bool make, mode_t mode);

/* The same for a folder that is another account's. Its last component is not followed when it is a symbolic
 * link: -ELOOP. owner: a user's name, NULL: nobody else; a folder that was made by this call, and no other
 * one, is given to that user, if there is one. */
int folder_open_for(const char *path, bool make, mode_t mode, const char *owner);

/* Names in it that do not begin with '.', sorted. Returns 0, -errno. */
int folder_list(int folder, char ***ret);
