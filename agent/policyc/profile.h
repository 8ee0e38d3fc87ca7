/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "memory-util.h"

/* A seccomp profile: what `linux.seccomp` is in the OCI runtime specification, as an allow list, checked
 * against the floor.
 *
 * Taken over: defaultAction (SCMP_ACT_ERRNO only), defaultErrnoRet, architectures, syscalls[] with names,
 * action, errnoRet, args[], and "comment" beside them. Everything else is an error, so that nothing a
 * profile says is silently without effect. */

enum {
        PROFILE_FILE_MAX = 1 << 20,
        PROFILE_NAME_MAX = 31,      /* the launcher's POLICY_NAME_MAX with its NUL */
        PROFILE_SYSCALL_MAX = 1024, /* system call numbers run from 0 to below this */
        PROFILE_RULES_MAX = 4096,
        PROFILE_ERRNO_MAX = 4095,
};

typedef enum RuleAction {
        RULE_ALLOW,
        RULE_ERRNO,
        RULE_DIE, /* SCMP_ACT_NOTIFY, SCMP_ACT_KILL*: the launcher records the call and kills the task */
} RuleAction;

typedef enum ConditionOp {
        CONDITION_NE,
        CONDITION_LT,
        CONDITION_LE,
        CONDITION_EQ,
        CONDITION_GE,
        CONDITION_GT,
        CONDITION_MASKED_EQ, /* (argument & value) == value_two */
        _CONDITION_OP_MAX,
} ConditionOp;

typedef struct Condition {
        unsigned argument; /* 0 … 5 */
        ConditionOp op;
        uint64_t value, value_two;
} Condition;

/* All conditions hold, or there are none: the call gets this action. Rules of one call have the same action.
 */
typedef struct Rule {
        int number;
        RuleAction action;
        unsigned error;         /* RULE_ERRNO */
        unsigned syscall_index; /* which entry of syscalls[] said so */
        size_t n_conditions;
        Condition conditions[6];
} Rule;

typedef struct Profile {
        char *name; /* [a-z0-9-]{1,31} */
        unsigned default_error;
        Rule *rules;
        size_t n_rules, rules_capacity;
        char **unknown; /* names in the profile that this libseccomp does not know: worth a warning */
} Profile;

Profile *profile_free(Profile *p);
DEFINE_CLEANUP(Profile, profile_free);

/* The action that a call number has without looking at arguments, when it has a rule: returns the first rule
 * or NULL. */
const Rule *profile_find(const Profile *p, int number);

/* Parses and checks. file is for messages only. Returns 0; -EBADMSG (no JSON), -EINVAL (no such profile)
 * with a message for the user
 * ("file:line: …" or "file: syscalls[3].action: expected …, got …"), to be freed; -ENOMEM. */
int profile_parse(const char *name, const char *file, const char *text, size_t size, Profile **ret,
                  char **ret_message);

/* The same for a file; its name without ".json" is the profile's. Returns also -EFBIG and the errors of
 * reading it. */
int profile_load(const char *path, Profile **ret, char **ret_message);
