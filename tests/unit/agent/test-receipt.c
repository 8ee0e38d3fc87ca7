/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "attempt-end.h"
#include "json-util.h"
#include "receipt.h"

static void assert_number(json_object *object, const char *key, uint64_t expected) {
        uint64_t value;

        assert_ok(json_get_uint64(object, key, UINT64_MAX, &value));
        assert_int_equal(value, expected);
}

static void assert_null_with_reason(json_object *object, const char *key) {
        json_object *unknown, *value;
        const char *why;

        assert_true(json_object_object_get_ex(object, key, &value));
        assert_null(value);
        assert_ok(json_get_object(object, "unknown", &unknown));
        assert_ok(json_get_string(unknown, key, 200, &why));
        assert_true(strlen(why) > 10);
}

static void test_all_known(void **state) {
        LauncherReceipt receipt = { .known = 0x7f,
                                    .cpu_usec = 1,
                                    .memory_peak = 2,
                                    .read_chars = 3,
                                    .write_chars = 4,
                                    .read_bytes = 5,
                                    .write_bytes = 6,
                                    .pressure_usec = 7,
                                    .start_usec = 8,
                                    .run_usec = 9,
                                    .started_at = 1700000000123456,
                                    .ended_at = 1700000000999999 };
        _cleanup_(json_putp) json_object *json = NULL;
        json_object *unknown;
        bool warm;

        assert_ok(receipt_to_json(&receipt, true, true, &json));
        assert_number(json, "cpu_us", 1);
        assert_number(json, "memory_peak", 2);
        assert_number(json, "read_chars", 3);
        assert_number(json, "write_chars", 4);
        assert_number(json, "read_bytes", 5);
        assert_number(json, "write_bytes", 6);
        assert_number(json, "pressure_us", 7);
        assert_number(json, "start_us", 8);
        assert_number(json, "run_us", 9);
        assert_number(json, "started_at", 1700000000123);
        assert_number(json, "ended_at", 1700000000999);
        assert_ok(json_get_bool(json, "warm", &warm));
        assert_true(warm);
        assert_ok(json_get_object(json, "unknown", &unknown));
        assert_int_equal(json_object_object_length(unknown), 0);
}

static void test_unknown_is_not_zero(void **state) {
        LauncherReceipt receipt = { .known = RECEIPT_CPU | RECEIPT_READ_CHARS, .start_usec = 8 };

        for (int v2 = 0; v2 < 2; v2++) {
                _cleanup_(json_putp) json_object *json = NULL;

                assert_ok(receipt_to_json(&receipt, false, v2, &json));
                assert_number(json, "cpu_us", 0); /* measured, and none */
                assert_number(json, "read_chars", 0);
                assert_number(json, "start_us", 8);
                assert_null_with_reason(json, "memory_peak");
                assert_null_with_reason(json, "write_chars");
                assert_null_with_reason(json, "read_bytes");
                assert_null_with_reason(json, "write_bytes");
                assert_null_with_reason(json, "pressure_us");
        }
}

static void test_never_ran(void **state) {
        _cleanup_(json_putp) json_object *json = NULL;
        json_object *value;

        assert_ok(receipt_to_json(NULL, false, false, &json));
        assert_null_with_reason(json, "start_us");
        assert_null_with_reason(json, "run_us");
        assert_null_with_reason(json, "cpu_us");
        assert_true(json_object_object_get_ex(json, "started_at", &value));
        assert_null(value);
}

static void assert_outcome(const LauncherEvent *event, const char *expected) {
        _cleanup_(json_putp) json_object *json = NULL;
        _cleanup_(freep) AttemptEnd *end = NULL;

        assert_ok(attempt_end_new(event, &end));
        assert_ok(attempt_end_to_json(end, &json));
        assert_string_equal(json_text(json, NULL), expected);
}

