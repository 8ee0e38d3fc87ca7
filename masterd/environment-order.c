/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-order.h"

#include <errno.h>
#include <string.h>

#include "environment-default.h"
#include "environment-job.h"
#include "environment-link.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "scheduler.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Environments *all = userdata;

        environments_wake(all->manager);
        manager_schedule(all->manager);
        return 0;
}

/* A look at everything then, at the latest. */
static void look_at(Environments *all, uint64_t usec) {
        uint64_t at = 0;
        int enabled = SD_EVENT_OFF;

        if (all->timer)
                (void) sd_event_source_get_enabled(all->timer, &enabled);
        if (enabled == SD_EVENT_ONESHOT && sd_event_source_get_time(all->timer, &at) >= 0 && at <= usec)
                return;
        manager_timer(all->manager, &all->timer, usec, on_timer, all);
}

static uint64_t backoff(unsigned failures) {
        uint64_t ms = (uint64_t) ORDER_BACKOFF_FIRST_MS << MIN(failures > 0 ? failures - 1 : 0, 10U);

        return MIN(ms, (uint64_t) ORDER_BACKOFF_MAX_MS) * USEC_PER_MSEC;
}

bool environment_reason_is_final(const char *reason) {
        return !streq(reason, "infrastructure");
}

bool environment_fits_node(const Environment *e, const Node *node) {
        return node->state == NODE_READY && node->environments_known &&
               strv_contains(node->pythons, e->python) &&
               (!e->platform || streq_ptr(e->platform, node->platform));
}

bool environment_is_ready_on_all(const Environment *e) {
        Node *node;

        if (e->base)
                return true;
        HASHMAP_FOREACH(node, e->manager->nodes)
                if (!node->lost && strv_contains(node->pythons, e->python) &&
                    streq_ptr(e->platform, node->platform) && !node_environment_is_ready(node, e->name))
                        return false;
        return true;
}

/* Resolving */

/* Packages may depend on the versions that the master's packages have: those are to be known first. */
static bool waits_for_default(const Environment *e, const Environment **ret_default) {
        DefaultEnvironment *d;

        *ret_default = NULL;
        if (!e->prefers_default)
                return false;
        d = hashmap_get(e->manager->environments->defaults, e->python);
        if (!d)
                return false;
        if (d->generations[0] && !d->generations[0]->base)
                *ret_default = d->generations[0];
        return !d->generations[0] && d->next && d->next->state == ENVIRONMENT_RESOLVING;
}

/* What it answers runs on all nodes, for everybody: the operator can say who is trusted with it. */
static bool may_resolve(const Environment *e, const Node *node) {
        const DependencyConfig *config = e->manager->environments->config;

        return !e->is_default || !config || !config->resolve_on ||
               strv_contains(config->resolve_on, node->name);
}

static Node *pick_resolver(const Environment *e, bool *ret_waits_for_turn) {
        Node *node, *best = NULL;
        unsigned best_orders = 0;
        bool busy = false;

        HASHMAP_FOREACH(node, e->manager->nodes) {
                unsigned orders;

                if (!environment_fits_node(e, node) || !may_resolve(e, node))
                        continue;
                if (!node_order_is_free(node, e->asker)) {
                        busy = true;
                        continue;
                }
                /* Another one is better than where it failed. */
                orders =
                        node->n_orders + (node == e->avoid ? 1000 : 0) + (node == e->refused_by ? 10000 : 0);
                if (!best || orders < best_orders) {
                        best = node;
                        best_orders = orders;
                }
        }
        *ret_waits_for_turn = !best && busy;
        return best;
}

/* Others may have been first: its time begins when it does. */
static bool is_overdue(const Environment *e, uint64_t now, uint64_t *ret_due) {
        *ret_due = e->resolver_begun > 0 ? usec_add(e->resolver_begun, ORDER_RESOLVE_MAX_S * USEC_PER_SEC)
                                         : usec_add(e->resolver_since, ORDER_WAIT_MAX_S * USEC_PER_SEC);
        return *ret_due <= now;
}

static void take_back_resolving(const Environment *e) {
        char name[ENVIRONMENT_NAME_SIZE];

        environment_link_resolve_name(e, name);
        (void) environment_link_remove(e->resolver, name);
}

void environment_resolve_begun(Environment *e) {
        if (e->resolver_begun > 0)
                return;
        e->resolver_begun = manager_now(e->manager);
        look_at(e->manager->environments,
                usec_add(e->resolver_begun, (ORDER_RESOLVE_MAX_S + 1) * USEC_PER_SEC));
}

