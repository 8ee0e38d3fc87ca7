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

static void read_figures(const Cgroup *cgroup, CgroupFigures *ret) {
        static const char *const pressure[] = { "cpu", "memory", "io" };
        char text[4096];
        uint64_t total = 0, value;
        bool have_pressure = false;

        if (text_file_read(text, sizeof(text), CGROUP_ROOT "%s/memory.peak", cgroup->path) > 0 &&
            text_number(text, &ret->memory_peak))
                ret->known |= RECEIPT_MEMORY_PEAK;
        if (text_file_read(text, sizeof(text), CGROUP_ROOT "%s/memory.events", cgroup->path) > 0)
                (void) text_field(text, "oom_kill", &ret->oom_kills);
        if (text_file_read(text, sizeof(text), CGROUP_ROOT "%s/cpu.stat", cgroup->path) > 0 &&
            text_field(text, "usage_usec", &ret->cpu_usec))
                ret->known |= RECEIPT_CPU;
        for (size_t i = 0; i < ELEMENTSOF(pressure); i++)
                if (text_file_read(text, sizeof(text), CGROUP_ROOT "%s/%s.pressure", cgroup->path,
                                   pressure[i]) > 0 &&
                    text_pressure_total(text, &value)) {
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

static int count_tasks(const Cgroup *cgroup) {
        char text[64];
        uint64_t n;
        int r = text_file_read(text, sizeof(text), CGROUP_ROOT "%s/pids.current", cgroup->path);

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
        .read_figures = read_figures,
        .freeze = freeze,
        .count_tasks = count_tasks,
        .count_refused = count_refused,
        .remove = remove_own,
        .sweep = sweep,
};
