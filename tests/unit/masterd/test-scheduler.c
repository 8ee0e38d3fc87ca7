/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

static void test_capacity(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 0.5, MIB(10));

        fixture_tasks(job, 10);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 4);
        assert_int_equal(node->mcpus_used, 2000);
        assert_int_equal(job->n_queued, 6);
        fixture_end_one(node);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 4);
        assert_int_equal(job->n_queued, 5);
}

static void test_memory_is_not_overcommitted(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 8, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 0.1, MIB(60));

        fixture_tasks(job, 2);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 1);
        /* Results that are not released count as well. */
        node->unreleased = MIB(41);
        fixture_end_one(node);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 0);
        node->unreleased = MIB(40);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 1);
}

static void test_memory_overcommit(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 8, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 0.1, MIB(60));

        m->config->overcommit_memory = 1.5;
        fixture_tasks(job, 3);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 2);
}

static void test_least_loaded_first(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *small = fixture_node(m, "small", 2, MIB(1000)),
             *large = fixture_node(m, "large", 4, MIB(1000));
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));

        fixture_tasks(job, 3);
        scheduler_run(m);
        assert_int_equal(small->n_charged, 1);
        assert_int_equal(large->n_charged, 2);
}

static void test_node_defaults(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 4, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 0, 0);

        node->default_mcpus = 2000;
        node->default_memory = MIB(10);
        fixture_tasks(job, 3);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 2);
        assert_int_equal(node->memory_used, MIB(20));
}

static unsigned nodes_used(Job *job, Node **nodes, size_t n) {
        unsigned used = 0;

        for (size_t i = 0; i < n; i++)
                used += nodes[i]->n_charged > 0;
        return used;
}

static void test_server_count(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        Node *nodes[5], *first[2] = { 0 };
        size_t n_first = 0;

        for (size_t i = 0; i < 5; i++)
                nodes[i] = fixture_node(m, (char[]){ 'a' + (char) i, 0 }, 2, MIB(100));
        job->server_count = 2;
        fixture_tasks(job, 100);
        scheduler_run(m);
        assert_int_equal(nodes_used(job, nodes, 5), 2);
        assert_int_equal(job_places_held(job), 2);
        for (size_t i = 0; i < 5; i++)
                if (nodes[i]->n_charged > 0)
                        first[n_first++] = nodes[i];
        /* A place that ran dry for a moment stays the job's. */
        while (job->n_queued > 0) {
                while (fixture_end_one(first[0]))
                        ;
                scheduler_run(m);
                assert_int_equal(nodes_used(job, nodes, 5), 2);
                assert_true(first[1]->n_charged == 2);
        }
        /* Unless it cannot be used any more. */
        fixture_tasks(job, 2);
        while (fixture_end_one(first[0]))
                ;
        first[0]->state = NODE_SUSPECT;
        scheduler_run(m);
        assert_int_equal(nodes_used(job, nodes, 5), 2);
        assert_int_equal(first[0]->n_charged, 0);
}

static void test_server_count_of_one_spreads_nowhere(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *a = fixture_node(m, "a", 2, MIB(100)), *b = fixture_node(m, "b", 2, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));

        job->server_count = 1;
        fixture_tasks(job, 4);
        scheduler_run(m);
        assert_true((a->n_charged == 2) != (b->n_charged == 2));
        assert_int_equal(a->n_charged + b->n_charged, 2);
}

static void test_priorities(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session = fixture_session(m, "alice");
        Job *low = fixture_job(session, 1, MIB(1)), *high = fixture_job(session, 1, MIB(1));
        Node *node;

        high->priority = 1;
        fixture_tasks(low, 5);
        fixture_tasks(high, 3);
        node = fixture_node(m, "a", 2, MIB(100));
        scheduler_run(m);
        assert_int_equal(fixture_running(high), 2);
        fixture_end_one(node);
        scheduler_run(m);
        fixture_end_one(node);
        scheduler_run(m);
        assert_int_equal(fixture_running(high), 1);
        assert_int_equal(fixture_running(low), 1);
}

