/* SPDX-License-Identifier: Apache-2.0 */
#include "build-tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fd-util.h"
#include "macros.h"

#define OWN_PREFIX ".clupy-" /* of files that only the launcher writes */

static void closedirp(DIR **directory) {
        if (*directory)
                (void) closedir(*directory);
}

static bool is_dot(const char *name) {
        return streq(name, ".") || streq(name, "..");
}

/* The folder by that name, not one that a link leads to. */
static int folder_open(int folder, const char *name) {
        int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);

        if (fd < 0 && errno == EPERM) /* it is another user's */
                fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static int listing_open(int folder, DIR **ret) {
        int fd = folder_open(folder, ".");

        if (fd < 0)
                return fd;
        DIR *listing = fdopendir(fd);
        if (!listing) {
                close_fd(fd);
                return -ENOMEM;
        }
        *ret = listing;
        return 0;
}

static int measure(int folder, const TreeFigures *limits, TreeFigures *figures, unsigned depth) {
        _cleanup_(closedirp) DIR *listing = NULL;
        struct stat st;
        int r;

        if (depth > TREE_DEPTH_MAX)
                return -ELOOP;
        r = listing_open(folder, &listing);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        for (struct dirent *entry; (entry = readdir(listing));) {
                if (is_dot(entry->d_name) || fstatat(folder, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        continue; /* gone meanwhile */
                figures->bytes += (uint64_t) st.st_blocks * 512;
                figures->files++;
                if (figures->bytes > limits->bytes || figures->files > limits->files)
                        return -EDQUOT;
                if (!S_ISDIR(st.st_mode))
                        continue;
                _cleanup_(close_fdp) int child = folder_open(folder, entry->d_name);
                r = child < 0 ? 0 : measure(child, limits, figures, depth + 1);
                if (r < 0)
                        return r;
        }
        return 0;
}

int tree_measure(int folder, const TreeFigures *limits, TreeFigures *figures) {
        return measure(folder, limits, figures, 1);
}

/* ---- finishing */

/* A file with several names. */
typedef struct Linked {
        ino_t inode;
        nlink_t links;
        char name[NAME_MAX + 1]; /* of them */
} Linked;

typedef struct Finish {
        TreeFigures *figures;
        char *what;
        Linked *linked;
        size_t n_linked, capacity;
} Finish;

static int finish_refuse(Finish *finish, const char *name) {
        (void) snprintf(finish->what, NAME_MAX + 1, "%s", name);
        return -EPERM;
}

static void drop_access_lists(int fd) {
        (void) fremovexattr(fd, "system.posix_acl_access");
        (void) fremovexattr(fd, "system.posix_acl_default");
}

static int finish_file(Finish *finish, int folder, const char *name, const struct stat *st) {
        if (st->st_nlink > 1) {
                if (array_reserve(&finish->linked, &finish->capacity, finish->n_linked + 1,
                                  sizeof(*finish->linked)) < 0)
                        return -ENOMEM;
                Linked *linked = finish->linked + finish->n_linked++;
                *linked = (Linked){ .inode = st->st_ino, .links = st->st_nlink };
                (void) snprintf(linked->name, sizeof(linked->name), "%s", name);
        }
        _cleanup_(close_fdp) int fd =
                openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        /* First root's: who changes the mode has to be the owner. */
        if (fd < 0 || fchown(fd, 0, 0) < 0)
                return -errno;
        drop_access_lists(fd);
        return fchmod(fd, st->st_mode & 0100 ? 0555 : 0444) < 0 ? -errno : 0;
}

static int finish_folder(Finish *finish, int folder, unsigned depth) {
        _cleanup_(closedirp) DIR *listing = NULL;
        struct stat st;
        int r;

        if (depth > TREE_DEPTH_MAX)
                return -ELOOP;
        if (fchown(folder, 0, 0) < 0)
                return -errno;
        drop_access_lists(folder);
        if (fchmod(folder, 0755) < 0)
                return -errno;
        r = listing_open(folder, &listing);
        if (r < 0)
                return r;
        for (struct dirent *entry; (entry = readdir(listing));) {
                const char *name = entry->d_name;
                if (is_dot(name))
                        continue;
                if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        return -errno;
                finish->figures->bytes += (uint64_t) st.st_blocks * 512;
                finish->figures->files++;
                if (depth == 1 && startswith(name, OWN_PREFIX))
                        return finish_refuse(finish, name);
                if (S_ISREG(st.st_mode))
                        r = finish_file(finish, folder, name, &st);
                else if (S_ISLNK(st.st_mode))
                        r = fchownat(folder, name, 0, 0, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
                else if (S_ISDIR(st.st_mode)) {
                        _cleanup_(close_fdp) int child = folder_open(folder, name);
                        r = child < 0 ? child : finish_folder(finish, child, depth + 1);
                } else
                        r = finish_refuse(finish, name);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int compare_linked(const void *left, const void *right) {
        const Linked *a = left, *b = right;

        return (a->inode > b->inode) - (a->inode < b->inode);
}

/* Were all names of each file met? */
static int check_links(Finish *finish) {
        if (finish->n_linked == 0)
                return 0;
        qsort(finish->linked, finish->n_linked, sizeof(*finish->linked), compare_linked);
        for (size_t i = 0, n; i < finish->n_linked; i += n) {
                const Linked *first = finish->linked + i;
                for (n = 1; i + n < finish->n_linked && first[n].inode == first->inode;)
                        n++;
                if (n != first->links)
                        return finish_refuse(finish, first->name);
        }
        return 0;
}

int tree_finish(int folder, TreeFigures *figures, char ret_what[static NAME_MAX + 1]) {
        Finish finish = { .figures = figures, .what = ret_what };
        int r = finish_folder(&finish, folder, 1);

        if (r >= 0)
                r = check_links(&finish);
        free(finish.linked);
        return r;
}

/* ---- removing */

typedef struct Removal {
        int top;
        uint64_t n_moved;
} Removal;

static int remove_in(Removal *removal, int folder, unsigned depth);

static int remove_entry(Removal *removal, int folder, const char *name, unsigned depth) {
        char moved[64];
        int r;

        if (unlinkat(folder, name, 0) == 0 || errno == ENOENT)
                return 0;
        if (errno != EISDIR && errno != EPERM)
                return -errno;
        if (depth > TREE_DEPTH_MAX) { /* its turn comes when the rest is gone */
                do
                        (void) snprintf(moved, sizeof(moved), "deep-%" PRIu64, ++removal->n_moved);
                while ((r = renameat2(folder, name, removal->top, moved, RENAME_NOREPLACE)) < 0 &&
                       errno == EEXIST);
                return r < 0 ? -errno : 1;
        }
        _cleanup_(close_fdp) int child = folder_open(folder, name);
        if (child < 0)
                return child;
        if (fchown(child, 0, 0) < 0) /* in a sticky folder only its owner may remove */
                return -errno;
        r = remove_in(removal, child, depth + 1);
        if (r < 0)
                return r;
        return unlinkat(folder, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : r;
}

/* Returns 1 when something was moved up, which is to be removed yet. */
static int remove_in(Removal *removal, int folder, unsigned depth) {
        _cleanup_(closedirp) DIR *listing = NULL;
        int moved = 0, r = listing_open(folder, &listing);

        if (r < 0 || !listing)
                return r;
        for (struct dirent *entry; (entry = readdir(listing));) {
                if (is_dot(entry->d_name))
                        continue;
                r = remove_entry(removal, folder, entry->d_name, depth);
                if (r < 0)
                        return r;
                moved |= r;
        }
        return moved;
}

int tree_remove(int folder, const char *name) {
        Removal removal = {};
        int r;

        if (unlinkat(folder, name, 0) == 0 || errno == ENOENT)
                return 0;
        _cleanup_(close_fdp) int top = folder_open(folder, name);
        if (top < 0)
                return top;
        removal.top = top;
        if (fchown(top, 0, 0) < 0)
                return -errno;
        do
                r = remove_in(&removal, top, 1);
        while (r > 0);
        if (r < 0)
                return r;
        return unlinkat(folder, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}
