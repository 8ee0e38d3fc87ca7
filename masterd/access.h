/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "memory-util.h"

/* Who may do how much: the section `access` of clupy.master.yaml.
 *
 *     access:
 *             default: {running: 1000, cpus: 0, memory: 0, priority: 100, policies: [default], rights:
 * [run]} users: {alice: {priority: 10, cpus: 64}} groups: {science: {members: [alice, bob], running: 100}}
 *
 * What a user's entry does not say its groups' do, in the order of the file, and then `default`; what that
 * does not say has the values above. `default: none`: who is in no entry may do nothing. Without the section
 * everybody may do what the cluster can, and manage what is their own. */

typedef enum AccessRight {
        ACCESS_RUN = 1 << 0,
        ACCESS_VIEW_ALL = 1 << 1,   /* sees the tasks of others */
        ACCESS_MANAGE_ALL = 1 << 2, /* cancels them, reads their logs, drains nodes */
} AccessRight;

enum {
        ACCESS_RUNNING_DEFAULT = 1000,
        ACCESS_PRIORITY_DEFAULT = 100,
        ACCESS_ENTRIES_MAX = 10000,
        ACCESS_LIST_MAX = 10000, /* members of a group; policies of an entry */
};

typedef struct Access Access;
Access *access_free(Access *access);
DEFINE_CLEANUP(Access, access_free);

/* For a CONFIG_TREE whose field is an Access *. */
int access_parse(const ConfigItem *item, const char *path, const char *value, void *field);
/* What is expected at that path, for messages. */
const char *access_explain(const char *path);

/* What one user may do. */
typedef struct AccessLimits {
        bool known;            /* false: may not even connect */
        unsigned running;      /* calls at one time; 0: no bound, in the next two also */
        uint64_t mcpus;        /* thousandths of a CPU, of all running calls */
        uint64_t memory;       /* bytes, likewise */
        int priority;          /* the highest that may be asked for */
        char *const *policies; /* NULL: all. Borrowed from the table */
        unsigned rights;       /* AccessRight */
} AccessLimits;

/* access NULL: no table. The result points into the table. */
void access_resolve(const Access *access, const char *user, AccessLimits *ret);

/* The record in the journal of something that was refused. reason: a word, as on the wire. peer: where the
 * user is connected from, NULL when that is not known. */
void access_log_refusal(const char *user, const char *peer, const char *reason, const char *what);
#define ACCESS_REFUSED_MESSAGE_ID "8a1f6f3d0c3e4b1f9d5b0f6a7c2e4d90"
