/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "master-config.h"
#include "time-util.h"

static int load(const char *text, MasterConfig **ret, char **ret_message) {
        char path[] = "/tmp/test-master-config-XXXXXX";
        int fd = mkstemp(path), r;

        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t) strlen(text));
        close(fd);
        r = master_config_load(path, ret, ret_message);
        unlink(path);
        return r;
}

static void test_defaults(void **state) {
        _cleanup_(master_config_freep) MasterConfig *config = NULL;
        _cleanup_(freep) char *message = NULL;

        assert_int_equal(load("", &config, &message), 0);
        assert_string_equal(config->listen[0], "127.0.0.1:7878");
        assert_string_equal(config->listen[1], "[::1]:7878");
        assert_true(config->lease == 15 * USEC_PER_SEC);
        assert_string_equal(config->policies[0], "default");
        assert_null(config->warnings);
}

static void test_insecure(void **state) {
        _cleanup_(master_config_freep) MasterConfig *config = NULL;
        _cleanup_(freep) char *message = NULL;

        assert_int_equal(load("insecure: true\n", &config, &message), 0);
        assert_string_equal(config->listen[0], "0.0.0.0:7878");
        assert_int_equal(strv_length(config->warnings), 2);
}

static void test_errors(void **state) {
        static const char *const cases[][2] = {
                { "listen: [0.0.0.0]\n", "insecure: true" },
                { "listen: [somewhere]\n", "numeric address" },
                { "lease: 1s\n", "lease" },
                { "leese: 15s\n", "did you mean" },
                { "policies: [A b]\n", "policies" },
                { "overcommit_memory: 0.5\n", "overcommit_memory" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(master_config_freep) MasterConfig *config = NULL;
                _cleanup_(freep) char *message = NULL;

                assert_true(load(cases[i][0], &config, &message) < 0);
                assert_non_null(message);
                if (!strstr(message, cases[i][1]))
                        fail_msg("'%s' does not say '%s'", message, cases[i][1]);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_defaults), cmocka_unit_test(test_insecure),
                                            cmocka_unit_test(test_errors) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
