/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <errno.h>

#include "memory-util.h"
#include "requirement.h"

#define HASH "--hash=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_requirements(void **state) {
        static const char *const good[] = {
                "numpy",
                "numpy>=2",
                "pandas[parquet,s3]~=2.1",
                "a.b_c-d (==1.0)",
                "x; os_name=='a'",
                "x[y] ; a < '1'",
                "x==1.0+local",
                "x != 1.*, <3",
                "x===weird",
                "x; os_name == '\xe2\x80\xa7\xc2\xa0'",
                "zope.interface >4",
        };
        static const char *const bad[] = {
                "",
                "-r file",
                "--index-url=http://x",
                "x @ https://example.org/x.whl",
                "x==1 --hash=sha256:1",
                "x\ny",
                "./x.whl",
                "x[",
                "x[a",
                "x y",
                "-e x",
                "x# comment",
                "x\\",
                "x; a -r y",
                "a-",
                "\xff",
                "x; a == '\xc2\x85-r y'",
                "x; a == '\xe2\x80\xa8y'",
                "x; a == '\xe2\x80\xa9y'",
                "x\r",
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                if (!requirement_is_valid(good[i]))
                        fail_msg("refused: %s", good[i]);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (requirement_is_valid(bad[i]))
                        fail_msg("taken: %s", bad[i]);
}

static void test_projects(void **state) {
        char name[PROJECT_NAME_MAX + 1];

        assert_int_equal(requirement_project("Ruamel._-Yaml[x]>=1", name), 0);
        assert_string_equal(name, "ruamel-yaml");
        assert_int_equal(requirement_project("numpy==2", name), 0);
        assert_string_equal(name, "numpy");
        assert_int_equal(requirement_project(">=1", name), -EINVAL);
        assert_int_equal(wheel_project("My_Own-1.0-py3-none-any.whl", name), 0);
        assert_string_equal(name, "my-own");
        assert_int_equal(wheel_project("-1.0-py3-none-any.whl", name), -EINVAL);
}

static void test_names(void **state) {
        assert_true(module_name_is_valid("numpy"));
        assert_true(module_name_is_valid("os.path_1"));
        assert_true(module_name_is_valid("größe"));
        assert_false(module_name_is_valid(""));
        assert_false(module_name_is_valid("a."));
        assert_false(module_name_is_valid("1a"));
        assert_false(module_name_is_valid("a b"));
        assert_false(module_name_is_valid("a..b"));
        assert_true(wheel_name_is_valid("x-1.0-py3-none-any.whl"));
        assert_true(wheel_name_is_valid("x-1.0+local-cp311-cp311-linux_x86_64.whl"));
        assert_false(wheel_name_is_valid("../x.whl"));
        assert_false(wheel_name_is_valid(".whl"));
        assert_false(wheel_name_is_valid("x.tar.gz"));
        assert_false(wheel_name_is_valid("a b.whl"));
}

typedef struct Found {
        LockEntry entries[8];
        size_t n;
} Found;

static int on_entry(const LockEntry *entry, void *userdata) {
        Found *found = userdata;

        found->entries[found->n++] = *entry;
        return 0;
}

static void test_lock(void **state) {
        static const char text[] = "# comment\n"
                                   "\n"
                                   "numpy==2.1.0 \\\n"
                                   "    " HASH " \\\n"
                                   "    " HASH "\n"
                                   "    # via -r\n"
                                   "Ruamel.Yaml[x] == 1.0+b ; python_version < '3.12' " HASH "  # why\r\n"
                                   "six==1.16.0 " HASH;
        const char *expected;
        Found found = { 0 };
        size_t line;

        assert_int_equal(lock_parse(text, sizeof(text) - 1, on_entry, &found, &line, &expected), 0);
        assert_int_equal(found.n, 3);
        assert_string_equal(found.entries[0].project, "numpy");
        assert_string_equal(found.entries[0].version, "2.1.0");
        assert_int_equal(found.entries[0].line, 3);
        assert_false(found.entries[0].conditional);
        assert_string_equal(found.entries[1].project, "ruamel-yaml");
        assert_string_equal(found.entries[1].version, "1.0+b");
        assert_true(found.entries[1].conditional);
        assert_int_equal(found.entries[1].line, 7);
        assert_string_equal(found.entries[2].project, "six");
        assert_int_equal(lock_parse("", 0, NULL, NULL, &line, &expected), 0);
}

static void expect_refused(const char *text, size_t line_expected, const char *part) {
        const char *expected;
        size_t line;

        assert_int_equal(lock_parse(text, strlen(text), NULL, NULL, &line, &expected), -EINVAL);
        assert_int_equal(line, line_expected);
        if (!strstr(expected, part))
                fail_msg("%s", expected);
}

static void test_broken_locks(void **state) {
        expect_refused("numpy==2\n", 1, "a hash behind");
        expect_refused("\n\nnumpy>=2 " HASH "\n", 3, "pinned");
        expect_refused("numpy==2 " HASH "\nsix==1.* " HASH, 2, "pinned");
        expect_refused("numpy==2 --hash=md5:12\n", 1, "sha256");
        expect_refused("numpy==2 " HASH " --no-binary\n", 1, "no other option");
        expect_refused("-r other " HASH "\n", 1, "no options");
        expect_refused("--index-url http://x\n", 1, "no options");
        expect_refused("x @ http://y/x.whl " HASH "\n", 1, "pinned");
        expect_refused("x==1,<2 " HASH "\n", 1, "pinned");
}

/* pip ends lines there, also in comments. */
static void test_other_ends_of_lines(void **state) {
        static const char *const ends[] = { "\r",   "\v",       "\f",           "\x1c",        "\x1d",
                                            "\x1e", "\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9" };
        const char *expected;
        size_t line;

        for (size_t i = 0; i < ELEMENTSOF(ends); i++) {
                _cleanup_(freep) char *text =
                        strformat("x==1 " HASH "\n# comment%sy @ https://example.org/y.whl\n", ends[i]);

                assert_int_equal(lock_parse(text, strlen(text), NULL, NULL, &line, &expected), -EINVAL);
                assert_int_equal(line, 2);
        }
        assert_int_equal(lock_parse("# \xe2\x80\xa6\r\n\tx==1 " HASH "\r\n",
                                    strlen("# \xe2\x80\xa6\r\n\tx==1 " HASH "\r\n"), NULL, NULL, &line,
                                    &expected),
                         0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_requirements), cmocka_unit_test(test_projects),
                cmocka_unit_test(test_names),        cmocka_unit_test(test_other_ends_of_lines),
                cmocka_unit_test(test_lock),         cmocka_unit_test(test_broken_locks),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
