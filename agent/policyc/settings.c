/* SPDX-License-Identifier: Apache-2.0 */
#include "settings.h"

#include <errno.h>
#include <inttypes.h>

#include "fd-util.h"

enum { ID_FILE_MAX = 64 << 20 }; /* a passwd file of a large site */

/* Each once: several resources may share one. There are no more than fit, as the configuration's reader has
 * checked. */
static void add_devices(LauncherSettings *settings, char **paths) {
        for (char **path = paths; path && *path; path++) {
                bool known = false;

                for (uint32_t i = 0; i < settings->n_devices; i++)
                        known = known || streq(settings->devices[i], *path);
                if (!known && settings->n_devices < DEVICES_MAX)
                        strncpy(settings->devices[settings->n_devices++], *path, DEVICE_PATH_MAX - 1);
        }
}

int settings_from_config(const ServerConfig *config, LauncherSettings *ret, char **ret_message) {
        LauncherSettings settings = {
                .magic = LAUNCHER_SETTINGS_MAGIC,
                .version = LAUNCHER_PROTOCOL_VERSION,
                .uid_start = config->uid_start,
                .uid_count = config->uid_count,
                .orphan_timeout_usec = config->orphan_timeout,
                .default_memory_max = config->task_memory,
                .default_cpu_quota_usec = (uint64_t) (config->task_cpus * 1e6 + 0.5),
                .default_tmp_max = config->task_tmp,
                .default_tasks_max = (uint32_t) config->task_tasks_max,
                .zygotes_max = config->zygotes,
        };

        *ret_message = NULL;
        if (config->uid_count / config->zygotes < SETTINGS_UIDS_PER_ZYGOTE_MIN) {
                *ret_message = strformat(
                        "%s: key 'uid_range': expected at least %u ids for %u zygotes, got %u",
                        config->files && config->files[0] ? config->files[strv_length(config->files) - 1]
                                                          : SERVER_CONFIG_NAME,
                        config->zygotes * SETTINGS_UIDS_PER_ZYGOTE_MIN, config->zygotes, config->uid_count);
                return *ret_message ? -ERANGE : -ENOMEM;
        }
        strncpy(settings.node, config->name, sizeof settings.node - 1);
        for (size_t i = 0; i < config->n_resources; i++) {
                add_devices(&settings, config->resources[i].devices);
                add_devices(&settings, config->resources[i].shared);
        }
        *ret = settings;
        return 0;
}

int settings_check_ids(const char *path, IdFileKind kind, uint32_t start, uint32_t count,
                       char **ret_message) {
        _cleanup_(freep) char *text = NULL;
        uint64_t first = start, last = first + count - 1;
        unsigned line_number = 0;
        char *rest, *line;
        int r;

        *ret_message = NULL;
        r = read_file_full(path, ID_FILE_MAX, &text, NULL);
        if (r == -ENOENT)
                return 0;
        if (r < 0) {
                *ret_message = strformat("%s: cannot be read: %s", path, strerror(-r));
                return r;
        }
        rest = text;
        while ((line = strsep(&rest, "\n"))) {
                char *name = strsep(&line, ":"), *second = strsep(&line, ":"), *third = strsep(&line, ":");
                uint64_t id, n = 1;

                line_number++;
                if (!second || !third || parse_uint64(kind == ID_FILE_PASSWD ? third : second, &id) < 0)
                        continue; /* "+::::::" and other things that name no id */
                if (kind == ID_FILE_SUBID && (parse_uint64(third, &n) < 0 || n == 0))
                        continue;
                if (id > last || (id < first && first - id >= n))
                        continue;
                *ret_message = strformat(
                        "%s:%u: '%s' has ids within uid_range %" PRIu64 "-%" PRIu64
                        ", which are tasks' alone: choose another uid_range in " SERVER_CONFIG_NAME,
                        path, line_number, name, first, last);
                return -EADDRINUSE;
        }
        return 0;
}
