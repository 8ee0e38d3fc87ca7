/* SPDX-License-Identifier: Apache-2.0 */
#include "access.h"
#include "config.h"
#include "fixture.h"

typedef struct Target {
        Access *access;
} Target;

static const ConfigItem items[] = {
        { "access", CONFIG_TREE, access_parse, offsetof(Target, access), "a group of keys",
          .explain = access_explain },
};

static int parse(const char *text, Target *target, char **ret_message) {
        *ret_message = NULL;
        return config_load_text("t.yaml", text, strlen(text), items, ELEMENTSOF(items), target, ret_message);
}

static Access *table(const char *text) {
        Target target = { 0 };
        char *message;

        if (parse(text, &target, &message) < 0)
                fail_msg("%s", message);
        return target.access;
}

static void test_no_table(void **state) {
        AccessLimits l;

        access_resolve(NULL, "alice", &l);
        assert_true(l.known && l.running == 0 && l.mcpus == 0 && l.memory == 0 && !l.policies);
        assert_int_equal(l.rights, ACCESS_RUN);
        assert_int_equal(l.priority, JOB_PRIORITY_MAX);
}

static void test_user_over_group_over_default(void **state) {
        _cleanup_(access_freep) Access *access =
                table("access:\n"
                      "  default: {running: 7, cpus: 4, memory: 1G}\n"
                      "  users:\n"
                      "    alice: {cpus: 1.5, rights: [run, view-all]}\n"
                      "    dora: {}\n"
                      "  groups:\n"
                      "    first: {members: [alice, bob], cpus: 8, priority: 5}\n"
                      "    second: {members: [bob], cpus: 9, policies: [gpu, "
                      "default], rights: manage-all}\n");
        AccessLimits l;

        access_resolve(access, "alice", &l);
        assert_int_equal(l.mcpus, 1500);
        assert_int_equal(l.priority, 5);
        assert_int_equal(l.running, 7);
        assert_int_equal(l.rights, ACCESS_RUN | ACCESS_VIEW_ALL);
        assert_string_equal(l.policies[0], "default");
        assert_null(l.policies[1]);
        access_resolve(access, "bob", &l);
        assert_int_equal(l.mcpus, 8000);
        assert_int_equal(l.memory, GIB(1));
        assert_int_equal(l.rights, ACCESS_MANAGE_ALL);
        assert_string_equal(l.policies[0], "gpu");
        assert_string_equal(l.policies[1], "default");
        access_resolve(access, "carol", &l);
        assert_int_equal(l.mcpus, 4000);
        assert_int_equal(l.priority, ACCESS_PRIORITY_DEFAULT);
        assert_true(l.known);
}

static void test_closed(void **state) {
        _cleanup_(access_freep) Access *access = table("access:\n"
                                                       "  default: none\n"
                                                       "  users: {alice: {}}\n"
                                                       "  groups: {g: {members: [bob]}}\n");
        AccessLimits l;

        access_resolve(access, "alice", &l);
        assert_true(l.known && l.running == ACCESS_RUNNING_DEFAULT && l.rights == ACCESS_RUN);
        access_resolve(access, "bob", &l);
        assert_true(l.known);
        access_resolve(access, "eve", &l);
        assert_true(!l.known && l.rights == 0);
        access_resolve(access, "g", &l);
        assert_false(l.known);
}

static void test_mistakes(void **state) {
        static const struct {
                const char *text, *says;
        } cases[] = {
                { "access: 5\n", "a group of keys" },
                { "access: [a]\n", "a group of keys" },
                { "access:\n  defualt: {}\n", "default, users or groups" },
                { "access:\n  default: all\n", "none, or a group of keys" },
                { "access:\n  users:\n    alice: 5\n", "t.yaml:3: key 'access.users.alice'" },
                { "access:\n  users:\n    alice: {running: many}\n", "a number of calls" },
                { "access:\n  users:\n    alice: {running: [1]}\n", "a number of calls" },
                { "access:\n  users:\n    alice: {cpus: -1}\n", "a number of CPUs" },
                { "access:\n  users:\n    alice: {memory: lots}\n", "a size such as 64G" },
                { "access:\n  users:\n    alice: {priority: 1001}\n", "from -1000 to 1000" },
                { "access:\n  users:\n    alice: {rights: [rule]}\n", "view-all" },
                { "access:\n  users:\n    alice:\n      rights:\n        -\n", "view-all" },
                { "access:\n  users:\n    alice: {policies: [A B]}\n", "policy names" },
                { "access:\n  users:\n    alice: {policies: {a: b}}\n", "policies" },
                { "access:\n  users:\n    alice: {members: [bob]}\n", "one of running" },
                { "access:\n  groups:\n    g: {member: [bob]}\n", "one of members" },
                { "access:\n  users:\n    alice: {cpus: 1}\n    alice: {cpus: 2}\n", "given twice" },
                { "access:\n  users:\n    a/b: {cpus: 1}\n", "without '/'" },
                { "access:\n  users:\n    alice: {cpus: {a: {b: {c: {d: {e: {f: 1}}}}}}}\n", "CPUs" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) char *message = NULL;
                Target target = { 0 };

                if (parse(cases[i].text, &target, &message) >= 0)
                        fail_msg("taken: %s", cases[i].text);
                if (!message || !strstr(message, cases[i].says))
                        fail_msg("'%s' does not say '%s'", strempty(message), cases[i].says);
                access_free(target.access);
        }
}

static void test_later_file_replaces(void **state) {
        _cleanup_(freep) char *message = NULL;
        Target target = { 0 };
        AccessLimits l;

        OK(parse("access: {users: {alice: {cpus: 1}}}\n", &target, &message));
        OK(parse("access: {default: {cpus: 3}}\n", &target, &message));
        access_resolve(target.access, "alice", &l);
        assert_int_equal(l.mcpus, 3000);
        OK(parse("access:\n", &target, &message));
        access_resolve(target.access, "alice", &l);
        assert_int_equal(l.mcpus, 0);
        access_free(target.access);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_no_table),
                cmocka_unit_test(test_user_over_group_over_default),
                cmocka_unit_test(test_closed),
                cmocka_unit_test(test_mistakes),
                cmocka_unit_test(test_later_file_replaces),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
