/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

/* What happens to an attempt that a node reports, for every state that the table can be in. */

typedef struct Case {
        Manager *m;
        Node *node, *other;
        Session *session;
        Job *job;
        Task *task;
        ReportedAttempt r;
        bool stop, release;
} Case;

static void case_begin(Case *c, AttemptState reported_state) {
        Id id;

        *c = (Case){ .m = fixture_new() };
        c->node = fixture_node(c->m, "a", 4, MIB(100));
        c->other = fixture_node(c->m, "b", 4, MIB(100));
        /* Both have reported: nothing is waited for. */
        c->node->lost = c->other->lost = true;
        c->session = fixture_session(c->m, "alice");
        c->job = fixture_job(c->session, 1, MIB(1));
        OK(id_random(&id));
        c->r = (ReportedAttempt){ .id = id,
                                  .number = 1,
                                  .state = reported_state,
                                  .owner = "alice",
                                  .session = c->session->key,
                                  .unit = "u.scope",
                                  .mcpus = 1000,
                                  .memory = MIB(1) };
        if (reported_state == ATTEMPT_ENDED) {
                c->r.kind = OUTCOME_VALUE;
                c->r.outcome = "{\"kind\":\"value\"}";
                c->r.receipt = "{}";
                c->r.size = 10;
        }
}

static void case_task(Case *c) {
        OK(task_new(c->session, c->job, c->r.id, &c->task));
}

static void case_placed(Case *c, Node *node, uint32_t number, TaskState state) {
        Attempt *attempt;

        case_task(c);
        OK(attempt_new(node, c->session->owner, c->r.id, number, 1000, MIB(1), &attempt));
        task_attach(c->task, attempt);
        task_set_state(c->task, state);
        attempt_set_state(attempt, state == TASK_RUNNING ? ATTEMPT_RUNNING : ATTEMPT_STARTING);
}

static void case_report(Case *c) {
        recovery_report_begin(c->node);
        OK(recovery_report(c->node, &c->r, &c->stop, &c->release));
}

static void case_end(Case *c) {
        manager_free(c->m);
}

static void test_same_attempt_runs_on(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_FROZEN);
        case_placed(&c, c.node, 1, TASK_RUNNING);
        case_report(&c);
        assert_false(c.stop || c.release);
        assert_int_equal(c.task->state, TASK_RUNNING);
        assert_int_equal(c.task->attempt, 1);
        case_end(&c);
}

static void test_same_attempt_ended(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_ENDED);
        case_placed(&c, c.node, 1, TASK_RUNNING);
        case_report(&c);
        assert_false(c.stop || c.release);
        assert_int_equal(c.task->state, TASK_ENDED);
        assert_int_equal(c.task->result_size, 10);
        assert_int_equal(c.node->mcpus_used, 0);
        case_end(&c);
}

static void test_superseded_attempt_is_stopped(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_FROZEN);
        case_placed(&c, c.other, 2, TASK_RUNNING);
        case_report(&c);
        assert_true(c.stop);
        assert_int_equal(c.task->attempt, 2);
        assert_ptr_equal(c.task->current->node, c.other);
        case_end(&c);
}

static void test_superseded_result_is_released(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_ENDED);
        case_placed(&c, c.other, 2, TASK_RUNNING);
        case_report(&c);
        assert_true(c.release && !c.stop);
        assert_int_equal(c.task->state, TASK_RUNNING);
        case_end(&c);
}

static void test_same_number_elsewhere_is_stopped(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        case_placed(&c, c.other, 1, TASK_STARTING);
        case_report(&c);
        assert_true(c.stop);
        assert_ptr_equal(c.task->current->node, c.other);
        case_end(&c);
}

static void test_later_attempt_wins(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        c.r.number = 2;
        case_placed(&c, c.other, 1, TASK_RUNNING);
        case_report(&c);
        assert_false(c.stop);
        assert_ptr_equal(c.task->current->node, c.node);
        assert_int_equal(c.task->attempt, 2);
        assert_int_equal(c.job->n_tasks, 1);
        case_end(&c);
}

static void test_waiting_task_adopts(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        case_task(&c);
        task_wait(c.task);
        case_report(&c);
        assert_false(c.stop);
        assert_int_equal(c.task->state, TASK_RUNNING);
        assert_ptr_equal(c.task->current->node, c.node);
        assert_string_equal(c.task->unit, "u.scope");
        case_end(&c);
}

static void test_queued_task_takes_its_attempt_back(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_FROZEN);
        case_task(&c);
        c.task->attempt = 1; /* lost with its node, not yet elsewhere */
        task_queue(c.task);
        case_report(&c);
        assert_false(c.stop);
        assert_int_equal(c.task->state, TASK_RUNNING);
        assert_int_equal(c.job->n_queued, 0);
        case_end(&c);
}

