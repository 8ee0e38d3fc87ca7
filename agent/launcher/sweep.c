/* SPDX-License-Identifier: Apache-2.0 */
#include "sweep.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "build.h"
#include "cgroup.h"
#include "journal-stream.h"
#include "log.h"
#include "pair.h"
#include "spawner.h"
#include "text-file.h"
#include "zygote.h"

enum { CHILDREN_TEXT_MAX = 256 * 1024 };

static bool token_is_known(const char *token, void *userdata) {
        return pair_by_token(userdata, token) != NULL;
}

static bool unit_is_known(const char *unit, void *userdata) {
        Manager *manager = userdata;

        for (unsigned i = 0; i < PAIRS_MAX; i++)
                if (manager->pairs[i] && streq(manager->pairs[i]->scope.name, unit))
                        return true;
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                if (streq(zygote->scope.name, unit))
                        return true;
        return builds_have_unit(manager->builds, unit);
}

static int stop_units(Manager *manager, const char *pattern) {
        _cleanup_(strv_freep) char **names = NULL;
        unsigned n = 0;
        int r = scope_list(manager->bus, pattern, &names);

        if (r < 0)
                return r;
        for (char **name = names; name && *name; name++)
                if (!unit_is_known(*name, manager)) {
                        scope_stop(manager->bus, *name);
                        n++;
                }
        if (n > 0)
                log_notice("Stopped %u scopes %s of an earlier launcher", n, pattern);
        return 0;
}

int sweep_start(Manager *manager) {
        int r;

        /* v1: what is frozen dies only after it is thawed, so this comes before systemd is asked to end it.
         */
        manager->sweeps_left = cgroup_sweep(token_is_known, manager) > 0 ? 10 : 1;
        r = stop_units(manager, "clupy-task-*.scope");
        if (r >= 0)
                r = stop_units(manager, "clupy-zygote-*.scope");
        if (r >= 0)
                r = stop_units(manager, "clupy-build-*.scope");
        journal_fields_sweep("clupy-task-", unit_is_known, manager);
        return r;
}

void sweep_again(Manager *manager) {
        if (manager->sweeps_left == 0)
                return;
        manager->sweeps_left--;
        if (cgroup_sweep(token_is_known, manager) == 0)
                manager->sweeps_left = 0;
}

bool sweep_is_ordered(Manager *manager, pid_t pid) {
        if (manager->spawner && pid == spawner_pid(manager->spawner))
                return true;
        for (unsigned i = 0; i < PAIRS_MAX; i++) {
                const Pair *pair = manager->pairs[i];
                /* Not one that was reaped: its number may be another's by now. */
                if (pair && ((pair->init_pidfd >= 0 && pair->init_pid == pid) ||
                             (pair->task_pidfd >= 0 && !pair->task_reaped && pair->task_pid == pid)))
                        return true;
        }
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                if (zygote_owns_pid(zygote, pid))
                        return true;
        return builds_own_pid(manager->builds, pid);
}

static bool was_seen(const Manager *manager, pid_t pid) {
        for (size_t i = 0; i < manager->n_strangers; i++)
                if (manager->strangers[i] == pid)
                        return true;
        return false;
}

void sweep_strangers(Manager *manager) {
        _cleanup_(freep) char *text = malloc(CHILDREN_TEXT_MAX);
        _cleanup_(freep) pid_t *strangers = NULL;
        size_t n = 0, capacity = 0;

        if (!text ||
            text_file_read(text, CHILDREN_TEXT_MAX, "/proc/self/task/%d/children", (int) getpid()) < 0)
                return;
        for (char *rest = text, *end;; rest = end) {
                long pid = strtol(rest, &end, 10);
                if (end == rest || pid <= 0)
                        break;
                if (sweep_is_ordered(manager, (pid_t) pid))
                        continue;
                /* An answer of the zygote may still be on its way; the second time it is no accident. */
                if (was_seen(manager, (pid_t) pid)) {
                        siginfo_t information;
                        log_warning("Killing process %ld, which a zygote made without being asked", pid);
                        (void) kill((pid_t) pid, SIGKILL);
                        /* Not waited for: its namespace may keep it. The next round reaps it. */
                        (void) waitid(P_PID, (id_t) pid, &information, WEXITED | WNOHANG | __WALL);
                }
                if (array_reserve(&strangers, &capacity, n + 1, sizeof(*strangers)) < 0)
                        return;
                strangers[n++] = (pid_t) pid;
        }
        free_and_replace(manager->strangers, strangers);
        manager->n_strangers = n;
}
