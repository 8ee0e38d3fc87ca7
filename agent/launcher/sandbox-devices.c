/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fd-util.h"
#include "parse-util.h"
#include "sandbox.h"

/* Devices on their way from the machine's /dev, which the launcher and its children do not see
 * (PrivateDevices=), into that of one sandbox. They travel as mounts that belong nowhere yet: nobody between
 * has a path to them, and no sandbox but this one a place where they are. */

#define HOST_MOUNTS "/proc/1/ns/mnt"
#define NEW_DEV "/dev/shm" /* where the new /dev is made, before it moves to its place */

/* ---- in a child of the spawner, in the machine's mount namespace */

static int open_device(const char *path) {
        const struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                                      .resolve = RESOLVE_NO_SYMLINKS };
        /* Not nodev, whatever the machine's /dev is: it could not be opened. */
        struct mount_attr attributes = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
                                         .attr_clr = MOUNT_ATTR_NODEV };
        _cleanup_(close_fdp) int fd = -EBADF, mount = -EBADF;
        struct stat st;

        if (!device_path_is_valid(path))
                return -EINVAL;
        fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISCHR(st.st_mode))
                return -ENODEV;
        mount = open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (mount < 0 || mount_setattr(mount, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
                return -errno;
        return TAKE_FD(mount);
}

static int hand_over(const SpawnRequest *request, int socket) {
        DevicesMessage message = { .n_devices = request->n_devices };
        int fds[DEVICES_OF_TASK_MAX], r = 0;
        size_t n = 0;

        if (request->n_devices > DEVICES_OF_TASK_MAX)
                return -EINVAL;
        _cleanup_(close_fdp) int host = open(HOST_MOUNTS, O_RDONLY | O_CLOEXEC);
        if (host < 0 || setns(host, CLONE_NEWNS) < 0)
                return -errno;
        for (; n < request->n_devices && r >= 0; n++) {
                memcpy(message.devices[n], request->devices[n], DEVICE_PATH_MAX);
                message.devices[n][DEVICE_PATH_MAX - 1] = '\0';
                r = fds[n] = open_device(message.devices[n]);
        }
        if (r >= 0)
                r = message_send(socket, &message, sizeof(message), fds, n);
        close_many(fds, n);
        return r;
}

void devices_hand_over(const SpawnRequest *request, int socket) {
        int status = 0;
        pid_t pid = fork(); /* what enters the machine's namespace does not come back */

        if (pid == 0)
                _exit(-hand_over(request, socket));
        int r = pid < 0 || waitpid(pid, &status, 0) < 0 ? -errno : 0;
        if (r >= 0)
                r = WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
        if (r >= 0)
                return;
        const DevicesMessage failed = { .error = r };
        (void) message_send(socket, &failed, sizeof(failed), NULL, 0);
}

/* ---- in the init */

static int make_place(const char *path) {
        _cleanup_(close_fdp) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

        return fd < 0 ? -errno : 0;
}

/* What everybody has. */
static int show_common(void) {
        static const char *const names[] = { "null", "zero", "full", "random", "urandom" };
        static const char *const links[][2] = { { "fd", "/proc/self/fd" },
                                                { "stdin", "/proc/self/fd/0" },
                                                { "stdout", "/proc/self/fd/1" },
                                                { "stderr", "/proc/self/fd/2" } };
        char source[64], target[64];

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                (void) snprintf(source, sizeof(source), "/dev/%s", names[i]);
                (void) snprintf(target, sizeof(target), NEW_DEV "/%s", names[i]);
                int r = make_place(target);
                if (r < 0)
                        return r;
                if (mount(source, target, NULL, MS_BIND, NULL) < 0)
                        return -errno;
        }
        for (size_t i = 0; i < ELEMENTSOF(links); i++) {
                (void) snprintf(target, sizeof(target), NEW_DEV "/%s", links[i][0]);
                if (symlink(links[i][1], target) < 0)
                        return -errno;
        }
        return mkdir(NEW_DEV "/shm", 01777) < 0 ? -errno : 0;
}

static int show_device(const char *path, int device) {
        char target[sizeof(NEW_DEV) + DEVICE_PATH_MAX];

        if (!device_path_is_valid(path))
                return -EINVAL;
        (void) snprintf(target, sizeof(target), NEW_DEV "%s", path + strlen("/dev"));
        for (char *slash = strchr(target + strlen(NEW_DEV "/"), '/'); slash;
             slash = strchr(slash + 1, '/')) {
                *slash = '\0';
                if (mkdir(target, 0755) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        int r = make_place(target);
        if (r < 0)
                return r;
        return move_mount(device, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

int devices_mount(int socket) {
        struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY };
        DevicesMessage message;
        int fds[DEVICES_OF_TASK_MAX];

        int r = message_receive(socket, &message, sizeof(message), fds, ELEMENTSOF(fds));
        if (r < 0 || message.error < 0)
                return r < 0 ? r : message.error;
        umask(0);
        if (message.n_devices > ELEMENTSOF(fds))
                r = -EBADMSG;
        else if (mount("tmpfs", NEW_DEV, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,nr_inodes=256,mode=755") <
                 0)
                r = -errno;
        if (r >= 0)
                r = show_common();
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                if (r >= 0 && i < message.n_devices)
                        r = fds[i] < 0 ? -EBADMSG : show_device(message.devices[i], fds[i]);
                close_fd(fds[i]);
        }
        umask(022);
        /* The former one stays below, where no path leads. */
        if (r >= 0 && (mount_setattr(AT_FDCWD, NEW_DEV, 0, &read_only, sizeof(read_only)) < 0 ||
                       mount(NEW_DEV, "/dev", NULL, MS_MOVE, NULL) < 0))
                r = -errno;
        return r;
}
