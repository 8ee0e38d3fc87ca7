/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "environment-name.h"
#include "macros.h"
#include "memory-util.h"
#include "types.h"

typedef enum EnvironmentState {
        ENVIRONMENT_FETCHING,  /* wheels of its client are on their way here */
        ENVIRONMENT_RESOLVING, /* which files its packages are is being found out, or waits for a node that
                                  can */
        ENVIRONMENT_LOCKED,    /* that is known, and so its name: nodes build it when they need it */
        ENVIRONMENT_FAILED,    /* see `log` */
        _ENVIRONMENT_STATE_MAX,
} EnvironmentState;

DEFINE_NAME_TABLE_DECLARATION(environment_state, EnvironmentState);

enum {
        ENVIRONMENT_LOCK_MAX = 1 << 20,    /* bytes */
        ENVIRONMENT_TEXTS_MAX = 512 << 10, /* bytes of what a client asks for */
        ENVIRONMENT_PACKAGES_MAX = 1000,
        ENVIRONMENT_PRELOAD_MAX = 256,
        ENVIRONMENT_WHEELS_MAX = 64,
        ENVIRONMENT_LOG_MAX = 256 << 10,
        ENVIRONMENT_FORGIVE_S = 30, /* so long a failure is remembered */
};

#define ENVIRONMENT_OWNER_SHARED "*"

/* A set of packages for one Python, as somebody asked for it. Nodes know it by its name only, and so do two
 * of these that came to the same packages. */
struct Environment {
        Manager *manager;
        unsigned n_references;    /* jobs, generations of the default one */
        char id[DIGEST_HEX_SIZE]; /* of what was asked for: the first 40 digits name the request to resolve
                                     it */
        char name[ENVIRONMENT_NAME_SIZE]; /* "" until it is known */
        EnvironmentState state;
        bool base;                       /* without packages: every node that has the Python has it */
        bool is_default;                 /* a generation of the master's */
        bool fixed;                      /* its lock was given */
        bool recorded;                   /* in the state store */
        char lock_file[DIGEST_HEX_SIZE]; /* that its record names; "": none */
        bool wanted;                     /* a task needs it: before that no node looks its packages up */
        char *owner;                     /* or ENVIRONMENT_OWNER_SHARED */
        char *asker;                     /* who asked first; ENVIRONMENT_OWNER_SHARED: the master itself */
        char python[PYTHON_SERIES_SIZE];
        char *platform; /* NULL: not known yet */

        /* what was asked for */
        char **packages, **preload, **wheels; /* wheels: "DIGEST/NAME", sorted */
        char request[DIGEST_HEX_SIZE];        /* of a default one: the same for all that ask for the same */
        bool prefers_default;                 /* versions of the default one, where they fit */
        char *index;                          /* a URL, "default" or "none" */
        bool system_packages, only_wheels;

        /* what came of it */
        char *lock;
        json_object *libraries; /* name → version, NULL: not known */
        char *installer;
        char *reason, *log;     /* of the failure; the latter: words for the user */
        uint64_t failed_at;     /* BOOTTIME µs */
        bool failed_to_resolve; /* else: to be built */
        bool wheels_missing;    /* its client did not send them: it is of no use to try again */
        uint64_t resolved_at;   /* realtime µs, 0: not yet */
        uint64_t created_at;    /* realtime µs */
        uint64_t used_at;       /* BOOTTIME µs */
        uint64_t state_since;   /* BOOTTIME µs */

        /* who finds it out */
        Node *resolver, *avoid;              /* the latter: failed last */
        Node *refused_by;                    /* it says that the packages cannot be had; another is asked */
        char *refusal_reason, *refusal;      /* its words */
        uint64_t resolver_since, not_before; /* BOOTTIME µs */
        uint64_t resolver_begun;             /* BOOTTIME µs; 0: the node has others to do first */
        bool waits_for_turn;                 /* for an end of what its asker has on the nodes already */
        unsigned failures;
};

int environment_new(Manager *m, const char *owner, const char *python, Environment **ret);
Environment *environment_ref(Environment *e);
/* Without references it stays in the table until room is needed. */
Environment *environment_unref(Environment *e);
DEFINE_CLEANUP(Environment, environment_unref);
/* Out of the table. Nothing may refer to it. */
Environment *environment_free(Environment *e);

/* What a node has said against its packages; NULL: nothing. */
int environment_set_refusal(Environment *e, Node *node, const char *reason, const char *words);
/* Who finds its packages out from now on; NULL: nobody. */
void environment_set_resolver(Environment *e, Node *node);
/* The only place where a state changes. */
void environment_set_state(Environment *e, EnvironmentState state);

/* Words for the user (copied; the last ENVIRONMENT_LOG_MAX bytes); to be tried again after
 * ENVIRONMENT_FORGIVE_S. */
void environment_fail(Environment *e, const char *reason, const char *log);
/* Its lock is known: works the name out. Returns 0, -ENOMEM. */
int environment_lock(Environment *e, const char *lock, size_t size, const char *platform);
/* Whether a lock that a node has found out is one, and has in it all that was asked for (but what depends on
 * markers). Returns 0, -EINVAL and what is wrong (from malloc), -ENOMEM. */
int environment_check_lock(const Environment *e, const char *lock, size_t size, char **ret_words);
/* Its name; as long as there is none, that of the request to resolve it. */
void environment_name_shown(const Environment *e, char ret[static ENVIRONMENT_NAME_SIZE]);
/* Works the name out, once all that it needs is there. */
int environment_find_name(Environment *e);
/* A failure that is long enough ago: begins anew. */
void environment_try_again(Environment *e);

/* Whether two came out as the same. */
static inline bool environment_equal(const Environment *left, const Environment *right) {
        return left->name[0] != '\0' && streq(left->name, right->name);
}

/* Bytes that it takes here, about. */
size_t environment_size(const Environment *e);

/* "3 packages for Python 3.11", "alice's numpy>=2, pandas …": for messages; from malloc. */
char *environment_describe(const Environment *e);
