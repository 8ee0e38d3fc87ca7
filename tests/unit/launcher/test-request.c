/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "device-set.h"
#include "macros.h"
#include "request-check.h"
#include "settings.h"

static LauncherRequest good_start(void) {
        LauncherRequest request = {
                .version = LAUNCHER_PROTOCOL_VERSION,
                .op = LAUNCHER_START,
                .attempt = 1,
                .start = { .key = { .owner = "alice", .environment = "default", .policy = "default" },
                           .name = "primes",
                           .memory_max = MIB(512),
                           .cpu_quota_usec = 1000000,
                           .tasks_max = 512,
                           .cpus = 1 },
        };
        return request;
}

static int check(const LauncherRequest *request, size_t n_fds) {
        const char *why;
        int r = request_check(request, sizeof(*request), n_fds, &why);

        assert_non_null(why);
        return r;
}

static void a_good_start_is_taken(void **state) {
        LauncherRequest request = good_start();

        assert_int_equal(check(&request, 2), 0);
        request.start.name[0] = '\0';
        memset(request.start.name, 0, sizeof(request.start.name));
        assert_int_equal(check(&request, 2), 0);
}

static void size_fds_and_version_count(void **state) {
        LauncherRequest request = good_start();
        const char *why;

        assert_int_equal(request_check(&request, sizeof(request) - 1, 2, &why), -EBADMSG);
        assert_int_equal(request_check(&request, 0, 0, &why), -EBADMSG);
        assert_int_equal(check(&request, 0), -EBADMSG);
        assert_int_equal(check(&request, 1), -EBADMSG);
        request.version++;
        assert_int_equal(check(&request, 2), -EPROTONOSUPPORT);
        request.version--;
        request.reserved = 1;
        assert_int_equal(check(&request, 2), -EBADMSG);
        request = (LauncherRequest){ .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_HELLO };
        assert_int_equal(check(&request, 0), 0);
        assert_int_equal(check(&request, 1), -EBADMSG);
        request.op = 0;
        assert_int_equal(check(&request, 0), -EBADMSG);
        request.op = LAUNCHER_ENDED;
        assert_int_equal(check(&request, 0), -EBADMSG);
}

#define REFUSED(field, value)                                                                               \
        do {                                                                                                \
                LauncherRequest request = good_start();                                                     \
                request.field = (value);                                                                    \
                assert_int_equal(check(&request, 2), -EINVAL);                                              \
        } while (false)

static void figures_have_bounds(void **state) {
        REFUSED(start.memory_max, REQUEST_MEMORY_MIN - 1);
        REFUSED(start.memory_max, UINT64_MAX);
        REFUSED(start.cpu_quota_usec, 9999);
        REFUSED(start.cpu_quota_usec, UINT64_MAX);
        REFUSED(start.cpu_time_max_usec, UINT64_MAX);
        REFUSED(start.timeout_usec, UINT64_MAX);
        REFUSED(start.deadline_usec, UINT64_MAX);
        REFUSED(start.tmp_max, 1);
        REFUSED(start.tmp_max, UINT64_MAX);
        REFUSED(start.tasks_max, 0);
        REFUSED(start.tasks_max, 32769);
        REFUSED(start.cpus, 0);
        REFUSED(start.cpus, UINT32_MAX);
        REFUSED(start.key.host_network, 2);
        REFUSED(start.key.reserved, 1);
}

static void texts_are_ended_padded_and_clean(void **state) {
        static const struct {
                size_t offset, size;
                const char *text;
        } bad[] = {
                { offsetof(LauncherRequest, start.key.owner), OWNER_NAME_MAX, "" },
                { offsetof(LauncherRequest, start.key.owner), OWNER_NAME_MAX, "a/b" },
                { offsetof(LauncherRequest, start.key.owner), OWNER_NAME_MAX, "a\nb" },
                { offsetof(LauncherRequest, start.key.owner), OWNER_NAME_MAX, "\xff" },
                { offsetof(LauncherRequest, start.key.policy), POLICY_NAME_MAX, "../default" },
                { offsetof(LauncherRequest, start.key.policy), POLICY_NAME_MAX, "Default" },
                { offsetof(LauncherRequest, start.key.policy), POLICY_NAME_MAX, "" },
                { offsetof(LauncherRequest, start.key.environment), ENVIRONMENT_NAME_MAX, "a b" },
                { offsetof(LauncherRequest, start.name), TASK_NAME_MAX, "a\nb" },
                { offsetof(LauncherRequest, start.name), TASK_NAME_MAX, "\xc3" },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                LauncherRequest request = good_start();
                char *field = (char *) &request + bad[i].offset;
                memset(field, 0, bad[i].size);
                strcpy(field, bad[i].text);
                assert_int_equal(check(&request, 2), -EINVAL);
        }
        LauncherRequest request = good_start();
        memset(request.start.key.owner, 'a', sizeof(request.start.key.owner));
        assert_int_equal(check(&request, 2), -EINVAL); /* no end */
        request = good_start();
        request.start.key.owner[20] = 'x';
        assert_int_equal(check(&request, 2), -EINVAL); /* something behind the end */
}

