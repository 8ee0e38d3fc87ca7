/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fd-util.h"
#include "sandbox.h"

#define VIEW_ROOT                                                                                           \
        "/run/clupy/view" /* only a place to mount on: each stage has a mount namespace of its own */

/* What of / is shown, read-only. All else is not there: in /var are the journals of other tasks, in /run the
 * sockets of the system, in /home and /root what people keep. */
static const char *const shown[] = {
        "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "etc", "opt", "srv", "nix",
};
static const char *const shown_below_sys[] = { "sys/devices/system/cpu",
                                               "sys/devices/system/node" }; /* for thread counts */
/* The last ones are readable for everybody, and have passwords of package indexes. */
static const char *const covered[] = {
        "etc/clupy", "etc/ssl/private", "etc/ssh", "etc/pip.conf", "etc/xdg/pip", "etc/uv",
};
static const char *const devices[] = { "null", "zero", "full", "random", "urandom" };
static const struct {
        const char *path, *target;
} links[] = {
        { "dev/fd", "/proc/self/fd" },
        { "dev/stdin", "/proc/self/fd/0" },
        { "dev/stdout", "/proc/self/fd/1" },
        { "dev/stderr", "/proc/self/fd/2" },
        { "var/tmp", "/tmp" },
        { "var/run", "/run" },
};
static const struct {
        const char *path;
        mode_t mode;
} folders[] = {
        { "proc", 0555 }, { "sys", 0755 },     { "run", 0755 },  { "run/lock", 0755 },
        { "var", 0755 },  { "var/lib", 0755 }, { "home", 0755 }, { "root", 0755 },
        { "mnt", 0755 },  { "tmp", 01777 },    { "dev", 0755 },  { "dev/shm", 01777 },
};

static int make_parents(const char *path, mode_t mode) {
        char part[PATH_MAX];

        for (const char *slash = strchr(path, '/');; slash = strchr(slash + 1, '/')) {
                size_t n = slash ? (size_t) (slash - path) : strlen(path);
                (void) snprintf(part, sizeof(part), "%.*s", (int) n, path);
                if (mkdir(part, mode) < 0 && errno != EEXIST)
                        return -errno;
                if (!slash)
                        return 0;
        }
}

static int bind(const char *source, const char *target, bool writable) {
        struct mount_attr attributes = { .attr_set = (writable ? 0 : MOUNT_ATTR_RDONLY) | MOUNT_ATTR_NOSUID |
                                                     MOUNT_ATTR_NODEV };

        /* Recursive: /usr may consist of several mounts, and each becomes read-only. */
        if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) < 0)
                return -errno;
        if (mount_setattr(AT_FDCWD, target, AT_RECURSIVE, &attributes, sizeof(attributes)) < 0)
                return -errno;
        return 0;
}

