/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attempt.h"
#include "history.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "master-config.h"
#include "node.h"
#include "peer.h"
#include "recovery.h"
#include "scheduler.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

/* A manager without links, and a clock that the test moves. Nodes and sessions are made as if connected;
 * what would be sent is not. */

#define CLOCK_START (1000 * USEC_PER_SEC)
#define OK(expression) assert_int_equal((expression), 0)

static inline Manager *fixture_new(void) {
        MasterConfig *config;
        sd_event *event;
        Manager *m;

        log_set_level(LOG_ERR);
        OK(master_config_new(&config));
        assert_true(sd_event_new(&event) >= 0);
        OK(manager_new(event, config, &m));
        sd_event_unref(event);
        m->test_clock = CLOCK_START;
        m->epoch = 1;
        return m;
}

static inline Node *fixture_node(Manager *m, const char *name, double cpus, uint64_t memory) {
        Node *node;

        OK(node_new(m, name, &node));
        node->mcpus = (uint32_t) (cpus * 1000);
        node->memory = memory;
        node->known = true;
        /* Ready without a link. */
        node->state = NODE_READY;
        return node;
}

static inline Session *fixture_session(Manager *m, const char *user) {
        Session *session;
        Id key;

        OK(id_random(&key));
        OK(session_new(m, user, key, &session));
        return session;
}

static inline Job *fixture_job(Session *session, double cpus, uint64_t memory) {
        Job *job;
        Id id;

        OK(id_random(&id));
        OK(job_new(session, id, &job));
        job->mcpus = (uint32_t) (cpus * 1000);
        job->memory = memory;
        job->retries = 3;
        job->name = strdup("f");
        job->isolation = strdup("task");
        job->policy = strdup("default");
        job->network = strdup("none");
        OK(hashmap_put(session->jobs, &job->id, job));
        return job;
}

static inline Task *fixture_task(Job *job) {
        Task *task;
        Id id;

        OK(id_random(&id));
        OK(task_new(job->session, job, id, &task));
        task_queue(task);
        return task;
}

static inline void fixture_tasks(Job *job, unsigned n) {
        while (n-- > 0)
                (void) fixture_task(job);
}

/* The node says that it ended with a value; nobody has to be told. */
static inline void fixture_end(Task *task) {
        attempt_set_state(task->current, ATTEMPT_ENDED);
        task_end(task, OUTCOME_VALUE, "{\"kind\":\"value\"}", "{}", 0, NULL);
        task_deliver(task);
}

/* Ends the first task that runs on the node. Returns its job, NULL when there is none. */
static inline Job *fixture_end_one(Node *node) {
        Attempt *attempt = hashmap_first(node->attempts);
        Job *job = attempt ? attempt->task->job : NULL;

        if (attempt)
                fixture_end(attempt->task);
        return job;
}

static inline unsigned fixture_running(const Job *job) {
        unsigned n = 0;

        LIST_FOREACH(Task, task, in_session, &job->session->tasks)
                n += task->job == job && task_is_placed(task);
        return n;
}
