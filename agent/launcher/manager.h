/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "daemon.h"
#include "hashmap.h"
#include "launcher-protocol.h"
#include "list.h"
#include "memory-util.h"
#include "scope-limits.h"
#include "scope.h"

/* The one object that owns the rest. */

typedef struct Manager Manager;
typedef struct Zygote Zygote;
typedef struct Pair Pair;
typedef struct Attempt Attempt;
typedef struct AgentLink AgentLink;
typedef struct Spawner Spawner;
typedef struct Builds Builds;
typedef struct Upgrade Upgrade;
typedef struct UpgradeState UpgradeState;

enum {
        PAIRS_MAX = 4096, /* sandboxes that exist at one time */
        POOL_MAX = 256,   /* of which wait warm, of all zygotes */
        /* So many are being made: more only wait for systemd. Zygotes share this number, but each has the
         * least: one that is slow, or plays dead, stops no other. */
        PAIRS_STARTING = 16,
        PAIRS_STARTING_LEAST = 2,
        ATTEMPTS_MAX = 16384,
        PAIRS_PER_SLICE = 100, /* systemd gets slow with thousands of units in one */
};

struct Manager {
        Daemon *daemon; /* borrowed */
        sd_event *event;
        LauncherSettings settings;
        Limits default_limits;
        uint8_t instance[16];
        uint64_t base_filters; /* seccomp filters that everything below inherits */
        int network_empty, network_host;

        ScopeBus *bus;
        Spawner *spawner;
        AgentLink *link;
        Builds *builds;

        Hashmap *attempts; /* by "TASK-NUMBER" */
        ListLink zygotes;
        Zygote **zygote_slots; /* settings.zygotes_max */
        Pair *pairs[PAIRS_MAX];
        unsigned n_pairs, n_warm;
        unsigned n_zygotes_starting; /* that have pairs being made */
        ListLink waiting;            /* attempts whose pair is not yet begun, oldest first */

        ListLink lingering; /* pairs that wait for journald and systemd */
        sd_event_source *linger_timer;

        uint64_t lease_until_usec; /* CLOCK_BOOTTIME; 0: never had one */
        bool frozen;
        uint64_t frozen_at_usec; /* CLOCK_BOOTTIME */
        sd_event_source *lease_timer, *orphan_timer;

        sd_event_source *kick; /* deferred: begins pairs for those that wait, refills, frees */
        sd_event_source *refill_timer;
        sd_event_source *tick; /* once a second */
        pid_t *strangers;      /* children that nobody ordered, seen once */
        size_t n_strangers, strangers_capacity;
        unsigned sweeps_left;
        sd_event_source *stop_timer;
        bool stopping;
        Upgrade *upgrade; /* it is about to be replaced: nothing is begun */
};

int manager_new(Manager **ret);
Manager *manager_free(Manager *manager);
DEFINE_CLEANUP(Manager, manager_free);

/* Before the event loop: namespaces, settings, the spawner. state: what a former version has handed over, or
 * NULL. Returns 0, -errno (and has logged). */
int manager_prepare(Manager *manager, const UpgradeState *state);
/* Connects, sweeps, listens. Returns 0, -errno (and has logged). */
int manager_start(Manager *manager, const UpgradeState *state, Daemon *daemon);
void manager_status(Manager *manager);
/* Ends all attempts and zygotes and, once nothing is left of them or after a few seconds, the daemon. */
void manager_stop(Manager *manager);

/* 64 random bits in hexadecimal: units' names are not to be foreseen. Returns 0, -errno. */
int token_make(char ret[static 17]);

/* Soon, after what is at hand: begins pairs for attempts that wait, refills pools, frees what is dead. Never
 * from within the caller. */
void manager_kick(Manager *manager);

/* Each second: children that nobody ordered, descriptions, idle zygotes. */
int manager_tick_start(Manager *manager);
