/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "environment-job.h"
#include "environment-order.h"
#include "environments.h"
#include "job.h"
#include "manager.h"
#include "node.h"
#include "parse-util.h"
#include "time-util.h"

enum { WORDS_MAX = 200 };

/* "12 s" */
static const char *ago(uint64_t usec, char buffer[static FORMAT_SIZE]) {
        if (usec >= 10 * USEC_PER_MINUTE)
                return format_duration(usec / USEC_PER_MINUTE * USEC_PER_MINUTE, buffer);
        snprintf(buffer, FORMAT_SIZE, "%" PRIu64 " s", usec / USEC_PER_SEC);
        return buffer;
}
#define AGO(m, since) ago(usec_sub(manager_now(m), (since)), (char[FORMAT_SIZE]){ 0 })

static char *why_no_resource(const Manager *m, const Job *job) {
        const Node *node;

        for (size_t i = 0; i < job->requires.n; i++) {
                const Resource *wanted = job->requires.items + i;
                uint64_t most = 0;

                HASHMAP_FOREACH(node, m->nodes) {
                        const Resource *there = resources_find(&node->resources, wanted->name);

                        most = MAX(most, there ? there->total : 0);
                }
                if (most < wanted->total && most == 0)
                        return strformat(
                                "no node has the resource %s (see `resources` in clupy.server.yaml)",
                                wanted->name);
                if (most < wanted->total)
                        return strformat("no node has %" PRIu64 " of the resource %s: the most is %" PRIu64,
                                         wanted->total, wanted->name, most);
        }
        return NULL;
}

static char *why_no_label(const Manager *m, const Job *job) {
        const Node *node;

        for (char **s = job->labels; s && *s; s++) {
                bool found = false;

                HASHMAP_FOREACH(node, m->nodes)
                        found = found || strv_contains(node->labels, *s);
                if (!found)
                        return strformat("no node has the label %s (see `labels` in clupy.server.yaml)", *s);
        }
        return NULL;
}

char *environment_job_why_unfit(const Manager *m, const Job *job) {
        const Node *node;
        char *why;

        HASHMAP_FOREACH(node, m->nodes)
                if (!node->lost && job_fits_node(job, node))
                        return NULL;
        if (job->python[0] != '\0' && !python_is_known(m, job->python))
                return strformat("no node has Python %s", job->python);
        why = why_no_label(m, job);
        if (!why)
                why = why_no_resource(m, job);
        return why ?: strdup("no node that is there has its Python, its labels and its resources together");
}

static char *why_unresolved(Manager *m, const Environment *e) {
        const DependencyConfig *config = m->environments->config;

        if (e->resolver)
                return strformat("its packages are being looked up on %s (%s so far)", e->resolver->name,
                                 AGO(m, e->resolver_since));
        if (e->waits_for_turn)
                return strformat("its packages are looked up as soon as other packages of %s have been, or "
                                 "have been built: one order of each user at a time",
                                 e->asker);
        if (e->not_before > manager_now(m))
                return strformat("its packages could not be looked up on %s and are tried again in %s",
                                 e->avoid ? e->avoid->name : "a node",
                                 FORMAT_DURATION(usec_sub(e->not_before, manager_now(m))));
        return strformat(
                "its packages are to be looked up, as soon as a node that has Python %s%s is ready%s",
                e->python,
                e->is_default && config && config->resolve_on
                        ? " and is named by resolve_on in clupy.master.dependency.yaml"
                        : "",
                e->prefers_default ? " and the master's own packages are known" : "");
}

typedef struct Places {
        const NodeEnvironment *building, *ordered, *failed;
        unsigned n_building, n_ordered, n_ready;
} Places;

static Places find_places(const Manager *m, const Environment *e, const Job *job) {
        Places p = { 0 };
        const Node *node;

        HASHMAP_FOREACH(node, m->nodes) {
                const NodeEnvironment *there = node_environment_find(node, e->name);

                if (!there || node->state != NODE_READY || !job_fits_node(job, node))
                        continue;
                if (there->state == NODE_ENVIRONMENT_READY)
                        p.n_ready++;
                else if (there->state == NODE_ENVIRONMENT_BUILDING) {
                        if (!p.building || there->since < p.building->since)
                                p.building = there;
                        p.n_building++;
                } else if (there->state == NODE_ENVIRONMENT_ORDERED) {
                        if (!p.ordered || there->since < p.ordered->since)
                                p.ordered = there;
                        p.n_ordered++;
                } else if (!p.failed || there->retry_at < p.failed->retry_at)
                        p.failed = there;
        }
        return p;
}

static char *others(unsigned n) {
        return n > 1 ? strformat(" and %u more node%s", n - 1, n == 2 ? "" : "s") : strdup("");
}

static char *why_unbuilt(Manager *m, const Environment *e, const Job *job) {
        Places p = find_places(m, e, job);
        _cleanup_(freep) char *more = NULL, *line = NULL;

        if (p.n_ready > 0)
                return NULL;
        if (p.building) {
                more = others(p.n_building);
                return strformat("its environment is being built on %s%s (%s so far)",
                                 p.building->node->name, strempty(more), AGO(m, p.building->since));
        }
        if (p.ordered) {
                more = others(p.n_ordered);
                return strformat(
                        "its environment is to be built on %s%s, behind other builds there (%s so far)",
                        p.ordered->node->name, strempty(more), AGO(m, p.ordered->since));
        }
        if (p.failed) {
                const char *last = strrchr(strempty(p.failed->log), '\n');

                line = text_for_message(last && last[1] ? last + 1 : strempty(p.failed->log), WORDS_MAX);
                return strformat(
                        "its environment could not be built on %s (%s: %s); it is tried again in %s",
                        p.failed->node->name, strempty(p.failed->reason), strempty(line),
                        FORMAT_DURATION(usec_sub(p.failed->retry_at, manager_now(m))));
        }
        return strdup(
                "its environment is on none of the nodes that are ready, and is built as soon as one has "
                "room for the call");
}

uint64_t environment_job_step(Manager *m, const Job *job) {
        const Environment *e = environments_awaited(m, job);
        const void *where = NULL;
        uint64_t step;
        Places p;

        if (!e || !environments_missing(m, job))
                return 0;
        if (e->state == ENVIRONMENT_RESOLVING)
                where = e->resolver;
        else if (e->state == ENVIRONMENT_LOCKED) {
                p = find_places(m, e, job);
                where = p.building ?: p.ordered ?: p.failed;
        }
        step = hash_bytes(&where, sizeof(where)) ^ (uint64_t) e->state;
        return step ?: 1;
}

char *environment_job_why(Manager *m, const Job *job) {
        const Environment *e = environments_awaited(m, job);

        if (!e || !environments_missing(m, job))
                return NULL;
        switch (e->state) {
        case ENVIRONMENT_FETCHING:
                return strformat("the wheels that its client sends are on their way (%s so far)",
                                 AGO(m, e->state_since));
        case ENVIRONMENT_RESOLVING:
                return why_unresolved(m, e);
        case ENVIRONMENT_LOCKED:
                return why_unbuilt(m, e, job);
        default:
                return NULL;
        }
}