static void resolve(Environment *e) {
        Environments *all = e->manager->environments;
        const Environment *preferred;
        uint64_t now = manager_now(e->manager), due;
        Node *node;
        int r;

        if (e->resolver) {
                if (!is_overdue(e, now, &due)) {
                        look_at(all, due + USEC_PER_SEC);
                        return;
                }
                take_back_resolving(e);
                environment_resolve_failed(e, "infrastructure", "the node has not answered in time");
                if (e->state != ENVIRONMENT_RESOLVING)
                        return;
        }
        if (waits_for_default(e, &preferred))
                return;
        if (e->not_before > now) {
                look_at(all, e->not_before);
                return;
        }
        node = pick_resolver(e, &e->waits_for_turn);
        if (!node)
                return;
        if (e->fixed || (!e->packages && !e->wheels)) {
                /* Nothing to be found out but where it is to run. */
                _cleanup_(freep) char *lock = e->lock ? strdup(e->lock) : strdup("");

                r = lock ? environment_lock(e, lock, strlen(lock), strempty(node->platform)) : -ENOMEM;
                if (r < 0)
                        log_oom();
                return;
        }
        /* To look packages up, foreign code may run: not before somebody's task is taken. */
        if (!e->is_default && !e->wanted)
                return;
        r = environment_link_resolve(node, e, preferred ? preferred->lock : NULL);
        if (r < 0) {
                environment_resolve_failed(e, "infrastructure", "the order could not be sent");
                return;
        }
        environment_set_resolver(e, node);
        all->counters.resolves++;
        look_at(all, usec_add(now, (ORDER_WAIT_MAX_S + 1) * USEC_PER_SEC));
}

static bool has_other_resolver(const Environment *e, const Node *node) {
        const Node *other;

        HASHMAP_FOREACH(other, e->manager->nodes)
                if (other != node && environment_fits_node(e, other) && may_resolve(e, other))
                        return true;
        return false;
}

/* Where the other node only was out of order, the words of the first one say more. */
static void fail_resolving(Environment *e, const char *reason, const char *words) {
        _cleanup_(freep) char *first_reason = TAKE_PTR(e->refusal_reason), *first = TAKE_PTR(e->refusal);

        if (!environment_reason_is_final(reason) && first_reason && first)
                environment_fail(e, first_reason, first);
        else
                environment_fail(e, reason, words);
}

/* What is said of the packages may come of the node all the same: where there is another one, it is asked
 * before anybody is told. */
void environment_resolve_failed(Environment *e, const char *reason, const char *words) {
        Node *node = e->resolver;

        environment_set_resolver(e, NULL);
        e->avoid = node;
        if (environment_reason_is_final(reason) && !e->refused_by && node && has_other_resolver(e, node) &&
            environment_set_refusal(e, node, reason, words) >= 0) {
                log_info("Node %s could not look packages up (%s), another one is asked, too", node->name,
                         reason);
                environments_wake(e->manager);
                return;
        }
        if (environment_reason_is_final(reason) || ++e->failures >= ORDER_ATTEMPTS) {
                fail_resolving(e, reason, words);
                return;
        }
        log_warning("Node %s could not look packages up (%s), another attempt follows: %s",
                    node ? node->name : "?", reason, words);
        e->not_before = manager_now(e->manager) + backoff(e->failures);
        environments_wake(e->manager);
}

/* Building */

static bool order_build(Environment *e, Node *node) {
        NodeEnvironment *there = node_environment_find(node, e->name);
        uint64_t now = manager_now(e->manager);

        if (there && there->state != NODE_ENVIRONMENT_FAILED)
                return true;
        if (there && (there->given_up || there->retry_at > now)) {
                if (!there->given_up)
                        look_at(e->manager->environments, there->retry_at);
                return false;
        }
        if (!node_order_is_free(node, e->asker))
                return false;
        if (environment_link_build(node, e) < 0 || node_environment_get(node, e->name, &there) < 0)
                return false;
        return node_environment_order(there, e->asker) >= 0;
}

/* How many tasks of the job find room there now. */
static uint64_t node_slots(const Job *job, const Node *node) {
        uint64_t cpus = node_mcpus_free(node) / MAX(job_mcpus(job, node), 1U),
                 memory = node_memory_free(node) / MAX(job_memory(job, node), (uint64_t) 1);

        return resources_suffice(&node->resources, &job->requires, true) ? MIN(cpus, memory) : 0;
}

