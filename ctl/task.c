/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"
#include "json-util.h"
#include "parse-util.h"
#include "table.h"

static const TableColumn history_columns[] = {
        { "TRY", .right = true },  { "NODE", .shrink = 6 },  { "OUTCOME", .shrink = 8 }, { "STARTED" },
        { "TOOK", .right = true }, { "UNIT", .shrink = 12 },
};

static void print_text(const char *title, const char *text) {
        _cleanup_(freep) char *harmless = isempty(text) ? NULL : text_harmless(text, strlen(text), false);

        if (harmless)
                printf("%12s: %s\n", title, harmless);
}

static void print_taken(const char *title, char *text) {
        print_text(title, text);
        free(text);
}

/* A figure of the receipt, or why it is not known. */
static void print_figure(json_object *receipt, const char *key, const char *title,
                         char *(*format)(uint64_t)) {
        const char *why = member_string(member_object(receipt, "unknown"), key);

        if (!member_is_null(receipt, key))
                print_taken(title, format((uint64_t) member_int(receipt, key)));
        else if (!isempty(why))
                print_taken(title, strformat("not known: %s", why));
}

static char *format_usec(uint64_t usec) {
        return usec < 1000 ? strformat("%uus", (unsigned) usec) : format_span((int64_t) (usec / 1000));
}

static char *format_bytes(uint64_t bytes) {
        return strdup(FORMAT_BYTES(bytes));
}

static Color outcome_color(json_object *outcome) {
        return state_color(json_object_is_type(outcome, json_type_string) ? json_object_get_string(outcome)
                                                                          : member_string(outcome, "kind"));
}

static void print_receipt(json_object *receipt) {
        static const struct {
                const char *key, *title;
                char *(*format)(uint64_t);
        } figures[] = {
                { "queued_us", "Waited", format_usec },
                { "start_us", "Start took", format_usec },
                { "run_us", "Ran", format_usec },
                { "cpu_us", "CPU time", format_usec },
                { "memory_peak", "Memory peak", format_bytes },
                { "read_chars", "Read", format_bytes },
                { "write_chars", "Written", format_bytes },
                { "read_bytes", "From disks", format_bytes },
                { "write_bytes", "To disks", format_bytes },
                { "pressure_us", "Stalled", format_usec },
        };

        for (size_t i = 0; i < ELEMENTSOF(figures); i++)
                print_figure(receipt, figures[i].key, figures[i].title, figures[i].format);
        if (!member_is_null(receipt, "warm"))
                print_text("Start", member_bool(receipt, "warm") ? "warm" : "cold");
}

static int print_history(Ctl *ctl, json_object *history) {
        _cleanup_(table_freep) Table *table = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t n = json_object_array_length(history);

        if (table_new(history_columns, ELEMENTSOF(history_columns), &table) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < n; i++) {
                json_object *attempt = json_object_array_get_idx(history, i);
                json_object *outcome = member_object(attempt, "outcome");
                int64_t started = member_int(attempt, "started_at"), ended = member_int(attempt, "ended_at");

                table_take(table, COLOR_NONE, strformat("%lld", (long long) member_int(attempt, "attempt")));
                table_cell(table, COLOR_NONE, member_string(attempt, "node"));
                table_take(table, outcome_color(outcome), format_outcome(outcome));
                table_take(table, COLOR_NONE, format_time(started));
                table_take(table, COLOR_NONE,
                           started ? format_span((ended ?: now_ms()) - started) : strdup("-"));
                table_cell(table, COLOR_NONE, member_string(attempt, "unit"));
        }
        if (table_render(table, &ctl->terminal, &text) < 0)
                return ctl_fail_memory(ctl);
        printf("\n%s", text);
        return CTL_OK;
}

static int print_task(Ctl *ctl, json_object *task) {
        const char *state = member_string(task, "state");
        json_object *history = member_object(task, "history");
        _cleanup_(freep) char *shown = format_task_state(task);

        print_text("Task", member_string(task, "id"));
        print_text("Name", member_string(task, "name"));
        print_text("Owner", member_string(task, "owner"));
        print_text("Job", member_string(task, "job"));
        printf("%12s: %s%s%s\n", "State", color_on(&ctl->terminal, state_color(state)), strempty(shown),
               color_off(&ctl->terminal, state_color(state)));
        print_text("Waits", member_string(task, "why_waiting"));
        if (member_object(task, "outcome"))
                print_taken("Outcome", format_outcome(member_object(task, "outcome")));
        print_taken("Progress", format_progress(member_object(task, "progress")));
        print_text("Node", member_string(task, "node"));
        print_text("Unit", member_string(task, "unit"));
        print_taken("Attempts", strformat("%lld", (long long) member_int(task, "attempts")));
        print_taken("Priority", strformat("%lld", (long long) member_int(task, "priority")));
        if (member_double(task, "cpus") > 0)
                print_taken("CPUs", format_cpus(member_double(task, "cpus")));
        if (member_int(task, "memory") > 0)
                print_text("Memory", FORMAT_BYTES((uint64_t) member_int(task, "memory")));
        print_taken("Queued", format_time(member_int(task, "queued_at")));
        if (member_int(task, "started_at"))
                print_taken("Started", format_time(member_int(task, "started_at")));
        if (member_int(task, "ended_at"))
                print_taken("Ended", format_time(member_int(task, "ended_at")));
        if (member_object(task, "receipt"))
                print_receipt(member_object(task, "receipt"));
        if (member_int(task, "log_bytes") > 0)
                print_taken("Printed", strformat("%s, see clupyctl logs %.8s",
                                                 FORMAT_BYTES((uint64_t) member_int(task, "log_bytes")),
                                                 member_string(task, "id")));
        return json_object_is_type(history, json_type_array) && json_object_array_length(history) > 0
                       ? print_history(ctl, history)
                       : CTL_OK;
}

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *args = NULL, *answer = NULL;
        char id[33];
        int r;

        if (!streq(ctl->operands[0], "show"))
                return ctl_fail(ctl, CTL_USAGE, "usage", "expected: clupyctl task show ID");
        if (task_id_parse(ctl->operands[1], id) < 0)
                return ctl_fail(
                        ctl, CTL_USAGE, "usage",
                        "'%s' is no task id: expected up to 32 hexadecimal digits, see clupyctl tasks",
                        ctl->operands[1]);
        if (json_new_object(&args) < 0 || json_add_string(args, "id", id) < 0)
                return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "task", TAKE_PTR(args), &answer);
        if (r != 0)
                return r;
        if (!ctl->json)
                return print_task(ctl, answer);
        ctl_print_json(ctl, answer);
        return CTL_OK;
}

const CtlVerb verb_task = {
        .name = "task",
        .synopsis = "show ID",
        .help = "Show all that is known of one task",
        .min_operands = 2,
        .max_operands = 2,
        .operands = "task",
        .run = run,
};
