/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "server-config.h"
#include "time-util.h"

/* One file and one subuid file in a directory of its own. Either may be NULL. */
static int load(const char *text, const char *subuid, ServerConfig *config, char **ret_message) {
        char *directory = test_directory();
        char path[128], subuid_path[128];
        ServerConfigSources sources = { .directory = directory, .subuid = subuid_path };
        int r;

        *ret_message = NULL;
        snprintf(path, sizeof(path), "%s/%s", directory, SERVER_CONFIG_NAME);
        snprintf(subuid_path, sizeof(subuid_path), "%s/subuid", directory);
        if (text)
                test_file_write(path, text, strlen(text));
        if (subuid)
                test_file_write(subuid_path, subuid, strlen(subuid));
        r = server_config_load(&sources, config, ret_message);
        test_directory_remove(directory);
        return r;
}

static void assert_good(const char *text, ServerConfig *config) {
        char *message;
        int r = load(text, NULL, config, &message);

        if (r < 0)
                fail_msg("%s", message);
}

static void assert_bad(const char *text, const char *subuid, const char *expected) {
        ServerConfig config = { 0 };
        char *message;

        assert_true(load(text, subuid, &config, &message) < 0);
        assert_non_null(message);
        if (!strstr(message, expected))
                fail_msg("expected '%s' in: %s", expected, message);
        free(message);
}

static void test_defaults(void **state) {
        ServerConfig config;

        assert_good(NULL, &config);
        assert_int_equal(config.n_masters, 1);
        assert_string_equal(config.masters[0].host, "localhost");
        assert_int_equal(config.masters[0].port, 7878);
        assert_true(config.name[0]);
        assert_true(config.cpus >= 1);
        assert_true(config.memory >= MIB(64));
        assert_int_equal(config.uid_start, 1879048192);
        assert_int_equal(config.uid_count, 65536);
        assert_int_equal(config.orphan_timeout, 24 * USEC_PER_HOUR);
        assert_in_range(config.warm, 1, 8);
        assert_int_equal(config.task_tasks_max, 512);
        server_config_done(&config);
}

static void test_everything(void **state) {
        ServerConfig config;

        assert_good("master: clupy://one,two:99\n"
                    "name: node7\n"
                    "cpus: 2.5\n"
                    "memory: 4G\n"
                    "uid_range: 100000-100999\n"
                    "warm: 0\n"
                    "zygotes: 3\n"
                    "orphan_timeout: 2h\n"
                    "cache:\n"
                    "  code: 8M\n"
                    "task:\n"
                    "  memory: 1G\n"
                    "  cpus: 0.5\n"
                    "  tasks_max: 9\n"
                    "  tmp: 32M\n"
                    "labels:\n"
                    "  rack: a1\n",
                    &config);
        assert_int_equal(config.n_masters, 2);
        assert_string_equal(config.masters[1].host, "two");
        assert_int_equal(config.masters[1].port, 99);
        assert_string_equal(config.name, "node7");
        assert_true(config.cpus == 2.5);
        assert_int_equal(config.memory, GIB(4));
        assert_int_equal(config.uid_start, 100000);
        assert_int_equal(config.uid_count, 1000);
        assert_int_equal(config.warm, 0);
        assert_int_equal(config.zygotes, 3);
        assert_int_equal(config.orphan_timeout, 2 * USEC_PER_HOUR);
        assert_int_equal(config.cache_code, MIB(8));
        assert_int_equal(config.task_memory, GIB(1));
        assert_true(config.task_cpus == 0.5);
        assert_int_equal(config.task_tasks_max, 9);
        assert_int_equal(config.task_tmp, MIB(32));
        assert_string_equal(config.labels[0], "rack=a1");
        server_config_done(&config);
}

static void test_warm_follows_cpus(void **state) {
        ServerConfig config;

        assert_good("cpus: 3\n", &config);
        assert_int_equal(config.warm, 6);
        server_config_done(&config);
        assert_good("cpus: 0.1\n", &config);
        assert_int_equal(config.warm, 1);
        server_config_done(&config);
        assert_good("cpus: 64\n", &config);
        assert_int_equal(config.warm, 8);
        server_config_done(&config);
}

static void test_errors(void **state) {
        assert_bad("name: node1\nmemmory: 4G\n", NULL,
                   SERVER_CONFIG_NAME ":2: key 'memmory': there is no such key; did you mean 'memory'?");
        assert_bad("name: 'a b'\n", NULL,
                   SERVER_CONFIG_NAME
                   ":1: key 'name': expected a host name of at most 64 characters, got 'a b'");
        assert_bad("\n\nmemory: lots\n", NULL, SERVER_CONFIG_NAME ":3: key 'memory': expected a size");
        assert_bad("memory: 1M\n", NULL, "at least 64M, got '1M'");
        assert_bad("warm: 65\n", NULL, ":1: key 'warm'");
        assert_bad("zygotes: 0\n", NULL, ":1: key 'zygotes'");
        assert_bad("master: ''\n", NULL, ":1: key 'master': expected addresses");
        assert_bad("uid_range: 1000-2000\n", NULL, ":1: key 'uid_range': expected user ids");
        assert_bad("uid_range: 200000-100000\n", NULL, ":1: key 'uid_range'");
        assert_bad("uid_range: 200000\n", NULL, ":1: key 'uid_range'");
        assert_bad("uid_range: 2147480000-2147490000\n", NULL, ":1: key 'uid_range'");
        assert_bad("task:\n  memory: 8M\n", NULL, ":2: key 'task.memory'");
        assert_bad("memory: 64M\ntask:\n  memory: 1G\n", NULL,
                   "key 'task.memory': expected at most the node's");
        assert_bad("orphan_timeout: 1s\n", NULL, ":1: key 'orphan_timeout'");
}

static void test_subuid(void **state) {
        ServerConfig config;
        char *message;

        assert_bad("uid_range: 100000-165535\n", "# comment\nalice:100000:65536\n",
                   "subuid:2: the ids of 'alice'");
        assert_bad("uid_range: 100000-165535\n", "bob:165535:1\n", "overlap uid_range 100000-165535");
        assert_bad("uid_range: 100000-165535\n", "bob:90000:10001\n", "'bob'");
        assert_ok(load("uid_range: 100000-165535\n", "bob:165536:65536\ncarl:90000:10000\nbroken\n:::\n",
                       &config, &message));
        server_config_done(&config);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_everything),
                cmocka_unit_test(test_warm_follows_cpus),
                cmocka_unit_test(test_errors),
                cmocka_unit_test(test_subuid),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
