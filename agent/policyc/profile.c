/* SPDX-License-Identifier: Apache-2.0 */
#include "profile.h"

#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>

#include "fd-util.h"
#include "floor.h"
#include "json-util.h"
#include "parse-util.h"

typedef struct Parser {
        const char *file;
        Profile *profile;
        char **ret_message;
} Parser;

typedef struct ActionName {
        const char *name;
        RuleAction action;
} ActionName;

static const ActionName action_names[] = {
        { "SCMP_ACT_ALLOW", RULE_ALLOW },     { "SCMP_ACT_ERRNO", RULE_ERRNO },
        { "SCMP_ACT_NOTIFY", RULE_DIE },      { "SCMP_ACT_KILL", RULE_DIE },
        { "SCMP_ACT_KILL_THREAD", RULE_DIE }, { "SCMP_ACT_KILL_PROCESS", RULE_DIE },
};

static const char *const op_names[_CONDITION_OP_MAX] = {
        [CONDITION_NE] = "SCMP_CMP_NE",
        [CONDITION_LT] = "SCMP_CMP_LT",
        [CONDITION_LE] = "SCMP_CMP_LE",
        [CONDITION_EQ] = "SCMP_CMP_EQ",
        [CONDITION_GE] = "SCMP_CMP_GE",
        [CONDITION_GT] = "SCMP_CMP_GT",
        [CONDITION_MASKED_EQ] = "SCMP_CMP_MASKED_EQ",
};

typedef struct ArchName {
        const char *name;
        uint32_t token;
} ArchName;

