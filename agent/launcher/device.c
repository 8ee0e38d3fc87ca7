/* SPDX-License-Identifier: Apache-2.0 */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent-link.h"
#include "device-set.h"
#include "fd-util.h"

/* Of the launcher's own /dev, PrivateDevices= leaves next to nothing. */
#define HOST_ROOT "/proc/1/root"

size_t device_paths(const LauncherSettings *settings, const LauncherDevices *set,
                    const char *ret[static DEVICES_OF_TASK_MAX]) {
        size_t n = 0;

        for (uint32_t i = 0; i < settings->n_devices && n < DEVICES_OF_TASK_MAX; i++)
                if (device_set_has(set, i))
                        ret[n++] = settings->devices[i];
        return n;
}

int device_check(const char *path) {
        const struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                                      .resolve = RESOLVE_NO_SYMLINKS };
        struct stat st;

        _cleanup_(close_fdp) int root = open(HOST_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
                return -errno;
        _cleanup_(close_fdp) int fd = (int) syscall(SYS_openat2, root, path + 1, &how, sizeof(how));
        if (fd < 0 || fstat(fd, &st) < 0)
                return errno == ELOOP ? -ENODEV : -errno;
        if (!S_ISCHR(st.st_mode))
                return -ENODEV;
        return (st.st_mode & 006) != 0 ? 0 : -EACCES;
}

int devices_check(const LauncherSettings *settings, const LauncherDevices *set, const char **ret_why) {
        const char *paths[DEVICES_OF_TASK_MAX];
        size_t n = device_paths(settings, set, paths);

        if (n != device_set_count(set)) {
                *ret_why = "The node's configuration has no such device.";
                return -EINVAL;
        }
        for (size_t i = 0; i < n; i++)
                if (device_check(paths[i]) < 0) {
                        *ret_why = "A device that it was to have is not there any more.";
                        return -ENODEV;
                }
        return 0;
}

void devices_tell(Manager *manager) {
        const LauncherSettings *settings = &manager->settings;

        for (uint32_t i = 0; i < settings->n_devices; i++) {
                LauncherEvent event = { .version = LAUNCHER_PROTOCOL_VERSION,
                                        .op = LAUNCHER_DEVICE,
                                        .error = device_check(settings->devices[i]) };

                event.device.index = i;
                COPY_TEXT(event.device.path, settings->devices[i]);
                agent_link_send(manager->link, &event, -EBADF);
        }
}
