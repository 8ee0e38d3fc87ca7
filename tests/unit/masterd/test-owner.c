/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "fixture.h"
#include "owner.h"
#include "why.h"

static void test_same_id_of_two(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "n", 4, MIB(100));
        Job *hers = fixture_job(fixture_session(m, "alice"), 1, MIB(1)),
            *his = fixture_job(fixture_session(m, "bob"), 1, MIB(1));
        Task *a = fixture_task(hers), *b, *again;
        TaskView view;
        char hex[ID_HEX_SIZE];
        Id other;

        OK(task_new(his->session, his, a->id, &b));
        assert_int_equal(task_new(his->session, his, a->id, &again), -EEXIST);
        task_queue(b);
        scheduler_run(m);
        assert_true(a->current && b->current && a->current != b->current);
        assert_false(id_equal(a->current->id, b->current->id));
        OK(attempt_other_id("bob", b->id, &other));
        assert_true(id_equal(a->current->id, a->id) ? id_equal(b->current->id, other)
                                                    : id_equal(b->current->id, b->id));

        OK(task_find(m, hers->session->owner, id_to_hex(a->id, hex), &view));
        assert_ptr_equal(view.task, a);
        OK(task_find(m, his->session->owner, hex, &view));
        assert_ptr_equal(view.task, b);
        assert_int_equal(task_find(m, NULL, hex, &view), -ENOTUNIQ);
        hex[8] = '\0';
        OK(task_find(m, his->session->owner, hex, &view));
        assert_ptr_equal(view.task, b);

        fixture_end(a);
        assert_true(task_is_placed(b));
        assert_non_null(history_find(hers->session->owner, b->id));
        assert_null(history_find(his->session->owner, b->id));
        fixture_end(b);
        assert_int_equal(node->n_charged, 0);
        assert_int_equal(history_size(m->history), 2);
        assert_int_equal(m->n_tasks, 0);
}

/* Nobody takes up the room of another's attempt that is on its way out. */
static void test_id_of_what_is_remembered(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *hers, *his;
        Task *a, *b;
        Id id;

        (void) fixture_node(m, "n", 4, MIB(100));
        hers = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        his = fixture_job(fixture_session(m, "bob"), 1, MIB(1));
        a = fixture_task(hers);
        id = a->id;
        scheduler_run(m);
        fixture_end(a);
        OK(task_new(his->session, his, id, &b));
        task_queue(b);
        scheduler_run(m);
        assert_false(id_equal(b->current->id, id));
        /* One's own is another attempt of the same. */
        OK(task_new(hers->session, hers, id, &a));
        task_queue(a);
        scheduler_run(m);
        assert_true(id_equal(a->current->id, id));
}

static void test_shares_are_per_user(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *jobs[5];
        unsigned alice = 0;

        (void) fixture_node(m, "n", 12, MIB(1000));
        /* Four clients of one user, one of another. */
        for (size_t i = 0; i < 5; i++) {
                jobs[i] = fixture_job(fixture_session(m, i < 4 ? "alice" : "bob"), 1, MIB(1));
                fixture_tasks(jobs[i], 100);
        }
        scheduler_run(m);
        for (size_t i = 0; i < 4; i++) {
                alice += fixture_running(jobs[i]);
                assert_in_range(fixture_running(jobs[i]), 1, 2);
        }
        assert_int_equal(alice, 6);
        assert_int_equal(fixture_running(jobs[4]), 6);
}

static void assert_why(Manager *m, const Task *task, const char *says) {
        _cleanup_(freep) char *why = why_waiting(m, task);

        if (!why || !strstr(why, says))
                fail_msg("'%s' does not say '%s'", strempty(why), says);
}

static void test_running_quota(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "n", 8, MIB(1000));
        Job *hers = fixture_job(fixture_session(m, "alice"), 1, MIB(1)),
            *more = fixture_job(fixture_session(m, "alice"), 1, MIB(1)),
            *his = fixture_job(fixture_session(m, "bob"), 1, MIB(1));
        Task *last;

        hers->session->owner->limits.running = 3;
        fixture_tasks(hers, 5);
        fixture_tasks(more, 5);
        fixture_tasks(his, 2);
        last = fixture_task(hers);
        scheduler_run(m);
        assert_int_equal(fixture_running(hers) + fixture_running(more), 3);
        assert_int_equal(fixture_running(his), 2);
        assert_why(m, last, "alice has 3 calls running, which is the limit");
        /* It waits, and nothing is kept free for it. */
        m->test_clock += 60 * USEC_PER_SEC;
        scheduler_run(m);
        assert_null(node->reserved);
        fixture_end_one(node);
        scheduler_run(m);
        assert_int_equal(hers->session->owner->n_running + his->session->owner->n_running, node->n_charged);
        assert_true(hers->session->owner->n_running <= 3);
        hers->session->owner->limits.running = 0;
        scheduler_run(m);
        assert_int_equal(node->n_charged, 8);
}

static void test_cpu_and_memory_quota(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Owner *owner;
        Job *large, *small;
        Task *waiting;

        (void) fixture_node(m, "n", 16, MIB(1000));
        large = fixture_job(fixture_session(m, "alice"), 4, MIB(10));
        small = fixture_job(large->session, 1, MIB(10));
        owner = large->session->owner;
        owner->limits.mcpus = 6000;
        fixture_tasks(large, 2);
        waiting = LIST_LAST(Task, in_queue, &large->queue);
        fixture_tasks(small, 4);
        scheduler_run(m);
        /* What fits is not held up by what does not. */
        assert_int_equal(fixture_running(large), 1);
        assert_int_equal(fixture_running(small), 2);
        assert_int_equal(owner->mcpus_running, 6000);
        assert_why(m, waiting, "of the 6 that this user may have");
        owner->limits.mcpus = 0;
        owner->limits.memory = MIB(40);
        scheduler_run(m);
        assert_int_equal(owner->memory_running, MIB(40));
        assert_why(m, LIST_LAST(Task, in_queue, &small->queue), "of memory, of the 40.0M");
}

static void test_owner_goes_with_what_is_its(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session;
        Task *task;

        (void) fixture_node(m, "n", 1, MIB(100));
        session = fixture_session(m, "alice");
        task = fixture_task(fixture_job(session, 1, MIB(1)));
        scheduler_run(m);
        fixture_end(task);
        session_end(session, "the test");
        assert_non_null(owner_find(m, "alice")); /* remembered */
        m->history = history_free(m->history);
        assert_null(owner_find(m, "alice"));
        OK(history_new(m, 0, &m->history));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_same_id_of_two),
                cmocka_unit_test(test_id_of_what_is_remembered),
                cmocka_unit_test(test_shares_are_per_user),
                cmocka_unit_test(test_running_quota),
                cmocka_unit_test(test_cpu_and_memory_quota),
                cmocka_unit_test(test_owner_goes_with_what_is_its),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
