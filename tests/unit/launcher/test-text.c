/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cgroup.h"
#include "text-file.h"

static void fields_stand_at_the_start_of_a_line(void **state) {
        static const char text[] =
                "low 1\noom 2\noom_kill 3\nxoom_kill 4\nPid:\t55\nbad -1\nempty\nlast 18446744073709551615";
        uint64_t value;

        assert_true(text_field(text, "oom_kill", &value));
        assert_int_equal(value, 3);
        assert_true(text_field(text, "oom", &value));
        assert_int_equal(value, 2);
        assert_true(text_field(text, "Pid", &value));
        assert_int_equal(value, 55);
        assert_true(text_field(text, "last", &value));
        assert_true(value == UINT64_MAX);
        assert_false(text_field(text, "bad", &value));
        assert_false(text_field(text, "empty", &value));
        assert_false(text_field(text, "kill", &value));
        assert_false(text_field("", "x", &value));
        assert_false(text_field("x 99999999999999999999999", "x", &value));
}

static void numbers_are_only_numbers(void **state) {
        uint64_t value;

        assert_true(text_number("0\n", &value) && value == 0);
        assert_true(text_number("123", &value) && value == 123);
        assert_false(text_number("max\n", &value));
        assert_false(text_number("", &value));
        assert_false(text_number("12x", &value));
        assert_false(text_number(" 12", &value));
}

static void cgroup_paths_of_both_layouts(void **state) {
        static const char v1[] =
                "12:pids:/clupy.slice/a\n7:memory:/clupy.slice/clupy-task-0123456789abcdef.scope\n"
                "3:cpu,cpuacct:/both\n1:name=systemd:/init\n0::/unified\n";
        char path[64], tiny[8];

        assert_int_equal(text_cgroup_path(v1, "memory", path, sizeof(path)), 0);
        assert_string_equal(path, "/clupy.slice/clupy-task-0123456789abcdef.scope");
        assert_int_equal(text_cgroup_path(v1, "cpuacct", path, sizeof(path)), 0);
        assert_string_equal(path, "/both");
        assert_int_equal(text_cgroup_path(v1, NULL, path, sizeof(path)), 0);
        assert_string_equal(path, "/unified");
        assert_int_equal(text_cgroup_path(v1, "freezer", path, sizeof(path)), -ENOENT);
        assert_int_equal(text_cgroup_path(v1, "mem", path, sizeof(path)), -ENOENT);
        assert_int_equal(text_cgroup_path(v1, "memory", tiny, sizeof(tiny)), -ENAMETOOLONG);
        assert_int_equal(text_cgroup_path("garbage", NULL, path, sizeof(path)), -ENOENT);
        assert_int_equal(text_cgroup_path("0::relative\n", NULL, path, sizeof(path)), -ENOENT);
}

static void tokens_of_scopes(void **state) {
        char token[CGROUP_TOKEN_SIZE];

        assert_true(cgroup_find_token("0::/clupy.slice/clupy-task-0123456789abcdef.scope/child\n", token));
        assert_string_equal(token, "0123456789abcdef");
        assert_false(cgroup_find_token("0::/x-clupy-task-0123456789abcdef.scope", token));
        assert_false(cgroup_find_token("0::/clupy-task-0123456789abcde.scope", token));
        assert_false(cgroup_find_token("0::/clupy-task-0123456789abcdef0.scope", token));
        assert_false(cgroup_find_token("0::/clupy-task-0123456789ABCDEF.scope", token));
}

static void pressure(void **state) {
        uint64_t value;

        assert_true(text_pressure_total(
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0 total=9\n", &value));
        assert_int_equal(value, 1234);
        assert_false(text_pressure_total("full avg10=0 total=9\n", &value));
        assert_false(text_pressure_total("some avg10=0\nfull total=9\n", &value));
}

static void files_must_fit(void **state) {
        char text[4096], tiny[4];

        assert_true(text_file_read(text, sizeof(text), "/proc/%s/status", "self") > 0);
        assert_int_equal(text_file_read(tiny, sizeof(tiny), "/proc/self/status"), -EFBIG);
        assert_int_equal(text_file_read(text, sizeof(text), "/nonexistent"), -ENOENT);
        assert_int_equal(text_file_write("x", "/nonexistent"), -ENOENT);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(fields_stand_at_the_start_of_a_line),
                cmocka_unit_test(numbers_are_only_numbers),
                cmocka_unit_test(cgroup_paths_of_both_layouts),
                cmocka_unit_test(tokens_of_scopes),
                cmocka_unit_test(pressure),
                cmocka_unit_test(files_must_fit),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
