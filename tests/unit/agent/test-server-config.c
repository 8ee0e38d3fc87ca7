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
        assert_int_equal(config.environments.size, GIB(20));
        assert_int_equal(config.environments.builds, 1);
        assert_true(config.environments.memory <= GIB(2) && config.environments.memory <= config.memory);
        assert_true(config.environments.cpus > 0 && config.environments.cpus <= 2);
        assert_int_equal(config.environments.timeout, 15 * USEC_PER_MINUTE);
        assert_null(config.labels);
        assert_int_equal(config.n_resources, 0);
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
                    "environments:\n"
                    "  size: 5G\n"
                    "  builds: 2\n"
                    "  cpus: 0.5\n"
                    "  memory: 256M\n"
                    "  disk: 1G\n"
                    "  files: 2000\n"
                    "  processes: 64\n"
                    "  timeout: 1m\n"
                    "labels:\n"
                    "  rack: a1\n"
                    "resources:\n"
                    "  gpu:\n"
                    "    devices: [/dev/nvidia0, /dev/nvidia1]\n"
                    "    shared: /dev/nvidiactl\n"
                    "    variable: CUDA_VISIBLE_DEVICES\n"
                    "  licence: 4\n"
                    "  seat:\n"
                    "    count: 2\n",
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
        assert_int_equal(config.environments.size, GIB(5));
        assert_int_equal(config.environments.builds, 2);
        assert_true(config.environments.cpus == 0.5);
        assert_int_equal(config.environments.memory, MIB(256));
        assert_int_equal(config.environments.disk, GIB(1));
        assert_int_equal(config.environments.files, 2000);
        assert_int_equal(config.environments.processes, 64);
        assert_int_equal(config.environments.timeout, USEC_PER_MINUTE);
        assert_string_equal(config.labels[0], "rack=a1");
        assert_int_equal(config.n_resources, 3);
        assert_string_equal(config.resources[0].name, "gpu");
        assert_int_equal(config.resources[0].count, 2);
        assert_string_equal(config.resources[0].devices[1], "/dev/nvidia1");
        assert_string_equal(config.resources[0].shared[0], "/dev/nvidiactl");
        assert_string_equal(config.resources[0].variable, "CUDA_VISIBLE_DEVICES");
        assert_string_equal(config.resources[1].name, "licence");
        assert_int_equal(config.resources[1].count, 4);
        assert_null(config.resources[1].devices);
        assert_int_equal(config.resources[2].count, 2);
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

static void test_label_and_resource_errors(void **state) {
        static const struct {
                const char *text, *expected;
        } cases[] = {
                { "labels:\n  Zone: a\n", ":2: key 'labels.Zone': expected names of a-z" },
                { "labels:\n  zone: a/b\n", ":2: key 'labels.zone'" },
                { "resources: 3\n", ":1: key 'resources': expected names of resources" },
                { "resources:\n  GPU: 3\n", ":2: key 'resources.GPU'" },
                { "resources:\n  gpu: none\n", ":2: key 'resources.gpu': expected a name" },
                { "resources:\n  gpu: 0\n", ":2: key 'resources.gpu'" },
                { "resources:\n  gpu: 9999999\n", ":2: key 'resources.gpu'" },
                { "resources:\n  gpu:\n", "key 'resources.gpu': expected devices, or a count" },
                { "resources:\n  gpu:\n    devices: [/etc/passwd]\n",
                  ":3: key 'resources.gpu.devices': expected different device nodes" },
                { "resources:\n  gpu:\n    devices: [/dev/../etc/passwd]\n",
                  ":3: key 'resources.gpu.devices'" },
                { "resources:\n  gpu:\n    devices: [/dev/a, /dev/a]\n", ":3: key 'resources.gpu.devices'" },
                { "resources:\n  gpu:\n    devices: [/dev/a]\n    count: 2\n",
                  "as many devices as its count" },
                { "resources:\n  gpu:\n    count: 2\n    variable: X\n", "devices beside 'shared'" },
                { "resources:\n  gpu:\n    devices: [/dev/a]\n    shared: [/dev/a]\n",
                  "key 'resources.gpu': expected devices that are not shared as well" },
                { "resources:\n  gpu:\n    devices: [/dev/a]\n  fpga:\n    devices: [/dev/b, /dev/a]\n",
                  "expected devices that are of no other resource" },
                { "resources:\n  gpu:\n    devices: [/dev/a]\n  fpga:\n    devices: [/dev/b]\n    shared: "
                  "[/dev/a]\n",
                  "expected devices that are of no other resource" },
                { "resources:\n  gpu:\n    devices: [/dev/a]\n    variable: 'a b'\n",
                  ":4: key 'resources.gpu.variable': expected the name of" },
                { "resources:\n  gpu:\n    kind: x\n",
                  ":3: key 'resources.gpu.kind': expected devices, shared" },
                { "environments:\n  builds: 0\n", ":2: key 'environments.builds'" },
                { "memory: 64M\ntask:\n  memory: 64M\nenvironments:\n  memory: 1G\n",
                  "key 'environments.memory': expected at most the node's memory" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_bad(cases[i].text, NULL, cases[i].expected);
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
                cmocka_unit_test(test_label_and_resource_errors),
                cmocka_unit_test(test_subuid),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
