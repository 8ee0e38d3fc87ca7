/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "build-room.h"
#include "fd-util.h"
#include "macros.h"

static void a_file_system_is_read(void **state) {
        _cleanup_(close_fdp) int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DiskRoom room;

        assert_true(fd >= 0);
        assert_int_equal(disk_room_read(fd, &room), 0);
        assert_true(room.size > 0 && room.bytes <= room.size && room.files <= room.files_size);
        assert_int_equal(disk_room_read(-1, &room), -EBADF);
}

static void what_is_left_for_others(void **state) {
        static const struct {
                DiskRoom room;
                bool is_short;
        } cases[] = {
                { { GIB(1), GIB(1000), 1000000, 10000000 }, false },
                { { GIB(1) - 1, GIB(1000), 1000000, 10000000 }, true },
                { { MIB(20) + 4, MIB(1000), 1000, 50000 }, false }, /* 2 % of a small one */
                { { MIB(19), MIB(1000), 1000, 50000 }, true },
                { { GIB(10), GIB(1000), 99999, 100000000 }, true }, /* inodes */
                { { GIB(10), GIB(1000), 999, 50000 }, true },
                { { GIB(10), GIB(1000), 0, 0 }, false }, /* without a bound */
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_int_equal(disk_room_is_short(&cases[i].room), cases[i].is_short);
}

static void what_a_build_has_taken(void **state) {
        const DiskRoom before = { .bytes = GIB(100), .size = GIB(200) };
        DiskRoom now = before;

        assert_false(disk_room_is_overdrawn(&before, &now, GIB(10), 1));
        now.bytes = GIB(120);
        assert_false(disk_room_is_overdrawn(&before, &now, GIB(10), 1));
        now.bytes = GIB(100) - GIB(11);
        assert_false(disk_room_is_overdrawn(&before, &now, GIB(10), 1));
        now.bytes--;
        assert_true(disk_room_is_overdrawn(&before, &now, GIB(10), 1));
        /* It may have been another one. */
        assert_false(disk_room_is_overdrawn(&before, &now, GIB(10), 2));
        now.bytes = GIB(100) - GIB(21) - 1;
        assert_true(disk_room_is_overdrawn(&before, &now, GIB(10), 2));
        assert_false(disk_room_is_overdrawn(&before, &now, UINT64_MAX, 1));
        assert_false(disk_room_is_overdrawn(&before, &now, UINT64_MAX, 2));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_file_system_is_read),
                cmocka_unit_test(what_is_left_for_others),
                cmocka_unit_test(what_a_build_has_taken),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
