/* SPDX-License-Identifier: Apache-2.0 */
#include "account.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "hashmap.h"
#include "memory-util.h"

enum { KNOWN_MAX = 4096 };

/* What was looked up, with those that have no name ("") among them. The file is asked after each time
 * whether it is still the one that was read; programs that change it put a new one in its place. */
static struct {
        const char *path;
        Hashmap *names;
        struct stat seen;
} cache = { .path = "/etc/passwd" };

static void forget(void) {
        char *name;

        HASHMAP_FOREACH(name, cache.names)
                free(name);
        cache.names = hashmap_free(cache.names);
}

void account_set_file(const char *path) {
        forget();
        cache.path = path ?: "/etc/passwd";
}

static bool is_same(const struct stat *left, const struct stat *right) {
        return left->st_dev == right->st_dev && left->st_ino == right->st_ino &&
               left->st_size == right->st_size && left->st_mtim.tv_sec == right->st_mtim.tv_sec &&
               left->st_mtim.tv_nsec == right->st_mtim.tv_nsec;
}

static char *look_up(uid_t uid) {
        _cleanup_(fclosep) FILE *file = fopen(cache.path, "re");
        struct passwd *entry;

        while (file && (entry = fgetpwent(file)))
                if (entry->pw_uid == uid &&
                    strnlen(entry->pw_name, ACCOUNT_NAME_MAX + 1) <= ACCOUNT_NAME_MAX)
                        return strdup(entry->pw_name);
        return strdup("");
}

const char *account_name(uid_t uid) {
        struct stat now = { 0 };
        char *name;

        if (stat(cache.path, &now) < 0 || !is_same(&now, &cache.seen) ||
            hashmap_size(cache.names) >= KNOWN_MAX)
                forget();
        cache.seen = now;
        if (!cache.names && hashmap_new(HASHMAP_U64, &cache.names) < 0)
                return NULL;
        name = hashmap_get_u64(cache.names, uid);
        if (!name) {
                name = look_up(uid);
                if (!name)
                        return NULL;
                if (hashmap_put_u64(cache.names, uid, name) < 0) {
                        free(name);
                        return NULL;
                }
        }
        return isempty(name) ? NULL : name;
}
