/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

static Task *placed(Manager *m, Node *node, unsigned retries) {
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        Task *task;

        job->retries = retries;
        task = fixture_task(job);
        scheduler_run(m);
        assert_ptr_equal(task->current->node, node);
        return task;
}

static void test_silence(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Task *task = placed(m, node, 1);
        Peer peer = { .manager = m };

        node->peer = &peer;
        node->reconciled = true;
        node_heartbeat(node);
        m->test_clock += m->config->heartbeat_timeout - 1;
        node_check(node);
        assert_int_equal(node->state, NODE_READY);
        m->test_clock += 1;
        node_check(node);
        assert_int_equal(node->state, NODE_SUSPECT);
        assert_true(task_is_placed(task));
        node_heartbeat(node);
        assert_int_equal(node->state, NODE_READY);

        node->peer = NULL;
        m->test_clock += m->config->lease + m->config->lease_margin - 1;
        node_check(node);
        assert_int_equal(node->state, NODE_SUSPECT);
        assert_true(task_is_placed(task));
        m->test_clock += 1;
        node_check(node);
        assert_int_equal(node->state, NODE_LOST);
        assert_int_equal(task->state, TASK_QUEUED);
        assert_int_equal(node->n_charged, 0);
}

static void test_retries_run_out(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Task *task = placed(m, node, 0);

        m->test_clock += m->config->lease + m->config->lease_margin;
        node_check(node);
        assert_int_equal(task->state, TASK_ENDED);
        assert_int_equal(task->outcome_kind, OUTCOME_NODE_LOST);
        assert_non_null(strstr(task->outcome, "\"attempts\":1"));
}

static void test_other_instance(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Task *task = placed(m, node, 1);
        Id instance;

        node_set_instance(node, node->boot_id, node->instance);
        assert_true(task_is_placed(task));
        OK(id_random(&instance));
        node_set_instance(node, node->boot_id, instance);
        assert_int_equal(task->state, TASK_QUEUED);
}

/* The result was only there. */
static void test_lost_with_a_result(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Task *large = placed(m, node, 1), *empty = placed(m, node, 1);

        attempt_set_state(large->current, ATTEMPT_ENDED);
        task_end(large, OUTCOME_VALUE, "{\"kind\":\"value\"}", NULL, 1000, NULL);
        attempt_set_state(empty->current, ATTEMPT_ENDED);
        task_end(empty, OUTCOME_MEMORY, "{\"kind\":\"memory\"}", NULL, 0, NULL);
        m->test_clock += m->config->lease + m->config->lease_margin;
        node_check(node);
        assert_int_equal(large->state, TASK_QUEUED);
        assert_int_equal(empty->state, TASK_ENDED);
        assert_int_equal(large->session->n_unfinished, 1);
}

static void test_drain(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Task *task = placed(m, node, 1);
        Peer peer = { .manager = m };

        node->peer = &peer;
        node->reconciled = true;
        node_set_drain(node, true);
        assert_int_equal(node->state, NODE_DRAINING);
        node->peer = NULL; /* nothing can be sent in this test */
        fixture_end(task);
        node->peer = &peer;
        node_update(node);
        assert_int_equal(node->state, NODE_DRAINED);
        node_set_drain(node, false);
        assert_int_equal(node->state, NODE_READY);
        node->peer = NULL;
}

static void test_rest(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));

        node_note_failure(node);
        node_note_failure(node);
        assert_int_equal(node->rest_until, 0);
        node_note_failure(node);
        assert_true(node->rest_until == m->test_clock + USEC_PER_SEC);
        for (unsigned i = 0; i < 40; i++)
                node_note_failure(node);
        assert_true(node->rest_until == m->test_clock + 30 * USEC_PER_SEC);
        node_note_success(node);
        assert_int_equal(node->rest_until, 0);
}

static void test_backoff(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "a", 2, MIB(100));
        Task *task = placed(m, node, 100);

        for (unsigned i = 0; i < 10; i++) {
                Attempt *attempt = task->current;

                task_retry(task, true, "broken");
                attempt_free(attempt);
                assert_int_equal(task->state, TASK_QUEUED);
                if (i == 0)
                        assert_true(task->not_before <= m->test_clock);
                else
                        assert_true(task->not_before > m->test_clock &&
                                    task->not_before <= m->test_clock + 10 * USEC_PER_SEC);
                m->test_clock += 10 * USEC_PER_SEC;
                if (task->delay_index != PRIOQ_NONE) {
                        prioq_remove(m->delayed, task);
                        task_queue(task);
                }
                m->test_clock += USEC_PER_MINUTE;
                scheduler_run(m);
                assert_true(task_is_placed(task));
        }
        assert_int_equal(task->attempt, 11);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_silence),        cmocka_unit_test(test_retries_run_out),
                cmocka_unit_test(test_other_instance), cmocka_unit_test(test_lost_with_a_result),
                cmocka_unit_test(test_drain),          cmocka_unit_test(test_rest),
                cmocka_unit_test(test_backoff),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
