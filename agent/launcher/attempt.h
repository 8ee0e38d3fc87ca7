/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <signal.h>

#include "manager.h"
#include "zygote-protocol.h"

/* One attempt to run a task, from START to RELEASE. */

typedef enum AttemptState {
        ATTEMPT_WAITING,  /* for its pair */
        ATTEMPT_LIMITING, /* systemd changes the limits of a pair that waited */
        ATTEMPT_HELD,     /* has its pair, but the lease is over */
        ATTEMPT_RUNNING,
        ATTEMPT_FROZEN,
        ATTEMPT_ENDING, /* the task is over, figures are still coming */
        ATTEMPT_ENDED,  /* told, and kept until RELEASE */
        _ATTEMPT_STATE_MAX,
} AttemptState;

const char *attempt_state_to_string(AttemptState state);

enum { ATTEMPT_KEY_SIZE = 48 };

struct Attempt {
        Manager *manager;
        char key[ATTEMPT_KEY_SIZE];
        uint8_t task[16];
        uint32_t number;
        LauncherStart start;
        AttemptState state;
        ListLink waiting;
        bool is_waiting; /* in the list */
        Zygote *zygote;  /* until it has a pair */
        Pair *pair;
        int fds[2]; /* code, arguments: until it runs */
        unsigned tries;
        bool warm, described, announced;

        char unit[UNIT_NAME_MAX];
        uint32_t pid, uid;
        uint64_t requested_usec, started_usec, ended_usec; /* CLOCK_BOOTTIME */
        uint64_t started_at, ended_at;                     /* CLOCK_REALTIME */
        uint64_t timeout_at_usec, frozen_at_usec;          /* CLOCK_BOOTTIME */

        uint32_t ordered; /* OutcomeKind that it was killed for */
        char by[OWNER_NAME_MAX];
        bool refused;
        int refused_number;
        uint32_t refused_architecture;

        uint32_t result; /* OutcomeKind */
        int result_fd;
        uint64_t result_size, progress_usec;
        bool retry;
        uint64_t processes_refused; /* EXCEPTION: so often it met tasks_max before */
        char result_detail[NOTE_MAX];
        LauncherDisk tmp, shm; /* when they matter */
        siginfo_t exit;

        LauncherEvent ended; /* complete in ENDED */
        sd_event_source *limit_timer, *cpu_timer, *grace_timer, *result_timer;
};

/* A START whose request is checked. fds become the attempt's on success. Returns 0, 1 when the attempt is in
 * the table already, -errno with a sentence. */
int attempt_start(Manager *manager, const LauncherRequest *request, int fds[static 2], Attempt **ret,
                  const char **ret_why);
Attempt *attempt_find(Manager *manager, const uint8_t task[static 16], uint32_t number);
void attempt_stop(Attempt *attempt, uint32_t why, uint64_t grace_usec, const char *by);
/* After RELEASE: forgets one that has ended. Returns 0, -EBUSY when it has not. */
int attempt_release(Attempt *attempt);

/* Tells the agent the attempt's state: STARTED or ENDED. */
void attempt_tell(Attempt *attempt, uint32_t flags);

/* Begins pairs for attempts that wait, as far as there is room. */
void attempts_advance(Manager *manager);

/* For an upgrade; resume() puts a restored one into the table and sets its timers (CLOCK_MONOTONIC;
 * USEC_INFINITY: none). Returns 0, -errno. */
typedef struct AttemptRecord AttemptRecord;
void attempt_save(const Attempt *attempt, AttemptRecord *record);
int attempt_restore(Manager *manager, const AttemptRecord *record);
int attempt_resume(Attempt *attempt, uint64_t grace_until_usec, uint64_t result_until_usec);

/* From its pair. */
void attempt_pair_ready(Attempt *attempt);
void attempt_pair_failed(Attempt *attempt, const char *why, bool environment);
void attempt_message(Attempt *attempt, const TaskMessage *message, int fd);
void attempt_task_exited(Attempt *attempt, const siginfo_t *information);
void attempt_pair_ended(Attempt *attempt, const Pair *pair);
void attempt_refused(Attempt *attempt, int number, uint32_t architecture);

/* From the lease. */
void attempt_freeze(Attempt *attempt);
void attempt_thaw(Attempt *attempt);

/* A unit's description, put off for short tasks. */
void attempt_describe(Attempt *attempt);

/* All its zygote's: it will not come up. */
void attempts_zygote_dead(Zygote *zygote);
