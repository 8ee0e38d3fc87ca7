/* SPDX-License-Identifier: Apache-2.0 */
#include "job.h"

#include <errno.h>

#include "environment.h"
#include "node.h"
#include "prioq.h"
#include "task.h"

int job_new(Session *session, Id id, Job **ret) {
        Job *job = new0(Job);

        if (!job)
                return -ENOMEM;
        job->session = session;
        job->id = id;
        job->runnable_index = PRIOQ_NONE;
        list_init(&job->queue);
        *ret = job;
        return 0;
}

int job_set_texts(Job *job, const char *name, const char *isolation, const char *policy,
                  const char *network) {
        int r;

        r = free_and_strdup(&job->name, name);
        if (r >= 0)
                r = free_and_strdup(&job->isolation, isolation);
        if (r >= 0)
                r = free_and_strdup(&job->policy, policy);
        if (r >= 0)
                r = free_and_strdup(&job->network, network);
        return r;
}

Job *job_free(Job *job) {
        if (!job)
                return NULL;
        if (job->reserved)
                job->reserved->reserved = NULL;
        free(job->name);
        free(job->isolation);
        free(job->policy);
        free(job->network);
        free(job->refused);
        environment_unref(job->environment);
        strv_free(job->labels);
        resources_done(&job->requires);
        free(job->places);
        return mfree(job);
}

int job_compare(const void *left, const void *right) {
        const Job *l = left, *r = right;
        const Task *l_head = LIST_FIRST(Task, in_queue, &l->queue),
                   *r_head = LIST_FIRST(Task, in_queue, &r->queue);

        if (l->priority != r->priority)
                return l->priority > r->priority ? -1 : 1;
        if (!l_head || !r_head)
                return !l_head - !r_head;
        return l_head->sequence < r_head->sequence ? -1 : l_head->sequence > r_head->sequence;
}

uint32_t job_mcpus(const Job *job, const Node *node) {
        return job->mcpus ?: node->default_mcpus;
}

uint64_t job_memory(const Job *job, const Node *node) {
        return job->memory ?: node->default_memory;
}

JobPlace *job_place_find(Job *job, const Node *node) {
        for (size_t i = 0; i < job->n_places; i++)
                if (job->places[i].node == node)
                        return job->places + i;
        return NULL;
}

unsigned job_places_held(const Job *job) {
        unsigned n = 0;

        for (size_t i = 0; i < job->n_places; i++)
                n += job->places[i].n_unfinished > 0;
        return n;
}

int job_place_add(Job *job, Node *node) {
        JobPlace *place;
        int r;

        if (job->server_count == 0)
                return 0;
        place = job_place_find(job, node);
        if (!place && job->n_places >= job->server_count)
                /* A place that ran dry makes room. Adopted attempts may exceed the bound: they run already.
                 */
                for (size_t i = 0; i < job->n_places; i++)
                        if (job->places[i].n_unfinished == 0) {
                                place = job->places + i;
                                *place = (JobPlace){ .node = node };
                                break;
                        }
        if (!place) {
                r = ARRAY_RESERVE(job->places, job->places_capacity, job->n_places + 1);
                if (r < 0)
                        return r;
                place = job->places + job->n_places++;
                *place = (JobPlace){ .node = node };
        }
        place->n_unfinished++;
        return 0;
}

void job_place_remove(Job *job, Node *node) {
        JobPlace *place = job_place_find(job, node);

        if (place && place->n_unfinished > 0)
                place->n_unfinished--;
}

void job_place_forget(Job *job, Node *node) {
        JobPlace *place = job_place_find(job, node);

        if (place)
                *place = job->places[--job->n_places];
}
