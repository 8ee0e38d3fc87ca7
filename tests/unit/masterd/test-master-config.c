/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
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
        assert_string_equal(config->listen[0], "0.0.0.0:7878");
        assert_string_equal(config->listen[1], "[::]:7878");
        assert_true(config->lease == 15 * USEC_PER_SEC);
        assert_string_equal(config->policies[0], "default");
        assert_null(config->warnings);
}

static void test_insecure(void **state) {
        _cleanup_(master_config_freep) MasterConfig *config = NULL;
        _cleanup_(freep) char *message = NULL;

        assert_int_equal(load("listen: [\"0.0.0.0:7878\", 127.0.0.1:1, \"[::1]:1\"]\n"
                              "insecure: [\"0.0.0.0\", \"[::1]:1\"]\n",
                              &config, &message),
                         0);
        assert_int_equal(strv_length(config->warnings), 2);
        assert_non_null(strstr(config->warnings[0], "0.0.0.0 is open to the network"));
        assert_non_null(strstr(config->warnings[1], "[::1]:1 is open to everybody on this machine"));
        assert_true(master_config_is_insecure(config, "0.0.0.0:7878"));
        assert_false(master_config_is_insecure(config, "127.0.0.1:1"));
        assert_true(master_config_needs_tls(config));
}

static void test_tls(void **state) {
        _cleanup_(master_config_freep) MasterConfig *plain = NULL, *config = NULL;
        _cleanup_(freep) char *message = NULL;

        assert_int_equal(load("listen: 127.0.0.1:1\ninsecure: 127.0.0.1:1\n", &plain, &message), 0);
        assert_false(master_config_needs_tls(plain));
        assert_int_equal(setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x", 1), 0);
        assert_int_equal(load("tls: {certificate: /a/b.crt}\n", &config, &message), 0);
        assert_int_equal(unsetenv("CREDENTIALS_DIRECTORY"), 0);
        assert_true(master_config_needs_tls(config));
        assert_string_equal(config->tls_certificate, "/a/b.crt");
        assert_string_equal(config->tls_key, "/run/credentials/x/master.key");
        assert_string_equal(config->tls_authority, "/etc/clupy/pki/ca.crt");
        assert_string_equal(config->tls_revoked, "/etc/clupy/pki/ca.crl");
        assert_string_equal(plain->tls_key, "/etc/clupy/pki/master.key");
}

static void test_errors(void **state) {
        static const char *const cases[][2] = {
                { "insecure: true\n", "addresses that are in 'listen' too, got 'true'" },
                { "listen: [\"0.0.0.0:1\"]\ninsecure: [\"0.0.0.0:2\"]\n", "got '0.0.0.0:2'" },
                { "tls: {key: master.key}\n", "tls.key" },
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
                                            cmocka_unit_test(test_tls), cmocka_unit_test(test_errors) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
