/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "access.h"
#include "hashmap.h"
#include "id.h"
#include "memory-util.h"
#include "prioq.h"
#include "types.h"

/* A user, with all that is found by an id: nothing is found without the name of who owns it. Whoever knows
 * the id of another's task gets an own one under it, and learns nothing. Lives as long as something refers
 * to it: sessions, attempts, remembered tasks. */
struct Owner {
        Manager *manager;
        char *name;
        unsigned n_references;
        unsigned n_peers, n_sessions; /* connections whose hello was accepted; what they are for */

        Hashmap *tasks;   /* id → Task */
        Hashmap *orphans; /* attempt's id → Attempt: see attempt_wire_id() */
        Hashmap *history; /* id → HistoryEntry */
        Hashmap *wires;   /* the other id that an attempt of it may have → Task in `waiting` */

        Prioq *runnable; /* sessions with something to place */
        size_t runnable_index;
        uint64_t served; /* when it last got a place */
        uint64_t mcpus_running, memory_running;
        unsigned n_running;
        uint64_t detached_bytes; /* its part of Manager.detached_bytes */
        AccessLimits limits;     /* points into the configuration's table */
};

/* A reference to the one of that name, which is made on first use. Returns 0, -ENOMEM. */
int owner_get(Manager *m, const char *name, Owner **ret);
Owner *owner_ref(Owner *owner);
Owner *owner_unref(Owner *owner);
DEFINE_CLEANUP(Owner, owner_unref);

/* Without a reference; NULL when nothing refers to such a one. */
Owner *owner_find(Manager *m, const char *name);

/* The one with fewest CPUs in use first, then who has waited longest. */
int owner_compare(const void *left, const void *right);

/* A session has a job to place, or none any more; its share has changed. */
void owner_session_changed(Owner *owner, Session *session);
void owner_session_gone(Owner *owner, Session *session);

/* A task takes (+) or gives back what it runs with. */
void owner_charge(Owner *owner, uint32_t mcpus, uint64_t memory, bool charge);

/* Whether the quotas have room for that much more. */
bool owner_may_run(const Owner *owner, uint32_t mcpus, uint64_t memory);

Task *owner_task(const Owner *owner, Id id);
