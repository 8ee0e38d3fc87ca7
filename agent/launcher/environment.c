/* SPDX-License-Identifier: Apache-2.0 */
#include "environment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent-link.h"
#include "build.h"
#include "environment-name.h"
#include "environment-stamp.h"
#include "fd-util.h"
#include "parse-util.h"
#include "pythons.h"
#include "sandbox-protocol.h"
#include "settings.h"
#include "time-util.h"
#include "zygote.h"

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

/* Those that only wait for work do not count: they go when it is removed. */
static unsigned count_zygotes(const Manager *manager, const char *name) {
        unsigned n = 0;

        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                n += streq(zygote->key.environment, name) && zygote->state != ZYGOTE_DEAD &&
                     !zygote_is_idle(zygote);
        return n;
}

static void end_zygotes(Manager *manager, const char *name) {
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                if (streq(zygote->key.environment, name) && zygote_is_idle(zygote))
                        zygote_end(zygote, "its environment is removed");
}

/* Returns 0, -ENOENT. */
static int event_fill(const Manager *manager, const char *name, uint32_t op, LauncherEvent *ret) {
        EnvironmentStamp stamp;
        char path[192];
        struct stat st;

        if (environment_stamp_read(name, &stamp) < 0)
                return -ENOENT;
        *ret = (LauncherEvent){ .version = LAUNCHER_PROTOCOL_VERSION, .op = op };
        (void) snprintf(ret->environment.environment, sizeof(ret->environment.environment), "%s", name);
        COPY_TEXT(ret->environment.owner, stamp.owner);
        COPY_TEXT(ret->environment.python, stamp.python);
        ret->environment.bytes = stamp.bytes;
        ret->environment.files = stamp.files;
        ret->environment.built_at = stamp.built_at;
        ret->environment.in_use = count_zygotes(manager, name);
        (void) snprintf(path, sizeof(path), ENVIRONMENT_FOLDER "/%s/" USED_FILE, name);
        if (lstat(path, &st) == 0)
                ret->environment.used_at =
                        (uint64_t) st.st_mtim.tv_sec * USEC_PER_SEC + (uint64_t) st.st_mtim.tv_nsec / 1000;
        return 0;
}

void environments_tell(Manager *manager) {
        const LauncherEvent end = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_ENVIRONMENTS_END };
        DIR *listing = opendir(ENVIRONMENT_FOLDER);
        LauncherEvent event;

        for (struct dirent *entry; listing && (entry = readdir(listing));)
                if (environment_name_is_valid(entry->d_name) &&
                    event_fill(manager, entry->d_name, LAUNCHER_ENVIRONMENT, &event) >= 0)
                        agent_link_send(manager->link, &event, -EBADF);
        if (listing)
                (void) closedir(listing);
        agent_link_send(manager->link, &end, -EBADF);
}

int environment_remove(Manager *manager, const char *name, const char **ret_why) {
        LauncherEvent event;
        int r = event_fill(manager, name, LAUNCHER_ENVIRONMENT_REMOVED, &event);

        if (r < 0) {
                *ret_why = "The environment is not on this node.";
                return r;
        }
        if (event.environment.in_use > 0) {
                *ret_why = "The environment is in use.";
                return -EBUSY;
        }
        end_zygotes(manager, name);
        r = builds_drop_environment(manager->builds, name);
        if (r >= 0)
                agent_link_send(manager->link, &event, -EBADF);
        return r;
}
