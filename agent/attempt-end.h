/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "launcher/launcher-protocol.h"
#include "memory-util.h"
#include "outcome.h"

/* How an attempt ended: why, and what it used. */
typedef struct AttemptEnd {
        OutcomeKind kind;
        int32_t status;
        uint64_t limit,
                peak; /* as in LauncherEvent; DEADLINE: µs from the order on, 0 when it is not known */
        LauncherDisk tmp, shm; /* MEMORY, DISK; limit 0: not known */
        bool retry;            /* an exception whose type is one to run again for */
        bool ran;              /* the receipt is the launcher's; otherwise nothing ever ran */
        LauncherReceipt receipt;
        char detail[]; /* as in LauncherEvent: a name or a sentence */
} AttemptEnd;

/* What the launcher says. Returns 0, -ENOMEM, -EINVAL for a kind that is none. */
int attempt_end_new(const LauncherEvent *event, AttemptEnd **ret);
/* An end that the agent made: nothing ran. detail may be NULL. Returns 0, -ENOMEM. */
int attempt_end_new_local(OutcomeKind kind, const char *detail, AttemptEnd **ret);

/* OUTCOME of docs/protocol.md. Returns 0, -ENOMEM. */
int attempt_end_to_json(const AttemptEnd *end, json_object **ret);
