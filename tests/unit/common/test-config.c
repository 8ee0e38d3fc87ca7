/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <sys/stat.h>

#include "config.h"
#include "time-util.h"

typedef struct Settings {
        char *listen, *path, *policy;
        bool insecure;
        unsigned count;
        uint64_t memory, timeout;
        double cpus, ratio;
        Address master;
        int level;
        char **masters, **labels;
} Settings;

static const ConfigName levels[] = { { "task", 0 }, { "job", 1 }, { NULL, 0 } };

static const ConfigItem items[] = {
        { "listen", CONFIG_SCALAR, config_parse_string, offsetof(Settings, listen), "an address", 1, 100 },
        { "insecure", CONFIG_SCALAR, config_parse_bool, offsetof(Settings, insecure), "true or false" },
        { "count", CONFIG_SCALAR, config_parse_unsigned, offsetof(Settings, count), "a number from 1 to 10",
          1, 10 },
        { "master", CONFIG_SCALAR, config_parse_address, offsetof(Settings, master), "host or host:port" },
        { "masters", CONFIG_LIST, config_parse_strv, offsetof(Settings, masters), "a list of addresses", 0,
          3 },
        { "labels", CONFIG_MAP, config_parse_map, offsetof(Settings, labels), "names with values" },
        { "task.memory", CONFIG_SCALAR, config_parse_size, offsetof(Settings, memory),
          "a size such as 512M" },
        { "task.cpus", CONFIG_SCALAR, config_parse_cpus, offsetof(Settings, cpus),
          "a number of CPUs such as 0.5" },
        { "task.timeout", CONFIG_SCALAR, config_parse_duration, offsetof(Settings, timeout),
          "a duration such as 90s" },
        { "task.ratio", CONFIG_SCALAR, config_parse_double, offsetof(Settings, ratio), "a number", 0, 1 },
        { "task.sandbox.policy", CONFIG_SCALAR, config_parse_name, offsetof(Settings, policy),
          "a policy's name" },
        { "task.sandbox.path", CONFIG_SCALAR, config_parse_path, offsetof(Settings, path),
          "an absolute path" },
        { "task.isolation", CONFIG_SCALAR, config_parse_enum, offsetof(Settings, level), "task or job",
          .data = levels },
};

static void settings_done(Settings *s) {
        free(s->listen);
        free(s->path);
        free(s->policy);
        strv_free(s->masters);
        strv_free(s->labels);
        memset(s, 0, sizeof(*s));
}

static void test_good(void **state) {
        static const char text[] = "# a comment\n"
                                   "listen: 0.0.0.0:7878\n"
                                   "insecure: yes\n"
                                   "count: 3\n"
                                   "master: node1:99\n"
                                   "masters: [a, \"b:1\"]\n"
                                   "labels:\n"
                                   "  rack: r1\n"
                                   "  gpu.count: 2\n"
                                   "task:\n"
                                   "  memory: 512M\n"
                                   "  cpus: 0.5\n"
                                   "  timeout: 1m30s\n"
                                   "  ratio: 0.25\n"
                                   "  isolation: job\n"
                                   "  sandbox: {policy: default, path: /var/lib/x..y}\n";
        char *message = NULL;
        Settings s = { 0 };

        if (config_load_text("f", text, sizeof(text) - 1, items, ELEMENTSOF(items), &s, &message) < 0)
                fail_msg("%s", message);
        assert_string_equal(s.listen, "0.0.0.0:7878");
        assert_true(s.insecure);
        assert_int_equal(s.count, 3);
        assert_string_equal(s.master.host, "node1");
        assert_int_equal(s.master.port, 99);
        assert_int_equal(strv_length(s.masters), 2);
        assert_string_equal(s.masters[1], "b:1");
        assert_int_equal(strv_length(s.labels), 2);
        assert_string_equal(s.labels[1], "gpu.count=2");
        assert_int_equal(s.memory, 512 << 20);
        assert_true(s.cpus == 0.5 && s.ratio == 0.25);
        assert_int_equal(s.timeout, 90 * USEC_PER_SEC);
        assert_int_equal(s.level, 1);
        assert_string_equal(s.policy, "default");
        assert_string_equal(s.path, "/var/lib/x..y");

        /* What comes later replaces, lists as a whole; a single value is a list too; nothing empties a list.
         */
        assert_ok(config_load_text("f", "masters: c\n", 11, items, ELEMENTSOF(items), &s, &message));
        assert_int_equal(strv_length(s.masters), 1);
        assert_string_equal(s.masters[0], "c");
        assert_ok(config_load_text("f", "masters:\nlabels:\ntask:\n", 23, items, ELEMENTSOF(items), &s,
                                   &message));
        assert_int_equal(strv_length(s.masters) + strv_length(s.labels), 0);
        assert_string_equal(s.listen, "0.0.0.0:7878");
        assert_ok(config_load_text("f", "", 0, items, ELEMENTSOF(items), &s, &message));
        assert_ok(config_load_text("f", "---\n# nothing\n", 14, items, ELEMENTSOF(items), &s, &message));
        settings_done(&s);
}

