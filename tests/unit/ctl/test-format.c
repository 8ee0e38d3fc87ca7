/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <locale.h>

#include "format.h"
#include "json-util.h"

#define assert_text(expression, expected)                                                                   \
        do {                                                                                                \
                _cleanup_(freep) char *_text = (expression);                                                \
                assert_non_null(_text);                                                                     \
                assert_string_equal(_text, expected);                                                       \
        } while (0)

static void test_units(void **state) {
        assert_text(format_cpus(2), "2");
        assert_text(format_cpus(0.5), "0.5");
        assert_text(format_cpus(1.999), "2");
        assert_text(format_cpus(0.25), "0.25");
        assert_text(format_cpus(1.05), "1.05");
        assert_text(format_cpus(-1), "0");
        assert_text(format_cpus_of(0.5, 4), "0.5 of 4");
        assert_text(format_bytes_of(512 << 20, UINT64_C(2) << 30), "512.0M of 2.0G");
        assert_text(format_span(250), "250ms");
        assert_text(format_span(3249), "3.2s");
        assert_text(format_span(59999), "59.9s");
        assert_text(format_span(60000), "1min");
        assert_text(format_span(-5), "0ms");
        assert_text(format_age(1000, 6000), "5s");
        assert_text(format_age(6000, 1000), "0s");
        assert_text(format_age(1, 125001), "2min 5s");
        assert_text(format_age(1, 4 * 3600000 + 600001), "4h 10min");
        assert_text(format_age(1, INT64_C(51) * 3600000 + 1), "2d 3h");
        assert_text(format_time(0), "-");
        assert_text(format_time(INT64_C(1740837907000)), "2025-03-01 14:05:07");
}

static void assert_outcome(const char *json, const char *expected) {
        _cleanup_(json_putp) json_object *outcome = NULL;

        assert_ok(json_parse_strict_object(json, strlen(json), 4, &outcome));
        assert_text(format_outcome(outcome), expected);
}

static void test_outcomes(void **state) {
        assert_text(format_outcome(NULL), "-");
        assert_outcome("{\"kind\":\"value\"}", "value");
        assert_outcome("{\"kind\":\"exit\",\"status\":3}", "exit (status 3)");
        assert_outcome("{\"kind\":\"memory\",\"limit\":67108864,\"peak\":67108864}",
                       "memory (limit 64.0M, peak 64.0M)");
        assert_outcome("{\"kind\":\"disk\",\"place\":\"/dev/shm\",\"limit\":8388608}",
                       "disk (/dev/shm, limit 8.0M)");
        assert_outcome("{\"kind\":\"timeout\",\"limit_ms\":90000}", "timeout (1min 30s)");
        assert_outcome("{\"kind\":\"syscall\",\"name\":\"bpf\"}", "syscall (bpf)");
        assert_outcome("{\"kind\":\"signal\",\"name\":\"SIGTERM\"}", "signal (SIGTERM)");
        assert_outcome("{\"kind\":\"cancelled\",\"by\":\"alice\"}", "cancelled (by alice)");
        assert_outcome("{\"kind\":\"cancelled\"}", "cancelled");
        assert_outcome("{\"kind\":\"node-lost\",\"attempts\":4}", "node-lost (4 attempts)");
        assert_outcome("{\"kind\":\"of a later version\"}", "of a later version");
        assert_outcome("{\"kind\":7}", "-");
}

static void assert_state(const char *json, const char *expected) {
        _cleanup_(json_putp) json_object *task = NULL;

        assert_ok(json_parse_strict_object(json, strlen(json), 4, &task));
        assert_text(format_task_state(task), expected);
}

static void test_task_states(void **state) {
        assert_state("{\"state\":\"running\",\"freezes_ms\":null}", "running");
        assert_state("{\"state\":\"unreachable\",\"freezes_ms\":10001}",
                     "unreachable (frozen there in 11s)");
        assert_state("{\"state\":\"unreachable\",\"freezes_ms\":0}", "unreachable (frozen there)");
}

