/* SPDX-License-Identifier: Apache-2.0 */
#include "cgroup.h"

#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#include "macros.h"
#include "text-file.h"

const CgroupLayout *cgroup_layout(void) {
        static const CgroupLayout *layout;

        if (!layout) {
                struct statfs fs;
                layout = statfs(CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC ? &cgroup_v2
                                                                                           : &cgroup_v1;
        }
        return layout;
}

int cgroup_prepare(void) {
        return cgroup_layout()->prepare();
}

int cgroup_attach(Cgroup *cgroup, const char *token, const char *scope, pid_t init, pid_t task) {
        char text[4096];
        int r;

        /* What the kernel says is right for each hierarchy, costs no round trip, and checks systemd's word.
         */
        r = text_file_read(text, sizeof(text), "/proc/%d/cgroup", (int) task);
        if (r < 0)
                return r;
        r = text_cgroup_path(text, cgroup_layout()->unified ? NULL : "memory", cgroup->path,
                             sizeof(cgroup->path));
        if (r < 0)
                return r;
        const char *last = strrchr(cgroup->path, '/');
        if (!last || !streq(last + 1, scope)) {
                cgroup->path[0] = '\0';
                return -ESTALE;
        }
        strncpy(cgroup->token, token, sizeof(cgroup->token) - 1);
        cgroup->init = init;
        cgroup->task = task;
        r = cgroup_layout()->attach(cgroup, text);
        if (r < 0)
                cgroup_remove(cgroup);
        return r;
}

bool cgroup_counts_cpu(const Cgroup *cgroup) {
        return cgroup->path[0] && (cgroup_layout()->unified || cgroup->cpuacct[0]);
}

void cgroup_open_files(Cgroup *cgroup) {
        if (cgroup->path[0])
                cgroup_layout()->open_files(cgroup);
}

void cgroup_close_files(Cgroup *cgroup) {
        for (size_t i = 0; i < CGROUP_FILES_MAX; i++)
                kept_file_close(&cgroup->files[i]);
}

void cgroup_read_figures(Cgroup *cgroup, CgroupFigures *ret) {
        *ret = (CgroupFigures){};
        if (cgroup->path[0])
                cgroup_layout()->read_figures(cgroup, ret);
}

int cgroup_count_cpu(Cgroup *cgroup) {
        return cgroup->path[0] ? cgroup_layout()->count_cpu(cgroup) : -ENOENT;
}

int cgroup_freeze(Cgroup *cgroup, bool frozen) {
        return cgroup->path[0] ? cgroup_layout()->freeze(cgroup, frozen) : -ENOENT;
}

int cgroup_count_tasks(Cgroup *cgroup) {
        return cgroup->path[0] ? cgroup_layout()->count_tasks(cgroup) : -ENOENT;
}

uint64_t cgroup_count_refused(const Cgroup *cgroup) {
        return cgroup->path[0] ? cgroup_layout()->count_refused(cgroup) : 0;
}

void cgroup_remove(Cgroup *cgroup) {
        cgroup_close_files(cgroup);
        cgroup_layout()->remove(cgroup);
        cgroup->path[0] = '\0';
}

unsigned cgroup_sweep(bool (*known)(const char *token, void *userdata), void *userdata) {
        return cgroup_layout()->sweep(known, userdata);
}

bool cgroup_find_token(const char *text, char ret[static CGROUP_TOKEN_SIZE]) {
        static const char prefix[] = "/clupy-task-";
        const char *found = strstr(text, prefix);

        if (!found)
                return false;
        found += strlen(prefix);
        size_t n = strspn(found, "0123456789abcdef");
        if (n != CGROUP_TOKEN_SIZE - 1 || !startswith(found + n, ".scope"))
                return false;
        memcpy(ret, found, n);
        ret[n] = '\0';
        return true;
}
