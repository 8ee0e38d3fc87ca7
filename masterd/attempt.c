/* SPDX-License-Identifier: Apache-2.0 */
#include "attempt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "digest.h"
#include "hashmap.h"
#include "history.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "session.h"
#include "task.h"

static const char *const attempt_state_table[_ATTEMPT_STATE_MAX] = {
        [ATTEMPT_STARTING] = "starting",
        [ATTEMPT_RUNNING] = "running",
        [ATTEMPT_FROZEN] = "frozen",
        [ATTEMPT_ENDED] = "ended",
};

DEFINE_NAME_TABLE(attempt_state, AttemptState, attempt_state_table);

static void attempt_charge(Attempt *attempt, bool charge) {
        Node *node = attempt->node;

        if (attempt->charged == charge)
                return;
        attempt->charged = charge;
        if (charge) {
                resources_charge(&node->resources, &attempt->requires, true);
                node->mcpus_used += attempt->mcpus;
                node->memory_used += attempt->memory;
                node->n_charged++;
                return;
        }
        resources_charge(&node->resources, &attempt->requires, false);
        node->mcpus_used -= attempt->mcpus;
        node->memory_used -= attempt->memory;
        node->n_charged--;
        if (node->drain && node->n_charged == 0)
                node_update(node);
        manager_schedule(node->manager);
}

int attempt_other_id(const char *owner, Id id, Id *ret) {
        struct {
                char purpose[16];
                Id id;
                char owner[65];
        } input = { .purpose = "clupy attempt", .id = id };
        Digest digest;
        int r;

        snprintf(input.owner, sizeof(input.owner), "%s", owner);
        r = digest_sha256(&input, sizeof(input), &digest);
        if (r < 0)
                return r;
        memcpy(ret->bytes, digest.bytes, sizeof(ret->bytes));
        return 0;
}

int attempt_wire_id(Node *node, const Task *task, Id *ret) {
        const Owner *owner = task->session->owner;
        const Attempt *there = hashmap_get(node->attempts, &task->id);
        const HistoryEntry *past = history_find_wire(node->manager->history, task->id);
        const Task *kept = hashmap_get(node->manager->kept, &task->id);

        /* What another's printed last may still come under that id. */
        if ((there && there->owner != owner) || (past && past->owner != owner) ||
            (kept && kept->session->owner != owner))
                return attempt_other_id(owner->name, task->id, ret);
        *ret = task->id;
        return 0;
}

int attempt_new(Node *node, Owner *owner, Id id, uint32_t number, uint32_t mcpus, uint64_t memory,
                Attempt **ret) {
        _cleanup_(freep) Attempt *attempt = new0(Attempt);
        int r;

        if (!attempt)
                return -ENOMEM;
        *attempt = (Attempt){
                .node = node, .owner = owner, .id = id, .number = number, .mcpus = mcpus, .memory = memory
        };
        attempt_free(hashmap_get(node->attempts, &id));
        r = hashmap_put(node->attempts, &id, attempt);
        if (r < 0)
                return r;
        (void) owner_ref(owner);
        attempt_charge(attempt, true);
        *ret = TAKE_PTR(attempt);
        return 0;
}

void attempt_take(Attempt *attempt, const Resources *requires) {
        Resources copy;

        if (requires->n == 0 || resources_copy(requires, &copy) < 0)
                return;
        if (attempt->charged) {
                resources_charge(&attempt->node->resources, &attempt->requires, false);
                resources_charge(&attempt->node->resources, &copy, true);
        }
        resources_done(&attempt->requires);
        attempt->requires = copy;
}

Orphan *orphan_free(Orphan *orphan) {
        if (!orphan)
                return NULL;
        free(orphan->outcome);
        free(orphan->receipt);
        return mfree(orphan);
}

Attempt *attempt_free(Attempt *attempt) {
        if (!attempt)
                return NULL;
        attempt_charge(attempt, false);
        (void) hashmap_remove(attempt->node->attempts, &attempt->id);
        if (attempt->task)
                attempt->task->current = NULL;
        if (attempt->orphan) {
                (void) hashmap_remove(attempt->owner->orphans, &attempt->id);
                attempt->node->manager->n_orphans--;
                orphan_free(attempt->orphan);
        }
        owner_unref(attempt->owner);
        resources_done(&attempt->requires);
        free(attempt->unit);
        return mfree(attempt);
}

void attempt_set_state(Attempt *attempt, AttemptState state) {
        if (attempt->state == state)
                return;
        attempt->state = state;
        attempt_charge(attempt, state != ATTEMPT_ENDED);
}
