/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "outcome.h"

/* Why an attempt ended, out of what was observed. */
typedef struct EndFacts {
        OutcomeKind ordered; /* what the launcher killed it for, when no result was complete before:
                              * SUPERSEDED, CANCELLED, DEADLINE, TIMEOUT, CPU_TIME; else NONE */
        bool refused;        /* a system call that must not be tried was */
        OutcomeKind result;  /* what it handed over: VALUE, EXCEPTION, DISK, RESULT_PICKLING; else NONE */
        uint64_t oom_kills;  /* in its cgroup, since its start */
        bool sandbox_broke;  /* its init or its namespace went first */
        int code, status;    /* si_code and si_status of the task's process */
} EndFacts;

OutcomeKind end_decide(const EndFacts *facts);

/* "SIGTERM", "SIGRTMIN+3", or "signal 99". Fills buffer, which it returns. */
char *signal_to_name(int number, char *buffer, size_t size);