static void test_bad(void **state) {
        static const struct {
                const char *text, *message;
        } cases[] = {
                { "task:\n  memory: lots\n",
                  "f:2: key 'task.memory': expected a size such as 512M, got 'lots'" },
                { "task:\n  memory:\n",
                  "f:2: key 'task.memory': expected a size such as 512M, got nothing" },
                { "task:\n  memory: [1]\n",
                  "f:2: key 'task.memory': expected a size such as 512M, got a list" },
                { "task:\n  memory: {a: 1}\n",
                  "f:2: key 'task.memory': expected a size such as 512M, got a group of keys" },
                { "count: 11\n", "f:1: key 'count': expected a number from 1 to 10, got '11'" },
                { "count: 0\n", "f:1: key 'count': expected a number from 1 to 10, got '0'" },
                { "listen: ''\n", "f:1: key 'listen': expected an address, got ''" },
                { "insecure: perhaps\n", "f:1: key 'insecure': expected true or false, got 'perhaps'" },
                { "\n\ncuont: 1\n", "f:3: key 'cuont': there is no such key; did you mean 'count'?" },
                { "memory: 1\n", "f:1: key 'memory': there is no such key; did you mean 'task.memory'?" },
                { "task.memory: 1\n",
                  "f:1: key 'task.memory': there is no such key; did you mean 'task.memory'?" },
                { "zzzzzzzzzz: 1\n", "f:1: key 'zzzzzzzzzz': there is no such key" },
                { "count: 1\ncount: 2\n", "f:2: key 'count': given twice in this file" },
                { "task: {}\ntask: {}\n", "f:2: key 'task': given twice in this file" },
                { "labels: {a: 1, a: 2}\n", "f:1: key 'labels.a': given twice in this file" },
                { "labels: {a: [1]}\n", "f:1: key 'labels.a': expected names with values, got a list" },
                { "labels: x\n", "f:1: key 'labels': expected names with values, got a value" },
                { "labels: {\"a=b\": 1}\n", "f:1: key 'labels.a=b': expected names with values, got '1'" },
                { "masters: [a, [b]]\n", "f:1: key 'masters': expected a list of addresses, got a list" },
                { "masters: [a, b, c, d]\n", "f:1: key 'masters': too many entries" },
                { "task: 5\n", "f:1: key 'task': expected a group of keys, got a value" },
                { "task: [5]\n", "f:1: key 'task': expected a group of keys, got a list" },
                { "- a\n", "f:1: expected a group of keys ('key: value'), got a list" },
                { "hello\n", "f:1: expected a group of keys ('key: value'), got a value" },
                { "listen: &x a\nmaster: *x\n", "f:1: anchors and aliases ('&', '*') are not allowed here" },
                { "listen: *x\n", "f:1: anchors and aliases ('&', '*') are not allowed here" },
                { "count: !!int 5\n", "f:1: tags ('!') are not allowed here" },
                { "count: 1\n---\ncount: 2\n", "f:2: only one document ('---') is allowed" },
                { "listen: \"a\\0b\"\n", "f:1: key 'listen': a NUL character is not allowed" },
                { "? [a]\n: 1\n", "f:1: expected a key, got a list" },
                { "task:\n  isolation: none\n",
                  "f:2: key 'task.isolation': expected task or job, got 'none'" },
                { "task: {sandbox: {path: /a/../b}}\n",
                  "f:1: key 'task.sandbox.path': expected an absolute path, got '/a/../b'" },
                { "task: {sandbox: {policy: ../x}}\n",
                  "f:1: key 'task.sandbox.policy': expected a policy's name, got '../x'" },
                { "listen: \"a\\n\\e[31m\"\nmaster: \"x\\ny\"\n",
                  "f:2: key 'master': expected host or host:port, got 'x?y'" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char *message = NULL;
                Settings s = { 0 };
                int r = config_load_text("f", cases[i].text, strlen(cases[i].text), items, ELEMENTSOF(items),
                                         &s, &message);

                if (r >= 0)
                        fail_msg("accepted: %s", cases[i].text);
                assert_non_null(message);
                assert_string_equal(message, cases[i].message);
                free(message);
                settings_done(&s);
        }
}

/* Whatever is no YAML gets a line and a reason. */
static void test_no_yaml(void **state) {
        static const char *const cases[] = { "a: b: c\n",    "count: [1\n", "\tcount: 1\n", "listen: \"a\n",
                                             "\xff\xfe\x01", "a: \x01\n",   "@x\n" };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char *message = NULL;
                Settings s = { 0 };

                assert_true(config_load_text("f", cases[i], strlen(cases[i]), items, ELEMENTSOF(items), &s,
                                             &message) < 0);
                assert_non_null(message);
                assert_memory_equal(message, "f:", 2);
                free(message);
                settings_done(&s);
        }
}