static void test_first_come_first_served(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session = fixture_session(m, "alice");
        Job *a = fixture_job(session, 1, MIB(1)), *b = fixture_job(session, 1, MIB(1));
        Task *first = fixture_task(a), *second = fixture_task(b), *third = fixture_task(a);

        fixture_node(m, "n", 2, MIB(100));
        scheduler_run(m);
        assert_true(task_is_placed(first));
        assert_true(task_is_placed(second));
        assert_false(task_is_placed(third));
}

/* A second client's few calls go before the first one's many. */
static void test_fairness(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *many = fixture_job(fixture_session(m, "alice"), 1, MIB(1)),
            *few = fixture_job(fixture_session(m, "bob"), 1, MIB(1));
        Node *node = fixture_node(m, "a", 4, MIB(100));
        unsigned ends = 0;

        fixture_tasks(many, 10000);
        scheduler_run(m);
        assert_int_equal(fixture_running(many), 4);
        fixture_tasks(few, 10);
        for (; few->n_tasks > 0; ends++) {
                fixture_end_one(node);
                scheduler_run(m);
                if (few->n_queued > 0)
                        assert_true(fixture_running(few) >= MIN(ends + 1, 2U));
        }
        assert_true(ends <= 30);
        assert_int_equal(fixture_running(many), 4);
}

/* A task that needs the whole node does not wait for ever behind small ones. */
static void test_large_is_not_starved(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *small = fixture_job(fixture_session(m, "alice"), 1, MIB(1)),
            *large = fixture_job(fixture_session(m, "bob"), 4, MIB(1));
        Node *node = fixture_node(m, "a", 4, MIB(100));
        unsigned steps = 0;

        fixture_tasks(small, 1000);
        scheduler_run(m);
        fixture_tasks(large, 1);
        while (fixture_running(large) == 0) {
                assert_true(steps++ < 100);
                m->test_clock += USEC_PER_SEC / 2;
                assert_non_null(fixture_end_one(node));
                scheduler_run(m);
        }
        assert_true(steps >= 8); /* not at once either */
        assert_null(node->reserved);
        fixture_end_one(node);
        scheduler_run(m);
        assert_int_equal(fixture_running(small), 4);
}

static void test_reservation_ends_with_its_task(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *small = fixture_job(fixture_session(m, "alice"), 1, MIB(1)),
            *large = fixture_job(fixture_session(m, "bob"), 4, MIB(1));
        Node *node = fixture_node(m, "a", 4, MIB(100));
        Task *task;

        fixture_tasks(small, 1000);
        scheduler_run(m);
        task = fixture_task(large);
        for (unsigned i = 0; i < 100 && !node->reserved; i++) {
                m->test_clock += USEC_PER_SEC;
                fixture_end_one(node);
                scheduler_run(m);
        }
        assert_ptr_equal(node->reserved, large);
        task_cancel(task, "bob");
        assert_null(node->reserved);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 4);
}

/* Equal tasks of a lower priority wait for the others as long as it takes. */
static void test_priority_is_no_starvation(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session = fixture_session(m, "alice");
        Job *high = fixture_job(session, 1, MIB(1)), *low = fixture_job(session, 4, MIB(1));
        Node *node = fixture_node(m, "a", 4, MIB(100));

        high->priority = 5;
        fixture_tasks(low, 1);
        fixture_tasks(high, 100);
        scheduler_run(m);
        while (high->n_queued > 0) {
                m->test_clock += USEC_PER_SEC;
                fixture_end_one(node);
                scheduler_run(m);
                assert_int_equal(fixture_running(low), 0);
        }
        assert_null(node->reserved);
}

static void test_unplaceable_does_not_block(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session = fixture_session(m, "alice");
        Job *huge = fixture_job(session, 64, MIB(1)), *normal = fixture_job(session, 1, MIB(1));
        Node *node = fixture_node(m, "a", 2, MIB(100));

        fixture_tasks(huge, 1);
        fixture_tasks(normal, 2);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 2);
        assert_int_equal(huge->n_queued, 1);
        fixture_node(m, "b", 64, MIB(100));
        scheduler_run(m);
        assert_int_equal(huge->n_queued, 0);
}

