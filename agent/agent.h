/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "attempt.h"
#include "code-cache.h"
#include "daemon.h"
#include "devices.h"
#include "environments.h"
#include "epoch-store.h"
#include "hashmap.h"
#include "heartbeat.h"
#include "id.h"
#include "launcher-link.h"
#include "list.h"
#include "master-link.h"
#include "memory-util.h"
#include "payload.h"
#include "server-config.h"
#include "warm-pool.h"

typedef struct AgentBus AgentBus;
typedef struct TaskLog TaskLog;

/* The node's side of everything: owns the links, the attempts and what they need. */
struct Agent {
        sd_event *event;
        Daemon *daemon; /* not owned; NULL in tests */
        const ServerConfig *config;

        LauncherLink *launcher;
        MasterLink *master;
        Heartbeat *heartbeat;
        CodeCache *code;
        PayloadStreams *streams;
        WarmPool *warm_pool;
        Devices *devices;
        Environments *environments;
        TaskLog *task_log;
        AgentBus *bus;
        sd_event_source *launcher_away; /* runs while the launcher is not there */

        char boot_id[ID_HEX_SIZE];
        char **pythons;       /* "3.11", the main one first */
        Id instance;          /* the launcher's; ID_NULL before the first welcome */
        bool cgroup_v2;       /* as it says */
        bool launcher_listed; /* we know its whole table */
        uint64_t epoch;       /* highest obeyed */
        EpochStore *epochs;   /* NULL: it is not kept */
        uint64_t past_epoch;  /* of the master that was last sent away: said once */
        uint64_t lease_until; /* µs of CLOCK_BOOTTIME, 0: no lease yet */

        Hashmap *attempts;           /* by attempt_key() */
        Hashmap *code_fetches;       /* by code_key() */
        ListLink news_queue;         /* of attempts the master has to hear of */
        sd_event_source *news_timer; /* set while news are held back */
        unsigned counts[_ATTEMPT_STATE_MAX];
        uint64_t unreleased;      /* bytes of results kept */
        uint64_t arguments_bytes; /* held, or on their way, for attempts that have not started */
};

/* config must outlive it. daemon may be NULL. launcher_socket: where the launcher listens. Returns 0,
 * -ENOMEM, -errno. */
int agent_new(sd_event *event, Daemon *daemon, const ServerConfig *config, const char *launcher_socket,
              Agent **ret);
Agent *agent_free(Agent *agent);
DEFINE_CLEANUP(Agent, agent_free);

Attempt *agent_attempt(Agent *agent, Id task, uint32_t attempt);

/* Keeps the highest epoch in a directory, and takes up what is there. Without it an agent that has started
 * anew knows only what the launcher's attempts tell. Returns 0, -errno. */
int agent_keep_epoch(Agent *agent, const char *directory);
/* Orders of that epoch, which is not a past one, are obeyed from now on. */
void agent_obey(Agent *agent, uint64_t epoch);

/* Attempts that take the node's CPUs and memory now. */
static inline unsigned agent_running(const Agent *agent) {
        return agent->counts[ATTEMPT_STARTING] + agent->counts[ATTEMPT_RUNNING] +
               agent->counts[ATTEMPT_FROZEN];
}

/* Some attempt's state is another: who watches them must know. */
void agent_attempts_changed(Agent *agent);

/* Asks the launcher to end an attempt that it has. */
void agent_stop_attempt(Attempt *a);
/* The master does not want it any more: the launcher and we forget it. Frees it, or will. */
void agent_release_attempt(Attempt *a);
