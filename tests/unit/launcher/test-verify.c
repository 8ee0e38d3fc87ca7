/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "macros.h"
#include "memory-util.h"
#include "verify.h"

#define GOOD                                                                                                \
        "Name:\tx\nUid:\t70000\t70000\t70000\t70000\nGid:\t70000\t70000\t70000\t70000\nGroups:\t "          \
        "\nThreads:\t1\n"                                                                                   \
        "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:"          \
        "\t00000000002400c0\n"                                                                              \
        "CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"

static char *changed(const char *from, const char *to) {
        const char *at = strstr(GOOD, from);

        assert_non_null(at);
        return strformat("%.*s%s%s", (int) (at - GOOD), GOOD, to, at + strlen(from));
}

static void a_task_is_as_ordered_or_it_is_not(void **state) {
        static const char *const wrong[][2] = {
                { "Uid:\t70000\t70000\t70000\t70000", "Uid:\t70000\t70000\t0\t70000" },
                { "Gid:\t70000", "Gid:\t0" },
                { "Groups:\t ", "Groups:\t0 " },
                { "Threads:\t1", "Threads:\t2" },
                { "CapEff:\t0000000000000000", "CapEff:\t0000000000000001" },
                { "CapAmb:\t0000000000000000", "CapAmb:\t0000000000000001" },
                { "NoNewPrivs:\t1", "NoNewPrivs:\t0" },
                { "Seccomp:\t2", "Seccomp:\t0" },
                { "Seccomp_filters:\t3", "Seccomp_filters:\t2" },
                { "Seccomp_filters:\t3\n", "" },
        };

        assert_null(verify_status(GOOD, 70000, 3));
        assert_non_null(verify_status(GOOD, 70001, 3));
        assert_non_null(verify_status("", 70000, 3));
        for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
                _cleanup_(freep) char *text = changed(wrong[i][0], wrong[i][1]);
                if (!verify_status(text, 70000, 3))
                        fail_msg("%s passed", wrong[i][1]);
        }
}

static void core_files_are_forbidden(void **state) {
        assert_true(verify_limits(
                "Limit Soft\nMax core file size        0                    0                    bytes\n"));
        assert_false(verify_limits(
                "Max core file size        0                    unlimited            bytes\n"));
        assert_false(verify_limits(
                "Max core file size        unlimited            unlimited            bytes\n"));
        assert_false(verify_limits(""));
}

static void names_in_stat_may_hold_anything(void **state) {
        assert_true(stat_is_exiting("12 (a) S 1 2) R 1 1 1 0 -1 4194308 1 2 3"));
        assert_false(stat_is_exiting("12 (a) R 1 1 1 0 -1 4194304 1 2 3"));
        assert_false(stat_is_exiting("garbage"));
        assert_false(process_is_exiting(getpid()));
}

static void children_are_known(void **state) {
        pid_t pid = fork();
        if (pid == 0)
                _exit(0);
        assert_true(pid > 0);
        int child = pidfd_open(pid, 0), parent = pidfd_open(getppid(), 0);

        assert_true(child >= 0);
        assert_int_equal(pidfd_to_pid(child), pid);
        assert_true(verify_is_child(child));
        if (parent >= 0)
                assert_false(verify_is_child(parent));
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_false(verify_is_child(child));
        assert_true(pidfd_to_pid(child) < 0);
        (void) close(child);
        (void) close(parent);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_task_is_as_ordered_or_it_is_not),
                cmocka_unit_test(core_files_are_forbidden),
                cmocka_unit_test(names_in_stat_may_hold_anything),
                cmocka_unit_test(children_are_known),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
