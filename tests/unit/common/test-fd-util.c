/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "fd-util.h"

static size_t count_fds(void) {
        DIR *d = opendir("/proc/self/fd");
        size_t n = 0;

        assert_non_null(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n;
}

static void test_pass(void **state) {
        size_t before = count_fds(), n_fds;
        int pair[2], fds[4], got[4];
        char buffer[16];

        assert_ok(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                assert_ok(fds[i] = memfd_new("x"));
        assert_error(fd_receive_with_fds(pair[1], buffer, sizeof(buffer), got, 4, &n_fds), EAGAIN);

        assert_ok(fd_send_with_fds(pair[0], "hello", 5, fds, 4));
        assert_int_equal(fd_receive_with_fds(pair[1], buffer, sizeof(buffer), got, 4, &n_fds), 5);
        assert_int_equal(n_fds, 4);
        assert_memory_equal(buffer, "hello", 5);
        assert_int_equal(fcntl(got[0], F_GETFD), FD_CLOEXEC);
        close_many(got, 4);

        /* More than wanted: refused as a whole, nothing stays open. */
        assert_ok(fd_send_with_fds(pair[0], "hello", 5, fds, 4));
        assert_error(fd_receive_with_fds(pair[1], buffer, sizeof(buffer), got, 3, &n_fds), EMSGSIZE);
        assert_ok(fd_send_with_fds(pair[0], "hello", 5, fds, 1));
        assert_error(fd_receive_with_fds(pair[1], buffer, sizeof(buffer), NULL, 0, &n_fds), EMSGSIZE);
        assert_ok(fd_send_with_fds(pair[0], "a message that is too long", 26, fds, 2));
        assert_error(fd_receive_with_fds(pair[1], buffer, sizeof(buffer), got, 4, &n_fds), EMSGSIZE);
        assert_int_equal(count_fds(), before + 6);

        pair[0] = close_fd(pair[0]);
        assert_error(fd_receive_with_fds(pair[1], buffer, sizeof(buffer), got, 4, &n_fds), ECONNRESET);
        assert_error(fd_send_with_fds(pair[1], "x", 1, NULL, 0), EPIPE);
        close_fd(pair[1]);
        close_many(fds, 4);
        assert_int_equal(count_fds(), before);
}

static void test_memfd(void **state) {
        _cleanup_(close_fdp) int sealed = -EBADF, open_one = -EBADF;
        uint64_t size = 0;
        char buffer[8];

        assert_ok(sealed = memfd_new_sealed("x", "value", 5));
        assert_ok(memfd_check_sealed(sealed, &size));
        assert_int_equal(size, 5);
        assert_int_equal(fd_read_full(sealed, buffer, sizeof(buffer)), 5);
        assert_error(fd_write_all(sealed, "x", 1), EPERM);
        assert_ok(open_one = memfd_new("y"));
        assert_error(memfd_check_sealed(open_one, NULL), EPERM);
        assert_error(memfd_check_sealed(STDERR_FILENO, NULL), EPERM);
}

static void test_read_file(void **state) {
        _cleanup_(freep) char *contents = NULL;
        char *directory = test_directory(), path[128];
        char *large = malloc(100000);
        size_t size;

        memset(large, 'x', 100000);
        snprintf(path, sizeof(path), "%s/file", directory);
        assert_error(read_file_full(path, 10, &contents, &size), ENOENT);
        test_file_write(path, large, 100000);
        assert_error(read_file_full(path, 99999, &contents, &size), EFBIG);
        assert_ok(read_file_full(path, 100000, &contents, &size));
        assert_int_equal(size, 100000);
        assert_memory_equal(contents, large, size);
        assert_int_equal(contents[size], 0);
        contents = mfree(contents);
        test_file_write(path, "", 0);
        assert_ok(read_file_full(path, 0, &contents, &size));
        assert_int_equal(size, 0);
        free(large);
        test_directory_remove(directory);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pass),
                cmocka_unit_test(test_memfd),
                cmocka_unit_test(test_read_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
