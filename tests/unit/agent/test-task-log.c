/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "json-util.h"
#include "task-log.h"
#include "time-util.h"

static sd_event *event;
static unsigned n_frames;
static size_t n_tasks;
static char *text; /* of the last frame's first task */
static size_t text_size;
static bool congested;

static void on_send(json_object *json, const struct iovec *payloads, size_t n_payloads, void *userdata) {
        json_object *tasks;

        assert_ok(json_get_array(json, "tasks", 1000, &tasks));
        n_tasks = json_object_array_length(tasks);
        assert_int_equal(n_tasks, n_payloads);
        for (size_t i = 0; i < n_payloads; i++)
                assert_true(payloads[i].iov_len <= 256 << 10);
        free(text);
        text = memdup_nul(payloads[0].iov_base, payloads[0].iov_len);
        text_size = payloads[0].iov_len;
        n_frames++;
}

static bool on_congested(void *userdata) {
        return congested;
}

static int on_find_unit(const char *unit, Id *ret_task, uint32_t *ret_attempt, void *userdata) {
        return -ENOENT;
}

static const TaskLogHandlers handlers = { .send = on_send,
                                          .congested = on_congested,
                                          .find_unit = on_find_unit };

static int setup(void **state) {
        TaskLog *l;

        n_frames = 0;
        congested = false;
        assert_ok(sd_event_new(&event));
        assert_ok(task_log_new(event, &handlers, NULL, &l));
        *state = l;
        return 0;
}

static int teardown(void **state) {
        task_log_free(*state);
        event = sd_event_unref(event);
        text = mfree(text);
        return 0;
}

static void run_for(uint64_t usec) {
        uint64_t until = now_usec(CLOCK_MONOTONIC) + usec, now;

        while ((now = now_usec(CLOCK_MONOTONIC)) < until)
                assert_ok(sd_event_run(event, until - now));
}

static void test_lines_go_together(void **state) {
        TaskLog *l = *state;
        Id one = { { 1 } }, two = { { 2 } };

        task_log_connected(l, true);
        assert_ok(task_log_add(l, one, 1, "hello", 5));
        assert_ok(task_log_add(l, one, 1, "world", 5));
        assert_ok(task_log_add(l, two, 1, "x", 1));
        assert_int_equal(n_frames, 0);
        run_for(400 * USEC_PER_MSEC);
        assert_int_equal(n_frames, 1);
        assert_int_equal(n_tasks, 2);
        assert_string_equal(text, "hello\nworld\n");
        run_for(400 * USEC_PER_MSEC);
        assert_int_equal(n_frames, 1);
}

static void test_last_lines_count(void **state) {
        TaskLog *l = *state;
        Id one = { { 1 } };
        char line[32];

        task_log_connected(l, true);
        for (int i = 0; i < 100000; i++) {
                int n = snprintf(line, sizeof(line), "line %d", i);

                assert_ok(task_log_add(l, one, 1, line, (size_t) n));
        }
        run_for(400 * USEC_PER_MSEC);
        assert_int_equal(n_frames, 1);
        assert_true(text_size <= TASK_LOG_TASK_MAX + 100);
        assert_true(text_size > TASK_LOG_TASK_MAX / 3);
        assert_non_null(strstr(text, "bytes were printed too fast and left out]\nline "));
        assert_string_equal(strrchr(text, 'l'), "line 99999\n");
}

static void test_overlong_line(void **state) {
        _cleanup_(freep) char *line = malloc(1 << 20);
        TaskLog *l = *state;
        Id one = { { 1 } };

        memset(line, 'x', 1 << 20);
        task_log_connected(l, true);
        assert_ok(task_log_add(l, one, 1, "short", 5));
        assert_ok(task_log_add(l, one, 1, line, 1 << 20));
        assert_ok(task_log_add(l, one, 1, "short", 5));
        run_for(400 * USEC_PER_MSEC);
        assert_true(text_size <= TASK_LOG_TASK_MAX + 100);
}

static void test_waits_for_a_listener(void **state) {
        TaskLog *l = *state;
        Id one = { { 1 } };

        assert_ok(task_log_add(l, one, 1, "hello", 5));
        run_for(300 * USEC_PER_MSEC);
        assert_int_equal(n_frames, 0);
        congested = true;
        task_log_connected(l, true);
        run_for(300 * USEC_PER_MSEC);
        assert_int_equal(n_frames, 0);
        congested = false;
        task_log_writable(l);
        run_for(300 * USEC_PER_MSEC);
        assert_int_equal(n_frames, 1);
        assert_string_equal(text, "hello\n");
}

static void test_open_and_close(void **state) {
        TaskLog *l = *state;

        /* There may be no journal here: no harm. */
        task_log_connected(l, true);
        task_log_active(l, true);
        task_log_active(l, true);
        task_log_active(l, false);
        task_log_active(l, true);
        task_log_active(NULL, true);
        task_log_connected(NULL, true);
        task_log_writable(NULL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_lines_go_together, setup, teardown),
                cmocka_unit_test_setup_teardown(test_last_lines_count, setup, teardown),
                cmocka_unit_test_setup_teardown(test_overlong_line, setup, teardown),
                cmocka_unit_test_setup_teardown(test_waits_for_a_listener, setup, teardown),
                cmocka_unit_test_setup_teardown(test_open_and_close, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
