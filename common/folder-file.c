/* SPDX-License-Identifier: Apache-2.0 */
#include "folder-file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd-util.h"
#include "id.h"

static int write_temporary(int folder, const struct stat *owner, FolderFile *file) {
        _cleanup_(close_fdp) int fd = -EBADF;
        Id random;
        int r;

        r = id_random(&random);
        if (r < 0)
                return r;
        snprintf(file->temporary, sizeof(file->temporary), ".new-%s", ID_HEX(random));
        fd = openat(folder, file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
                file->temporary[0] = '\0';
                return -errno;
        }
        if (owner->st_uid != geteuid() && fchown(fd, owner->st_uid, owner->st_gid) < 0 && errno != EPERM)
                return -errno;
        r = fd_write_all(fd, file->data, file->size);
        if (r < 0)
                return r;
        return fchmod(fd, file->mode) < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int place(int folder, FolderFile *file, unsigned flags) {
        if (flags & FOLDER_REPLACE) {
                if (renameat(folder, file->temporary, folder, file->name) < 0)
                        return -errno;
                file->temporary[0] = '\0';
                return 0;
        }
        /* Unlike a rename, this never takes another file's place. */
        if (linkat(folder, file->temporary, folder, file->name, 0) < 0)
                return -errno;
        file->placed = true;
        return 0;
}

static void take_back(int folder, FolderFile *files, size_t n, bool all) {
        for (size_t i = 0; i < n; i++) {
                if (files[i].temporary[0])
                        (void) unlinkat(folder, files[i].temporary, 0);
                if (all && files[i].placed)
                        (void) unlinkat(folder, files[i].name, 0);
        }
}

int folder_write(int folder, FolderFile *files, size_t n, unsigned flags, const char **ret_name) {
        struct stat owner;
        size_t i = 0;
        int r = 0;

        if (fstat(folder, &owner) < 0)
                return -errno;
        for (i = 0; i < n; i++) {
                files[i].temporary[0] = '\0';
                files[i].placed = false;
        }
        for (i = 0; i < n && !(flags & FOLDER_REPLACE) && r >= 0; i++)
                if (faccessat(folder, files[i].name, F_OK, AT_SYMLINK_NOFOLLOW) >= 0)
                        r = -EEXIST;
        if (r >= 0)
                for (i = 0; i < n && r >= 0; i++)
                        r = write_temporary(folder, &owner, files + i);
        if (r >= 0)
                for (i = 0; i < n && r >= 0; i++)
                        r = place(folder, files + i, flags);
        if (r >= 0 && fsync(folder) < 0)
                r = -errno;
        take_back(folder, files, n, r < 0);
        if (r < 0 && ret_name && n > 0)
                *ret_name = files[i > 0 ? i - 1 : 0].name;
        return r;
}

int folder_write_file(int folder, const char *name, mode_t mode, const void *data, size_t size,
                      unsigned flags) {
        FolderFile file = { .name = name, .data = data, .size = size, .mode = mode };

        return folder_write(folder, &file, 1, flags, NULL);
}

int folder_read_file(int folder, const char *name, size_t max, char **ret, size_t *ret_size) {
        _cleanup_(close_fdp) int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

        if (fd < 0)
                return -errno;
        return read_fd_full(fd, max, ret, ret_size);
}

static int make_parents(const char *path) {
        _cleanup_(freep) char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
                *slash = '\0';
                if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        return 0;
}

static int open_or_make(const char *path, int flags, bool make, mode_t mode, bool *ret_made) {
        _cleanup_(close_fdp) int fd = -EBADF;
        struct stat st;
        int r;

        *ret_made = false;
        flags |= O_RDONLY | O_DIRECTORY | O_CLOEXEC;
        fd = open(path, flags);
        if (fd >= 0 || errno != ENOENT || !make)
                return fd < 0 ? -errno : TAKE_FD(fd);
        r = make_parents(path);
        if (r < 0)
                return r;
        r = mkdir(path, mode) < 0 ? -errno : 0;
        if (r < 0 && r != -EEXIST)
                return r;
        fd = open(path, flags);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        /* Somebody may have put another one into its place since. */
        *ret_made = r >= 0 && st.st_uid == geteuid();
        /* Whatever the umask. */
        if (*ret_made && fchmod(fd, mode) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int folder_open(const char *path, bool make, mode_t mode) {
        bool made;

        return open_or_make(path, 0, make, mode, &made);
}

int folder_open_for(const char *path, bool make, mode_t mode, const char *owner) {
        _cleanup_(close_fdp) int fd = -EBADF;
        const struct passwd *user;
        struct stat st;
        bool made;

        fd = open_or_make(path, O_NOFOLLOW, make, mode, &made);
        if (fd == -ENOTDIR && lstat(path, &st) >= 0 && S_ISLNK(st.st_mode))
                return -ELOOP;
        if (fd < 0)
                return fd;
        user = made && owner ? getpwnam(owner) : NULL;
        if (user && fchown(fd, user->pw_uid, user->pw_gid) < 0 && errno != EPERM)
                return -errno;
        return TAKE_FD(fd);
}

static int is_shown(const struct dirent *entry) {
        return entry->d_name[0] != '.';
}

static int compare_entries(const struct dirent **left, const struct dirent **right) {
        return strcmp((*left)->d_name, (*right)->d_name);
}

int folder_list(int folder, char ***ret) {
        struct dirent **entries = NULL;
        int n, r = 0;
        char **names;

        n = scandirat(folder, ".", &entries, is_shown, compare_entries);
        if (n < 0)
                return -errno;
        names = newn0(char *, (size_t) n + 1);
        for (int i = 0; i < n; i++) {
                if (names && r >= 0) {
                        names[i] = strdup(entries[i]->d_name);
                        if (!names[i])
                                r = -ENOMEM;
                }
                free(entries[i]);
        }
        free(entries);
        if (!names || r < 0) {
                strv_free(names);
                return -ENOMEM;
        }
        *ret = names;
        return 0;
}