/* All are full: it is built meanwhile where there is least to build. */
static void order_anywhere(Environment *e, const Job *job) {
        Node *node, *best = NULL;
        unsigned best_orders = 0;

        HASHMAP_FOREACH(node, e->manager->nodes) {
                const NodeEnvironment *there = node_environment_find(node, e->name);
                unsigned orders = node->n_orders;

                if (there || !environment_fits_node(e, node) || !job_fits_node(job, node) ||
                    !node_order_is_free(node, e->asker) || job_mcpus(job, node) > node->mcpus ||
                    job_memory(job, node) > node_memory_capacity(node))
                        continue;
                if (!best || orders < best_orders) {
                        best = node;
                        best_orders = orders;
                }
        }
        if (best)
                (void) order_build(e, best);
}

void environments_order_for(Manager *m, Job *job) {
        Environment *e = environments_awaited(m, job);
        uint64_t slots = 0;
        unsigned n = 0;
        Node *node;

        if (!e || e->state != ENVIRONMENT_LOCKED || e->base)
                return;
        /* Where it is, or is about to be, first: another build is only for what finds no room there. */
        HASHMAP_FOREACH(node, m->nodes) {
                const NodeEnvironment *there = node_environment_find(node, e->name);

                if (!there || there->state == NODE_ENVIRONMENT_FAILED || !environment_fits_node(e, node) ||
                    !job_fits_node(job, node))
                        continue;
                slots += node_slots(job, node);
                n++;
        }
        HASHMAP_FOREACH(node, m->nodes) {
                if (slots >= job->n_queued || (job->server_count > 0 && n >= job->server_count))
                        return;
                if (!environment_fits_node(e, node) || !job_fits_node(job, node) ||
                    node_slots(job, node) == 0)
                        continue;
                if (node_environment_is_ready(node, e->name))
                        continue;
                if (node_environment_find(node, e->name) &&
                    node_environment_find(node, e->name)->state != NODE_ENVIRONMENT_FAILED)
                        continue;
                if (order_build(e, node)) {
                        slots += node_slots(job, node);
                        n++;
                }
        }
        if (n == 0)
                order_anywhere(e, job);
}

/* The master's own, ahead of need. */
static void build_default(DefaultEnvironment *d) {
        Environment *e = d->generations[0];
        Node *node;

        if (!e || e->state != ENVIRONMENT_LOCKED || e->base || !d->wanted)
                return;
        HASHMAP_FOREACH(node, e->manager->nodes)
                if (environment_fits_node(e, node))
                        (void) order_build(e, node);
}

/* Two may have come to the same packages. */
static bool is_needed_elsewhere(const Environment *e) {
        const Environment *other;

        HASHMAP_FOREACH(other, e->manager->environments->table)
                if (other != e && other->n_references > 0 && environment_equal(other, e))
                        return true;
        return false;
}

void environment_withdraw(Environment *e) {
        Manager *m = e->manager;
        Node *node;

        if (!m->environments || m->stopping || (!e->resolver && e->name[0] == '\0'))
                return;
        if (e->resolver) {
                take_back_resolving(e);
                environment_set_resolver(e, NULL);
        }
        if (e->name[0] != '\0' && !e->base && !is_needed_elsewhere(e))
                HASHMAP_FOREACH(node, m->nodes) {
                        NodeEnvironment *there = node_environment_find(node, e->name);

                        if (!there || there->state != NODE_ENVIRONMENT_ORDERED)
                                continue;
                        (void) environment_link_remove(node, e->name);
                        node_environment_free(there);
                }
        environments_wake(m);
        manager_schedule(m);
}

/* Whether there is still hope: on all nodes that could (or on enough of them to know) it was given up. */
static void assess(Environment *e) {
        Manager *m = e->manager;
        const NodeEnvironment *last = NULL;
        unsigned n = 0, n_given_up = 0;
        Node *node;

        if (e->state != ENVIRONMENT_LOCKED || e->base)
                return;
        HASHMAP_FOREACH(node, m->nodes) {
                const NodeEnvironment *there = node_environment_find(node, e->name);

                if (there && there->state == NODE_ENVIRONMENT_READY && !node->lost)
                        return;
                if (!environment_fits_node(e, node))
                        continue;
                n++;
                if (there && there->state == NODE_ENVIRONMENT_FAILED && there->given_up) {
                        n_given_up++;
                        last = there;
                }
        }
        if (n_given_up > 0 && (n_given_up >= n || n_given_up >= ORDER_NODES_GIVEN_UP))
                environment_fail(e, strempty(last->reason), last->log ?: "the node said no reason");
}