static void test_outcomes(void **state) {
        LauncherEvent e = { .op = LAUNCHER_ENDED };
        _cleanup_(freep) AttemptEnd *end = NULL;

        e.info.outcome = OUTCOME_VALUE;
        assert_outcome(&e, "{\"kind\":\"value\"}");
        e.info.outcome = OUTCOME_EXCEPTION;
        assert_outcome(&e, "{\"kind\":\"exception\",\"retry\":false}");
        e.flags = LAUNCHER_FLAG_RETRY;
        assert_outcome(&e, "{\"kind\":\"exception\",\"retry\":true}");
        e.info.outcome = OUTCOME_EXIT;
        e.info.status = 3;
        assert_outcome(&e, "{\"kind\":\"exit\",\"status\":3}");
        e.info.outcome = OUTCOME_MEMORY;
        e.info.limit = 100;
        e.info.peak = 99;
        assert_outcome(&e, "{\"kind\":\"memory\",\"limit\":100,\"peak\":99}");
        e.info.tmp = (LauncherDisk){ 80, 70, 9, 1 };
        e.info.shm = (LauncherDisk){ 60, 50, 8, 8 };
        assert_outcome(&e, "{\"kind\":\"memory\",\"limit\":100,\"peak\":99,\"tmp\":70,\"shm\":50}");
        e.info.outcome = OUTCOME_DISK;
        strcpy(e.info.detail, "/tmp");
        assert_outcome(&e, "{\"kind\":\"disk\",\"place\":\"/tmp\",\"limit\":80,\"used\":70,"
                           "\"files_limit\":9,\"files_used\":1,\"retry\":true}");
        strcpy(e.info.detail, "/dev/shm");
        e.flags = 0;
        assert_outcome(&e, "{\"kind\":\"disk\",\"place\":\"/dev/shm\",\"limit\":60,\"used\":50,"
                           "\"files_limit\":8,\"files_used\":8,\"retry\":false}");
        e.info.detail[0] = '\0';
        e.info.outcome = OUTCOME_TIMEOUT;
        e.info.limit = 1500000;
        assert_outcome(&e, "{\"kind\":\"timeout\",\"limit_ms\":1500}");
        e.info.outcome = OUTCOME_CPU_TIME;
        assert_outcome(&e, "{\"kind\":\"cpu-time\",\"limit_ms\":1500}");
        e.info.outcome = OUTCOME_DEADLINE;
        assert_outcome(&e, "{\"kind\":\"deadline\",\"limit_ms\":1500}");
        e.info.outcome = OUTCOME_SIGNAL;
        strcpy(e.info.detail, "SIGTERM");
        assert_outcome(&e, "{\"kind\":\"signal\",\"name\":\"SIGTERM\"}");
        e.info.outcome = OUTCOME_SYSCALL;
        strcpy(e.info.detail, "bpf");
        assert_outcome(&e, "{\"kind\":\"syscall\",\"name\":\"bpf\"}");
        e.info.outcome = OUTCOME_CANCELLED;
        strcpy(e.info.detail, "alice");
        assert_outcome(&e, "{\"kind\":\"cancelled\",\"by\":\"alice\"}");
        e.info.outcome = OUTCOME_RESULT_PICKLING;
        strcpy(e.info.detail, "_thread.lock");
        assert_outcome(&e, "{\"kind\":\"result-pickling\",\"name\":\"_thread.lock\","
                           "\"message\":\"a value of this type cannot be pickled\"}");
        e.info.outcome = OUTCOME_INFRASTRUCTURE;
        strcpy(e.info.detail, "no \xff memory");
        assert_outcome(&e, "{\"kind\":\"infrastructure\",\"message\":\"no ? memory\"}");

        e.info.outcome = OUTCOME_NONE;
        assert_error(attempt_end_new(&e, &end), EINVAL);
        e.info.outcome = 1000;
        assert_error(attempt_end_new(&e, &end), EINVAL);
}

static void test_detail_without_end(void **state) {
        LauncherEvent e = { .op = LAUNCHER_ENDED };
        _cleanup_(freep) AttemptEnd *end = NULL;

        e.info.outcome = OUTCOME_INFRASTRUCTURE;
        memset(e.info.detail, 'x', sizeof(e.info.detail));
        assert_ok(attempt_end_new(&e, &end));
        assert_int_equal(strlen(end->detail), sizeof(e.info.detail));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_all_known),          cmocka_unit_test(test_unknown_is_not_zero),
                cmocka_unit_test(test_never_ran),          cmocka_unit_test(test_outcomes),
                cmocka_unit_test(test_detail_without_end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
