/* SPDX-License-Identifier: Apache-2.0 */
#include "cgroup.h"

#include <errno.h>
#include <limits.h>

#include "launcher-protocol.h"
#include "macros.h"
#include "text-file.h"

/* The unified hierarchy: the scope's own folder has everything. */

static int prepare(void) {
        return 0;
}

static int attach(Cgroup *cgroup, const char *proc_cgroup) {
        return 0;
}

static int count_cpu(Cgroup *cgroup) {
        return 0; /* it always does */
}

enum { FILE_PEAK, FILE_EVENTS, FILE_CPU, FILE_TASKS, FILE_PRESSURE /* three of them */ };
_Static_assert((int) FILE_PRESSURE + 3 <= (int) CGROUP_FILES_MAX, "files of a cgroup");

static const char *const names[CGROUP_FILES_MAX] = {
        [FILE_PEAK] = "memory.peak",
        [FILE_EVENTS] = "memory.events",
        [FILE_CPU] = "cpu.stat",
        [FILE_TASKS] = "pids.current",
        [FILE_PRESSURE] = "cpu.pressure",
        [FILE_PRESSURE + 1] = "memory.pressure",
        [FILE_PRESSURE + 2] = "io.pressure",
};

static void open_files(Cgroup *cgroup) {
        for (size_t i = 0; i < CGROUP_FILES_MAX; i++)
                kept_file_open(&cgroup->files[i], CGROUP_ROOT "%s/%s", cgroup->path, names[i]);
}

static int read_file(Cgroup *cgroup, int file, char *text, size_t size) {
        return kept_file_read(&cgroup->files[file], text, size, CGROUP_ROOT "%s/%s", cgroup->path,
                              names[file]);
}

static void read_figures(Cgroup *cgroup, CgroupFigures *ret) {
        char text[4096];
        uint64_t total = 0, value;
        bool have_pressure = false;

        if (read_file(cgroup, FILE_PEAK, text, sizeof(text)) > 0 && text_number(text, &ret->memory_peak))
                ret->known |= RECEIPT_MEMORY_PEAK;
        if (read_file(cgroup, FILE_EVENTS, text, sizeof(text)) > 0)
                (void) text_field(text, "oom_kill", &ret->oom_kills);
        if (read_file(cgroup, FILE_CPU, text, sizeof(text)) > 0 &&
            text_field(text, "usage_usec", &ret->cpu_usec))
                ret->known |= RECEIPT_CPU;
        for (int i = FILE_PRESSURE; i < CGROUP_FILES_MAX; i++)
                if (read_file(cgroup, i, text, sizeof(text)) > 0 && text_pressure_total(text, &value)) {
                        total += value;
                        have_pressure = true;
                }
        if (have_pressure) {
                ret->pressure_usec = total;
                ret->known |= RECEIPT_PRESSURE;
        }
}

static int freeze(Cgroup *cgroup, bool frozen) {
        return text_file_write(frozen ? "1" : "0", CGROUP_ROOT "%s/cgroup.freeze", cgroup->path);
}

static int count_tasks(Cgroup *cgroup) {
        char text[64];
        uint64_t n;
        int r = read_file(cgroup, FILE_TASKS, text, sizeof(text));

        if (r < 0)
                return r;
        return text_number(text, &n) && n <= INT_MAX ? (int) n : -EBADMSG;
}

static uint64_t count_refused(const Cgroup *cgroup) {
        char text[64];
        uint64_t n = 0;

        if (text_file_read(text, sizeof(text), CGROUP_ROOT "%s/pids.events", cgroup->path) > 0)
                (void) text_field(text, "max", &n);
        return n;
}

static void remove_own(Cgroup *cgroup) {
}

static unsigned sweep(bool (*known)(const char *token, void *userdata), void *userdata) {
        return 0;
}

const CgroupLayout cgroup_v2 = {
        .name = "v2",
        .unified = true,
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