void environment_build_failed(NodeEnvironment *there, const char *reason, const char *words) {
        Manager *m = there->node->manager;
        Environments *all = m->environments;

        all->counters.failures++;
        there->failures++;
        node_environment_set_words(there, reason, words);
        there->given_up = environment_reason_is_final(reason) || there->failures >= ORDER_NODE_ATTEMPTS;
        there->retry_at = manager_now(m) + backoff(there->failures);
        node_environment_set_state(there, NODE_ENVIRONMENT_FAILED);
        if (!there->given_up) {
                log_warning("Node %s could not build environment %s (%s)", there->node->name, there->name,
                            reason);
                look_at(all, there->retry_at);
        }
}

void environments_there_changed(Manager *m, const char *name) {
        Environment *e;

        HASHMAP_FOREACH(e, m->environments->table)
                if (streq(e->name, name))
                        assess(e);
        environments_wake(m);
        manager_schedule(m);
}

/* Tasks whose environment cannot be had */

/* Bytes: many tasks fail at once, and each has it. All of it is kept once, with the environment. */
enum { OUTCOME_LOG_MAX = 2 << 10 };

/* What fits into an outcome: the last lines, and where the others are. NULL: no memory. */
static char *words_for_outcome(const Environment *e) {
        const char *log = strempty(e->log), *line;
        char name[ENVIRONMENT_NAME_SIZE];
        size_t size = strlen(log);

        if (size <= OUTCOME_LOG_MAX)
                return strdup(log);
        log += size - OUTCOME_LOG_MAX;
        line = strchr(log, '\n');
        if (line && line[1])
                log = line + 1;
        while (((unsigned char) *log & 0xc0) == 0x80)
                log++;
        environment_name_shown(e, name);
        return strformat("(all of it: clupyctl env show %.12s)\n%s", name, log);
}

static void fail_tasks(Manager *m) {
        Session *session;
        Job *job;

        m->environments->failed_due = false;
        HASHMAP_FOREACH(session, m->sessions)
                HASHMAP_FOREACH(job, session->jobs) {
                        const Environment *e = job->n_queued > 0 ? environments_failed(m, job) : NULL;

                        _cleanup_(freep) char *words = e ? words_for_outcome(e) : NULL;

                        if (!e)
                                continue;
                        LIST_FOREACH(Task, task, in_queue, &job->queue)
                                task_end_own(task, OUTCOME_ENVIRONMENT, "log", strempty(words));
                }
}

/* Everything */

void environments_work(Manager *m) {
        Environments *all = m->environments;
        DefaultEnvironment *d;
        Environment *e;

        /* Everybody's first. */
        HASHMAP_FOREACH(e, all->table)
                if (e->state == ENVIRONMENT_RESOLVING && e->is_default)
                        resolve(e);
        HASHMAP_FOREACH(e, all->table)
                if (e->state == ENVIRONMENT_RESOLVING && !e->is_default)
                        resolve(e);
        HASHMAP_FOREACH(d, all->defaults)
                environment_default_settle(m, d);
        HASHMAP_FOREACH(d, all->defaults)
                build_default(d);
        if (all->failed_due)
                fail_tasks(m);
}

static int on_work(sd_event_source *source, void *userdata) {
        environments_work(userdata);
        return 0;
}

void environments_wake(Manager *m) {
        Environments *all = m->environments;
        int r = 0;

        if (m->stopping || !all)
                return;
        if (!all->work)
                r = sd_event_add_defer(m->event, &all->work, on_work, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(all->work, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Cannot defer work");
}

/* Nodes */

void environments_node_hello(Node *node) {
        Manager *m = node->manager;

        node_environments_forget_orders(node);
        if (node->pythons)
                environment_default_want(m, node->pythons[0]);
}

void environments_node_complete(Node *node) {
        Manager *m = node->manager;

        (void) environment_link_keep(node);
        environments_wake(m);
        manager_schedule(m);
}

void environments_node_gone(Node *node) {
        Manager *m = node->manager;
        Environment *e;

        node->environments_known = false;
        if (!m->environments || m->stopping)
                return;
        node_environments_forget_orders(node);
        HASHMAP_FOREACH(e, m->environments->table) {
                if (e->resolver == node)
                        environment_set_resolver(e, NULL);
                if (e->state == ENVIRONMENT_LOCKED)
                        assess(e);
        }
        environments_wake(m);
}

void environments_node_freed(Node *node) {
        Environments *all = node->manager->environments;
        Environment *e;

        if (!all)
                return;
        HASHMAP_FOREACH(e, all->table) {
                if (e->resolver == node)
                        environment_set_resolver(e, NULL);
                if (e->avoid == node)
                        e->avoid = NULL;
                if (e->refused_by == node)
                        e->refused_by = NULL;
        }
}

void environments_tell_kept(Manager *m) {
        Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                if (node->peer && node->environments_known)
                        (void) environment_link_keep(node);
}