static void test_cancelled_meanwhile(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        case_placed(&c, c.node, 1, TASK_RUNNING);
        c.task->cancelled_by = strdup("alice");
        case_report(&c);
        assert_true(c.stop);
        assert_int_equal(c.task->state, TASK_ENDED);
        assert_int_equal(c.task->outcome_kind, OUTCOME_CANCELLED);
        assert_int_equal(c.node->n_charged, 0);
        case_end(&c);
}

static void test_ended_otherwise(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        case_placed(&c, c.node, 1, TASK_RUNNING);
        task_end_own(c.task, OUTCOME_DEADLINE, NULL, NULL);
        assert_int_equal(c.node->n_charged, 1); /* it still takes room */
        case_report(&c);
        assert_true(c.stop);
        assert_int_equal(c.node->n_charged, 0);
        case_end(&c);
}

static void test_infrastructure_is_tried_again(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_ENDED);
        c.r.kind = OUTCOME_INFRASTRUCTURE;
        c.r.outcome = "{\"kind\":\"infrastructure\"}";
        case_placed(&c, c.node, 1, TASK_RUNNING);
        case_report(&c);
        assert_true(c.release);
        assert_int_equal(c.task->state, TASK_QUEUED);
        case_end(&c);
}

static void test_delivered_is_released(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_ENDED);
        case_placed(&c, c.node, 1, TASK_RUNNING);
        fixture_end(c.task);
        case_report(&c);
        assert_true(c.release);
        assert_int_equal(c.m->n_orphans, 0);
        case_end(&c);
}

static void test_unknown_is_an_orphan_until_claimed(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        case_report(&c);
        assert_false(c.stop);
        assert_int_equal(c.m->n_orphans, 1);
        assert_int_equal(c.node->mcpus_used, 1000);
        case_task(&c);
        recovery_resubmitted(c.task, 0);
        assert_int_equal(c.m->n_orphans, 0);
        assert_int_equal(c.task->state, TASK_RUNNING);
        assert_int_equal(c.task->attempt, 1);
        assert_int_equal(c.session->mcpus_running, 1000);
        case_end(&c);
}

/* Before its client has come back, nobody else is given its devices; from then on it counts for all that the
 * job requires. */
static void test_an_orphan_holds_its_devices(void **state) {
        Resources required = { 0 };
        const Resource *gpu, *licence;
        Attempt *attempt;
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        OK(resources_add(&c.node->resources, "gpu", 2));
        OK(resources_add(&c.node->resources, "licence", 2));
        gpu = resources_find(&c.node->resources, "gpu");
        licence = resources_find(&c.node->resources, "licence");
        c.r.devices = json_tokener_parse("{\"gpu\":2}");
        case_report(&c);
        json_object_put(c.r.devices);
        assert_int_equal(gpu->used, 2);
        attempt = hashmap_get(c.node->attempts, &c.r.id);
        assert_non_null(attempt);
        OK(resources_add(&required, "gpu", 2));
        OK(resources_add(&required, "licence", 1));
        attempt_take(attempt, &required);
        attempt_take(attempt, &required);
        assert_int_equal(gpu->used, 2);
        assert_int_equal(licence->used, 1);
        attempt_set_state(attempt, ATTEMPT_ENDED);
        assert_int_equal(gpu->used + licence->used, 0);
        resources_done(&required);
        case_end(&c);
}

static void test_ended_orphan_is_delivered(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_ENDED);
        case_report(&c);
        assert_int_equal(c.node->mcpus_used, 0);
        case_task(&c);
        recovery_resubmitted(c.task, 1);
        assert_int_equal(c.task->state, TASK_ENDED);
        assert_int_equal(c.task->outcome_kind, OUTCOME_VALUE);
        assert_int_equal(c.task->result_size, 10);
        case_end(&c);
}

static void test_orphan_of_another_owner_is_not_adopted(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        c.r.owner = "mallory";
        case_report(&c);
        case_task(&c);
        recovery_resubmitted(c.task, 0);
        assert_int_equal(c.task->state, TASK_QUEUED);
        case_end(&c);
}

static void test_later_orphan_wins(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_FROZEN);
        case_report(&c);
        c.r.number = 2;
        recovery_report_begin(c.other);
        OK(recovery_report(c.other, &c.r, &c.stop, &c.release));
        assert_false(c.stop);
        c.r.number = 1;
        assert_int_equal(c.m->n_orphans, 1);
        case_task(&c);
        recovery_resubmitted(c.task, 1);
        assert_int_equal(c.task->attempt, 2);
        assert_ptr_equal(c.task->current->node, c.other);
        case_end(&c);
}

static void test_synced_session_disowns(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        recovery_session_synced(c.m, c.session);
        case_report(&c);
        assert_true(c.stop);
        c.session->synced = false;
        c.stop = false;
        case_report(&c);
        assert_false(c.stop);
        recovery_session_synced(c.m, c.session);
        assert_int_equal(c.m->n_orphans, 0);
        case_end(&c);
}

