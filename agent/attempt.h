/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "attempt-end.h"
#include "code-cache.h"
#include "digest.h"
#include "id.h"
#include "launcher/launcher-protocol.h"
#include "list.h"
#include "memory-util.h"
#include "payload.h"

typedef struct Agent Agent;
typedef struct CodeFetch CodeFetch;

typedef enum AttemptState {
        ATTEMPT_PREPARING, /* its code, its arguments or the launcher are not there yet */
        ATTEMPT_STARTING,  /* the launcher has been asked */
        ATTEMPT_RUNNING,
        ATTEMPT_FROZEN, /* by the end of the lease */
        ATTEMPT_ENDED,  /* kept until the master releases it */
        _ATTEMPT_STATE_MAX,
} AttemptState;

const char *attempt_state_to_string(AttemptState state);
/* The name in a REPORT: the wire does not tell PREPARING from STARTING. */
const char *attempt_state_to_wire(AttemptState state);

/* What the master has yet to hear of an attempt. */
typedef enum AttemptNews {
        ATTEMPT_NEWS_STARTED = 1 << 0,
        ATTEMPT_NEWS_ENDED = 1 << 1,
        ATTEMPT_NEWS_PROGRESS = 1 << 2,
} AttemptNews;

typedef struct AttemptProgress {
        double done, total;
        char note[NOTE_MAX];
} AttemptProgress;

enum { ATTEMPT_KEY_SIZE = 2 * (sizeof(Id) + sizeof(uint32_t)) + 1 };

typedef struct Attempt {
        Agent *agent;
        Id task;
        uint32_t attempt;
        char key[ATTEMPT_KEY_SIZE]; /* of the table: task and attempt */
        AttemptState state;

        char *owner, *name;
        Id job, session;
        uint64_t epoch;
        uint64_t memory_max, cpu_quota_usec;
        uint64_t deadline_usec; /* left when it was ordered; 0: none, or ordered through a former agent */
        LauncherDevices held;   /* given to it alone, until it has ended */
        char *unit;             /* NULL until it is known */
        uint32_t pid, uid;
        bool warm;
        bool in_launcher; /* it has the attempt in its table, as far as we know */
        bool listed;      /* seen in the answer to the last LIST */
        bool released;    /* by the master, while the launcher was away */

        /* Until it has started: what it starts with. */
        LauncherStart *start;
        CodeEntry *code;
        CodeFetch *code_fetch; /* being fetched, for several perhaps */
        ListLink code_waiters;
        PayloadIn *arguments_in;
        int arguments_fd;
        uint64_t arguments_size; /* counted against the node's memory while it is held here */

        /* Asked to end: said again to a launcher that came back. OUTCOME_NONE: not. */
        OutcomeKind stop_why;
        char *stop_by;

        AttemptProgress *progress;
        AttemptEnd *end; /* from ENDED on */
        int result_fd;   /* sealed, or -EBADF */
        uint64_t result_size;

        uint64_t hold_usec; /* ATTEMPT_NEWS_STARTED is not told before, of CLOCK_MONOTONIC */
        ListLink news_queue;
        unsigned news; /* AttemptNews */
} Attempt;

char *attempt_key(Id task, uint32_t attempt, char buffer[static ATTEMPT_KEY_SIZE]);

/* Into the agent's table, PREPARING. Strings are copied. Returns 0, -EEXIST, -ENOMEM. */
int attempt_new(Agent *agent, Id task, uint32_t attempt, const char *owner, const char *name, Attempt **ret);
/* Out of every table and list. Takes NULL, returns NULL. */
Attempt *attempt_free(Attempt *a);
DEFINE_CLEANUP(Attempt, attempt_free);

/* The only way to change a state: counts, tells whoever must know. Same state: nothing. */
void attempt_set_state(Attempt *a, AttemptState state);
/* ENDED, with that end, which becomes the attempt's. result_fd likewise, or -EBADF. */
void attempt_finish(Attempt *a, AttemptEnd *end, int result_fd, uint64_t result_size);
/* ENDED without ever having run. Frees the attempt when there is no memory to say so: the master will miss
 * it in the next report. */
void attempt_finish_local(Attempt *a, OutcomeKind kind, const char *detail);

/* Gives back what it was to start with. */
void attempt_drop_start(Attempt *a);
