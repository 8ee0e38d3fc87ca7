/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "environment-node.h"
#include "id.h"
#include "macros.h"
#include "memory-util.h"
#include "types.h"

typedef enum AttemptState {
        ATTEMPT_STARTING,
        ATTEMPT_RUNNING,
        ATTEMPT_FROZEN,
        ATTEMPT_ENDED,
        _ATTEMPT_STATE_MAX,
} AttemptState;

DEFINE_NAME_TABLE_DECLARATION(attempt_state, AttemptState);

/* What a node says of an attempt that no task claims yet. */
typedef struct Orphan {
        Id session;
        uint64_t until;          /* BOOTTIME µs: then it is stopped */
        char *outcome, *receipt; /* JSON, when it has ended */
        uint64_t size;
} Orphan;

/* One run of a task on a node: what the node's capacity is taken by, and where a result lies. Three kinds:
 * of a task; an orphan (a node reported it, no client has named it yet); abandoned (its task no longer wants
 * it, and it takes room until the node says that it is gone). */
struct Attempt {
        Node *node;
        Owner *owner; /* a reference */
        Id id;        /* on the wire: see attempt_wire_id() */
        uint32_t number;
        AttemptState state;
        Task *task;
        Orphan *orphan;
        bool charged;  /* counts against the node */
        bool reported; /* seen in the REPORT that is coming in */
        bool stopping; /* STOP has been sent */
        uint32_t mcpus;
        uint64_t memory;
        Resources requires;
        char *unit;
};

/* Puts it on its node's books. An older attempt of the same task that is still there is dropped. Returns 0,
 * -ENOMEM. */
int attempt_new(Node *node, Owner *owner, Id id, uint32_t number, uint32_t mcpus, uint64_t memory,
                Attempt **ret);
/* What it takes of the node's resources as well, in place of what it took of them before. */
void attempt_take(Attempt *attempt, const Resources *requires);
/* Takes it off them, and off its task. */
Attempt *attempt_free(Attempt *attempt);
DEFINE_CLEANUP(Attempt, attempt_free);

/* Nodes know attempts by one id, whoever owns them. It is the task's, unless an attempt of another owner's
 * has that one there, or had it lately: then it is attempt_other_id(). Returns 0, -ENOMEM, -EIO. */
int attempt_wire_id(Node *node, const Task *task, Id *ret);
/* A hash of owner and id: the same after a restart, and nobody finds an id that gives another's. */
int attempt_other_id(const char *owner, Id id, Id *ret);

/* Sets it; from ended on it takes no CPU or memory any more. */
void attempt_set_state(Attempt *attempt, AttemptState state);

Orphan *orphan_free(Orphan *orphan);
DEFINE_CLEANUP(Orphan, orphan_free);
