/* SPDX-License-Identifier: Apache-2.0 */
/* `clupyctl env`: the packages that tasks can import, and what became of them on each node. */
#include "env.h"

#include <stdlib.h>
#include <string.h>

#include "ctl.h"
#include "json-util.h"
#include "parse-util.h"
#include "table.h"

enum { SHORT_NAME = 8 }; /* digits of a long name that are shown at least */

static const TableColumn columns[] = {
        { "NAME" },
        { "FOR", .shrink = 8 },
        { "PYTHON", .drop = 2 },
        { "STATE" },
        { "PACKAGES", .shrink = 12 },
        { "SIZE", .right = true, .drop = 1 },
        { "NODES", .right = true },
        { "MADE", .right = true, .drop = 3 },
};

char *env_strings_join(json_object *object, const char *key) {
        json_object *array = member_object(object, key);
        char *text = strdup("");

        for (size_t i = 0; text && i < member_length(object, key); i++) {
                const char *one = json_object_get_string(json_object_array_get_idx(array, i));
                char *longer = strformat("%s%s%s", text, text[0] ? ", " : "", strempty(one));

                free(text);
                text = longer;
        }
        return text;
}

char *env_packages(json_object *environment) {
        _cleanup_(freep) char *packages = env_strings_join(environment, "packages"),
                              *wheels = env_strings_join(environment, "wheels");

        if (!packages || !wheels)
                return NULL;
        if (!packages[0] && !wheels[0] && member_bool(environment, "locked"))
                return strdup("a lock");
        return strformat("%s%s%s", packages, packages[0] && wheels[0] ? ", " : "", wheels);
}

const char *env_owner(json_object *environment) {
        if (member_bool(environment, "default"))
                return "default";
        return isempty(member_string(environment, "owner")) ? "everybody"
                                                            : member_string(environment, "owner");
}

/* How many nodes have it, of those that have or are to have it. */
static char *nodes_ready(json_object *environment) {
        json_object *nodes = member_object(environment, "nodes");
        size_t n = member_length(environment, "nodes"), ready = 0;

        for (size_t i = 0; i < n; i++)
                if (streq(member_string(json_object_array_get_idx(nodes, i), "state"), "ready"))
                        ready++;
        return n == 0 ? strdup("-") : ready == n ? strformat("%zu", n) : strformat("%zu of %zu", ready, n);
}

/* Names of 40 digits are cut to as few as tell all of them apart. */
static size_t short_length(json_object *list, size_t n) {
        const char **names = calloc(MAX(n, (size_t) 1), sizeof(char *));
        size_t n_names = 0, length = SHORT_NAME;

        for (size_t i = 0; names && i < n; i++) {
                const char *name = member_string(json_object_array_get_idx(list, i), "name");

                if (strlen(name) > 32)
                        names[n_names++] = name;
        }
        if (names && n_names > 0)
                length = ids_short_length(names, n_names, SHORT_NAME);
        free(names);
        return length;
}

static void add_row(Table *t, json_object *environment, size_t length, int64_t now) {
        const char *state = member_string(environment, "state"), *name = member_string(environment, "name");
        int64_t bytes = member_int(environment, "bytes"), created = member_int(environment, "created_at");

        table_take(t, COLOR_NONE, strlen(name) > 32 ? strformat("%.*s", (int) length, name) : strdup(name));
        table_cell(t, COLOR_NONE, env_owner(environment));
        table_cell(t, COLOR_NONE, member_string(environment, "python"));
        table_cell(t, state_color(state), state);
        table_take(t, COLOR_NONE, env_packages(environment));
        table_cell(t, COLOR_NONE, bytes > 0 ? FORMAT_BYTES((uint64_t) bytes) : "-");
        table_take(t, COLOR_NONE, nodes_ready(environment));
        table_take(t, COLOR_NONE, created > 0 ? format_age(created, now) : strdup("-"));
}

static int env_list(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        _cleanup_(table_freep) Table *table = NULL;
        _cleanup_(freep) char *text = NULL;
        json_object *list;
        size_t n, length;
        int r = ctl_query(ctl, "environments", json_object_new_object(), &answer);

        if (r != 0)
                return r;
        if (ctl->json) {
                ctl_print_json(ctl, answer);
                return CTL_OK;
        }
        list = member_object(answer, "environments");
        n = member_length(answer, "environments");
        if (n == 0) {
                puts("There is no environment: tasks have Python's standard library. Name packages in "
                     "/etc/clupy/clupy.master.dependency.yaml, or in calls.");
                return CTL_OK;
        }
        length = short_length(list, n);
        if (table_new(columns, ELEMENTSOF(columns), &table) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < n; i++)
                add_row(table, json_object_array_get_idx(list, i), length, now_ms());
        if (table_render(table, &ctl->terminal, &text) < 0)
                return ctl_fail_memory(ctl);
        fputs(text, stdout);
        return CTL_OK;
}