static void stop_lease_and_pool(void **state) {
        LauncherRequest request = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_STOP };

        assert_int_equal(check(&request, 0), -EINVAL);
        request.stop.why = OUTCOME_CANCELLED;
        assert_int_equal(check(&request, 0), 0);
        request.stop.why = OUTCOME_MEMORY;
        assert_int_equal(check(&request, 0), -EINVAL);
        request.stop.why = OUTCOME_SUPERSEDED;
        request.stop.grace_usec = UINT64_MAX;
        assert_int_equal(check(&request, 0), -EINVAL);

        request = (LauncherRequest){ .version = LAUNCHER_PROTOCOL_VERSION,
                                     .op = LAUNCHER_LEASE,
                                     .lease = { 1 } };
        assert_int_equal(check(&request, 0), 0);
        request.lease.until_usec = UINT64_MAX;
        assert_int_equal(check(&request, 0), -EINVAL);

        request = (LauncherRequest){ .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_POOL };
        request.pool.key = good_start().start.key;
        request.pool.count = 64;
        assert_int_equal(check(&request, 0), 0);
        request.pool.count = 65;
        assert_int_equal(check(&request, 0), -EINVAL);
}

static LauncherRequest good_build(void) {
        LauncherRequest request = {
                .version = LAUNCHER_PROTOCOL_VERSION,
                .op = LAUNCHER_BUILD,
                .build = { .environment = "0123456789abcdef0123456789abcdef01234567",
                           .owner = "alice",
                           .python = "3.11",
                           .flags = BUILD_FLAG_INDEX,
                           .tasks_max = 256,
                           .memory_max = GIB(2),
                           .cpu_quota_usec = 1000000,
                           .timeout_usec = 900000000,
                           .disk_max = GIB(10),
                           .files_max = 500000 },
        };
        return request;
}

#define BUILD_REFUSED(field, value)                                                                         \
        do {                                                                                                \
                LauncherRequest bad = good_build();                                                         \
                bad.build.field = (value);                                                                  \
                assert_int_equal(check(&bad, 1), -EINVAL);                                                  \
        } while (false)

static void builds(void **state) {
        static const struct {
                size_t offset, size;
                const char *text;
        } bad_texts[] = {
                { offsetof(LauncherRequest, build.environment), ENVIRONMENT_NAME_MAX, "" },
                { offsetof(LauncherRequest, build.environment), ENVIRONMENT_NAME_MAX, ".." },
                { offsetof(LauncherRequest, build.environment), ENVIRONMENT_NAME_MAX, "a/b" },
                { offsetof(LauncherRequest, build.environment), ENVIRONMENT_NAME_MAX, "default" },
                { offsetof(LauncherRequest, build.environment), ENVIRONMENT_NAME_MAX, "python-3.11" },
                { offsetof(LauncherRequest, build.environment), ENVIRONMENT_NAME_MAX, "system-3.11" },
                { offsetof(LauncherRequest, build.owner), OWNER_NAME_MAX, "a/b" },
                { offsetof(LauncherRequest, build.python), PYTHON_NAME_MAX, "" },
                { offsetof(LauncherRequest, build.python), PYTHON_NAME_MAX, "3" },
                { offsetof(LauncherRequest, build.python), PYTHON_NAME_MAX, "../3.11" },
        };
        LauncherRequest request = good_build();

        assert_int_equal(check(&request, 1), 0);
        assert_int_equal(check(&request, 0), -EBADMSG);
        assert_int_equal(check(&request, 2), -EBADMSG);
        memset(request.build.owner, 0, sizeof(request.build.owner)); /* everybody's */
        request.build.flags = BUILD_FLAG_RESOLVE;
        assert_int_equal(check(&request, 1), 0);
        for (size_t i = 0; i < ELEMENTSOF(bad_texts); i++) {
                LauncherRequest bad = good_build();
                char *field = (char *) &bad + bad_texts[i].offset;
                memset(field, 0, bad_texts[i].size);
                strcpy(field, bad_texts[i].text);
                assert_int_equal(check(&bad, 1), -EINVAL);
        }
        BUILD_REFUSED(owner[20], 'x');
        BUILD_REFUSED(flags, 4);
        BUILD_REFUSED(tasks_max, 3);
        BUILD_REFUSED(tasks_max, 32769);
        BUILD_REFUSED(memory_max, 1);
        BUILD_REFUSED(memory_max, UINT64_MAX);
        BUILD_REFUSED(cpu_quota_usec, 1);
        BUILD_REFUSED(timeout_usec, 0);
        BUILD_REFUSED(timeout_usec, UINT64_MAX);
        BUILD_REFUSED(disk_max, 0);
        BUILD_REFUSED(disk_max, UINT64_MAX);
        BUILD_REFUSED(files_max, 0);
        BUILD_REFUSED(files_max, UINT64_MAX);
}

