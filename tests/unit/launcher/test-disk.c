/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "disk.h"

/* Of this process, whose view is the machine's: what is no tmpfs there is not believed. */
static void check_place(const char *place) {
        LauncherDisk disk = { 0 };
        struct statfs s;

        assert_int_equal(statfs(place, &s), 0);
        if (s.f_type != TMPFS_MAGIC) {
                assert_error(disk_read(getpid(), place, &disk), ENOTSUP);
                return;
        }
        assert_ok(disk_read(getpid(), place, &disk));
        assert_int_equal(disk.limit, (uint64_t) s.f_blocks * (uint64_t) s.f_bsize);
        assert_int_equal(disk.files_limit, s.f_files);
        assert_true(disk.used <= disk.limit && disk.files_used <= disk.files_limit);
}

static void test_places(void **state) {
        LauncherDisk disk, tmp, shm;

        check_place(DISK_TMP);
        check_place(DISK_SHM);
        /* The task names the place: it is one of the two. */
        assert_error(disk_read(getpid(), "/", &disk), EINVAL);
        assert_error(disk_read(getpid(), "", &disk), EINVAL);
        assert_error(disk_read(getpid(), "/tmp/../etc", &disk), EINVAL);
        /* Gone, or not ours to look at. */
        assert_error(disk_read(INT32_MAX, DISK_TMP, &disk), ENOENT);
        tmp.limit = shm.limit = 1;
        disk_read_all(INT32_MAX, &tmp, &shm);
        assert_int_equal(tmp.limit, 0);
        assert_int_equal(shm.limit, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_places) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
