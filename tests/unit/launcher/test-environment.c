/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "environment-name.h"
#include "environment-stamp.h"
#include "macros.h"
#include "pythons.h"

#define NAME "0123456789abcdef0123456789abcdef01234567"

static void names_say_what_they_are(void **state) {
        char series[PYTHON_NAME_MAX];
        EnvironmentKind kind;

        assert_int_equal(environment_name_parse("python-3.11", &kind, series), 0);
        assert_int_equal(kind, ENVIRONMENT_BARE);
        assert_string_equal(series, "3.11");
        assert_int_equal(environment_name_parse("system-3.9", &kind, series), 0);
        assert_int_equal(kind, ENVIRONMENT_SYSTEM);
        assert_string_equal(series, "3.9");
        assert_int_equal(environment_name_parse(NAME, &kind, series), 0);
        assert_int_equal(kind, ENVIRONMENT_BUILT);
        assert_int_equal(environment_name_parse("default", &kind, series), 0);
        assert_int_not_equal(kind, ENVIRONMENT_BUILT);
        assert_string_equal(series, pythons[0].series);
        assert_int_equal(environment_name_parse("python-", &kind, series), -EINVAL);
        assert_int_equal(environment_name_parse("system-3.x", &kind, series), -EINVAL);
        assert_int_equal(environment_name_parse("python-3.11/../x", &kind, series), -EINVAL);
}

static void interpreters_are_those_of_the_environment(void **state) {
        const Python *python = pythons;
        char path[128];

        assert_int_equal(environment_interpreter(NAME, python, path, sizeof(path)), 0);
        assert_string_equal(path, ENVIRONMENT_FOLDER "/" NAME "/bin/python");
        assert_int_equal(environment_interpreter("python-3.11", python, path, sizeof(path)), 0);
        assert_string_equal(path, python->bare);
        assert_int_equal(environment_interpreter("system-3.11", python, path, sizeof(path)), 0);
        assert_string_equal(path, python->interpreter);
        assert_int_equal(environment_interpreter(NAME, python, path, 20), -ENAMETOOLONG);
}

static void a_stamp_is_read_as_it_was_written(void **state) {
        const EnvironmentStamp stamp = { "alice", "3.11", UINT64_MAX, 7, 1795489883207929 };
        EnvironmentStamp found;
        char text[ENVIRONMENT_STAMP_MAX];

        assert_true(environment_stamp_format(&stamp, text, sizeof(text)) > 0);
        assert_int_equal(environment_stamp_parse(text, &found), 0);
        assert_memory_equal(&found, &stamp, sizeof(stamp));
        assert_int_equal(environment_stamp_format(&stamp, text, 20), -EMSGSIZE);
}

static void what_is_no_stamp_is_not_taken(void **state) {
#define REST "bytes=1\nfiles=2\nbuilt_at=3\n"
        static const char *const bad[] = {
                "",
                "clupy environment 2\nowner=\npython=3.11\n" REST,
                "clupy environment 1\nowner=\npython=3.11\nbytes=1\nfiles=2\n",
                "clupy environment 1\nowner=a/b\npython=3.11\n" REST,
                "clupy environment 1\nowner=\npython=../x\n" REST,
                "clupy environment 1\nowner=\npython=\n" REST,
                "clupy environment 1\nowner=\npython=3.11\nbytes=-1\nfiles=2\nbuilt_at=3\n",
        };
        EnvironmentStamp found;

        assert_int_equal(environment_stamp_parse("clupy environment 1\nowner=\npython=3.11\n" REST, &found),
                         0);
        assert_string_equal(found.owner, "");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(environment_stamp_parse(bad[i], &found), -EBADMSG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names_say_what_they_are),
                cmocka_unit_test(interpreters_are_those_of_the_environment),
                cmocka_unit_test(a_stamp_is_read_as_it_was_written),
                cmocka_unit_test(what_is_no_stamp_is_not_taken),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
