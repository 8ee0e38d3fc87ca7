/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon.h"
#include "entrance.h"
#include "hashmap.h"
#include "list.h"
#include "log-tail.h"
#include "master-config.h"
#include "master-tls.h"
#include "memory-util.h"
#include "prioq.h"
#include "reload.h"
#include "state-store.h"
#include "stream.h"
#include "task.h"
#include "types.h"
#include "why-file.h"

enum {
        MANAGER_INLINE_MEMORY =
                8 << 20, /* bytes of inline arguments held; beyond, they are fetched when needed */
        MANAGER_NODES_MAX = 10000,
        MANAGER_PEERS_MAX = 4096,      /* whose hello was accepted */
        MANAGER_PEERS_RESERVED = 512,  /* the last of these places: for agents and administrators */
        MANAGER_PEERS_PER_OWNER = 256, /* of one that is no administrator */
        MANAGER_CONNECTIONS_MAX = 2 * MANAGER_PEERS_MAX, /* with strangers, whom the gates bound further */
        /* With those that are kept without a connection. */
        MANAGER_SESSIONS_MAX = 4 * MANAGER_PEERS_MAX,
        MANAGER_SESSIONS_RESERVED = 4 * MANAGER_PEERS_RESERVED,
        MANAGER_SESSIONS_PER_OWNER = 4 * MANAGER_PEERS_PER_OWNER,
        MANAGER_TASKS_MAX = 1 << 21,
};

/* The one object that owns the rest. */
struct Manager {
        sd_event *event;
        Daemon *daemon; /* NULL in tests */
        MasterConfig *config;
        uint64_t config_generation; /* counts how often it was read again */
        unsigned task_window;       /* the largest that it has had (see reload.c) */
        Reload reload;
        StateStore *store; /* NULL in tests */
        uint64_t epoch;
        uint64_t started_at; /* realtime µs */
        bool stopping;

        Entrance entrance;
        MasterTls tls;
        ListLink peers;
        size_t n_peers;
        size_t n_places; /* of MANAGER_PEERS_MAX that are taken */
        unsigned n_clients;

        Hashmap *nodes;    /* name → Node */
        Hashmap *kept;     /* an attempt's id → Task: see task_keep_wire() */
        Hashmap *sessions; /* user/key → Session */
        Hashmap *owners;   /* name → Owner, which has the tasks */
        size_t n_tasks, n_orphans;
        History *history;
        WhyFile *failures;  /* NULL in tests, and where it cannot be written */
        bool failures_lost; /* the last one could not be written down */
        Environments *environments;
        LogTails logs;
        Streams streams;
        ListLink detached;
        ListLink detached_due;                      /* of Detached: what has to be written down */
        uint64_t detached_iteration, detached_usec; /* of the event loop, and what that has taken in it */
        unsigned n_transfers;                       /* files that are being written for them */
        unsigned n_detached_stuck;                  /* results that wait for room */
        uint64_t detached_bytes;                    /* on disk, or that are to be */
        Hashmap *detached_codes;                    /* "HASH-OWNER" → DetachedCode */

        Prioq *runnable; /* owners with something to place */
        Prioq *deadlines, *delayed;
        ListLink waiting; /* of Task.in_queue */
        uint64_t sequence, served;
        uint64_t inline_memory;
        uint64_t n_state[_TASK_STATE_MAX];
        uint64_t n_ended, n_failed; /* since the start */
        uint64_t trimmed_at;        /* n_ended at the last malloc_trim() */

        bool schedule_due;
        uint64_t orphans_due; /* when orphan_timer fires, 0: it does not */
        sd_event_source *work, *deadline_timer, *delay_timer, *status_timer, *orphan_timer, *rest_timer,
                *tell_timer, *detached_timer, *detached_work, *notify_timer;
        bool notify_due;

        MasterBus *bus;
        uint64_t test_clock; /* BOOTTIME µs; 0: the real one */
};

/* Without listeners, store and bus: those come with manager_start(). config becomes the manager's on
 * success. Returns 0, -ENOMEM, -errno. */
int manager_new(sd_event *event, MasterConfig *config, Manager **ret);
Manager *manager_free(Manager *m);
DEFINE_CLEANUP(Manager, manager_free);

/* Opens the store, counts the epoch, registers the known nodes, listens. Logs what fails. */
int manager_start(Manager *m);

/* Nothing new comes in; connections end. */
void manager_stop(Manager *m);

uint64_t manager_now(const Manager *m); /* BOOTTIME µs */

/* Arms a one-shot CLOCK_BOOTTIME timer, made on first use; USEC_INFINITY stops it. */
void manager_timer(Manager *m, sd_event_source **source, uint64_t usec, sd_event_time_handler_t handler,
                   void *userdata);

/* A scheduling pass, and the frames that wait to be filled, once the present event has been handled. However
 * often asked for, it is done once. */
void manager_schedule(Manager *m);
void manager_flush(Manager *m);
/* The same at once; for tests. */
void manager_work(Manager *m);

/* The soonest deadline (delayed task) has changed. */
void manager_deadlines_changed(Manager *m);
/* There is an orphan that is kept until then. */
void manager_orphan_until(Manager *m, uint64_t usec);
void manager_delays_changed(Manager *m);
void manager_status_soon(Manager *m);
/* A node has a rest until then: look again. */
void manager_rest_until(Manager *m, uint64_t usec);
/* Another look at what waits, then at the latest. */
void manager_tell_at(Manager *m, uint64_t usec);
/* Counts changed: STATUS= for systemd, at most once a second. */
void manager_notify(Manager *m);

/* RESULT frames with payloads that are borrowed from the frame being handled: now. */
void manager_send_results(Manager *m);
/* Followers of its log get what is left. */
void manager_log_ended(Manager *m, Task *task);

/* NULL when that owner has no such task. */
Task *manager_task(Manager *m, const char *owner, Id id);

/* Writes down in the state store. Failures are logged; the daemon goes on. */
void manager_store_node(Manager *m, const Node *node);
/* Outlives the master. Returns 0, -errno: then the node's state must not change either. */
int manager_store_drain(Manager *m, const Node *node, bool drain);