static void test_members(void **state) {
        static const char text[] = "{\"s\":\"x\",\"n\":null,\"i\":5,\"l\":[1,2]}";
        _cleanup_(json_putp) json_object *o = NULL;

        assert_ok(json_parse_strict_object(text, sizeof(text) - 1, 4, &o));
        assert_string_equal(member_string(o, "s"), "x");
        assert_string_equal(member_string(o, "n"), "");
        assert_string_equal(member_string(o, "i"), "");
        assert_string_equal(member_string(NULL, "i"), "");
        assert_string_equal(member_string(member_object(o, "l"), "i"), "");
        assert_int_equal(member_int(o, "i"), 5);
        assert_int_equal(member_int(o, "missing"), 0);
        assert_int_equal(member_length(o, "l"), 2);
        assert_int_equal(member_length(o, "s"), 0);
        assert_true(member_is_null(o, "n"));
        assert_false(member_is_null(o, "i"));
}

static void assert_harmless(const char *text, bool lines, const char *expected) {
        assert_text(text_harmless(text, strlen(text), lines), expected);
}

static void test_harmless(void **state) {
        assert_harmless("plain ümlaut 日本", false, "plain ümlaut 日本");
        assert_harmless("a\nb\tc", false, "a^Jb^Ic");
        assert_harmless("a\nb\tc\r", true, "a\nb\tc^M");
        assert_harmless("\033[31mred\033[0m", true, "\033[31mred\033[0m");
        assert_harmless("\033[31mred", false, "^[[31mred");
        assert_harmless("\033]0;title\007", true, "^[]0;title^G");
        assert_harmless("\033[2J", true, "^[[2J");
        assert_harmless("\033[", true, "^[[");
        assert_harmless("\xc2\x9b"
                        "2J",
                        true, "?2J");
        assert_harmless("a\xff\xc3", true, "a??");
        assert_harmless("\xe2\x80\xae"
                        "gnp.exe",
                        true, "?gnp.exe");
        assert_harmless("\177", true, "^?");
}

static void test_width(void **state) {
        assert_int_equal(text_width("abc"), 3);
        assert_int_equal(text_width("müd"), 3);
        assert_int_equal(text_width("日本"), 4);
        assert_int_equal(text_width("\xff\xff"), 2);
        assert_text(text_fit("abcdef", 6), "abcdef");
        assert_text(text_fit("abcdef", 4), "abc…");
        assert_text(text_fit("日本語", 4), "日…");
        assert_text(text_fit("abc", 1), "…");
}

static void test_ids(void **state) {
        static const char *const ids[] = { "0123456789abcdef0123456789abcdef",
                                           "0123456789abcdef0123456789abcdee",
                                           "ff23456789abcdef0123456789abcdee" };
        char id[33];

        assert_int_equal(task_id_parse("3F", id), 2);
        assert_string_equal(id, "3f");
        assert_int_equal(task_id_parse("01234567-89ab-cdef-0123-456789abcdef", id), 32);
        assert_string_equal(id, ids[0]);
        assert_error(task_id_parse("", id), EINVAL);
        assert_error(task_id_parse("-", id), EINVAL);
        assert_error(task_id_parse("xyz", id), EINVAL);
        assert_error(task_id_parse("0123456789abcdef0123456789abcdef0", id), EINVAL);

        assert_int_equal(ids_short_length(ids, 0, 8), 8);
        assert_int_equal(ids_short_length(ids + 1, 2, 8), 8);
        assert_int_equal(ids_short_length(ids, 3, 8), 32);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_units),       cmocka_unit_test(test_outcomes),
                cmocka_unit_test(test_members),     cmocka_unit_test(test_harmless),
                cmocka_unit_test(test_width),       cmocka_unit_test(test_ids),
                cmocka_unit_test(test_task_states),
        };

        setlocale(LC_ALL, "C.UTF-8");
        return cmocka_run_group_tests(tests, NULL, NULL);
}
