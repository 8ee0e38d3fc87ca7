/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"
#include "json-util.h"
#include "parse-util.h"
#include "table.h"

static const TableColumn columns[] = {
        { "NODE", .shrink = 8 },
        { "STATE" },
        { "ADDRESS", .shrink = 10 },
        { "CPUS", .right = true },
        { "MEMORY", .right = true },
        { "RUNNING", .right = true },
        { "UNRELEASED", .right = true, .drop = 3 },
        { "HEARTBEAT", .right = true, .drop = 1 },
        { "LEASE", .right = true, .drop = 4 },
        { "PYTHON", .shrink = 6, .drop = 2 },
        { "UP", .right = true, .drop = 5 },
};

static void add_row(Table *t, json_object *node, int64_t now) {
        const char *state = member_string(node, "state");
        bool heard = !member_is_null(node, "last_heartbeat_ms");

        table_cell(t, COLOR_NONE, member_string(node, "name"));
        table_cell(t, state_color(state), state);
        table_cell(t, COLOR_NONE, member_string(node, "address"));
        table_take(t, COLOR_NONE,
                   format_cpus_of(member_double(node, "cpus_used"), member_double(node, "cpus")));
        table_take(t, COLOR_NONE,
                   format_bytes_of((uint64_t) member_int(node, "memory_used"),
                                   (uint64_t) member_int(node, "memory")));
        table_take(t, COLOR_NONE, strformat("%lld", (long long) member_int(node, "running")));
        table_cell(t, COLOR_NONE, FORMAT_BYTES((uint64_t) member_int(node, "unreleased")));
        table_take(t, COLOR_NONE, heard ? format_span(member_int(node, "last_heartbeat_ms")) : strdup("-"));
        table_take(t, COLOR_NONE,
                   member_is_null(node, "lease_left_ms") ? strdup("-")
                                                         : format_span(member_int(node, "lease_left_ms")));
        table_cell(t, COLOR_NONE, member_string(node, "python"));
        table_take(t, COLOR_NONE,
                   member_int(node, "connected_at") ? format_age(member_int(node, "connected_at"), now)
                                                    : strdup("-"));
}

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        _cleanup_(table_freep) Table *table = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t n;
        int r = ctl_query(ctl, "nodes", json_object_new_object(), &answer);

        if (r != 0)
                return r;
        if (ctl->json) {
                ctl_print_json(ctl, answer);
                return CTL_OK;
        }
        n = member_length(answer, "nodes");
        if (n == 0) {
                puts("No node has registered. For each: `clupyctl token new` on the authority's machine "
                     "(the "
                     "master's), there `clupy-agent --join MASTER`, then `systemctl enable --now "
                     "clupy-agent`.");
                return CTL_OK;
        }
        if (table_new(columns, ELEMENTSOF(columns), &table) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < n; i++)
                add_row(table, json_object_array_get_idx(member_object(answer, "nodes"), i), now_ms());
        if (table_render(table, &ctl->terminal, &text) < 0)
                return ctl_fail_memory(ctl);
        fputs(text, stdout);
        return CTL_OK;
}

const CtlVerb verb_nodes = {
        .name = "nodes",
        .synopsis = "",
        .help = "List the nodes",
        .run = run,
};
