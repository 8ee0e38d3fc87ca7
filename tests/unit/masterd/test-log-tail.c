/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "log-tail.h"
#include "memory-util.h"

static void test_tail(void **state) {
        LogTails tails;
        LogTail *tail = NULL;
        const char *data;
        uint64_t end;
        size_t size;

        log_tails_init(&tails, 1000, 10000);
        assert_int_equal(log_tail_read(NULL, 0, &data, &end), 0);
        assert_int_equal(end, 0);
        for (unsigned i = 0; i < 500; i++) {
                char line[16];
                int n = snprintf(line, sizeof(line), "line %u\n", i);

                assert_int_equal(log_tail_append(&tails, &tail, line, (size_t) n), 0);
        }
        size = log_tail_read(tail, 0, &data, &end);
        assert_in_range(size, 700, 1000);
        assert_memory_equal(data + size - 9, "line 499\n", 9);
        assert_int_equal(log_tail_read(tail, end - 9, &data, &end), 9);
        assert_memory_equal(data, "line 499\n", 9);
        assert_int_equal(log_tail_read(tail, end, &data, &end), 0);
        tail = log_tail_free(&tails, tail);
        assert_int_equal(tails.bytes, 0);
}

static void test_one_large_piece(void **state) {
        LogTails tails;
        LogTail *tail = NULL;
        char large[5000];
        const char *data;
        uint64_t end;

        for (size_t i = 0; i < sizeof(large); i++)
                large[i] = (char) ('a' + i % 26);
        log_tails_init(&tails, 1000, 10000);
        assert_int_equal(log_tail_append(&tails, &tail, large, sizeof(large)), 0);
        assert_int_equal(log_tail_read(tail, 0, &data, &end), 1000);
        assert_memory_equal(data, large + 4000, 1000);
        assert_int_equal(end, 5000);
        log_tail_free(&tails, tail);
}

static void test_all_together(void **state) {
        LogTails tails;
        LogTail *tail[20] = { 0 };
        char text[1000] = "x";
        const char *data;
        uint64_t end;

        log_tails_init(&tails, 1000, 10000);
        for (size_t i = 0; i < ELEMENTSOF(tail); i++) {
                assert_int_equal(log_tail_append(&tails, &tail[i], text, sizeof(text)), 0);
                assert_true(tails.bytes <= 10000);
        }
        assert_int_equal(log_tail_read(tail[0], 0, &data, &end), 0);
        assert_int_equal(end, 1000);
        assert_int_equal(log_tail_read(tail[19], 0, &data, &end), 1000);
        for (size_t i = 0; i < ELEMENTSOF(tail); i++)
                log_tail_free(&tails, tail[i]);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_tail),
                                            cmocka_unit_test(test_one_large_piece),
                                            cmocka_unit_test(test_all_together) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
