/* SPDX-License-Identifier: Apache-2.0 */
#include "settings.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd-util.h"
#include "macros.h"
#include "parse-util.h"
#include "request-check.h"
#include "time-util.h"

enum {
        UID_START_DEFAULT = 1879048192, /* above what systemd and the distributions hand out */
        UID_COUNT_DEFAULT = 65536,
        UIDS_PER_ZYGOTE_MIN = 8, /* clupy-policyc asks for more */
        ZYGOTES_MAX_DEFAULT = 32,
};

void settings_default(LauncherSettings *ret) {
        *ret = (LauncherSettings){
                .magic = LAUNCHER_SETTINGS_MAGIC,
                .version = LAUNCHER_PROTOCOL_VERSION,
                .uid_start = UID_START_DEFAULT,
                .uid_count = UID_COUNT_DEFAULT,
                .orphan_timeout_usec = USEC_PER_DAY,
                .default_memory_max = MIB(512),
                .default_cpu_quota_usec = USEC_PER_SEC,
                .default_tmp_max = MIB(512),
                .default_tasks_max = 512,
                .zygotes_max = ZYGOTES_MAX_DEFAULT,
        };
        if (gethostname(ret->node, sizeof(ret->node) - 1) < 0)
                ret->node[0] = '\0';
}

uint32_t settings_zygote_uids(const LauncherSettings *settings) {
        return (settings->uid_count - UIDS_FOR_BUILDS) / settings->zygotes_max;
}

int settings_check(const LauncherSettings *s) {
        if (s->zygotes_max < 1 || s->zygotes_max > 4096 || s->uid_start < 65536 ||
            s->uid_count < UIDS_FOR_BUILDS || settings_zygote_uids(s) < UIDS_PER_ZYGOTE_MIN ||
            s->uid_start > UINT32_MAX - 1 - s->uid_count)
                return -EINVAL;
        if (s->default_memory_max < REQUEST_MEMORY_MIN || s->default_memory_max > REQUEST_BYTES_MAX ||
            s->default_cpu_quota_usec < REQUEST_CPU_QUOTA_MIN ||
            s->default_cpu_quota_usec > REQUEST_CPU_QUOTA_MAX || s->default_tmp_max < KIB(64) ||
            s->default_tmp_max > REQUEST_BYTES_MAX || s->default_tasks_max < 1 ||
            s->default_tasks_max > REQUEST_TASKS_MAX || s->orphan_timeout_usec == 0)
                return -EINVAL;
        if (s->n_devices > DEVICES_MAX)
                return -EINVAL;
        for (uint32_t i = 0; i < s->n_devices; i++)
                if (!memchr(s->devices[i], 0, sizeof(s->devices[i])) || !device_path_is_valid(s->devices[i]))
                        return -EINVAL;
        return memchr(s->node, 0, sizeof(s->node)) ? 0 : -EINVAL;
}

int trusted_file_read(const char *path, void *buffer, size_t size) {
        _cleanup_(close_fdp) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022) != 0)
                return -EPERM;
        if (st.st_size < 0 || (uint64_t) st.st_size > size)
                return -EFBIG;
        return (int) fd_read_full(fd, buffer, size);
}

int settings_read(const char *path, LauncherSettings *ret) {
        LauncherSettings settings;
        int r = trusted_file_read(path, &settings, sizeof(settings));

        if (r < 0)
                return r;
        if ((size_t) r != sizeof(settings) || settings.magic != LAUNCHER_SETTINGS_MAGIC ||
            settings.version != LAUNCHER_PROTOCOL_VERSION)
                return -EBADMSG;
        r = settings_check(&settings);
        if (r < 0)
                return r;
        *ret = settings;
        return 0;
}
