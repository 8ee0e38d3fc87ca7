/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "fixture.h"
#include "json-util.h"
#include "query.h"

static QueryError ask(Manager *m, const char *user, const char *verb, const char *args, char **ret_text) {
        _cleanup_(json_putp) json_object *json = NULL, *result = NULL;
        _cleanup_(freep) char *message = NULL;
        QueryAsker asker = { .user = user, .privileged = user && streq(user, "root") };
        QueryError error;

        OK(json_parse_strict_object(args, strlen(args), JSON_DEPTH_MAX, &json));
        error = query_run(m, &asker, verb, json, &result, &message);
        *ret_text = error == QUERY_OK ? strdup(json_text(result, NULL)) : TAKE_PTR(message);
        assert_non_null(*ret_text);
        return error;
}

/* The table gives rights to a name that was proved, and none over others' to one that anybody may say. */
static void test_claimed(void **state) {
        static const char text[] = "access: {users: {ops: {rights: [run, manage-all]}}}\n";
        static const ConfigItem items[] = { { "access", CONFIG_TREE, access_parse,
                                              offsetof(MasterConfig, access), "a group of keys",
                                              .explain = access_explain } };
        _cleanup_(manager_freep) Manager *m = fixture_new();
        const QueryAsker proved = { .user = "ops" }, claimed = { .user = "ops", .claimed = true };
        _cleanup_(freep) char *message = NULL;
        const Owner *owner;

        (void) fixture_session(m, "alice");
        OK(config_load_text("t.yaml", text, strlen(text), items, ELEMENTSOF(items), m->config, &message));
        OK(query_scope(m, &proved, &owner));
        assert_null(owner);
        assert_int_equal(query_scope(m, &claimed, &owner), -ENOENT);
}

static void assert_answer(Manager *m, const char *user, const char *verb, const char *args,
                          QueryError expected, const char *says) {
        _cleanup_(freep) char *text = NULL;

        assert_int_equal(ask(m, user, verb, args, &text), expected);
        if (!strstr(text, says))
                fail_msg("%s: '%s' does not say '%s'", verb, text, says);
}

static void test_verbs(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "n1", 1, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        Task *running = fixture_task(job), *queued = fixture_task(job);
        char args[100];

        scheduler_run(m);
        assert_true(task_is_placed(running) && node->n_charged == 1);
        assert_answer(m, NULL, "version", "{}", QUERY_OK, "\"protocol\":1");
        assert_answer(m, NULL, "status", "{}", QUERY_OK, "\"queued\":1");
        assert_answer(m, NULL, "nodes", "{}", QUERY_OK, "\"cpus_used\":1");
        assert_answer(m, "root", "tasks", "{}", QUERY_OK, "\"total\":2");
        assert_answer(m, "root", "tasks", "{\"state\":\"queued\"}", QUERY_OK, "\"total\":1");
        assert_answer(m, "root", "tasks", "{\"owner\":\"bob\"}", QUERY_OK, "\"total\":0");
        assert_answer(m, "root", "tasks", "{\"limit\":-1}", QUERY_INVALID_ARGUMENT, "limit");
        snprintf(args, sizeof(args), "{\"id\":\"%s\"}", ID_HEX(queued->id));
        assert_answer(m, "root", "task", args, QUERY_OK, "next in its queue");
        assert_answer(m, "alice", "why", args, QUERY_OK, "the only ready node has not enough CPUs free");
        assert_answer(m, "alice", "logs", args, QUERY_OK, "\"text\":\"\"");
        assert_answer(m, "root", "logs", args, QUERY_OK, "\"text\":\"\"");
        assert_answer(m, "bob", "logs", args, QUERY_NOT_FOUND, "No task");
        assert_answer(m, NULL, "logs", args, QUERY_NOT_FOUND, "No task");
        snprintf(args, sizeof(args), "{\"ids\":[\"%s\"]}", ID_HEX(queued->id));
        assert_answer(m, "bob", "cancel", args, QUERY_NOT_FOUND, "No task");
        assert_answer(m, "alice", "cancel", args, QUERY_OK, ID_HEX(queued->id));
        assert_int_equal(queued->outcome_kind, OUTCOME_CANCELLED);
        assert_answer(m, "alice", "drain", "{\"node\":\"n1\"}", QUERY_NOT_ALLOWED, "root");
        assert_answer(m, "root", "drain", "{\"node\":\"n2\"}", QUERY_NOT_FOUND, "n2");
        assert_answer(m, "root", "drain", "{\"node\":\"n1\"}", QUERY_OK, "\"running\":1");
        assert_true(node->drain);
        assert_answer(m, "root", "dance", "{}", QUERY_INVALID_ARGUMENT, "dance");
        assert_answer(m, "root", "cancel", "{}", QUERY_INVALID_ARGUMENT, "ids");
        assert_answer(m, "root", "cancel", "{\"ids\":[5]}", QUERY_INVALID_ARGUMENT, "5");
}

static void test_unreachable(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Node *node = fixture_node(m, "n1", 2, MIB(100));
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        Task *task = fixture_task(job);
        char args[100];

        scheduler_run(m);
        assert_true(task_is_placed(task));
        snprintf(args, sizeof(args), "{\"id\":\"%s\"}", ID_HEX(task->id));
        assert_answer(m, "root", "task", args, QUERY_OK, "\"state\":\"starting\",\"freezes_ms\":null");

        node->heartbeat_at = manager_now(m) - 5 * USEC_PER_SEC;
        node->state = NODE_SUSPECT;
        assert_answer(m, "root", "tasks", "{\"state\":\"starting\"}", QUERY_OK, "\"total\":0");
        assert_answer(m, "root", "tasks", "{\"state\":\"unreachable\"}", QUERY_OK, "\"total\":1");
        assert_answer(m, "root", "task", args, QUERY_OK, "\"state\":\"unreachable\",\"freezes_ms\":");
        assert_answer(m, "alice", "why", args, QUERY_OK, "\"state\":\"unreachable\"");
        assert_answer(m, NULL, "status", "{}", QUERY_OK, "\"starting\":0");
        assert_answer(m, NULL, "status", "{}", QUERY_OK, "\"unreachable\":1");

        node->heartbeat_at = manager_now(m) - m->config->lease - USEC_PER_MSEC;
        assert_answer(m, "root", "task", args, QUERY_OK, "\"state\":\"unreachable\",\"freezes_ms\":0,");
        node->state = NODE_READY;
        assert_answer(m, "root", "task", args, QUERY_OK, "\"state\":\"starting\",\"freezes_ms\":null");
}

static void test_text(void **state) {
        _cleanup_(json_putp) json_object *object = NULL;

        OK(json_new_object(&object));
        OK(query_add_text(object, "a", "ok\xff\0x", 5));
        OK(query_add_text(object, "b", "gr\xc3\xbc\xc3\x9f", 6));
        assert_string_equal(json_object_get_string(json_object_object_get(object, "a")), "ok??x");
        assert_string_equal(json_object_get_string(json_object_object_get(object, "b")),
                            "gr\xc3\xbc\xc3\x9f");
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_verbs), cmocka_unit_test(test_unreachable),
                                            cmocka_unit_test(test_text), cmocka_unit_test(test_claimed) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