static const ArchName arch_names[] = {
        { "SCMP_ARCH_X86_64", SCMP_ARCH_X86_64 }, { "SCMP_ARCH_X86", SCMP_ARCH_X86 },
        { "SCMP_ARCH_X32", SCMP_ARCH_X32 },       { "SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64 },
        { "SCMP_ARCH_ARM", SCMP_ARCH_ARM },       { "SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE },
        { "SCMP_ARCH_S390X", SCMP_ARCH_S390X },   { "SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64 },
};

/* Second system call tables that the same processor and kernel offer: their numbers mean other things, so
 * nothing in the filter would hold. */
static const struct {
        uint32_t native, second;
} second_tables[] = {
        { SCMP_ARCH_X86_64, SCMP_ARCH_X86 },
        { SCMP_ARCH_X86_64, SCMP_ARCH_X32 },
        { SCMP_ARCH_AARCH64, SCMP_ARCH_ARM },
};

Profile *profile_free(Profile *p) {
        if (!p)
                return NULL;
        free(p->name);
        free(p->rules);
        strv_free(p->unknown);
        return mfree(p);
}

const Rule *profile_find(const Profile *p, int number) {
        for (size_t i = 0; i < p->n_rules; i++)
                if (p->rules[i].number == number)
                        return &p->rules[i];
        return NULL;
}

/* Leaves "file: …" for the user. Returns -EINVAL, or -ENOMEM. */
static int _printf_(2, 3) complain(Parser *parser, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&text, format, ap);
        va_end(ap);
        if (r < 0) {
                text = NULL;
                return -ENOMEM;
        }
        free(*parser->ret_message);
        *parser->ret_message = strformat("%s: %s", parser->file, text);
        return *parser->ret_message ? -EINVAL : -ENOMEM;
}

/* A stranger's or at least a mistaken text within a message. Never NULL. */
static const char *shown(json_object *value, char **buffer) {
        if (json_object_is_type(value, json_type_string))
                *buffer = text_for_message(json_object_get_string(value), 64);
        else if (!value)
                return "nothing";
        else
                *buffer =
                        text_for_message(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN), 64);
        return *buffer ? *buffer : "?";
}

static int complain_value(Parser *parser, const char *path, const char *expected, json_object *value) {
        _cleanup_(freep) char *buffer = NULL;

        return complain(parser, "%s: expected %s, got %s%s%s", path, expected,
                        json_object_is_type(value, json_type_string) ? "'" : "", shown(value, &buffer),
                        json_object_is_type(value, json_type_string) ? "'" : "");
}

/* Only these keys may be there; prefix is "" or "syscalls[3].". */
static int check_keys(Parser *parser, const char *prefix, json_object *object, const char *const *known) {
        json_object_object_foreach(object, key, value) {
                const char *nearest = NULL;
                size_t distance = 4;

                (void) value;
                for (size_t i = 0; known[i]; i++) {
                        size_t d;

                        if (streq(known[i], key)) {
                                nearest = key;
                                distance = 0;
                                break;
                        }
                        d = strlen(key) <= 64 ? edit_distance(known[i], key) : SIZE_MAX;
                        if (d < distance) {
                                distance = d;
                                nearest = known[i];
                        }
                }
                if (distance > 0) {
                        _cleanup_(freep) char *text = text_for_message(key, 64);

                        if (nearest)
                                return complain(parser, "%s%s: unknown key (did you mean '%s'?)", prefix,
                                                text ? text : "?", nearest);
                        return complain(parser, "%s%s: unknown key", prefix, text ? text : "?");
                }
        }
        return 0;
}

/* An errno under `key`, if it is there. */
static int parse_error(Parser *parser, const char *prefix, json_object *object, const char *key,
                       unsigned *ret) {
        json_object *value = NULL;
        int64_t n = 0;

        if (!json_object_object_get_ex(object, key, &value) || !value)
                return 0;
        if (json_get_int64(object, key, 1, PROFILE_ERRNO_MAX, &n) < 0) {
                _cleanup_(freep) char *path = strformat("%s%s", prefix, key);

                return path ? complain_value(parser, path, "an errno, 1 … 4095", value) : -ENOMEM;
        }
        *ret = (unsigned) n;
        return 0;
}

static int parse_architectures(Parser *parser, json_object *root) {
        json_object *list;
        uint32_t native = seccomp_arch_native();
        bool found = false;
        int r;

        r = json_get_array_optional(root, "architectures", ELEMENTSOF(arch_names) * 4, &list);
        if (r < 0)
                return complain(parser, "architectures: expected a list such as [\"SCMP_ARCH_X86_64\"]");
        if (!list)
                return 0;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                json_object *value = json_object_array_get_idx(list, i);
                const char *name =
                        json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
                _cleanup_(freep) char *path = strformat("architectures[%zu]", i);
                const ArchName *arch = NULL;

                if (!path)
                        return -ENOMEM;
                for (size_t j = 0; name && j < ELEMENTSOF(arch_names); j++)
                        if (streq(arch_names[j].name, name))
                                arch = &arch_names[j];
                if (!arch)
                        return complain_value(parser, path, "an architecture such as SCMP_ARCH_X86_64",
                                              value);
                for (size_t j = 0; j < ELEMENTSOF(second_tables); j++)
                        if (second_tables[j].native == native && second_tables[j].second == arch->token)
                                return complain(parser,
                                                "%s: expected no second system call table, got '%s': its "
                                                "calls are always fatal on this machine",
                                                path, name);
                found = found || arch->token == native;
        }
        if (!found)
                return complain(parser, "architectures: expected this machine's own among them");
        return 0;
}

