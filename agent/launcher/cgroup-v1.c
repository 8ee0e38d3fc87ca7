/* SPDX-License-Identifier: Apache-2.0 */
#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher-protocol.h"
#include "macros.h"
#include "memory-util.h"
#include "text-file.h"

/* The controllers apart (v1, hybrid). systemd makes no freezer cgroup, and no cpuacct one where that is
 * mounted apart from cpu: those are ours, at /clupy/TOKEN. Each costs two moves and a removal, for which the
 * kernel waits, so they are made for the few that are frozen or whose CPU time is limited. */

#define FREEZER CGROUP_ROOT "/freezer/clupy"
#define CPUACCT CGROUP_ROOT "/cpuacct/clupy"

static int make_folder(const char *path) {
        return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

static int prepare(void) {
        int r = make_folder(FREEZER);
        if (r < 0)
                return r;
        r = make_folder(CPUACCT);
        return r == -ENOENT ? 0 : r; /* then there are no figures for CPU time */
}

static int attach(Cgroup *cgroup, const char *proc_cgroup) {
        char path[CGROUP_PATH_SIZE];

        if (text_cgroup_path(proc_cgroup, "cpuacct", path, sizeof(path)) < 0)
                return 0;
        const char *last = strrchr(cgroup->path, '/'), *here = strrchr(path, '/');
        if (last && here && streq(last, here)) /* mounted with cpu, systemd made it */
                (void) snprintf(cgroup->cpuacct, sizeof(cgroup->cpuacct), "%s", path);
        return 0;
}

/* Both processes by hand: a child is born where its parent is, and that is the zygote's cgroup. */
static int count_cpu(Cgroup *cgroup) {
        char path[CGROUP_PATH_SIZE];
        int r;

        if (cgroup->cpuacct[0])
                return 0;
        (void) snprintf(path, sizeof(path), CPUACCT "/%s", cgroup->token);
        r = make_folder(path);
        if (r < 0)
                return r;
        cgroup->own_cpuacct = true;
        r = text_file_write_number((uint64_t) cgroup->init, "%s/cgroup.procs", path);
        if (r >= 0)
                r = text_file_write_number((uint64_t) cgroup->task, "%s/cgroup.procs", path);
        if (r >= 0)
                (void) snprintf(cgroup->cpuacct, sizeof(cgroup->cpuacct), "/clupy/%s", cgroup->token);
        return r;
}

enum { FILE_PEAK, FILE_OOM, FILE_TASKS };
_Static_assert((int) FILE_TASKS < (int) CGROUP_FILES_MAX, "files of a cgroup");

#define PATH_PEAK CGROUP_ROOT "/memory%s/memory.max_usage_in_bytes"
#define PATH_OOM CGROUP_ROOT "/memory%s/memory.oom_control"
#define PATH_TASKS CGROUP_ROOT "/pids%s/pids.current"

static void open_files(Cgroup *cgroup) {
        kept_file_open(&cgroup->files[FILE_PEAK], PATH_PEAK, cgroup->path);
        kept_file_open(&cgroup->files[FILE_OOM], PATH_OOM, cgroup->path);
        kept_file_open(&cgroup->files[FILE_TASKS], PATH_TASKS, cgroup->path);
}

static void read_figures(Cgroup *cgroup, CgroupFigures *ret) {
        char text[1024];
        uint64_t nsec;

        if (kept_file_read(&cgroup->files[FILE_PEAK], text, sizeof(text), PATH_PEAK, cgroup->path) > 0 &&
            text_number(text, &ret->memory_peak))
                ret->known |= RECEIPT_MEMORY_PEAK;
        if (kept_file_read(&cgroup->files[FILE_OOM], text, sizeof(text), PATH_OOM, cgroup->path) > 0)
                (void) text_field(text, "oom_kill", &ret->oom_kills);
        if (cgroup->cpuacct[0] &&
            text_file_read(text, sizeof(text), CGROUP_ROOT "/cpuacct%s/cpuacct.usage", cgroup->cpuacct) >
                    0 &&
            text_number(text, &nsec)) {
                ret->cpu_usec = nsec / 1000;
                ret->known |= RECEIPT_CPU;
        }
}

static int count_tasks(Cgroup *cgroup) {
        char text[64];
        uint64_t n;
        int r = kept_file_read(&cgroup->files[FILE_TASKS], text, sizeof(text), PATH_TASKS, cgroup->path);

        if (r < 0)
                return r;
        return text_number(text, &n) && n <= INT_MAX ? (int) n : -EBADMSG;
}

static uint64_t count_refused(const Cgroup *cgroup) {
        char text[64];
        uint64_t n = 0;

        if (text_file_read(text, sizeof(text), CGROUP_ROOT "/pids%s/pids.events", cgroup->path) > 0)
                (void) text_field(text, "max", &n);
        return n;
}

/* Calls the function for each process in the folder. Returns how many there are. */
static unsigned for_each_process(const char *folder, void (*function)(pid_t pid, const char *token),
                                 const char *token) {
        char path[CGROUP_PATH_SIZE + 32], line[32];
        unsigned n = 0;

        (void) snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
        _cleanup_(fclosep) FILE *f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                long pid = strtol(line, NULL, 10);
                if (pid <= 1)
                        continue;
                n++;
                if (function)
                        function((pid_t) pid, token);
        }
        return n;
}

