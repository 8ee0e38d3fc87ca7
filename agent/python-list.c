/* SPDX-License-Identifier: Apache-2.0 */
#include "python-list.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "build-config.h"
#include "macros.h"
#include "memory-util.h"

#define ZYGOTE_PREFIX "clupy-zygote-"

static void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

bool python_name_is_valid(const char *s) {
        size_t major = strspn(s, "0123456789"), minor;

        if (major < 1 || major > 2 || s[major] != '.')
                return false;
        s += major + 1;
        minor = strspn(s, "0123456789");
        return minor >= 1 && minor <= 3 && s[minor] == '\0';
}

static int compare(const void *left, const void *right) {
        const char *l = *(const char *const *) left, *r = *(const char *const *) right;
        long major = strtol(l, NULL, 10) - strtol(r, NULL, 10);
        long minor = strtol(strchr(l, '.') + 1, NULL, 10) - strtol(strchr(r, '.') + 1, NULL, 10);

        return major != 0 ? (major < 0 ? -1 : 1) : minor < 0 ? -1 : minor > 0;
}

int python_list_find(const char *directory, char ***ret) {
        _cleanup_(strv_freep) char **list = NULL;
        _cleanup_(closedirp) DIR *d = NULL;
        struct dirent *entry;
        int r;

        r = strv_extend(&list, CLUPY_PYTHON_SERIES);
        if (r < 0)
                return r;
        d = opendir(directory);
        if (!d && errno != ENOENT)
                return -errno;
        while (d && (errno = 0, entry = readdir(d))) {
                const char *name = startswith(entry->d_name, ZYGOTE_PREFIX);

                if (!name || !python_name_is_valid(name) || strv_contains(list, name) ||
                    strv_length(list) >= PYTHONS_MAX)
                        continue;
                r = strv_extend(&list, name);
                if (r < 0)
                        return r;
        }
        if (d && errno != 0)
                return -errno;
        qsort(list + 1, strv_length(list) - 1, sizeof(*list), compare);
        *ret = TAKE_PTR(list);
        return 0;
}