static void write_text(const char *directory, const char *name, const char *text) {
        char path[256];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        test_file_write(path, text, strlen(text));
}

static void test_files(void **state) {
        char *directory = test_directory(), path[256], *message = NULL, **files = NULL;
        Settings s = { 0 };

        /* None of them need be there. */
        assert_ok(config_load(directory, "x.yaml", NULL, items, ELEMENTSOF(items), &s, &files, &message));
        assert_null(files);
        write_text(directory, "x.yaml", "count: 1\nlisten: a\ntask: {memory: 1M}\n");
        snprintf(path, sizeof(path), "%s/x.yaml.d", directory);
        assert_ok(mkdir(path, 0700));
        write_text(path, "20-b.yaml", "count: 3\n");
        write_text(path, "10-a.yaml", "count: 2\nlisten: b\n");
        write_text(path, "30-c.yaml~", "count: 9\n");
        write_text(path, ".hidden.yaml", "count: 9\n");
        assert_ok(config_load(directory, "x.yaml", NULL, items, ELEMENTSOF(items), &s, &files, &message));
        assert_int_equal(strv_length(files), 3);
        assert_int_equal(s.count, 3);
        assert_string_equal(s.listen, "b");
        assert_int_equal(s.memory, 1 << 20);
        files = strv_free(files);

        snprintf(path, sizeof(path), "%s/own.yaml", directory);
        assert_error(config_load(directory, "x.yaml", path, items, ELEMENTSOF(items), &s, NULL, &message),
                     ENOENT);
        assert_non_null(strstr(message, "own.yaml: cannot be read: No such file or directory"));
        message = mfree(message);
        write_text(directory, "own.yaml", "count: 4\n");
        assert_ok(config_load(directory, "x.yaml", path, items, ELEMENTSOF(items), &s, NULL, &message));
        assert_int_equal(s.count, 4);
        write_text(directory, "own.yaml", "\n\ncount: x\n");
        assert_true(config_load(directory, "x.yaml", path, items, ELEMENTSOF(items), &s, NULL, &message) <
                    0);
        assert_non_null(strstr(message, "/own.yaml:3: key 'count': expected"));
        message = mfree(message);
        settings_done(&s);
        test_directory_remove(directory);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),
                cmocka_unit_test(test_bad),
                cmocka_unit_test(test_no_yaml),
                cmocka_unit_test(test_files),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
