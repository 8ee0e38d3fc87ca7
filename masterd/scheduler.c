/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler.h"

#include <errno.h>

#include "environment-job.h"
#include "environment-order.h"
#include "environments.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "session.h"
#include "task.h"
#include "time-util.h"
#include "why.h"

/* How full the node is with that much more on it, in thousandths of its fuller resource. */
static uint64_t node_load_with(const Node *node, uint32_t mcpus, uint64_t memory) {
        uint64_t capacity = node_memory_capacity(node), cpu_load, memory_load;

        cpu_load = node->mcpus > 0 ? ((uint64_t) node->mcpus_used + mcpus) * 1000 / node->mcpus : UINT64_MAX;
        memory_load =
                capacity > 0
                        ? (uint64_t) (((double) (node->memory_used + memory)) * 1000.0 / (double) capacity)
                        : UINT64_MAX;
        return MAX(cpu_load, memory_load);
}

static bool node_takes(Manager *m, const Node *node, const Job *job) {
        return node->state == NODE_READY && node->rest_until <= manager_now(m) &&
               job_mcpus(job, node) <= node_mcpus_free(node) &&
               job_memory(job, node) <= node_memory_free(node) &&
               (!node->reserved || node->reserved == job) && job_fits_node(job, node) &&
               resources_suffice(&node->resources, &job->requires, true) && environments_allow(m, job, node);
}

/* Whether it could with nothing else on it. */
static bool node_is_large_enough(const Node *node, const Job *job) {
        return node->state == NODE_READY && job_mcpus(job, node) <= node->mcpus &&
               job_memory(job, node) <= node_memory_capacity(node) && job_fits_node(job, node);
}

/* It failed there; elsewhere is better, even if that means waiting a little. */
static bool should_avoid(Manager *m, const Task *task, const Job *job, const Node *node) {
        Node *other;

        if (task->avoid != node || task->avoid_until <= manager_now(m))
                return false;
        HASHMAP_FOREACH(other, m->nodes)
                if (other != node && node_is_large_enough(other, job))
                        return true;
        return false;
}

/* How the job's server_count sees a node: lower is better, <0: not this one. */
static int place_rank(Job *job, Node *node) {
        JobPlace *place;

        if (job->server_count == 0)
                return 0;
        place = job_place_find(job, node);
        if (place && place->n_unfinished > 0)
                return 0;
        if (job_places_held(job) >= job->server_count)
                return -1;
        /* A node that ran dry for a moment is better than one more node: what the job has left there (code,
         * files in the page cache) is there still, and the job stays on as few as it asked for. */
        if (place || job->n_places < job->server_count)
                return 0;
        return 1;
}

Node *scheduler_pick(Manager *m, Job *job) {
        Task *task = LIST_FIRST(Task, in_queue, &job->queue);
        uint64_t best_load = 0;
        int best_rank = 0;
        Node *node, *best = NULL;

        if (!task)
                return NULL;
        HASHMAP_FOREACH(node, m->nodes) {
                uint64_t load;
                int rank;

                if (!node_takes(m, node, job))
                        continue;
                rank = place_rank(job, node);
                if (rank < 0 || should_avoid(m, task, job, node))
                        continue;
                if (job->reserved == node)
                        return node;
                load = node_load_with(node, job_mcpus(job, node), job_memory(job, node));
                if (!best || rank < best_rank || (rank == best_rank && load < best_load)) {
                        best = node;
                        best_rank = rank;
                        best_load = load;
                }
        }
        return best;
}

static bool any_room(Manager *m) {
        Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                if (node->state == NODE_READY && node_mcpus_free(node) > 0 && node_memory_free(node) > 0)
                        return true;
        return false;
}

/* What a pass has placed: for those that it could not place. */
typedef struct Placed {
        const Session *session;
        const Node *node;
        int priority;
        uint32_t mcpus;
        uint64_t memory;
} Placed;

enum { PLACED_MAX = 256 };

/* A job that gets nothing in this pass. */
typedef struct Blocked {
        Job *job;
        bool quota; /* not for want of a place */
} Blocked;

typedef struct Pass {
        Blocked *blocked;
        size_t n_blocked, blocked_capacity;
        Placed placed[PLACED_MAX];
        size_t n_placed;
} Pass;

static void pass_note(Pass *pass, const Job *job, const Node *node) {
        if (pass->n_placed < PLACED_MAX)
                pass->placed[pass->n_placed++] = (Placed){ .session = job->session,
                                                           .node = node,
                                                           .priority = job->priority,
                                                           .mcpus = job_mcpus(job, node),
                                                           .memory = job_memory(job, node) };
}

/* Smaller tasks took what this job might have had, by waiting for more, and not because its own client wants
 * them first. */
static bool was_bypassed(const Pass *pass, const Job *job) {
        for (size_t i = 0; i < pass->n_placed; i++) {
                const Placed *p = pass->placed + i;

                if (p->session == job->session && p->priority > job->priority)
                        continue;
                if (node_is_large_enough(p->node, job) &&
                    (p->mcpus < job_mcpus(job, p->node) || p->memory < job_memory(job, p->node)))
                        return true;
        }
        return false;
}

/* The node that will have room soonest, as far as one can tell: the least loaded of those large enough. At
 * most every other node (and one in any case) is kept free for somebody. */