static void move_into_freezer(pid_t pid, const char *token) {
        (void) text_file_write_number((uint64_t) pid, FREEZER "/%s/cgroup.procs", token);
}

/* Until nobody is left outside: who was forked while the others were moved. Who is inside is frozen and
 * forks no more. A zombie is never moved, so it ends as well when nothing changes. */
static void gather_in_freezer(const Cgroup *cgroup) {
        char scope[CGROUP_PATH_SIZE + 32], folder[CGROUP_PATH_SIZE];
        unsigned all_before = 0, inside_before = 0;

        (void) snprintf(scope, sizeof(scope), CGROUP_ROOT "/memory%s", cgroup->path);
        (void) snprintf(folder, sizeof(folder), FREEZER "/%s", cgroup->token);
        for (;;) {
                unsigned all = for_each_process(scope, move_into_freezer, cgroup->token);
                unsigned inside = for_each_process(folder, NULL, NULL);
                if (inside >= all || (inside == inside_before && all == all_before))
                        return;
                inside_before = inside;
                all_before = all;
        }
}

static int freeze(Cgroup *cgroup, bool frozen) {
        char folder[CGROUP_PATH_SIZE];
        int r;

        (void) snprintf(folder, sizeof(folder), FREEZER "/%s", cgroup->token);
        if (!cgroup->own_freezer) {
                if (!frozen)
                        return 0;
                r = make_folder(folder);
                if (r < 0)
                        return r;
                cgroup->own_freezer = true;
        }
        r = text_file_write(frozen ? "FROZEN" : "THAWED", "%s/freezer.state", folder);
        if (r >= 0 && frozen)
                gather_in_freezer(cgroup);
        return r;
}

static void remove_own(Cgroup *cgroup) {
        char path[CGROUP_PATH_SIZE];

        if (cgroup->own_freezer) {
                (void) snprintf(path, sizeof(path), FREEZER "/%s", cgroup->token);
                (void) rmdir(path);
                cgroup->own_freezer = false;
        }
        if (cgroup->own_cpuacct) {
                (void) snprintf(path, sizeof(path), CPUACCT "/%s", cgroup->token);
                (void) rmdir(path);
                cgroup->own_cpuacct = false;
        }
}

static void kill_process(pid_t pid, const char *token) {
        (void) kill(pid, SIGKILL);
}

static unsigned sweep_in(const char *root, bool (*known)(const char *token, void *userdata),
                         void *userdata) {
        unsigned left = 0;
        DIR *directory = opendir(root);

        if (!directory)
                return 0;
        for (struct dirent *entry; (entry = readdir(directory));) {
                char path[CGROUP_PATH_SIZE];

                if (strspn(entry->d_name, "0123456789abcdef") != CGROUP_TOKEN_SIZE - 1 ||
                    entry->d_name[CGROUP_TOKEN_SIZE - 1] != '\0' || known(entry->d_name, userdata))
                        continue;
                (void) snprintf(path, sizeof(path), "%s/%.*s", root, CGROUP_TOKEN_SIZE - 1, entry->d_name);
                (void) for_each_process(path, kill_process, NULL);
                /* Only after the signal: so it dies before it runs another instruction. */
                (void) text_file_write("THAWED", "%s/freezer.state", path);
                if (rmdir(path) < 0 && errno != ENOENT)
                        left++;
        }
        (void) closedir(directory);
        return left;
}

static unsigned sweep(bool (*known)(const char *token, void *userdata), void *userdata) {
        return sweep_in(FREEZER, known, userdata) + sweep_in(CPUACCT, known, userdata);
}

const CgroupLayout cgroup_v1 = {
        .name = "v1",
        .prepare = prepare,
        .attach = attach,
        .count_cpu = count_cpu,
        .open_files = open_files,
        .read_figures = read_figures,
        .freeze = freeze,
        .count_tasks = count_tasks,
        .count_refused = count_refused,
        .remove = remove_own,
        .sweep = sweep,
};