/* Asks for one environment, as the user named it. Returns 0 or the exit status. */
static int query_named(Ctl *ctl, const char *verb, json_object **ret) {
        _cleanup_(json_putp) json_object *args = NULL;
        const char *name = ctl->operands[1];
        size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.");

        if (length == 0 || length > 63 || name[length])
                return ctl_fail(ctl, CTL_USAGE, "usage",
                                "'%s' is no name of an environment; see clupyctl env list", name);
        if (json_new_object(&args) < 0 || json_add_string(args, "name", name) < 0)
                return ctl_fail_memory(ctl);
        return ctl_query(ctl, verb, TAKE_PTR(args), ret);
}

static int env_show(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        int r = query_named(ctl, "environment", &answer);

        if (r != 0)
                return r;
        if (!ctl->json)
                return env_print(ctl, answer);
        ctl_print_json(ctl, answer);
        return CTL_OK;
}

static int env_sync(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        json_object *names;
        size_t n;
        int r = ctl_query(ctl, "environment-sync", json_object_new_object(), &answer);

        if (r != 0)
                return r;
        if (ctl->json) {
                ctl_print_json(ctl, answer);
                return CTL_OK;
        }
        names = member_object(answer, "environments");
        n = member_length(answer, "environments");
        for (size_t i = 0; i < n; i++)
                printf("%s is looked up anew; see clupyctl env list\n",
                       strempty(json_object_get_string(json_object_array_get_idx(names, i))));
        if (n == 0)
                puts("The manifest was read; there is nothing to look up: its packages are locked, or there "
                     "are none.");
        return CTL_OK;
}

static int env_remove(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        int r = query_named(ctl, "environment-remove", &answer);

        if (r != 0)
                return r;
        if (ctl->json)
                ctl_print_json(ctl, answer);
        else
                printf("%s is removed from each node as soon as nothing there uses it\n",
                       member_string(answer, "name"));
        return CTL_OK;
}

static int env_lock(Ctl *ctl) {
        _cleanup_(json_putp) json_object *args = NULL, *answer = NULL;
        const char *python = ctl_option(ctl, "python"), *lock;
        _cleanup_(freep) char *harmless = NULL;
        int r;

        if (json_new_object(&args) < 0 || (python && json_add_string(args, "python", python) < 0))
                return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "environment-lock", TAKE_PTR(args), &answer);
        if (r != 0)
                return r;
        if (ctl->json) {
                ctl_print_json(ctl, answer);
                return CTL_OK;
        }
        lock = member_string(answer, "lock");
        harmless = text_harmless(lock, strlen(lock), true);
        if (!harmless)
                return ctl_fail_memory(ctl);
        printf("%s%s", harmless, isempty(lock) || endswith(lock, "\n") ? "" : "\n");
        return CTL_OK;
}

static int run(Ctl *ctl) {
        static const struct {
                const char *name;
                bool named; /* takes the name of an environment */
                int (*run)(Ctl *ctl);
        } parts[] = {
                { "list", false, env_list },    { "show", true, env_show },  { "sync", false, env_sync },
                { "remove", true, env_remove }, { "lock", false, env_lock },
        };

        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                if (streq(ctl->operands[0], parts[i].name)) {
                        if (ctl->n_operands != (parts[i].named ? 2u : 1u))
                                return ctl_fail(ctl, CTL_USAGE, "usage", "expected: clupyctl env %s%s",
                                                parts[i].name, parts[i].named ? " NAME" : "");
                        if (ctl_option(ctl, "python") && parts[i].run != env_lock)
                                return ctl_fail(ctl, CTL_USAGE, "usage",
                                                "--python goes with `clupyctl env lock` only");
                        return parts[i].run(ctl);
                }
        return ctl_fail(ctl, CTL_USAGE, "usage",
                        "'%s' is no part of `env`: list, show, sync, remove or lock", ctl->operands[0]);
}

static const CtlOption options[] = {
        { "python", 'p', "X.Y", "lock: of the default environment for this Python" },
};

static const char *const words[] = { "list", "show", "sync", "remove", "lock", NULL };

const CtlVerb verb_env = {
        .name = "env",
        .synopsis = "PART …",
        .help = "See the packages that tasks can import",
        .details = "  clupyctl env list\n"
                   "  clupyctl env show NAME\n"
                   "  clupyctl env sync\n"
                   "  clupyctl env remove NAME\n"
                   "  clupyctl env lock [--python X.Y]\n",
        .min_operands = 1,
        .max_operands = 2,
        .options = options,
        .n_options = ELEMENTSOF(options),
        .operands = "environment",
        .words = words,
        .run = run,
};