static void reserve(Manager *m, Job *job) {
        Node *node, *best = NULL;
        unsigned n_ready = 0, n_reserved = 0;
        uint64_t best_load = 0;

        HASHMAP_FOREACH(node, m->nodes) {
                uint64_t load;

                if (node->state != NODE_READY)
                        continue;
                n_ready++;
                if (node->reserved) {
                        n_reserved++;
                        continue;
                }
                if (!node_is_large_enough(node, job) || place_rank(job, node) < 0)
                        continue;
                load = node_load_with(node, 0, 0);
                if (!best || load < best_load) {
                        best = node;
                        best_load = load;
                }
        }
        if (!best || n_reserved >= MAX(n_ready / 2, 1U))
                return;
        log_debug("Job %s has waited behind smaller tasks: node %s is kept free for it", ID_HEX(job->id),
                  best->name);
        best->reserved = job;
        job->reserved = best;
}

static void pass_finish(Manager *m, Pass *pass) {
        uint64_t now = manager_now(m);

        for (size_t i = 0; i < pass->n_blocked; i++) {
                Job *job = pass->blocked[i].job;

                (void) prioq_put(job->session->runnable, job);
                owner_session_changed(job->session->owner, job->session);
                if (pass->blocked[i].quota)
                        continue;
                if (job->blocked_since == 0)
                        job->blocked_since = now;
                if (!job->bypassed)
                        job->bypassed = was_bypassed(pass, job);
                if (job->bypassed && !job->reserved &&
                    usec_sub(now, job->blocked_since) >= SCHEDULER_RESERVE_AFTER_S * USEC_PER_SEC)
                        reserve(m, job);
        }
        free(pass->blocked);
}

static void job_unreserve(Job *job) {
        if (!job->reserved)
                return;
        job->reserved->reserved = NULL;
        job->reserved = NULL;
}

static bool pass_block(Pass *pass, Job *job, bool quota) {
        if (ARRAY_RESERVE(pass->blocked, pass->blocked_capacity, pass->n_blocked + 1) < 0) {
                log_oom();
                return false;
        }
        if (quota) {
                job_unreserve(job);
                job->blocked_since = 0;
                job->bypassed = false;
        }
        prioq_remove(job->session->runnable, job);
        pass->blocked[pass->n_blocked++] = (Blocked){ .job = job, .quota = quota };
        return true;
}

/* The next task of this session that has a place gets it. Returns whether there was one. */
static bool session_place_one(Manager *m, Pass *pass, Session *session) {
        Owner *owner = session->owner;
        Job *job;

        while ((job = prioq_peek(session->runnable))) {
                Task *task = LIST_FIRST(Task, in_queue, &job->queue);
                bool allowed = owner_may_run(owner, 1, 1), missing;
                Node *node = allowed ? scheduler_pick(m, job) : NULL;

                if (node)
                        allowed = owner_may_run(owner, job_mcpus(job, node), job_memory(job, node));

                if (node && allowed) {
                        job_unreserve(job);
                        job->blocked_since = 0;
                        job->bypassed = job->told = false;
                        job->told_environment = 0;
                        environments_count(m, job);
                        job->waited_environment = false;
                        pass_note(pass, job, node);
                        session->served = owner->served = ++m->served;
                        if (node_dispatch(node, task) < 0)
                                log_oom();
                        return true;
                }
                missing = environments_missing(m, job);
                if (allowed) {
                        environments_order_for(m, job);
                        job->waited_environment = job->waited_environment || missing;
                }
                /* What waits for its packages keeps no node free. */
                if (!pass_block(pass, job, !allowed || missing))
                        return false;
        }
        return false;
}

void scheduler_run(Manager *m) {
        Pass pass = { 0 };
        Owner *owner;

        if (prioq_size(m->runnable) == 0)
                return;
        manager_tell_at(m, manager_now(m) + SCHEDULER_TELL_INTERVAL_S * USEC_PER_SEC);
        if (!any_room(m))
                return;
        while ((owner = prioq_peek(m->runnable))) {
                Session *session = prioq_peek(owner->runnable);

                if (session_place_one(m, &pass, session))
                        continue; /* its share has grown: dispatching has put it in its new place */
                owner_session_gone(owner, session); /* comes back with its blocked jobs */
        }
        pass_finish(m, &pass);
}

/* Each step on the way to its packages, as often as there is another. */
static void tell_environment(Manager *m, Job *job, Task *task) {
        uint64_t step = environment_job_step(m, job);

        if (step == job->told_environment)
                return;
        job->told_environment = step;
        session_status_due(job->session, task);
}

void scheduler_tell(Manager *m) {
        uint64_t now = manager_now(m);
        Session *session;
        Job *job;

        HASHMAP_FOREACH(session, m->sessions)
                HASHMAP_FOREACH(job, session->jobs) {
                        Task *task = LIST_FIRST(Task, in_queue, &job->queue);

                        if (task) {
                                environments_order_for(m, job);
                                tell_environment(m, job, task);
                        }
                        if (!task || job->told ||
                            usec_sub(now, task->queued_since) < SCHEDULER_TELL_AFTER_S * USEC_PER_SEC ||
                            !why_is_hopeless(m, job))
                                continue;
                        job->told = true;
                        session_status_due(session, task);
                }
}
