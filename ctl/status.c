/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "ctl.h"
#include "json-util.h"

/* "3 ready, 1 lost": what is not 0, and the first in any case. */
static void print_counts(const Ctl *ctl, const char *title, json_object *counts, const char *const *names,
                         size_t n, json_object *failed) {
        bool first = true;

        printf("%9s: ", title);
        for (size_t i = 0; i < n; i++) {
                int64_t count = member_int(counts, names[i]);
                Color color = count > 0 ? state_color(names[i]) : COLOR_NONE;

                if (count == 0 && i > 0)
                        continue;
                printf("%s%s%lld %s%s", first ? "" : ", ", color_on(&ctl->terminal, color),
                       (long long) count, names[i], color_off(&ctl->terminal, color));
                first = false;
        }
        if (failed && json_object_get_int64(failed) > 0)
                printf(" (%s%lld failed%s)", color_on(&ctl->terminal, COLOR_RED),
                       (long long) json_object_get_int64(failed), color_off(&ctl->terminal, COLOR_RED));
        putchar('\n');
}

static void print_line(const char *title, char *taken) {
        if (taken)
                printf("%9s: %s\n", title, taken);
        free(taken);
}

static void print_status(Ctl *ctl, json_object *status) {
        static const char *const node_states[] = { "ready",    "reporting", "suspect",
                                                   "draining", "drained",   "lost" };
        static const char *const task_states[] = { "running", "starting", "frozen", "unreachable",
                                                   "queued",  "waiting",  "ended" };
        static const char *const package_states[] = { "ready", "building", "resolving", "failed" };
        json_object *tasks = member_object(status, "tasks"), *listen = member_object(status, "listen");
        json_object *packages = member_object(status, "environments");
        _cleanup_(freep) char *age = NULL;

        age = format_age(member_int(status, "started_at"), now_ms());
        printf("%sclupy-masterd %s%s, epoch %lld, up %s, asked through %s\n",
               color_on(&ctl->terminal, COLOR_BOLD), member_string(status, "version"),
               color_off(&ctl->terminal, COLOR_BOLD), (long long) member_int(status, "epoch"), strempty(age),
               ctl->transport->peer);
        printf("%9s: ", "Listen");
        for (size_t i = 0; i < member_length(status, "listen"); i++)
                printf("%s%s", i > 0 ? ", " : "",
                       json_object_get_string(json_object_array_get_idx(listen, i)));
        printf("\n%9s: %s\n", "Python", member_string(status, "python"));
        print_counts(ctl, "Nodes", member_object(status, "nodes"), node_states, ELEMENTSOF(node_states),
                     NULL);
        print_line("CPUs",
                   format_cpus_of(member_double(status, "cpus_used"), member_double(status, "cpus")));
        print_line("Memory", format_bytes_of((uint64_t) member_int(status, "memory_used"),
                                             (uint64_t) member_int(status, "memory")));
        print_counts(ctl, "Tasks", tasks, task_states, ELEMENTSOF(task_states),
                     member_object(tasks, "failed"));
        if (member_int(packages, "known") > 0)
                print_counts(ctl, "Packages", packages, package_states, ELEMENTSOF(package_states), NULL);
        printf("%9s: %lld\n", "Clients", (long long) member_int(status, "clients"));
        if (ctl->transport->own_name) {
                _cleanup_(freep) char *until = format_time(ctl->transport->own_not_after);

                printf("%9s: %s, good until %s\n", "You", ctl->transport->own_name, strempty(until));
        }
        if (member_bool(status, "recovering"))
                printf("%sRecovering%s: tasks of before the master's start wait until all nodes have "
                       "reported.\n",
                       color_on(&ctl->terminal, COLOR_YELLOW), color_off(&ctl->terminal, COLOR_YELLOW));
        for (size_t i = 0; i < member_length(status, "warnings"); i++) {
                json_object *warning = json_object_array_get_idx(member_object(status, "warnings"), i);

                printf("%sWarning%s: %s\n", color_on(&ctl->terminal, COLOR_RED),
                       color_off(&ctl->terminal, COLOR_RED), json_object_get_string(warning));
        }
}

/* Of this end: the master does not tell. */
static int add_own_certificate(const Ctl *ctl, json_object *status) {
        json_object *own;

        if (!ctl->transport->own_name)
                return 0;
        if (json_add_new_object(status, "own_certificate", &own) < 0 ||
            json_add_string(own, "name", ctl->transport->own_name) < 0 ||
            json_add_int64(own, "not_after", ctl->transport->own_not_after) < 0)
                return -ENOMEM;
        return 0;
}

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        int r = ctl_query(ctl, "status", json_object_new_object(), &answer);

        if (r != 0)
                return r;
        if (ctl->json && add_own_certificate(ctl, answer) < 0)
                return ctl_fail_memory(ctl);
        if (ctl->json)
                ctl_print_json(ctl, answer);
        else
                print_status(ctl, answer);
        return CTL_OK;
}

const CtlVerb verb_status = {
        .name = "status",
        .synopsis = "",
        .help = "Show the cluster as a whole",
        .run = run,
};