static int parse_condition(Parser *parser, const char *prefix, json_object *object, Condition *ret) {
        static const char *const known[] = { "index", "value", "valueTwo", "op", "comment", NULL };
        _cleanup_(freep) char *path = NULL;
        Condition c = { 0 };
        const char *op;
        int64_t index;
        int r;

        r = check_keys(parser, prefix, object, known);
        if (r < 0)
                return r;
        if (json_get_int64(object, "index", 0, 5, &index) < 0)
                return complain(parser, "%sindex: expected the number of an argument, 0 … 5", prefix);
        c.argument = (unsigned) index;
        if (json_get_uint64(object, "value", UINT64_MAX, &c.value) < 0)
                return complain(parser, "%svalue: expected a number from 0", prefix);
        if (json_get_uint64_optional(object, "valueTwo", UINT64_MAX, 0, &c.value_two) < 0)
                return complain(parser, "%svalueTwo: expected a number from 0", prefix);
        r = json_get_string(object, "op", 64, &op) < 0 ? -EINVAL
                                                       : name_table_find(op_names, ELEMENTSOF(op_names), op);
        if (r < 0) {
                json_object *value = NULL;

                json_object_object_get_ex(object, "op", &value);
                path = strformat("%sop", prefix);
                return path ? complain_value(parser, path,
                                             "SCMP_CMP_NE, _LT, _LE, _EQ, _GE, _GT or _MASKED_EQ", value)
                            : -ENOMEM;
        }
        c.op = (ConditionOp) r;
        if (c.op == CONDITION_MASKED_EQ && (c.value_two & ~c.value) != 0)
                return complain(
                        parser,
                        "%svalueTwo: expected only bits that are in the mask 'value': this is never true",
                        prefix);
        *ret = c;
        return 0;
}

/* The conditions of one entry of syscalls[] into rule. */
static int parse_conditions(Parser *parser, const char *prefix, json_object *entry, Rule *rule) {
        unsigned seen = 0;
        json_object *list;

        if (json_get_array_optional(entry, "args", ELEMENTSOF(rule->conditions), &list) < 0)
                return complain(parser, "%sargs: expected a list of at most 6 conditions", prefix);
        for (size_t i = 0; list && i < json_object_array_length(list); i++) {
                _cleanup_(freep) char *path = strformat("%sargs[%zu].", prefix, i);
                json_object *value = json_object_array_get_idx(list, i);
                Condition *c = &rule->conditions[i];
                int r;

                if (!path)
                        return -ENOMEM;
                if (!json_object_is_type(value, json_type_object))
                        return complain(parser, "%sargs[%zu]: expected an object with index, op and value",
                                        prefix, i);
                r = parse_condition(parser, path, value, c);
                if (r < 0)
                        return r;
                /* One rule of the kernel's filter has one condition an argument. */
                if (seen & 1u << c->argument)
                        return complain(parser,
                                        "%sindex: expected each argument once in an entry (alternatives are "
                                        "entries of their own), got %u again",
                                        path, c->argument);
                seen |= 1u << c->argument;
                rule->n_conditions++;
        }
        return 0;
}

/* Whether a profile may say this of that call. */
static int check_against_floor(Parser *parser, const char *path, const char *action_path, const char *name,
                               const Rule *rule) {
        if (rule->action == RULE_ALLOW && floor_forbids(name))
                return complain(parser,
                                "%s: expected a call that a profile may allow, got '%s', which is never "
                                "allowed to a task",
                                path, name);
        if (rule->action == RULE_DIE && floor_is_zygotes(name))
                return complain(parser,
                                "%s: expected SCMP_ACT_ERRNO or SCMP_ACT_ALLOW for '%s': the process that "
                                "starts tasks needs it and is watched by "
                                "the same filter",
                                action_path, name);
        if (streq(name, "clone") && (rule->n_conditions > 0 || rule->action != RULE_ALLOW))
                return complain(parser,
                                "%s: expected 'clone' to be allowed without args: flags for namespaces and "
                                "foreign parents are always refused",
                                path);
        return 0;
}

/* One name of one entry: adds the rule, unless this machine has no such call. */
static int add_rule(Parser *parser, const char *path, const char *action_path, const char *name, Rule rule) {
        Profile *p = parser->profile;
        const Rule *other;
        int r, number;

        number = seccomp_syscall_resolve_name(name);
        if (number == __NR_SCMP_ERROR)
                return strv_contains(p->unknown, name) ? 0 : strv_extend(&p->unknown, name);
        r = check_against_floor(parser, path, action_path, name, &rule);
        if (r < 0)
                return r;
        if (number < 0) /* a call of other architectures */
                return 0;
        if (number >= PROFILE_SYSCALL_MAX || p->n_rules >= PROFILE_RULES_MAX)
                return complain(parser, "%s: too many rules", path);
        other = profile_find(p, number);
        if (other) {
                bool same = other->action == rule.action && other->error == rule.error;

                if (!same)
                        return complain(parser, "%s: expected one action for '%s', syscalls[%u] has another",
                                        path, name, other->syscall_index);
                if (other->n_conditions == 0)
                        return 0;
                if (rule.n_conditions == 0)
                        return complain(
                                parser,
                                "%s: expected '%s' either with args or without, syscalls[%u] has some", path,
                                name, other->syscall_index);
        }
        r = ARRAY_RESERVE(p->rules, p->rules_capacity, p->n_rules + 1);
        if (r < 0)
                return r;
        rule.number = number;
        p->rules[p->n_rules++] = rule;
        return 0;
}