static void test_unclaimed_orphan_expires(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_ENDED);
        case_report(&c);
        assert_true(recovery_expire_orphans(c.m, c.m->test_clock) ==
                    c.m->test_clock + c.m->config->client_timeout);
        assert_true(recovery_expire_orphans(c.m, c.m->test_clock + c.m->config->client_timeout) ==
                    USEC_INFINITY);
        assert_int_equal(c.m->n_orphans, 0);
        assert_int_equal(hashmap_size(c.node->attempts), 0);
        case_end(&c);
}

/* All that a large cluster runs, after a start of the master: each one is looked at a few times, not once
 * for each other. */
static void test_many_orphans(void **state) {
        enum { MANY = 100000 };
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        recovery_report_begin(c.node);
        for (unsigned i = 0; i < MANY; i++) {
                OK(id_random(&c.r.id));
                OK(recovery_report(c.node, &c.r, &c.stop, &c.release));
                assert_false(c.stop || c.release);
        }
        assert_int_equal(c.m->n_orphans, MANY);
        assert_true(c.m->orphans_due == c.m->test_clock + c.m->config->client_timeout);
        for (unsigned i = 0; i < MANY / 10; i++)
                manager_deadlines_changed(c.m);
        assert_true(recovery_expire_orphans(c.m, c.m->orphans_due) == USEC_INFINITY);
        case_end(&c);
}

static void test_missing_after_start_is_lost(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        case_placed(&c, c.node, 1, TASK_RUNNING);
        recovery_report_begin(c.node);
        recovery_report_end(c.node);
        assert_int_equal(c.task->state, TASK_QUEUED);
        assert_int_equal(c.task->attempt, 1);
        assert_int_equal(c.task->failures, 1);
        case_end(&c);
}

static void test_missing_dispatch_never_ran(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        c.job->retries = 0;
        case_placed(&c, c.node, 1, TASK_STARTING);
        recovery_report_begin(c.node);
        recovery_report_end(c.node);
        assert_int_equal(c.task->state, TASK_QUEUED);
        assert_int_equal(c.task->attempt, 0);
        case_end(&c);
}

static void test_without_retries_lost_is_lost(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        c.job->retries = 0;
        case_placed(&c, c.node, 1, TASK_RUNNING);
        recovery_report_begin(c.node);
        recovery_report_end(c.node);
        assert_int_equal(c.task->outcome_kind, OUTCOME_NODE_LOST);
        case_end(&c);
}

static void test_resubmitted_waits_for_reports(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        c.other->lost = false; /* known, has not reported */
        case_task(&c);
        recovery_resubmitted(c.task, 1);
        assert_int_equal(c.task->state, TASK_WAITING);
        assert_int_equal(c.m->n_state[TASK_WAITING], 1);
        recovery_report_begin(c.node);
        recovery_report_end(c.node);
        assert_int_equal(c.task->state, TASK_WAITING);
        /* Its lease ends unheard. */
        c.m->test_clock += c.m->config->lease + c.m->config->lease_margin;
        node_check(c.other);
        assert_int_equal(c.other->state, NODE_LOST);
        assert_int_equal(c.task->state, TASK_QUEUED);
        assert_int_equal(c.task->attempt, 1);
        case_end(&c);
}

static void test_resubmitted_without_retries_is_not_run_again(void **state) {
        Case c;

        case_begin(&c, ATTEMPT_RUNNING);
        c.job->retries = 0;
        case_task(&c);
        recovery_resubmitted(c.task, 1);
        assert_int_equal(c.task->outcome_kind, OUTCOME_NODE_LOST);
        case_end(&c);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_same_attempt_runs_on),
                cmocka_unit_test(test_same_attempt_ended),
                cmocka_unit_test(test_superseded_attempt_is_stopped),
                cmocka_unit_test(test_superseded_result_is_released),
                cmocka_unit_test(test_same_number_elsewhere_is_stopped),
                cmocka_unit_test(test_later_attempt_wins),
                cmocka_unit_test(test_waiting_task_adopts),
                cmocka_unit_test(test_queued_task_takes_its_attempt_back),
                cmocka_unit_test(test_cancelled_meanwhile),
                cmocka_unit_test(test_ended_otherwise),
                cmocka_unit_test(test_infrastructure_is_tried_again),
                cmocka_unit_test(test_delivered_is_released),
                cmocka_unit_test(test_unknown_is_an_orphan_until_claimed),
                cmocka_unit_test(test_an_orphan_holds_its_devices),
                cmocka_unit_test(test_ended_orphan_is_delivered),
                cmocka_unit_test(test_orphan_of_another_owner_is_not_adopted),
                cmocka_unit_test(test_later_orphan_wins),
                cmocka_unit_test(test_synced_session_disowns),
                cmocka_unit_test(test_unclaimed_orphan_expires),
                cmocka_unit_test(test_many_orphans),
                cmocka_unit_test(test_missing_after_start_is_lost),
                cmocka_unit_test(test_missing_dispatch_never_ran),
                cmocka_unit_test(test_without_retries_lost_is_lost),
                cmocka_unit_test(test_resubmitted_waits_for_reports),
                cmocka_unit_test(test_resubmitted_without_retries_is_not_run_again),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
