/* SPDX-License-Identifier: Apache-2.0 */
/* The command line. */
#include <errno.h>

#include "ctl.h"

const CtlOption ctl_global_options[] = {
        { "master", 0, "URL", "ask the master there over TCP, e.g. clupy://host:7878" },
        { "json", 0, NULL, "print the master's answer as JSON" },
        { "no-color", 0, NULL, "no colours, not on a terminal either" },
        { "help", 'h', NULL, "print this help, after a verb that verb's" },
        { "version", 0, NULL, "print the version of clupyctl" },
};
const size_t ctl_n_global_options = ELEMENTSOF(ctl_global_options);

const CtlVerb *const ctl_verbs[] = {
        &verb_status, &verb_nodes,   &verb_tasks, &verb_task, &verb_why,   &verb_logs,    &verb_cancel,
        &verb_drain,  &verb_undrain, &verb_env,   &verb_pki,  &verb_token, &verb_version,
};
const size_t ctl_n_verbs = ELEMENTSOF(ctl_verbs);

const CtlVerb *ctl_verb_find(const char *name) {
        for (size_t i = 0; i < ctl_n_verbs; i++)
                if (streq(ctl_verbs[i]->name, name))
                        return ctl_verbs[i];
        return NULL;
}

const char *ctl_option(const Ctl *ctl, const char *name) {
        for (size_t i = 0; i < ctl->verb->n_options; i++)
                if (streq(ctl->verb->options[i].name, name))
                        return ctl->values[i];
        return NULL;
}

/* Whether word ("--name", "--name=value" or "-x") is that option; *ret_value is what stands behind '='. */
static bool option_matches(const CtlOption *option, const char *word, const char **ret_value) {
        const char *rest;

        *ret_value = NULL;
        if (word[1] != '-')
                return option->letter && word[1] == option->letter && word[2] == '\0';
        rest = startswith(word + 2, option->name);
        if (!rest || (*rest != '\0' && *rest != '='))
                return false;
        if (*rest == '=')
                *ret_value = rest + 1;
        return true;
}

static int option_value(const CtlOption *option, const char *value, int argc, char *argv[], int *i,
                        const char **ret_value, char **ret_message) {
        if (!option->argument) {
                if (value) {
                        *ret_message = strformat("--%s takes no argument", option->name);
                        return -EINVAL;
                }
                *ret_value = "";
                return 0;
        }
        if (!value && *i + 1 >= argc) {
                *ret_message = strformat("--%s needs an argument: %s", option->name, option->argument);
                return -EINVAL;
        }
        *ret_value = value ?: argv[++*i];
        return 0;
}

static void global_set(Ctl *ctl, const CtlOption *option, const char *value) {
        if (streq(option->name, "master"))
                ctl->master = value;
        else if (streq(option->name, "json"))
                ctl->json = true;
        else if (streq(option->name, "no-color"))
                ctl->no_color = true;
        else if (streq(option->name, "help"))
                ctl->help = true;
        else if (streq(option->name, "version"))
                ctl->version = true;
}

static int verb_set(Ctl *ctl, size_t option, const char *value) {
        char *joined;

        if (!endswith(strempty(ctl->verb->options[option].argument), "...") || !ctl->values[option]) {
                ctl->values[option] = value;
                return 0;
        }
        joined = strformat("%s,%s", ctl->values[option], value);
        if (!joined)
                return -ENOMEM;
        free(ctl->joined[option]);
        ctl->values[option] = ctl->joined[option] = joined;
        return 0;
}

static int parse_option(Ctl *ctl, int argc, char *argv[], int *i, char **ret_message) {
        const char *value;
        int r;

        for (size_t o = 0; o < ctl_n_global_options; o++)
                if (option_matches(&ctl_global_options[o], argv[*i], &value)) {
                        r = option_value(&ctl_global_options[o], value, argc, argv, i, &value, ret_message);
                        if (r >= 0)
                                global_set(ctl, &ctl_global_options[o], value);
                        return r;
                }
        for (size_t o = 0; ctl->verb && o < ctl->verb->n_options; o++)
                if (option_matches(&ctl->verb->options[o], argv[*i], &value)) {
                        r = option_value(&ctl->verb->options[o], value, argc, argv, i, &value, ret_message);
                        return r < 0 ? r : verb_set(ctl, o, value);
                }
        if (ctl->verb)
                *ret_message = strformat("%s is no option of `%s`; see clupyctl %s --help", argv[*i],
                                         ctl->verb->name, ctl->verb->name);
        else
                *ret_message = strformat(
                        "%s is no option; options of a verb come after it; see clupyctl --help", argv[*i]);
        return -EINVAL;
}

int ctl_parse(Ctl *ctl, int argc, char *argv[], char **ret_message) {
        bool options = true;

        ctl->operands = argv;
        for (int i = 1; i < argc; i++) {
                if (options && streq(argv[i], "--"))
                        options = false;
                else if (options && argv[i][0] == '-' && argv[i][1]) {
                        int r = parse_option(ctl, argc, argv, &i, ret_message);

                        if (r < 0)
                                return r;
                } else if (!ctl->verb) {
                        ctl->verb = ctl_verb_find(argv[i]);
                        if (!ctl->verb) {
                                *ret_message = strformat("'%s' is no verb; see clupyctl --help", argv[i]);
                                return -EINVAL;
                        }
                } else
                        argv[ctl->n_operands++] = argv[i];
        }
        if (ctl->help || ctl->version)
                return 0;
        if (!ctl->verb) {
                *ret_message = strdup("what is to be done? see clupyctl --help");
                return -EINVAL;
        }
        if (ctl->n_operands < ctl->verb->min_operands || ctl->n_operands > ctl->verb->max_operands) {
                *ret_message = strformat("expected: clupyctl %s%s%s", ctl->verb->name,
                                         isempty(ctl->verb->synopsis) ? "" : " ", ctl->verb->synopsis);
                return -EINVAL;
        }
        return 0;
}
