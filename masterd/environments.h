/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "dependency-config.h"
#include "environment.h"
#include "hashmap.h"
#include "list.h"
#include "memory-util.h"
#include "types.h"

/* The table of all environments: the master's default ones, and those that calls ask for. */

enum {
        ENVIRONMENTS_MAX = 1000,
        ENVIRONMENTS_OWNER_MAX = 100,
        ENVIRONMENTS_BYTES_MAX = 128 << 20,
        ENVIRONMENTS_OWNER_BYTES_MAX = 32 << 20, /* of what one user asks for */
        ENVIRONMENTS_LOG_CUT = 2 << 10,          /* bytes of words of one for which there is no room */
        ENVIRONMENT_GENERATIONS = 4,
};

/* The master's packages for one Python. New calls get the newest generation that is ready where they run. */
typedef struct DefaultEnvironment {
        char python[PYTHON_SERIES_SIZE];
        Environment *generations[ENVIRONMENT_GENERATIONS]; /* newest first; [0] NULL: none is known yet */
        Environment *next;                                 /* is being resolved, or could not be */
        bool wanted; /* a node's main Python, or a client's: built ahead of need */
} DefaultEnvironment;

typedef struct EnvironmentCounters {
        uint64_t builds, failures; /* that nodes have ended */
        double seconds;            /* that good ones took */
        uint64_t resolves;
        uint64_t hits, misses; /* calls that found theirs ready when they came up, and that waited for it */
} EnvironmentCounters;

struct Environments {
        Manager *manager;
        Hashmap *table;           /* id → Environment */
        Hashmap *defaults;        /* python → DefaultEnvironment */
        DependencyConfig *config; /* NULL: there is no such file */
        char *lock;               /* the text of its lock, NULL: none */
        char **pins;              /* "x==1", what it always has */
        char *error;              /* why what is on disk is not in use, NULL: it is */
        uint64_t synced_at;       /* realtime µs */
        uint64_t next_sync;       /* BOOTTIME µs */
        size_t bytes;             /* about, of all */
        bool failed_due;          /* some have failed: their tasks end with the next pass */
        bool work_due;
        EnvironmentCounters counters;
        struct WheelStore *wheels;
        sd_event_source *work, *timer, *sync_timer, *change_timer, *watches[2];
};

/* What a job asks for; borrowed. NULL or nothing everywhere: the master's default. */
typedef struct EnvironmentRequest {
        char **packages, **preload;
        char **wheels; /* "DIGEST/NAME" */
        uint64_t *wheel_sizes;
        const char *lock;
        bool base_none;
} EnvironmentRequest;

int environments_new(Manager *m, Environments **ret);
/* Nothing is fetched any more. */
void environments_stop(Environments *all);
Environments *environments_free(Environments *all);
DEFINE_CLEANUP(Environments, environments_free);

/* At the start: the manifest, what the state store remembers. Logs what fails. Returns 0, -errno. */
int environments_open(Manager *m);

/* The one that such a job has, NULL (and 0) when it is the master's default. Returns 0, -ENOMEM, -ENOSPC
 * when there are too many. */
int environments_request(Manager *m, Session *session, const char *python, const EnvironmentRequest *request,
                         Environment **ret);

/* Packages that have to be looked at for that. */
size_t environments_merge_size(const Manager *m, const EnvironmentRequest *request);
/* Keeps a reference-less one for later, if it is worth it: also one that failed, so that its words can be
 * read. */
bool environments_keeps(const Environment *e);
void environments_forget(Environment *e);
int environments_add(Manager *m, Environment *e);
/* Its lock is known, or words of that size come: makes room, of what the same user asked for first. Returns
 * 0, -ENOSPC: it is too much. What the master itself asks for always has room. */
int environments_make_room(Environment *e, size_t more);
Environment *environments_find(const Manager *m, const char *name);
/* Its state has changed, or that on a node. */
void environments_changed(Environment *e);
/* Nodes may try to build it again. */
void environments_forgive_nodes(Environment *e);

/* For a task of the job, on this node: the one to dispatch it with, NULL when none is ready there. */
Environment *environments_pick(Manager *m, const Job *job, const Node *node);
/* Whether there is one, or none is needed: of a job that does not say which Python it is for. */
bool environments_allow(Manager *m, const Job *job, const Node *node);
/* What DISPATCH calls it. */
const char *environments_dispatch_name(Manager *m, const Job *job, const Node *node);
/* Name → version of the master's packages for that Python, borrowed; NULL: not known. */
json_object *environments_libraries(const Manager *m, const char *python);
/* None of the nodes that are ready has one for it. */
bool environments_missing(Manager *m, const Job *job);
/* A task of it has been placed: whether it found its environment there or had to wait is counted. */
void environments_count(Manager *m, const Job *job);
/* The one that is awaited when none is ready: NULL when there is none to wait for yet. */
Environment *environments_awaited(Manager *m, const Job *job);
/* The one that failed and leaves the job without any, NULL: there is hope. */
Environment *environments_failed(Manager *m, const Job *job);
/* A task of the job is taken: from now on its environment is worth a node's work. */
void environments_want(Manager *m, Job *job);
/* A task comes: a failure that is old is tried again. */
void environments_task_comes(Manager *m, const Job *job);

/* Soon: whatever is due (resolving, builds ahead of need, clients' tasks that end). */
void environments_wake(Manager *m);
