/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"
#include "manager.h"
#include "process-usage.h"
#include "verify.h"
#include "zygote-protocol.h"

/* A sandbox with its two processes, init and task, in a scope of their own: for one attempt, or waiting for
 * one. */

typedef enum PairState {
        PAIR_BUILDING,  /* the builder makes the init */
        PAIR_FORKING,   /* the zygote makes the task */
        PAIR_JOINING,   /* systemd makes the scope, the two get ready */
        PAIR_READY,     /* waits for its function */
        PAIR_RUNNING,   /* has it */
        PAIR_ENDING,    /* the task is over, the init ends the rest */
        PAIR_LINGERING, /* all is reaped; journald reads the last lines, systemd removes the unit */
        _PAIR_STATE_MAX,
} PairState;

const char *pair_state_to_string(PairState state);

struct Pair {
        Manager *manager;
        Zygote *zygote;
        Attempt *attempt; /* may be NULL until READY */
        PairState state;
        bool failed, refill, init_ordered, task_ordered, ready_linked, fields_written, sandbox_broke, frozen,
                leaving, line_ended;
        ListLink ready, lingering;
        unsigned slot;
        uint32_t uid; /* inside */
        char token[CGROUP_TOKEN_SIZE];
        Limits limits;
        uint64_t tmp_max;
        LauncherDevices devices;
        char description[192];

        Scope scope;
        Cgroup cgroup;
        Expected expected;
        pid_t init_pid, task_pid;
        ProcessFiles init_files, task_files;
        int init_pidfd, task_pidfd, init_socket, task_socket, journal;
        bool init_ready, task_ready, task_reaped;
        sd_event_source *on_init_exit, *on_init_socket, *on_task_exit, *on_task_socket, *timer;

        CgroupFigures figures_before, figures; /* when it got ready, when the task ended */
        ProcessBytes bytes_before, bytes;      /* of both processes */
        uint64_t cpu_before_usec, cpu_usec;    /* of both, where no cgroup counts it */
        unsigned drained_times, linger_ticks;
};

/* Begins a pair. attempt NULL: to wait, without devices. Returns 0, -EAGAIN when there is no room, -errno.
 */
int pair_new(Zygote *zygote, const Limits *limits, uint64_t tmp_max, const char *description,
             Attempt *attempt, Pair **ret);

/* One that waits becomes an attempt's. */
void pair_take(Pair *pair, Attempt *attempt);

/* Before pair_go(): its CPU time can be read while it runs. Returns 0, -errno. */
int pair_count_cpu(Pair *pair);

/* Nothing of its processes and its cgroup is read any more. */
void pair_close_files(Pair *pair);

/* Hands the function over. Returns 0, -errno. */
int pair_go(Pair *pair, const ZygoteGo *go, const int fds[static 2], const char *const *journal_fields);

/* Whether the task is a lone process of little memory, whose end can bring nothing new. Then its figures are
 * what it has used until now, and it is killed: the pair is nobody's any more. */
bool pair_leave(Pair *pair);

/* A signal for the task's process. */
void pair_signal(Pair *pair, int number);

/* Returns 0, also when it is so already; -errno. */
int pair_freeze(Pair *pair, bool frozen);

/* SIGKILL, which also reaches a frozen one. */
void pair_kill(Pair *pair);

/* Ends a pair that nobody needs, or that is not as it should be: then with why. */
void pair_discard(Pair *pair, const char *why, int error);

/* Answers of builder and zygote. pidfd becomes the pair's. */
void pair_init_made(Pair *pair, int error, int pidfd);
void pair_task_made(Pair *pair, int error, int pidfd);
/* The builder, or the zygote, is gone and will not answer. */
void pair_zygote_gone(Pair *pair, bool builder, bool zygote);

/* For an upgrade; resume() is for when its attempt is known too: watches its processes again. Returns 0,
 * -errno. */
typedef struct PairRecord PairRecord;
void pair_save(const Pair *pair, PairRecord *record);
int pair_restore(Manager *manager, const PairRecord *record);
int pair_resume(Pair *pair, const PairRecord *record);

Pair *pair_by_token(Manager *manager, const char *token);
bool pair_is_alive(const Pair *pair);