static void test_not_ready_gets_nothing(void **state) {
        static const NodeState states[] = { NODE_REPORTING, NODE_SUSPECT, NODE_LOST, NODE_DRAINING,
                                            NODE_DRAINED };
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));

        fixture_tasks(job, 2);
        for (size_t i = 0; i < ELEMENTSOF(states); i++) {
                node->state = states[i];
                scheduler_run(m);
                assert_int_equal(node->n_charged, 0);
        }
        node->state = NODE_READY;
        node->rest_until = m->test_clock + 1;
        scheduler_run(m);
        assert_int_equal(node->n_charged, 0);
        node->rest_until = 0;
        scheduler_run(m);
        assert_int_equal(node->n_charged, 2);
}

static void test_failed_node_is_avoided(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *a = fixture_node(m, "a", 2, MIB(100)), *b = fixture_node(m, "b", 2, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        Task *task = fixture_task(job);
        Node *first;
        Attempt *attempt;

        scheduler_run(m);
        attempt = task->current;
        first = attempt->node;
        task_retry(task, true, "broken");
        attempt_free(attempt);
        scheduler_run(m);
        assert_ptr_equal(task->current->node, first == a ? b : a);
        assert_int_equal(task->attempt, 2);

        /* With nowhere else to go it is the same one again. */
        attempt = task->current;
        first = attempt->node;
        (first == a ? b : a)->state = NODE_LOST;
        task_retry(task, true, "broken");
        attempt_free(attempt);
        m->test_clock += USEC_PER_SEC;
        task_queue(task); /* its pause is over */
        scheduler_run(m);
        assert_ptr_equal(task->current->node, first);
}

static void test_many_jobs(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session = fixture_session(m, "alice");
        Node *node = fixture_node(m, "a", 4, MIB(1000));
        unsigned ended = 0;

        for (unsigned i = 0; i < 300; i++)
                fixture_tasks(fixture_job(session, 1 + (i % 4), MIB(1)), 3);
        scheduler_run(m);
        while (fixture_end_one(node)) {
                ended++;
                m->test_clock += USEC_PER_SEC / 10;
                assert_true(node->mcpus_used <= 4000);
                scheduler_run(m);
        }
        assert_int_equal(ended, 900);
        assert_int_equal(session->mcpus_running, 0);
        assert_int_equal(node->mcpus_used, 0);
}

/* Of a job that no node can ever take its client is told, of one that only waits for room it is not. */
static void test_hopeless_is_told(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Session *session = fixture_session(m, "alice");
        Job *giant = fixture_job(session, 3, MIB(1)), *patient = fixture_job(session, 2, MIB(1));
        Task *large = fixture_task(giant);

        fixture_tasks(patient, 2);
        scheduler_run(m);
        assert_int_equal(node->n_charged, 1);
        scheduler_tell(m);
        assert_false(giant->told);
        large->queued_since -= 10 * USEC_PER_SEC;
        LIST_FIRST(Task, in_queue, &patient->queue)->queued_since -= 10 * USEC_PER_SEC;
        scheduler_tell(m);
        assert_true(giant->told);
        assert_false(patient->told);

        node->mcpus = 8000;
        scheduler_run(m);
        assert_int_equal(node->n_charged, 3);
        assert_false(giant->told);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_capacity),
                cmocka_unit_test(test_memory_is_not_overcommitted),
                cmocka_unit_test(test_memory_overcommit),
                cmocka_unit_test(test_least_loaded_first),
                cmocka_unit_test(test_node_defaults),
                cmocka_unit_test(test_server_count),
                cmocka_unit_test(test_server_count_of_one_spreads_nowhere),
                cmocka_unit_test(test_priorities),
                cmocka_unit_test(test_first_come_first_served),
                cmocka_unit_test(test_fairness),
                cmocka_unit_test(test_large_is_not_starved),
                cmocka_unit_test(test_reservation_ends_with_its_task),
                cmocka_unit_test(test_priority_is_no_starvation),
                cmocka_unit_test(test_unplaceable_does_not_block),
                cmocka_unit_test(test_not_ready_gets_nothing),
                cmocka_unit_test(test_failed_node_is_avoided),
                cmocka_unit_test(test_many_jobs),
                cmocka_unit_test(test_hopeless_is_told),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
