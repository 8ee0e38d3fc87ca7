/* SPDX-License-Identifier: Apache-2.0 */
#include "outcome.h"

#include <errno.h>
#include <string.h>

static const char *const outcome_kind_table[_OUTCOME_MAX] = {
        [OUTCOME_NONE] = "none",
        [OUTCOME_VALUE] = "value",
        [OUTCOME_EXCEPTION] = "exception",
        [OUTCOME_EXIT] = "exit",
        [OUTCOME_MEMORY] = "memory",
        [OUTCOME_CPU_TIME] = "cpu-time",
        [OUTCOME_TIMEOUT] = "timeout",
        [OUTCOME_DEADLINE] = "deadline",
        [OUTCOME_DISK] = "disk",
        [OUTCOME_SYSCALL] = "syscall",
        [OUTCOME_SIGNAL] = "signal",
        [OUTCOME_CANCELLED] = "cancelled",
        [OUTCOME_ENVIRONMENT] = "environment",
        [OUTCOME_RESULT_PICKLING] = "result-pickling",
        [OUTCOME_NODE_LOST] = "node-lost",
        [OUTCOME_REFUSED] = "refused",
        [OUTCOME_INFRASTRUCTURE] = "infrastructure",
        [OUTCOME_SUPERSEDED] = "superseded",
};

const char *outcome_kind_to_string(OutcomeKind kind) {
        return (unsigned) kind < _OUTCOME_MAX ? outcome_kind_table[kind] : NULL;
}

int outcome_kind_from_string(const char *name) {
        for (int kind = 0; kind < _OUTCOME_MAX; kind++)
                if (strcmp(outcome_kind_table[kind], name) == 0)
                        return kind;
        return -EINVAL;
}
