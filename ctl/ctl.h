/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "transport.h"

/* clupyctl: one invocation is one verb. What every verb's function gets to see is here. */

typedef struct CtlOption {
        const char *name;     /* "follow" for --follow */
        char letter;          /* 'f' for -f, 0: none */
        const char *argument; /* "STATE" in the help, NULL: takes none. "HOST...": the option may be given
                                 several times, its values are joined by commas */
        const char *help;
} CtlOption;

enum { CTL_OPTIONS_MAX = 8 }; /* of one verb */

typedef struct Ctl Ctl;

typedef struct CtlVerb {
        const char *name;
        const char *synopsis; /* its operands and options, "" when it has none */
        const char *help;     /* one line */
        const char *details;  /* further lines of the verb's own help, or NULL */
        size_t min_operands, max_operands;
        const CtlOption *options;
        size_t n_options;
        const char *operands;     /* what completes an operand: "node", "task", or NULL */
        const char *const *words; /* what the first operand is one of, NULL-terminated, or NULL */
        /* Returns the exit status, after it has told the user what went wrong. */
        int (*run)(Ctl *ctl);
} CtlVerb;

struct Ctl {
        const CtlVerb *verb;
        const char *values[CTL_OPTIONS_MAX]; /* of the verb's options; "" for one that takes no argument */
        char *joined[CTL_OPTIONS_MAX];       /* the values of those that were given several times */
        char **operands;                     /* borrowed from argv, NULL-terminated */
        size_t n_operands;

        const char *master; /* --master, or NULL */
        bool json, no_color, help, version;

        Terminal terminal;
        Transport *transport; /* once the first query is made */
};

extern const CtlOption ctl_global_options[];
extern const size_t ctl_n_global_options;
extern const CtlVerb *const ctl_verbs[];
extern const size_t ctl_n_verbs;

const CtlVerb *ctl_verb_find(const char *name);

/* Takes the command line apart: global options anywhere, the verb, its options and operands; "--" ends the
 * options. Operands are moved to the front of argv. Returns 0, -EINVAL with a sentence. */
int ctl_parse(Ctl *ctl, int argc, char *argv[], char **ret_message);

/* The value of one of the verb's options, NULL when it was not given. */
const char *ctl_option(const Ctl *ctl, const char *name);

/* Asks the master; connects first if need be. args is taken (NULL: memory was short). Returns 0, or the exit
 * status after it has told the user what went wrong. */
int ctl_query(Ctl *ctl, const char *verb, json_object *args, json_object **ret);
/* The same for a query of any number of answers, each given to part, whose return value other than 0 ends
 * it and is returned. */
int ctl_query_stream(Ctl *ctl, const char *verb, json_object *args, TransportPart part, void *userdata);
/* Connects. Returns 0 or the exit status. */
int ctl_connect(Ctl *ctl);

/* Tells the user what went wrong: on standard error, and as {"error":code,"message":…} on standard output
 * when that is to be JSON. Returns status. */
int ctl_fail(const Ctl *ctl, int status, const char *code, const char *format, ...) _printf_(4, 5);
int ctl_fail_memory(const Ctl *ctl);

/* One JSON value, for people and programs alike: indented on a terminal, else on one line. */
void ctl_print_json(const Ctl *ctl, json_object *value);

/* A task as the user named it: an id, or enough of its first digits to be the only one. Fills id with what
 * the master knows it by: 32 digits are taken as they are, of a shorter prefix the master is asked. Returns
 * 0, or the exit status. */
int ctl_resolve_task(Ctl *ctl, const char *name, char id[static 33]);

/* "root" and the like: who runs this. Never NULL. */
const char *ctl_user(void);

extern const CtlVerb verb_status, verb_nodes, verb_tasks, verb_task, verb_why, verb_logs, verb_cancel,
        verb_drain, verb_undrain, verb_env, verb_pki, verb_token, verb_version;

/* `clupyctl __complete INDEX WORD…`, for shells: prints what may stand at words[index], one candidate a
 * line. Returns the exit status. */
int ctl_complete(int argc, char *argv[]);
