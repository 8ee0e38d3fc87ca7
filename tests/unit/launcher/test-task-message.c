/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "fd-util.h"
#include "macros.h"
#include "task-message.h"

static int sparse(off_t size, bool sealed) {
        int fd = memfd_new("result");

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, size), 0);
        if (sealed)
                assert_int_equal(memfd_seal(fd), 0);
        return fd;
}

static void a_result_is_no_larger_than_the_task_can_be(void **state) {
        static const struct {
                off_t size;
                bool sealed;
                int expected;
        } cases[] = {
                { 0, true, 0 },
                { 4096, true, 0 },
                { MIB(64), true, 0 },
                { MIB(64) + 1, true, -EFBIG },
                { INT64_MAX, true, -EFBIG }, /* holds nothing, and is said to be 8 EiB */
                { 4096, false, -EPERM },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(close_fdp) int fd = sparse(cases[i].size, cases[i].sealed);
                uint64_t size = 1;

                assert_int_equal(task_result_check(fd, MIB(64), &size), cases[i].expected);
                assert_int_equal(size, cases[i].expected < 0 ? 1 : (uint64_t) cases[i].size);
        }
}

static void a_result_is_memory(void **state) {
        int pair[2];
        uint64_t size;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_true(task_result_check(pair[0], MIB(64), &size) < 0);
        assert_true(task_result_check(-EBADF, MIB(64), &size) < 0);
        close_many(pair, ELEMENTSOF(pair));
}

static void progress_is_a_number_that_others_can_hold(void **state) {
        assert_true(task_progress_is_valid(0, 0));
        assert_true(task_progress_is_valid(0.5, 1e15));
        assert_false(task_progress_is_valid(NAN, 1));
        assert_false(task_progress_is_valid(1, NAN));
        assert_false(task_progress_is_valid(-INFINITY, 1));
        assert_false(task_progress_is_valid(1e300, 1));
        assert_false(task_progress_is_valid(1, -1e19));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_result_is_no_larger_than_the_task_can_be),
                cmocka_unit_test(a_result_is_memory),
                cmocka_unit_test(progress_is_a_number_that_others_can_hold),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
