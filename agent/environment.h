/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "environment-order.h"
#include "index-link.h"
#include "launcher/launcher-protocol.h"
#include "list.h"
#include "memory-util.h"

typedef struct Environments Environments;

typedef enum EnvironmentState {
        ENVIRONMENT_WAITING,   /* ordered: others are built before it */
        ENVIRONMENT_RESOLVING, /* the launcher has been asked */
        ENVIRONMENT_BUILDING,  /* likewise */
        ENVIRONMENT_RESOLVED,  /* until the master has been told */
        ENVIRONMENT_READY,     /* its folder is there */
        ENVIRONMENT_FAILED,    /* until the master has been told */
        ENVIRONMENT_REMOVING,  /* the launcher has been asked */
        ENVIRONMENT_REMOVED,   /* until the master has been told */
        _ENVIRONMENT_STATE_MAX,
} EnvironmentState;

const char *environment_state_to_string(EnvironmentState state);

/* One environment of this node. */
typedef struct Environment {
        Environments *table;
        char name[ENVIRONMENT_NAME_MAX];
        char owner[OWNER_NAME_MAX]; /* "": everybody's */
        char python[PYTHON_NAME_MAX];
        EnvironmentState state;
        uint64_t since; /* CLOCK_MONOTONIC µs: of the state */

        /* What is to be made, from the order until it has been made or has failed. */
        EnvironmentOrder *order;
        uint64_t turn;       /* WAITING: smaller ones are first; an owner's orders have one each */
        unsigned refusals;   /* by a launcher that was busy */
        unsigned tries;      /* that ended without a result */
        uint64_t not_before; /* CLOCK_MONOTONIC µs: of the next one */
        bool unwanted;       /* it is to be gone when its build has ended */
        IndexPort *index;    /* while it is built; NULL: it needs none */
        char unit[UNIT_NAME_MAX];

        /* READY, RESOLVED. */
        uint64_t bytes, files;
        uint64_t built_at, used_at; /* CLOCK_REALTIME µs; the second: 0 never */
        unsigned in_use;            /* zygotes that had it when the launcher last said so */
        uint64_t run_usec;          /* that its build took; 0: a former agent's */
        json_object *libraries;     /* NULL: not known here */
        char *installer;
        uint64_t busy_until; /* CLOCK_MONOTONIC µs: a task has it, as the launcher said */
        uint64_t touched;    /* CLOCK_MONOTONIC µs: built, or needed by a task; 0: not since we are here */
        bool listed;         /* seen in the launcher's last list */

        /* RESOLVED: the lock; FAILED: the installer's last words. */
        char *text;
        size_t text_size;
        const char *reason; /* FAILED: a KIND of docs/protocol.md */
        char *message;      /* a sentence */

        ListLink waiting, news;
} Environment;

/* Into the table, WAITING. Returns 0, -EEXIST, -ENOSPC when there are too many, -ENOMEM. */
int environment_new(Environments *table, const char *name, const char *owner, const char *python,
                    Environment **ret);
/* Out of every table and list. Takes NULL, returns NULL. */
Environment *environment_free(Environment *e);
DEFINE_CLEANUP(Environment, environment_free);

/* The only way to change a state: logs, counts, tells whoever must know. */
void environment_set_state(Environment *e, EnvironmentState state);
/* FAILED, with a reason of docs/protocol.md and a sentence (which is cut where it is long). */
void environment_fail(Environment *e, const char *reason, const char *message);

/* When it was of use to anybody last, CLOCK_REALTIME µs. */
static inline uint64_t environment_last_use(const Environment *e) {
        return e->used_at > e->built_at ? e->used_at : e->built_at;
}
static inline bool environment_is_being_made(const Environment *e) {
        return e->state == ENVIRONMENT_RESOLVING || e->state == ENVIRONMENT_BUILDING;
}

/* Its entry of an ENVIRONMENT_STATE, without payloads. libraries: whether to name them. Returns 0, -ENOMEM.
 */
int environment_to_json(const Environment *e, bool libraries, json_object *object);
