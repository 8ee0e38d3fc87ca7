/* SPDX-License-Identifier: Apache-2.0 */
#include "environment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "environment-name.h"
#include "environment-stamp.h"
#include "fd-util.h"
#include "pythons.h"
#include "sandbox-protocol.h"
#include "settings.h"

#define USED_FILE ".clupy-used" /* its time of modification */

static int folder_prepare(const char *path, mode_t mode) {
        struct stat st;

        if (mkdir(path, mode) < 0 && errno != EEXIST)
                return -errno;
        if (lstat(path, &st) < 0)
                return -errno;
        return S_ISDIR(st.st_mode) && st.st_uid == 0 && (st.st_mode & 022) == 0 ? 0 : -EPERM;
}

int environments_prepare(void) {
        int r = folder_prepare(STATE_FOLDER, 0755);

        if (r >= 0)
                r = folder_prepare(ENVIRONMENT_FOLDER, 0755);
        if (r >= 0)
                r = folder_prepare(BUILDING_FOLDER, 0700);
        return r;
}

int environment_stamp_read(const char *name, EnvironmentStamp *ret) {
        char path[192], text[ENVIRONMENT_STAMP_MAX];
        int r;

        (void) snprintf(path, sizeof(path), ENVIRONMENT_FOLDER "/%s/" ENVIRONMENT_STAMP, name);
        r = trusted_file_read(path, text, sizeof(text) - 1);
        if (r < 0)
                return r;
        text[r] = '\0';
        return environment_stamp_parse(text, ret);
}

int environment_find(const char *name, const char *owner, const Python **ret_python) {
        EnvironmentStamp stamp = {};
        char series[PYTHON_NAME_MAX];
        EnvironmentKind kind;

        if (environment_name_parse(name, &kind, series) < 0)
                return -ENOENT;
        if (kind == ENVIRONMENT_BUILT) {
                if (environment_stamp_read(name, &stamp) < 0)
                        return -ENOENT;
                COPY_TEXT(series, stamp.python);
        }
        if (stamp.owner[0] && !streq(stamp.owner, owner))
                return -EACCES;
        const Python *python = python_find(series);
        if (!python)
                return -ENOENT;
        *ret_python = python;
        return 0;
}

int environment_check(const LauncherKey *key, const char **ret_why) {
        const Python *python;
        int r = environment_find(key->environment, key->owner, &python);

        if (r < 0)
                *ret_why = r == -EACCES ? "The environment is another owner's."
                                        : "The environment is not on this node.";
        return r;
}

void environment_touch(const char *name) {
        char path[192], series[PYTHON_NAME_MAX];
        EnvironmentKind kind;

        if (environment_name_parse(name, &kind, series) < 0 || kind != ENVIRONMENT_BUILT)
                return;
        (void) snprintf(path, sizeof(path), ENVIRONMENT_FOLDER "/%s/" USED_FILE, name);
        _cleanup_(close_fdp) int fd =
                open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0644);
        if (fd >= 0)
                (void) futimens(fd, NULL);
}
