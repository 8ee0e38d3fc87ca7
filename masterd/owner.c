/* SPDX-License-Identifier: Apache-2.0 */
#include "owner.h"

#include <errno.h>

#include "manager.h"
#include "master-config.h"
#include "session.h"

static Owner *owner_free(Owner *owner) {
        hashmap_free(owner->tasks);
        hashmap_free(owner->orphans);
        hashmap_free(owner->history);
        hashmap_free(owner->wires);
        prioq_free(owner->runnable);
        free(owner->name);
        return mfree(owner);
}

Owner *owner_find(Manager *m, const char *name) {
        return hashmap_get(m->owners, name);
}

int owner_get(Manager *m, const char *name, Owner **ret) {
        Owner *owner = owner_find(m, name);
        int r;

        if (owner) {
                *ret = owner_ref(owner);
                return 0;
        }
        owner = new0(Owner);
        if (!owner)
                return -ENOMEM;
        owner->manager = m;
        owner->n_references = 1;
        owner->runnable_index = PRIOQ_NONE;
        owner->name = strdup(name);
        access_resolve(m->config->access, name, &owner->limits);
        r = owner->name ? hashmap_new(HASHMAP_ID, &owner->tasks) : -ENOMEM;
        if (r >= 0)
                r = hashmap_new(HASHMAP_ID, &owner->orphans);
        if (r >= 0)
                r = hashmap_new(HASHMAP_ID, &owner->history);
        if (r >= 0)
                r = hashmap_new(HASHMAP_ID, &owner->wires);
        if (r >= 0)
                r = prioq_new(session_compare, offsetof(Session, runnable_index), &owner->runnable);
        if (r >= 0)
                r = hashmap_put(m->owners, owner->name, owner);
        if (r < 0) {
                owner_free(owner);
                return r;
        }
        *ret = owner;
        return 0;
}

Owner *owner_ref(Owner *owner) {
        owner->n_references++;
        return owner;
}

Owner *owner_unref(Owner *owner) {
        if (!owner || --owner->n_references > 0)
                return NULL;
        prioq_remove(owner->manager->runnable, owner);
        (void) hashmap_remove(owner->manager->owners, owner->name);
        return owner_free(owner);
}

int owner_compare(const void *left, const void *right) {
        const Owner *l = left, *r = right;

        if (l->mcpus_running != r->mcpus_running)
                return l->mcpus_running < r->mcpus_running ? -1 : 1;
        return l->served < r->served ? -1 : l->served > r->served;
}

static void owner_changed(Owner *owner) {
        Prioq *runnable = owner->manager->runnable;

        if (prioq_size(owner->runnable) == 0)
                prioq_remove(runnable, owner);
        else if (owner->runnable_index == PRIOQ_NONE)
                (void) prioq_put(runnable, owner);
        else
                prioq_reshuffle(runnable, owner);
}

void owner_session_changed(Owner *owner, Session *session) {
        if (prioq_size(session->runnable) == 0)
                prioq_remove(owner->runnable, session);
        else if (session->runnable_index == PRIOQ_NONE)
                (void) prioq_put(owner->runnable, session);
        else
                prioq_reshuffle(owner->runnable, session);
        owner_changed(owner);
}

void owner_session_gone(Owner *owner, Session *session) {
        prioq_remove(owner->runnable, session);
        owner_changed(owner);
}

void owner_charge(Owner *owner, uint32_t mcpus, uint64_t memory, bool charge) {
        if (charge) {
                owner->n_running++;
                owner->mcpus_running += mcpus;
                owner->memory_running += memory;
        } else {
                owner->n_running--;
                owner->mcpus_running -= mcpus;
                owner->memory_running -= memory;
        }
        if (owner->runnable_index != PRIOQ_NONE)
                prioq_reshuffle(owner->manager->runnable, owner);
}

bool owner_may_run(const Owner *owner, uint32_t mcpus, uint64_t memory) {
        const AccessLimits *limits = &owner->limits;

        return (limits->running == 0 || owner->n_running < limits->running) &&
               (limits->mcpus == 0 || owner->mcpus_running + mcpus <= limits->mcpus) &&
               (limits->memory == 0 || owner->memory_running + memory <= limits->memory);
}

Task *owner_task(const Owner *owner, Id id) {
        return owner ? hashmap_get(owner->tasks, &id) : NULL;
}
