/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>

#include "fd-util.h"
#include "log.h"

/* What fn wrote to stderr. */
static char *capture(void (*fn)(void)) {
        int saved = dup(STDERR_FILENO), file = memfd_new("stderr");
        char *text;

        assert_ok(saved);
        assert_ok(dup2(file, STDERR_FILENO));
        fn();
        assert_ok(dup2(saved, STDERR_FILENO));
        close_fd(saved);
        assert_ok(lseek(file, 0, SEEK_SET));
        assert_ok(read_fd_full(file, 1 << 16, &text, NULL));
        close_fd(file);
        return text;
}

static void write_plain(void) {
        errno = EXDEV;
        log_info("hello %d", 5);
        log_debug("not shown");
        log_warning("two\nlines\x1b[31m");
        assert_int_equal(errno, EXDEV);
        assert_int_equal(log_error_errno(-ENOENT, "Cannot open %s: ", "x"), -ENOENT);
        assert_int_equal(log_error_errno(ENOENT, "Cannot open %s", "y"), -ENOENT);
        assert_int_equal(log_debug_errno(-ENOENT, "not shown"), -ENOENT);
        log_struct(LOG_INFO, log_field("MESSAGE=task %s", "t1"), log_field("CLUPY_TASK_ID=%s", "t1"));
}

static void test_plain(void **state) {
        _cleanup_(freep) char *text = NULL;

        unsetenv("JOURNAL_STREAM");
        unsetenv("INVOCATION_ID");
        log_open("test");
        text = capture(write_plain);
        assert_string_equal(text, "test: hello 5\n"
                                  "test: two?lines?[31m\n"
                                  "test: Cannot open x: No such file or directory\n"
                                  "test: Cannot open y: No such file or directory\n"
                                  "test: task t1\n");
}

static void write_prefixed(void) {
        log_info("hello");
        log_error("bad");
        log_debug("shown");
}

static void test_prefixed(void **state) {
        _cleanup_(freep) char *text = NULL;

        setenv("INVOCATION_ID", "1", 1);
        setenv("CLUPY_LOG_LEVEL", "debug", 1);
        log_open("test");
        text = capture(write_prefixed);
        assert_string_equal(text, "<6>hello\n<3>bad\n<7>shown\n");
        assert_int_equal(log_level_from_string("err"), LOG_ERR);
        assert_int_equal(log_level_from_string("7"), LOG_DEBUG);
        assert_error(log_level_from_string("8"), EINVAL);
        assert_error(log_level_from_string("loud"), EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_plain), cmocka_unit_test(test_prefixed) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
