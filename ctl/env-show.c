/* SPDX-License-Identifier: Apache-2.0 */
#include "env.h"

#include <stdlib.h>
#include <string.h>

#include "json-util.h"
#include "parse-util.h"
#include "table.h"

static const TableColumn node_columns[] = {
        { "NODE", .shrink = 6 },
        { "STATE" },
        { "TOOK", .right = true },
        { "MESSAGE", .shrink = 12, .if_any = true },
};

static const TableColumn library_columns[] = { { "LIBRARY", .shrink = 8 }, { "VERSION" } };

static void print_text(const char *title, const char *text) {
        _cleanup_(freep) char *harmless = isempty(text) ? NULL : text_harmless(text, strlen(text), false);

        if (harmless)
                printf("%12s: %s\n", title, harmless);
}

static void print_taken(const char *title, char *text) {
        print_text(title, text);
        free(text);
}

static int print_table(Ctl *ctl, Table *table) {
        _cleanup_(freep) char *text = NULL;

        if (table_render(table, &ctl->terminal, &text) < 0)
                return ctl_fail_memory(ctl);
        printf("\n%s", text);
        return CTL_OK;
}

static int print_nodes(Ctl *ctl, json_object *environment) {
        json_object *nodes = member_object(environment, "nodes");
        _cleanup_(table_freep) Table *table = NULL;
        size_t n = member_length(environment, "nodes");

        if (n == 0)
                return CTL_OK;
        if (table_new(node_columns, ELEMENTSOF(node_columns), &table) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < n; i++) {
                json_object *node = json_object_array_get_idx(nodes, i);
                const char *state = member_string(node, "state");
                int64_t ms = (int64_t) (member_double(node, "seconds") * 1000);

                table_cell(table, COLOR_NONE, member_string(node, "node"));
                table_cell(table, state_color(state), state);
                table_take(table, COLOR_NONE, ms > 0 ? format_span(ms) : strdup("-"));
                table_cell(table, COLOR_NONE, member_string(node, "message"));
        }
        return print_table(ctl, table);
}

static int print_libraries(Ctl *ctl, json_object *libraries) {
        _cleanup_(table_freep) Table *table = NULL;

        if (!json_object_is_type(libraries, json_type_object) || json_object_object_length(libraries) == 0)
                return CTL_OK;
        if (table_new(library_columns, ELEMENTSOF(library_columns), &table) < 0)
                return ctl_fail_memory(ctl);
        json_object_object_foreach(libraries, name, version) {
                table_cell(table, COLOR_NONE, name);
                table_cell(table, COLOR_NONE, strempty(json_object_get_string(version)));
        }
        return print_table(ctl, table);
}

static void print_log(json_object *environment) {
        const char *log = member_string(environment, "log");
        _cleanup_(freep) char *harmless = isempty(log) ? NULL : text_harmless(log, strlen(log), true);

        if (harmless)
                printf("\nThe installer said:\n%s%s", harmless, endswith(harmless, "\n") ? "" : "\n");
}

int env_print(Ctl *ctl, json_object *environment) {
        const char *state = member_string(environment, "state");
        int r;

        print_text("Environment", member_string(environment, "name"));
        print_text("For", env_owner(environment));
        printf("%12s: %s%s%s\n", "State", color_on(&ctl->terminal, state_color(state)), state,
               color_off(&ctl->terminal, state_color(state)));
        print_text("Message", member_string(environment, "message"));
        print_text("Python", member_string(environment, "python"));
        print_taken("Packages", env_packages(environment));
        if (streq(member_string(environment, "base"), "none"))
                print_text("Base", "none: without the default packages");
        print_taken("Preload", env_strings_join(environment, "preload"));
        print_text("Installer", member_string(environment, "installer"));
        if (member_int(environment, "bytes") > 0)
                print_text("Size", FORMAT_BYTES((uint64_t) member_int(environment, "bytes")));
        if (member_int(environment, "created_at") > 0)
                print_taken("Made", format_time(member_int(environment, "created_at")));
        r = print_nodes(ctl, environment);
        if (r == CTL_OK)
                r = print_libraries(ctl, member_object(environment, "libraries"));
        print_log(environment);
        return r;
}
