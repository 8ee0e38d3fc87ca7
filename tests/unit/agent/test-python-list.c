/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "build-config.h"
#include "macros.h"
#include "memory-util.h"
#include "python-list.h"

static void program(const char *directory, const char *name) {
        char path[256];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        test_file_write(path, "", 0);
}

static void test_found(void **state) {
        char *directory = test_directory();
        char **list;

        program(directory, "clupy-zygote");
        program(directory, "clupy-zygote-" CLUPY_PYTHON_SERIES);
        program(directory, "clupy-zygote-2.12");
        program(directory, "clupy-zygote-2.9");
        program(directory, "clupy-zygote-2.9.1");
        program(directory, "clupy-zygote-2.x");
        program(directory, "clupy-zygote-");
        program(directory, "clupy-zygote-2.9.old");
        program(directory, "clupy-agent");
        assert_ok(python_list_find(directory, &list));
        assert_int_equal(strv_length(list), 3);
        assert_string_equal(list[0], CLUPY_PYTHON_SERIES);
        assert_string_equal(list[1], "2.9");
        assert_string_equal(list[2], "2.12");
        strv_free(list);
        test_directory_remove(directory);
}

static void test_no_folder(void **state) {
        char **list;

        assert_ok(python_list_find("/nowhere/at/all", &list));
        assert_int_equal(strv_length(list), 1);
        strv_free(list);
}

static void test_names(void **state) {
        static const char *const good[] = { "3.9", "3.11", "10.123" };
        static const char *const bad[] = { "",      "3",   "3.",  ".11",   "3.11.2", "3.1234",
                                           "123.1", "3.a", "a.3", "3.11 ", "-3.1" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_true(python_name_is_valid(good[i]));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(python_name_is_valid(bad[i]));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_found),
                cmocka_unit_test(test_no_folder),
                cmocka_unit_test(test_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
