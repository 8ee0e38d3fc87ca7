/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "attempt.h"
#include "id.h"
#include "outcome.h"
#include "types.h"

/* Putting the table together again from what agents report and clients send anew: after a start of the
 * master and after every new connection of an agent. */

/* One entry of a REPORT. Strings are borrowed; outcome and receipt are JSON. */
typedef struct ReportedAttempt {
        Id id;
        uint32_t number;
        AttemptState state;
        const char *owner, *unit;
        Id session;
        uint32_t mcpus;
        uint64_t memory;
        json_object *devices; /* counts by resource, or NULL; borrowed */
        OutcomeKind kind;
        bool retry;
        const char *outcome, *receipt;
        uint64_t size;
} ReportedAttempt;

/* The first frame of a REPORT. */
void recovery_report_begin(Node *node);
/* One attempt of it. ret_stop: it is superseded and to be named in RECONCILE; ret_release: what it left is
 * to be forgotten. */
int recovery_report(Node *node, const ReportedAttempt *r, bool *ret_stop, bool *ret_release);
/* All of it is there: what was not in it is gone. */
void recovery_report_end(Node *node);

/* A client sent a task again that the table does not know. Adopts the attempt that a node has reported,
 * waits for the nodes that have not, or queues it. attempts: as many as the client knows of. */
void recovery_resubmitted(Task *task, uint32_t attempts);

/* The client has named everything: orphans of its session are nobody's. */
void recovery_session_synced(Manager *m, Session *session);
void recovery_session_gone(Manager *m, Session *session);

/* Whether some registered node may run something that the table does not know; BOOTTIME µs until when at the
 * latest. */
bool recovery_is_pending(Manager *m, uint64_t *ret_until);
/* A node's account has changed: waiting tasks may go on. */
void recovery_check(Manager *m);
/* Orphans whose time is up. Returns when the next one's is. */
uint64_t recovery_expire_orphans(Manager *m, uint64_t now);
