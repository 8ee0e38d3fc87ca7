/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "fixture.h"

static void test_bounded(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        Node *node = fixture_node(m, "a", 2, MIB(100));
        TaskView view;
        char hex[ID_HEX_SIZE];
        Id last = ID_NULL;

        history_free(m->history);
        OK(history_new(m, 10, &m->history));
        for (unsigned i = 0; i < 25; i++) {
                Task *task = fixture_task(job);

                last = task->id;
                scheduler_run(m);
                assert_int_equal(node->n_charged, 1);
                fixture_end(task);
        }
        assert_int_equal(history_size(m->history), 10);
        assert_int_equal(m->n_tasks, 0);
        OK(task_find(m, NULL, id_to_hex(last, hex), &view));
        assert_string_equal(view.owner, "alice");
        assert_string_equal(view.node, "a");
        assert_int_equal(view.kind, OUTCOME_VALUE);
        hex[12] = '\0';
        OK(task_find(m, NULL, hex, &view));
        hex[3] = '\0';
        assert_int_equal(task_find(m, NULL, hex, &view), -EINVAL);
        assert_int_equal(task_find(m, NULL, "zzzz", &view), -EINVAL);
        assert_int_equal(task_find(m, NULL, "00000000000000000000000000000000", &view), -ENOENT);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_bounded) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
