/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "dependency-config.h"
#include "time-util.h"

#define PATH "/etc/clupy/d.yaml"

static DependencyConfig *parse(const char *text) {
        DependencyConfig *config = NULL;
        char *message = NULL;

        if (dependency_config_parse(PATH, text, strlen(text), &config, &message) < 0)
                fail_msg("%s", message);
        return config;
}

static void test_good(void **state) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = NULL;

        config = parse("packages: [numpy>=2, pandas]\n"
                       "index: https://index.example.org/simple/\n"
                       "index_files: https://files.example.org\n"
                       "wheels: [/srv/wheels]\n"
                       "only_wheels: true\n"
                       "preload:\n- numpy\n"
                       "system_packages: yes\n"
                       "resolve_on: [node1, node2]\n"
                       "sync: never\n");
        assert_int_equal(strv_length(config->packages), 2);
        assert_string_equal(config->packages[0], "numpy>=2");
        assert_string_equal(config->index, "https://index.example.org/simple");
        assert_false(config->no_index);
        assert_string_equal(config->index_files[0], "https://files.example.org");
        assert_string_equal(config->wheels[0], "/srv/wheels");
        assert_true(config->only_wheels);
        assert_true(config->system_packages);
        assert_string_equal(config->preload[0], "numpy");
        assert_true(config->sync == USEC_INFINITY);
        assert_int_equal(strv_length(config->resolve_on), 2);
        assert_string_equal(config->resolve_on[1], "node2");
}

static void test_defaults(void **state) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = parse("");

        assert_null(config->packages);
        assert_null(config->index);
        assert_false(config->no_index);
        assert_false(config->system_packages);
        assert_true(config->sync == USEC_PER_HOUR);
}

static void test_lock_path(void **state) {
        _cleanup_(dependency_config_freep) DependencyConfig *relative = parse("lock: x.lock\n"),
                                                            *absolute = parse("lock: /srv/x.lock\n"),
                                                            *none = parse("index: none\n");

        assert_string_equal(relative->lock, "/etc/clupy/x.lock");
        assert_string_equal(absolute->lock, "/srv/x.lock");
        assert_true(none->no_index);
        assert_null(none->index);
}

/* Each one names file, line and what was expected. */
static void test_broken(void **state) {
        static const struct {
                const char *text, *message;
        } cases[] = {
                { "package: [x]\n",
                  PATH ":1: key 'package': there is no such key; did you mean 'packages'?" },
                { "sync: 1h\npackages: [--index-url=x]\n",
                  PATH ":2: key 'packages': expected requirements" },
                { "packages:\n- numpy\n- x @ https://y\n",
                  PATH ":3: key 'packages': expected requirements" },
                { "index: ftp://x\n", PATH ":1: key 'index': expected an address such as" },
                { "index: \"https://x/;y\"\n", PATH ":1: key 'index': expected an address such as" },
                { "\nwheels: [wheels]\n", PATH ":2: key 'wheels': expected a list of folders" },
                { "wheels: [\"/a b\"]\n", PATH ":1: key 'wheels': expected a list of folders" },
                { "wheels: [/]\n", PATH ":1: key 'wheels': expected a list of folders" },
                { "wheels: [/./]\n", PATH ":1: key 'wheels': expected a list of folders" },
                { "wheels: [/srv, //etc/./clupy]\n", PATH ":1: key 'wheels': expected a list of folders" },
                { "wheels: [/usr/]\n", PATH ":1: key 'wheels': expected a list of folders" },
                { "wheels: [/tmp]\n", PATH ":1: key 'wheels': expected a list of folders" },
                { "sync: 1s\n", PATH ":1: key 'sync': expected a duration" },
                { "preload: [a b]\n", PATH ":1: key 'preload': expected a list of modules" },
                { "only_wheels: maybe\n", PATH ":1: key 'only_wheels': expected true or false" },
                { "lock: x\npackages: [y]\n", PATH ":2: key 'packages': expected nothing" },
                { "index: none\nindex_files: https://x\n", PATH ":2: key 'index_files': expected nothing" },
                { "packages: {a: b}\n", PATH ":1: key 'packages': expected requirements" },
                { "- x\n", PATH ":1: expected a group of keys" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) char *message = NULL;
                DependencyConfig *config = NULL;

                assert_true(dependency_config_parse(PATH, cases[i].text, strlen(cases[i].text), &config,
                                                    &message) < 0);
                assert_null(config);
                if (!message || !startswith(message, cases[i].message))
                        fail_msg("%s: %s", cases[i].text, message ?: "no message");
        }
}

static void test_folders_that_may_be_offered(void **state) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = NULL;
        _cleanup_(freep) char *message = NULL;
        const char *text = "wheels: [/srv/etc, /etcetera, /home/packages/wheels, /usr/local/share/wheels, "
                           "/var/lib/wheels, /tmp/mine]\n";

        assert_ok(dependency_config_parse(PATH, text, strlen(text), &config, &message));
        assert_int_equal(strv_length(config->wheels), 6);
}

static char *write_file(const char *text) {
        char path[] = "/tmp/clupy-test-XXXXXX";
        int fd = mkstemp(path);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
        close(fd);
        return strdup(path);
}

static void test_files(void **state) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = NULL;
        _cleanup_(freep) char *message = NULL, *lock = write_file("\nnumpy>=1\n"), *text = NULL,
                              *path = NULL, *yaml = NULL, *wanted = NULL;
        size_t size;

        assert_int_equal(dependency_config_load("/nonexistent/x.yaml", &config, &message), -ENOENT);
        assert_non_null(strstr(message, "/nonexistent/x.yaml"));
        message = mfree(message);
        yaml = strformat("lock: %s\n", lock);
        path = write_file(yaml);
        assert_int_equal(dependency_config_load(path, &config, &message), 0);
        assert_int_equal(dependency_config_read_lock(config, &text, &size, &message), -EINVAL);
        wanted = strformat("%s:2: expected a hash", lock);
        if (!startswith(message, wanted))
                fail_msg("%s", message);
        message = mfree(message);
        unlink(lock);
        assert_int_equal(dependency_config_read_lock(config, &text, &size, &message), -ENOENT);
        assert_non_null(strstr(message, lock));
        unlink(path);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),      cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_lock_path), cmocka_unit_test(test_broken),
                cmocka_unit_test(test_files),     cmocka_unit_test(test_folders_that_may_be_offered),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
