/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Why a task ended: exactly one of these. The names are the wire's (docs/protocol.md). */
typedef enum OutcomeKind {
        OUTCOME_NONE, /* has not ended */
        OUTCOME_VALUE,
        OUTCOME_EXCEPTION,
        OUTCOME_EXIT,
        OUTCOME_MEMORY,
        OUTCOME_CPU_TIME,
        OUTCOME_TIMEOUT,
        OUTCOME_DEADLINE,
        OUTCOME_DISK,
        OUTCOME_SYSCALL,
        OUTCOME_SIGNAL,
        OUTCOME_CANCELLED,
        OUTCOME_ENVIRONMENT,
        OUTCOME_RESULT_PICKLING,
        OUTCOME_NODE_LOST,
        OUTCOME_REFUSED,
        OUTCOME_INFRASTRUCTURE, /* the sandbox could not be made or broke: the master runs the task again */
        OUTCOME_SUPERSEDED,     /* another attempt has taken over: nobody is told */
        _OUTCOME_MAX,
} OutcomeKind;

/* The wire's name of a kind; NULL outside the enum. */
const char *outcome_kind_to_string(OutcomeKind kind);

/* Returns the kind of that name, -EINVAL when there is none. */
int outcome_kind_from_string(const char *name);
