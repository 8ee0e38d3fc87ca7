/* SPDX-License-Identifier: Apache-2.0 */
/* What a shell offers behind <Tab>. The shell's script knows nothing: verbs, options and states come from
 * the tables here, names of nodes and ids of tasks from the master, who gets a second for it. */
#include <stdlib.h>

#include "ctl.h"
#include "json-util.h"
#include "parse-util.h"
#include "pki.h"

#define PATIENCE_USEC 1000000
#define TASKS_MAX 200

static void print_options(const CtlOption *options, size_t n) {
        for (size_t i = 0; i < n; i++)
                printf("--%s%s\n", options[i].name, options[i].argument ? "=" : "");
}

static void print_live(const char *master, const char *verb, const char *list, const char *key, bool ended) {
        _cleanup_(json_putp) json_object *args = NULL, *answer = NULL;
        _cleanup_(transport_freep) Transport *transport = NULL;
        QueryError e = {};

        if (json_new_object(&args) >= 0 && json_add_int64(args, "limit", TASKS_MAX) >= 0 &&
            json_add_bool(args, "ended", ended) >= 0 &&
            transport_open(master, PATIENCE_USEC, &transport, &e) >= 0 &&
            transport_query(transport, verb, args, &answer, &e) >= 0)
                for (size_t i = 0; i < member_length(answer, list); i++) {
                        const char *text = member_string(
                                json_object_array_get_idx(member_object(answer, list), i), key);

                        /* Names of nodes and ids are harmless; whatever else comes must not reach a shell.
                         */
                        if (node_name_is_valid(text))
                                puts(text);
                }
        query_error_done(&e);
}

static void print_values(const char *master, const CtlOption *option) {
        static const char *const states[] = { "queued",      "starting", "running", "frozen",
                                              "unreachable", "waiting",  "ended" };

        if (streq(option->name, "state"))
                for (size_t i = 0; i < ELEMENTSOF(states); i++)
                        puts(states[i]);
        else if (streq(option->name, "node"))
                print_live(master, "nodes", "nodes", "name", false);
}

/* The option with an argument that word is, if any. */
static const CtlOption *option_find(const CtlVerb *verb, const char *word) {
        for (size_t i = 0; i < ctl_n_global_options; i++)
                if (startswith(word, "--") && streq(word + 2, ctl_global_options[i].name))
                        return ctl_global_options[i].argument ? &ctl_global_options[i] : NULL;
        for (size_t i = 0; verb && i < verb->n_options; i++) {
                const CtlOption *o = &verb->options[i];

                if ((startswith(word, "--") && streq(word + 2, o->name)) ||
                    (o->letter && word[0] == '-' && word[1] == o->letter && word[2] == '\0'))
                        return o->argument ? o : NULL;
        }
        return NULL;
}

static bool takes_environment(const char *part) {
        return streq_ptr(part, "show") || streq_ptr(part, "remove");
}

int ctl_complete(int argc, char *argv[]) {
        const CtlVerb *verb = NULL;
        const CtlOption *expects = NULL; /* the option whose argument comes next */
        const char *master = NULL, *part = NULL, *second = NULL, *folder = NULL, *tokens = NULL, *word,
                   *equals;
        size_t operands = 0;
        uint64_t index;
        char **words = argv + 3; /* words[0] is "clupyctl" */
        size_t n = (size_t) MAX(argc - 3, 0);

        if (parse_uint64(argv[2], &index) < 0 || index < 1)
                return CTL_USAGE;
        for (size_t i = 1; i < MIN(index, n); i++) {
                const char *value = startswith(words[i], "--master=");

                if (expects) {
                        if (streq(expects->name, "master"))
                                master = words[i];
                        else if (streq(expects->name, "folder"))
                                folder = words[i];
                        else if (streq(expects->name, "tokens"))
                                tokens = words[i];
                        expects = NULL;
                } else if (value)
                        master = value;
                else if (words[i][0] == '-')
                        expects = option_find(verb, words[i]);
                else if (!verb)
                        verb = ctl_verb_find(words[i]);
                else {
                        if (operands == 0)
                                part = words[i];
                        else if (operands == 1)
                                second = words[i];
                        operands++;
                }
        }
        word = index < n ? words[index] : "";
        equals = word[0] == '-' ? strchr(word, '=') : NULL;
        if (equals) {
                _cleanup_(freep) char *name = memdup_nul(word, (size_t) (equals - word));

                expects = name ? option_find(verb, name) : NULL;
        }
        if (expects)
                print_values(master, expects);
        else if (word[0] == '-') {
                print_options(ctl_global_options, ctl_n_global_options);
                if (verb)
                        print_options(verb->options, verb->n_options);
        } else if (!verb)
                for (size_t i = 0; i < ctl_n_verbs; i++)
                        puts(ctl_verbs[i]->name);
        else if (verb == &verb_task && operands == 0)
                puts("show");
        else if (verb->words && operands == 0)
                for (size_t i = 0; verb->words[i]; i++)
                        puts(verb->words[i]);
        else if (verb == &verb_pki || verb == &verb_token)
                pki_complete(verb->name, part, second, operands, folder, tokens);
        else if (operands >= verb->max_operands || (verb == &verb_env && !takes_environment(part)))
                ;
        else if (streq_ptr(verb->operands, "node"))
                print_live(master, "nodes", "nodes", "name", false);
        else if (streq_ptr(verb->operands, "environment"))
                print_live(master, "environments", "environments", "name", false);
        else if (streq_ptr(verb->operands, "task"))
                print_live(master, "tasks", "tasks", "id", verb != &verb_cancel);
        return CTL_OK;
}