static int show(const char *name) {
        char source[PATH_MAX], target[PATH_MAX];
        struct stat st;

        (void) snprintf(source, sizeof(source), "/%s", name);
        if (lstat(source, &st) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (S_ISLNK(st.st_mode)) { /* /bin → usr/bin */
                ssize_t n = readlink(source, target, sizeof(target) - 1);
                if (n < 0)
                        return -errno;
                target[n] = '\0';
                return symlink(target, name) < 0 ? -errno : 0;
        }
        if (!S_ISDIR(st.st_mode))
                return 0;
        int r = make_parents(name, 0755);
        return r < 0 ? r : bind(source, name, false);
}

/* Whether the path is below one of the folders that everybody is shown. */
static bool is_shown(const char *path) {
        for (size_t i = 0; i < ELEMENTSOF(shown); i++) {
                const char *rest = startswith(path + 1, shown[i]);
                if (rest && (*rest == '\0' || *rest == '/'))
                        return true;
        }
        return false;
}

static int show_mount(const ViewMount *wanted) {
        if (is_shown(wanted->target))
                return 0;
        int r = make_parents(wanted->target + 1, 0755);
        return r < 0 ? r : bind(wanted->source, wanted->target + 1, wanted->writable);
}

/* Where it really is: a link would lead out of the view. */
static int cover(const char *path) {
        char source[PATH_MAX], real[PATH_MAX];
        struct stat st;

        (void) snprintf(source, sizeof(source), "/%s", path);
        if (!realpath(source, real))
                return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : -errno;
        if (stat(real + 1, &st) < 0) /* not in the view, wherever it is */
                return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : -errno;
        if (S_ISDIR(st.st_mode))
                return mount("tmpfs", real + 1, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
                             "size=4k,nr_inodes=2,mode=755") < 0
                               ? -errno
                               : 0;
        return mount("/dev/null", real + 1, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

/* /etc/resolv.conf may point into /run: a copy of what it says, there. */
static int show_resolver(void) {
        char path[PATH_MAX];
        _cleanup_(freep) char *text = NULL;
        size_t size;

        if (!realpath("/etc/resolv.conf", path) || !startswith(path, "/run/") ||
            read_file_full(path, 65536, &text, &size) < 0)
                return 0;
        char *slash = strrchr(path, '/');
        *slash = '\0';
        int r = make_parents(path + 1, 0755);
        if (r < 0)
                return r;
        *slash = '/';
        _cleanup_(close_fdp) int fd = open(path + 1, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        return fd < 0 ? -errno : fd_write_all(fd, text, size);
}

static int show_device(const char *name) {
        char source[64], target[64];

        (void) snprintf(source, sizeof(source), "/dev/%s", name);
        (void) snprintf(target, sizeof(target), "dev/%s", name);
        _cleanup_(close_fdp) int fd = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 || mount(source, target, NULL, MS_BIND, NULL) < 0)
                return -errno;
        return 0;
}

int view_make(const ViewMount *mounts, size_t n_mounts, const char **ret_what) {
        struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID };
        bool own_tmp = false;
        int r = 0;

        *ret_what = "mount namespace";
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return -errno;
        r = make_parents(VIEW_ROOT + 1, 0755);
        if (chdir("/") < 0)
                return -errno;
        *ret_what = VIEW_ROOT;
        if (r < 0 || mount("tmpfs", VIEW_ROOT, "tmpfs", MS_NOSUID, "size=1m,mode=755") < 0 ||
            chdir(VIEW_ROOT) < 0)
                return r < 0 ? r : -errno;
        umask(0);
        for (size_t i = 0; i < ELEMENTSOF(folders) && r >= 0; i++)
                if (mkdir(*ret_what = folders[i].path, folders[i].mode) < 0)
                        r = -errno;
        for (size_t i = 0; i < ELEMENTSOF(links) && r >= 0; i++)
                if (symlink(links[i].target, *ret_what = links[i].path) < 0)
                        r = -errno;
        for (size_t i = 0; i < ELEMENTSOF(shown) && r >= 0; i++)
                r = show(*ret_what = shown[i]);
        for (size_t i = 0; i < ELEMENTSOF(shown_below_sys) && r >= 0; i++)
                r = show(*ret_what = shown_below_sys[i]);
        for (size_t i = 0; i < ELEMENTSOF(devices) && r >= 0; i++)
                r = show_device(*ret_what = devices[i]);
        for (size_t i = 0; i < ELEMENTSOF(covered) && r >= 0; i++)
                r = cover(*ret_what = covered[i]);
        for (size_t i = 0; i < n_mounts && r >= 0; i++) {
                r = show_mount(mounts + i);
                *ret_what = mounts[i].target;
                own_tmp = own_tmp || streq(mounts[i].target, "/tmp");
        }
        if (r >= 0) {
                *ret_what = "resolv.conf";
                r = show_resolver();
        }
        if (r < 0)
                return r;

        /* What is made up to here is read-only from now on; upon /tmp packages may write while they are
         * imported. */
        *ret_what = "the view's root";
        if (mount_setattr(AT_FDCWD, ".", 0, &read_only, sizeof(read_only)) < 0 ||
            (!own_tmp &&
             mount("tmpfs", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,nr_inodes=10000,mode=1777") < 0))
                return -errno;
        umask(022);
        if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
                return -errno;
        return 0;
}