static int parse_syscalls_entry(Parser *parser, unsigned index, json_object *entry) {
        static const char *const known[] = { "names", "action", "errnoRet", "args", "comment", NULL };
        _cleanup_(freep) char *prefix = strformat("syscalls[%u].", index), *action_path = NULL;
        Rule rule = { .syscall_index = index };
        const char *action = NULL;
        json_object *names, *value = NULL;
        bool found = false;
        int r;

        action_path = strformat("syscalls[%u].action", index);
        if (!prefix || !action_path)
                return -ENOMEM;
        if (!json_object_is_type(entry, json_type_object))
                return complain(parser, "syscalls[%u]: expected an object with names and action", index);
        r = check_keys(parser, prefix, entry, known);
        if (r < 0)
                return r;
        (void) json_get_string(entry, "action", 64, &action);
        for (size_t i = 0; action && i < ELEMENTSOF(action_names); i++)
                if (streq(action_names[i].name, action)) {
                        rule.action = action_names[i].action;
                        found = true;
                }
        if (!found) {
                json_object_object_get_ex(entry, "action", &value);
                return complain_value(
                        parser, action_path,
                        "SCMP_ACT_ALLOW, SCMP_ACT_ERRNO, SCMP_ACT_NOTIFY or SCMP_ACT_KILL_PROCESS", value);
        }
        if (rule.action == RULE_ERRNO) {
                rule.error = EPERM;
                r = parse_error(parser, prefix, entry, "errnoRet", &rule.error);
                if (r < 0)
                        return r;
        } else if (json_object_object_get_ex(entry, "errnoRet", &value) && value)
                return complain(parser, "%serrnoRet: expected only beside SCMP_ACT_ERRNO", prefix);
        r = parse_conditions(parser, prefix, entry, &rule);
        if (r < 0)
                return r;
        if (json_get_array(entry, "names", PROFILE_RULES_MAX, &names) < 0 ||
            json_object_array_length(names) == 0)
                return complain(parser, "%snames: expected a list of system calls", prefix);
        for (size_t i = 0; i < json_object_array_length(names); i++) {
                json_object *name = json_object_array_get_idx(names, i);
                _cleanup_(freep) char *path = strformat("syscalls[%u].names[%zu]", index, i);

                if (!path)
                        return -ENOMEM;
                if (!json_object_is_type(name, json_type_string) ||
                    strlen(json_object_get_string(name)) != (size_t) json_object_get_string_len(name) ||
                    json_object_get_string_len(name) == 0 || json_object_get_string_len(name) > 64)
                        return complain_value(parser, path, "the name of a system call", name);
                r = add_rule(parser, path, action_path, json_object_get_string(name), rule);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_needed(Parser *parser) {
        for (size_t i = 0; floor_needed[i]; i++) {
                int number = seccomp_syscall_resolve_name(floor_needed[i]);
                const Rule *rule = number >= 0 ? profile_find(parser->profile, number) : NULL;

                if (number >= 0 && (!rule || rule->action != RULE_ALLOW))
                        return complain(
                                parser,
                                "syscalls: expected '%s' to be allowed: a task cannot start without it",
                                floor_needed[i]);
        }
        return 0;
}

static int parse_root(Parser *parser, json_object *root) {
        static const char *const known[] = { "defaultAction", "defaultErrnoRet", "architectures",
                                             "syscalls",      "comment",         NULL };
        const char *action = NULL;
        json_object *list, *value = NULL;
        int r;

        r = check_keys(parser, "", root, known);
        if (r < 0)
                return r;
        (void) json_get_string(root, "defaultAction", 64, &action);
        if (!action || !streq(action, "SCMP_ACT_ERRNO")) {
                json_object_object_get_ex(root, "defaultAction", &value);
                return complain_value(parser, "defaultAction",
                                      "SCMP_ACT_ERRNO (a profile is a list of what is allowed)", value);
        }
        parser->profile->default_error = EPERM;
        r = parse_error(parser, "", root, "defaultErrnoRet", &parser->profile->default_error);
        if (r < 0)
                return r;
        r = parse_architectures(parser, root);
        if (r < 0)
                return r;
        if (json_get_array(root, "syscalls", PROFILE_RULES_MAX, &list) < 0)
                return complain(parser, "syscalls: expected a list of objects with names and action");
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                r = parse_syscalls_entry(parser, (unsigned) i, json_object_array_get_idx(list, i));
                if (r < 0)
                        return r;
        }
        return check_needed(parser);
}

/* Where the text stops being JSON, for the message: the tokener that json_parse_strict() uses does not tell.
 */
static unsigned syntax_line(const char *text, size_t size, const char **ret_error) {
        json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
        unsigned line = 1;
        size_t end = 0;

        *ret_error = "no strict JSON";
        if (!tokener)
                return line;
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        json_object_put(json_tokener_parse_ex(tokener, text, (int) MIN(size, (size_t) PROFILE_FILE_MAX)));
        if (json_tokener_get_error(tokener) != json_tokener_success)
                *ret_error = json_tokener_error_desc(json_tokener_get_error(tokener)); /* a constant */
        end = MIN(json_tokener_get_parse_end(tokener), size);
        for (size_t i = 0; i < end; i++)
                line += text[i] == '\n';
        json_tokener_free(tokener);
        return line;
}

int profile_parse(const char *name, const char *file, const char *text, size_t size, Profile **ret,
                  char **ret_message) {
        _cleanup_(profile_freep) Profile *p = new0(Profile);
        _cleanup_(json_putp) json_object *root = NULL;
        Parser parser = { .file = file, .profile = p, .ret_message = ret_message };
        int r;

        *ret_message = NULL;
        if (!p)
                return -ENOMEM;
        if (!name_is_valid(name, PROFILE_NAME_MAX))
                return complain(&parser, "expected a file name of 1 … %d of [a-z0-9-] and .json",
                                PROFILE_NAME_MAX);
        p->name = strdup(name);
        if (!p->name)
                return -ENOMEM;
        r = json_parse_strict(text, size, JSON_DEPTH_MAX, &root);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                const char *error;
                unsigned line = syntax_line(text, size, &error);

                *ret_message = strformat("%s:%u: expected JSON: %s", file, line, error);
                return *ret_message ? -EBADMSG : -ENOMEM;
        }
        if (!json_object_is_type(root, json_type_object))
                return complain(&parser, "expected an object with defaultAction and syscalls");
        r = parse_root(&parser, root);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

int profile_load(const char *path, Profile **ret, char **ret_message) {
        _cleanup_(freep) char *text = NULL, *name = NULL;
        const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path, *end;
        size_t size;
        int r;

        *ret_message = NULL;
        end = endswith(base, ".json");
        name = memdup_nul(base, end ? (size_t) (end - base) : strlen(base));
        if (!name)
                return -ENOMEM;
        r = read_file_full(path, PROFILE_FILE_MAX, &text, &size);
        if (r < 0) {
                *ret_message = r == -EFBIG
                                       ? strformat("%s: expected at most %d bytes", path, PROFILE_FILE_MAX)
                                       : strformat("%s: cannot be read: %s", path, strerror(-r));
                return r;
        }
        return profile_parse(name, path, text, size, ret, ret_message);
}
