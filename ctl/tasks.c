/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"
#include "json-util.h"
#include "parse-util.h"
#include "table.h"

#define LIMIT_MAX 10000u

static const TableColumn columns[] = {
        { "TASK" },
        { "NAME", .shrink = 8 },
        { "OWNER", .shrink = 6, .drop = 1 },
        { "STATE", .shrink = 12 },
        { "NODE", .shrink = 6, .if_any = true },
        { "CPUS", .right = true, .drop = 4 },
        { "MEMORY", .right = true, .drop = 5 },
        { "TRY", .right = true, .drop = 6 },
        { "FOR", .right = true },
        { "OUTCOME", .shrink = 8, .if_any = true },
        { "PROGRESS", .shrink = 8, .if_any = true, .drop = 2 },
        { "WAITS BECAUSE", .shrink = 16, .if_any = true, .drop = 3 },
};

/* CPUs and memory are 0 while they are the default of a node that has not been found yet. */
static void add_row(Table *t, json_object *task, size_t id_length, int64_t now) {
        const char *state = member_string(task, "state");
        json_object *outcome = member_object(task, "outcome");
        int64_t started = member_int(task, "started_at"), ended = member_int(task, "ended_at");
        int64_t since = started ?: member_int(task, "queued_at");

        table_take(t, COLOR_NONE, strformat("%.*s", (int) id_length, member_string(task, "id")));
        table_cell(t, COLOR_NONE, member_string(task, "name"));
        table_cell(t, COLOR_NONE, member_string(task, "owner"));
        table_take(t, state_color(state), format_task_state(task));
        table_cell(t, COLOR_NONE, member_string(task, "node"));
        table_take(t, COLOR_NONE,
                   member_double(task, "cpus") > 0 ? format_cpus(member_double(task, "cpus")) : strdup("-"));
        table_cell(t, COLOR_NONE,
                   member_int(task, "memory") > 0 ? FORMAT_BYTES((uint64_t) member_int(task, "memory"))
                                                  : "-");
        table_take(t, COLOR_NONE, strformat("%lld", (long long) member_int(task, "attempts")));
        table_take(t, COLOR_NONE, since ? format_span((ended ?: now) - since) : strdup("-"));
        table_take(t, state_color(member_string(outcome, "kind")),
                   outcome ? format_outcome(outcome) : strdup(""));
        table_take(t, COLOR_NONE, format_progress(member_object(task, "progress")));
        table_cell(t, COLOR_NONE, member_string(task, "why_waiting"));
}

static int print_tasks(Ctl *ctl, json_object *answer) {
        json_object *tasks = member_object(answer, "tasks");
        size_t n = member_length(answer, "tasks"), length;
        _cleanup_(table_freep) Table *table = NULL;
        _cleanup_(freep) char *text = NULL;
        _cleanup_(freep) const char **ids = newn0(const char *, n + 1);

        if (!ids || table_new(columns, ELEMENTSOF(columns), &table) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < n; i++)
                ids[i] = member_string(json_object_array_get_idx(tasks, i), "id");
        length = ids_short_length(ids, n, 8);
        for (size_t i = 0; i < n; i++)
                add_row(table, json_object_array_get_idx(tasks, i), length, now_ms());
        if (table_render(table, &ctl->terminal, &text) < 0)
                return ctl_fail_memory(ctl);
        fputs(text, stdout);
        if (member_int(answer, "total") > (int64_t) n)
                printf("%s%zu of %lld tasks; more with --limit.%s\n", color_on(&ctl->terminal, COLOR_DIM), n,
                       (long long) member_int(answer, "total"), color_off(&ctl->terminal, COLOR_DIM));
        return CTL_OK;
}

static bool is_state(const char *name) {
        static const char *const states[] = { "queued",      "starting", "running", "frozen",
                                              "unreachable", "waiting",  "ended" };

        for (size_t i = 0; i < ELEMENTSOF(states); i++)
                if (streq(name, states[i]))
                        return true;
        return false;
}

static int run(Ctl *ctl) {
        static const char *const passed_on[] = { "state", "owner", "node", "job" };
        _cleanup_(json_putp) json_object *args = NULL, *answer = NULL;
        const char *limit = ctl_option(ctl, "limit"), *state = ctl_option(ctl, "state");
        uint64_t n = 100;
        int r;

        if (state && !is_state(state))
                return ctl_fail(
                        ctl, CTL_USAGE, "usage",
                        "--state %s: expected queued, starting, running, frozen, unreachable, waiting "
                        "or ended",
                        state);

        if (limit && (parse_uint64(limit, &n) < 0 || n < 1 || n > LIMIT_MAX))
                return ctl_fail(ctl, CTL_USAGE, "usage", "--limit %s: expected a number from 1 to %u", limit,
                                LIMIT_MAX);
        if (json_new_object(&args) < 0 || json_add_uint64(args, "limit", n) < 0 ||
            json_add_bool(args, "ended", ctl_option(ctl, "ended")) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < ELEMENTSOF(passed_on); i++)
                if (json_add_string(args, passed_on[i], ctl_option(ctl, passed_on[i])) < 0)
                        return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "tasks", TAKE_PTR(args), &answer);
        if (r != 0)
                return r;
        if (ctl->json) {
                ctl_print_json(ctl, answer);
                return CTL_OK;
        }
        if (member_length(answer, "tasks") == 0) {
                puts(ctl_option(ctl, "ended")
                             ? "No task."
                             : "No task waits or runs; --ended shows those that have ended.");
                return CTL_OK;
        }
        return print_tasks(ctl, answer);
}

static const CtlOption options[] = {
        { "state", 's', "STATE",
          "only these: queued, starting, running, frozen, unreachable, waiting, ended" },
        { "owner", 'o', "OWNER", "only this user's" },
        { "node", 'n', "NODE", "only those on this node" },
        { "job", 'j', "JOB", "only those of this job" },
        { "limit", 'l', "NUMBER", "at most so many, 100 by default" },
        { "ended", 'e', NULL, "those that have ended as well" },
};

const CtlVerb verb_tasks = {
        .name = "tasks",
        .synopsis = "[OPTION…]",
        .help = "List the tasks",
        .options = options,
        .n_options = ELEMENTSOF(options),
        .run = run,
};
