/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What every unit test needs: cmocka wants these four in this order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define assert_ok(expression)                                                                               \
        do {                                                                                                \
                int _r = (int) (expression);                                                                \
                if (_r < 0)                                                                                 \
                        fail_msg("%s: %s", #expression, strerrordesc_np(-_r));                              \
        } while (0)

#define assert_error(expression, error) assert_int_equal((expression), -(error))

/* A new empty directory, to be removed with test_directory_remove(). */
static inline char *test_directory(void) {
        char template[] = "/tmp/clupy-test-XXXXXX";

        assert_non_null(mkdtemp(template));
        return strdup(template);
}

static inline void test_directory_remove(char *path) {
        char command[256];

        snprintf(command, sizeof(command), "rm -rf '%s'", path);
        assert_int_equal(system(command), 0);
        free(path);
}

static inline void test_file_write(const char *path, const void *data, size_t size) {
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        assert_int_equal(fwrite(data, 1, size, f), size);
        assert_int_equal(fclose(f), 0);
}
