/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <limits.h>
#include <stdint.h>

/* What a build has written: folders that a stranger filled. Nothing here follows a symbolic link, leaves the
 * folder, or needs a capability beside CAP_CHOWN and CAP_DAC_OVERRIDE. */

enum { TREE_DEPTH_MAX = 100 }; /* folders within folders */

typedef struct TreeFigures {
        uint64_t bytes; /* that they take on the disk */
        uint64_t files; /* and folders */
} TreeFigures;

/* Adds what is below the folder, while others write there: it stops when there is more than the limits.
 * Returns 0, -EDQUOT, -ELOOP (deeper than TREE_DEPTH_MAX), -errno. */
int tree_measure(int folder, const TreeFigures *limits, TreeFigures *figures);

/* Makes it root's and read-only for everybody, when nobody writes there any more; set-id bits and access
 * lists are gone then. Adds what it takes. Returns 0; -EPERM for what must not be there, with its name in
 * *ret_what: devices, sockets, FIFOs, hard links to files elsewhere, names of the launcher's own; -ELOOP;
 * -errno. */
int tree_finish(int folder, TreeFigures *figures, char ret_what[static NAME_MAX + 1]);

/* Removes a file, or a folder and all in it, however deep. Returns 0, -errno. */
int tree_remove(int folder, const char *name);