static void environments(void **state) {
        LauncherRequest request = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_ENVIRONMENTS };

        assert_int_equal(check(&request, 0), 0);
        request.op = LAUNCHER_ENVIRONMENT_REMOVE;
        assert_int_equal(check(&request, 0), -EINVAL);
        strcpy(request.environment.environment, "0123abcd");
        assert_int_equal(check(&request, 0), 0);
        request.op = LAUNCHER_BUILD_STOP;
        assert_int_equal(check(&request, 0), 0);
        assert_int_equal(check(&request, 1), -EBADMSG);
        strcpy(request.environment.environment, "../0123");
        assert_int_equal(check(&request, 0), -EINVAL);
        memset(request.environment.environment, 'a', sizeof(request.environment.environment));
        assert_int_equal(check(&request, 0), -EINVAL);
}

static void devices_and_variables(void **state) {
        static const char *const bad[] = { "A=1",   "A\n",     "=1\n",   "1A=1\n",         "a=1\n",
                                           "A=x\n", "A=1\n\n", "A=1;\n", "LD_PRELOAD=/x\n" };
        LauncherRequest request = good_start();

        device_set_add(&request.start.devices, 0);
        device_set_add(&request.start.devices, DEVICES_MAX - 1);
        strcpy(request.start.variables, "CUDA_VISIBLE_DEVICES=0,12\n_X2=\n");
        assert_int_equal(check(&request, 2), 0);
        assert_int_equal(device_set_count(&request.start.devices), 2);
        for (uint32_t i = 0; i < DEVICES_OF_TASK_MAX; i++)
                device_set_add(&request.start.devices, i);
        assert_int_equal(check(&request, 2), -EINVAL); /* one too many */
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                request = good_start();
                strcpy(request.start.variables, bad[i]);
                assert_int_equal(check(&request, 2), -EINVAL);
        }
        request = good_start();
        request.start.variables[100] = 'x';
        assert_int_equal(check(&request, 2), -EINVAL);
}

static void settings_name_devices(void **state) {
        static const char *const bad[] = { "",          "/dev/",     "/etc/passwd", "/dev/../etc/passwd",
                                           "/dev/a/..", "/dev/a//b", "/dev/a b",    "dev/a" };
        LauncherSettings settings;

        settings_default(&settings);
        strcpy(settings.devices[0], "/dev/nvidia0");
        strcpy(settings.devices[1], "/dev/nvidia-caps/nvidia-cap1");
        settings.n_devices = 2;
        assert_int_equal(settings_check(&settings), 0);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                memset(settings.devices[1], 0, sizeof(settings.devices[1]));
                strcpy(settings.devices[1], bad[i]);
                assert_int_equal(settings_check(&settings), -EINVAL);
        }
        memset(settings.devices[1], 'x', sizeof(settings.devices[1]));
        assert_int_equal(settings_check(&settings), -EINVAL);
        settings.n_devices = DEVICES_MAX + 1;
        assert_int_equal(settings_check(&settings), -EINVAL);
}

static void settings_have_bounds(void **state) {
        LauncherSettings settings, bad;

        settings_default(&settings);
        assert_int_equal(settings_check(&settings), 0);
        bad = settings;
        bad.uid_start = 1000; /* people's */
        assert_int_equal(settings_check(&bad), -EINVAL);
        bad = settings;
        bad.uid_count = 10;
        assert_int_equal(settings_check(&bad), -EINVAL);
        bad = settings;
        bad.uid_start = UINT32_MAX - 10;
        assert_int_equal(settings_check(&bad), -EINVAL);
        bad = settings;
        bad.zygotes_max = 0;
        assert_int_equal(settings_check(&bad), -EINVAL);
        bad = settings;
        memset(bad.node, 'x', sizeof(bad.node));
        assert_int_equal(settings_check(&bad), -EINVAL);
        assert_int_equal(settings_read("/nonexistent", &bad), -ENOENT);
        assert_int_equal(settings_read("/proc/self/status", &bad), -EBADMSG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_good_start_is_taken),
                cmocka_unit_test(size_fds_and_version_count),
                cmocka_unit_test(figures_have_bounds),
                cmocka_unit_test(texts_are_ended_padded_and_clean),
                cmocka_unit_test(stop_lease_and_pool),
                cmocka_unit_test(devices_and_variables),
                cmocka_unit_test(settings_name_devices),
                cmocka_unit_test(settings_have_bounds),
                cmocka_unit_test(builds),
                cmocka_unit_test(environments),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
