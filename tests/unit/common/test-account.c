/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <sys/stat.h>

#include "account.h"
#include "fd-util.h"
#include "memory-util.h"

static void put(const char *path, const char *text) {
        char fresh[512];
        FILE *file;

        /* As passwd(1) and its kin do it. */
        snprintf(fresh, sizeof(fresh), "%s.new", path);
        file = fopen(fresh, "we");
        assert_non_null(file);
        assert_true(fputs(text, file) >= 0);
        assert_int_equal(fclose(file), 0);
        assert_ok(rename(fresh, path));
}

static void test_names(void **state) {
        static const char first[] =
                "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n"
                "again:x:1000:1000::/:/bin/sh\nbroken\n"
                "a23456789a23456789a23456789a23456789a23456789a23456789a23456789a23456789:x:7:7::/:\n";
        char *directory = test_directory(), path[256];

        snprintf(path, sizeof(path), "%s/passwd", directory);
        put(path, first);
        account_set_file(path);
        assert_string_equal(account_name(0), "root");
        assert_string_equal(account_name(1000), "alice");
        assert_string_equal(account_name(1000), "alice");
        assert_null(account_name(1001));
        assert_null(account_name(1001));
        assert_null(account_name(7)); /* too long */

        put(path, "alicia:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n");
        assert_string_equal(account_name(1000), "alicia");
        assert_string_equal(account_name(1001), "bob");
        assert_null(account_name(0));

        for (uid_t uid = 10000; uid < 20000; uid++)
                assert_null(account_name(uid));
        assert_string_equal(account_name(1001), "bob");

        assert_ok(unlink(path));
        assert_null(account_name(1000));
        account_set_file(NULL);
        assert_string_equal(account_name(0), "root");
        test_directory_remove(directory);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_names) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
