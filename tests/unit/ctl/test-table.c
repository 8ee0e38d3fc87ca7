/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <locale.h>

#include "table.h"

static const TableColumn columns[] = {
        { "NAME", .shrink = 4 },
        { "CPUS", .right = true },
        { "NOTE", .shrink = 6, .if_any = true },
};

static void assert_table(const Terminal *terminal, const char *note, const char *expected) {
        _cleanup_(table_freep) Table *t = NULL;
        _cleanup_(freep) char *text = NULL;

        assert_ok(table_new(columns, ELEMENTSOF(columns), &t));
        table_cell(t, COLOR_GREEN, "a-long-name");
        table_cell(t, COLOR_NONE, "1");
        table_cell(t, COLOR_NONE, note);
        table_cell(t, COLOR_NONE, "bö");
        table_take(t, COLOR_NONE, strdup("0.25 of 4"));
        table_cell(t, COLOR_NONE, "");
        assert_ok(table_render(t, terminal, &text));
        assert_string_equal(text, expected);
}

static void test_plain(void **state) {
        static const Terminal pipe = {};

        assert_table(&pipe, "waits for memory",
                     "NAME              CPUS  NOTE\n"
                     "a-long-name          1  waits for memory\n"
                     "bö           0.25 of 4  \n");
        assert_table(&pipe, "",
                     "NAME              CPUS\n"
                     "a-long-name          1\n"
                     "bö           0.25 of 4\n");
}

static void test_fitted(void **state) {
        static const Terminal narrow = { .width = 30, .is_tty = true };
        static const Terminal tiny = { .width = 5, .is_tty = true };

        assert_table(&narrow, "waits for memory",
                     "NAME           CPUS  NOTE\n"
                     "a-long-…          1  waits fo…\n"
                     "bö        0.25 of 4  \n");
        assert_table(&tiny, "waits for memory",
                     "NAME       CPUS  NOTE\n"
                     "a-l…          1  waits…\n"
                     "bö    0.25 of 4  \n");
}

static void test_dropped(void **state) {
        static const TableColumn dropping[] = {
                { "A" }, { "BB", .drop = 1 }, { "CC", .drop = 2 }, { "DDDD", .shrink = 2 }
        };
        static const Terminal wide = { .width = 15 }, narrow = { .width = 14 }, narrower = { .width = 9 },
                              tiny = { .width = 1 };
        _cleanup_(table_freep) Table *t = NULL;
        const Terminal *terminals[] = { &wide, &narrow, &narrower, &tiny };
        const char *expected[] = { "A  BB  CC  DDDD\n", "A  BB  CC  DD…\n", "A  BB  D…\n", "A  D…\n" };

        assert_ok(table_new(dropping, ELEMENTSOF(dropping), &t));
        for (size_t i = 0; i < ELEMENTSOF(terminals); i++) {
                _cleanup_(freep) char *text = NULL;

                assert_ok(table_render(t, terminals[i], &text));
                assert_string_equal(text, expected[i]);
        }
}

static void test_colors(void **state) {
        static const Terminal color = { .color = true, .is_tty = true };

        assert_table(&color, "",
                     "\033[1mNAME\033[0m              \033[1mCPUS\033[0m\n"
                     "\033[32ma-long-name\033[0m          1\n"
                     "bö           0.25 of 4\n");
}

static void test_stranger(void **state) {
        static const Terminal pipe = {};

        assert_table(&pipe, "\033[2J\nroot",
                     "NAME              CPUS  NOTE\n"
                     "a-long-name          1  ^[[2J^Jroot\n"
                     "bö           0.25 of 4  \n");
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_plain),    cmocka_unit_test(test_fitted),
                cmocka_unit_test(test_dropped),  cmocka_unit_test(test_colors),
                cmocka_unit_test(test_stranger),
        };

        setlocale(LC_ALL, "C.UTF-8");
        return cmocka_run_group_tests(tests, NULL, NULL);
}
