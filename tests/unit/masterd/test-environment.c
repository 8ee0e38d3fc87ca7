/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include <errno.h>

#include "environment-default.h"
#include "environment-job.h"
#include "environment-node.h"
#include "environment-order.h"
#include "environments.h"

#define HASH " --hash=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"

/* Names */

static char *name_of(const EnvironmentContent *content) {
        char name[ENVIRONMENT_NAME_SIZE];

        OK(environment_name(content, name));
        assert_true(environment_name_is_built(name));
        return strdup(name);
}

static void test_names(void **state) {
        const char *const preload[] = { "a", "b", NULL }, *const swapped[] = { "b", "a", NULL },
                          *const joined[] = { "a b", NULL };
        const EnvironmentContent first = { .python = "3.11",
                                           .platform = "linux-x86_64",
                                           .index = "default",
                                           .owner = "*",
                                           .preload = (char *const *) preload,
                                           .lock = "x==1\n" };
        EnvironmentContent others[8];
        _cleanup_(freep) char *name = name_of(&first), *same = name_of(&first);

        assert_string_equal(name, same);
        /* It does not change from one version to the next: nodes would build everything anew. */
        assert_string_equal(name, "dc8aa87208fbb3a456691e389f41bcb3d5b72bc5");
        for (size_t i = 0; i < ELEMENTSOF(others); i++)
                others[i] = first;
        others[0].python = "3.12";
        others[1].platform = "linux-aarch64";
        others[2].index = "none";
        others[3].system_packages = true;
        others[4].owner = "alice";
        others[5].preload = (char *const *) swapped;
        others[6].preload = (char *const *) joined;
        others[7].lock = "x==1";
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                _cleanup_(freep) char *other = name_of(others + i);

                assert_string_not_equal(name, other);
        }
}

static void test_base_names(void **state) {
        char name[ENVIRONMENT_NAME_SIZE], series[PYTHON_SERIES_SIZE];

        environment_base_name("3.11", false, name);
        assert_string_equal(name, "python-3.11");
        environment_base_name("3.12", true, name);
        assert_string_equal(name, "system-3.12");
        OK(python_series("3.11.2", series));
        assert_string_equal(series, "3.11");
        OK(python_series("3.14.0rc1", series));
        assert_string_equal(series, "3.14");
        OK(python_series("3.9", series));
        assert_int_equal(python_series("3", series), -EINVAL);
        assert_int_equal(python_series("x.1", series), -EINVAL);
        assert_int_equal(python_series("3.", series), -EINVAL);
        assert_int_equal(python_series("3.1x", series), -EINVAL);
        assert_int_equal(python_series("3.1234567", series), -EINVAL);
}

/* Resources and labels */

static void test_resources(void **state) {
        Resources node = { 0 }, wanted = { 0 }, again = { 0 };

        OK(resources_add(&node, "gpu", 2));
        OK(resources_add(&wanted, "gpu", 1));
        assert_true(resources_suffice(&node, &wanted, true));
        resources_charge(&node, &wanted, true);
        resources_charge(&node, &wanted, true);
        assert_false(resources_suffice(&node, &wanted, true));
        assert_true(resources_suffice(&node, &wanted, false));
        /* The node says anew what it has: what is taken stays so. */
        OK(resources_add(&again, "gpu", 3));
        OK(resources_replace(&node, &again));
        assert_true(resources_suffice(&node, &wanted, true));
        resources_charge(&node, &wanted, true);
        assert_false(resources_suffice(&node, &wanted, true));
        resources_charge(&node, &wanted, false);
        assert_true(resources_suffice(&node, &wanted, true));
        OK(resources_add(&wanted, "licence", 1));
        assert_false(resources_suffice(&node, &wanted, false));
        resources_done(&node);
        resources_done(&wanted);
}

static void test_labels(void **state) {
        const char *const labels[] = { "zone=a", "disk=ssd", NULL }, *const one[] = { "disk=ssd", NULL },
                          *const other[] = { "zone=b", NULL };

        assert_true(labels_match((char *const *) labels, NULL));
        assert_true(labels_match((char *const *) labels, (char *const *) one));
        assert_false(labels_match((char *const *) labels, (char *const *) other));
        assert_false(labels_match(NULL, (char *const *) one));
}

/* States */

static Node *builder(Manager *m, const char *name) {
        Node *node = fixture_node(m, name, 4, MIB(1000));

        OK(strv_extend(&node->pythons, "3.11"));
        node->platform = strdup("linux");
        node->environments_known = true;
        return node;
}

static Job *job_with(Session *session, const EnvironmentRequest *request) {
        Job *job = fixture_job(session, 1, MIB(1));

        strcpy(job->python, "3.11");
        OK(environments_request(session->manager, session, "3.11", request, &job->environment));
        return job;
}

static void set_ready(Node *node, const char *name) {
        NodeEnvironment *there;

        OK(node_environment_get(node, name, &there));
        node_environment_set_state(there, NODE_ENVIRONMENT_READY);
}

static void test_lock_waits_for_a_node(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .lock = "x==1" HASH });
        Environment *e = job->environment;
        Node *node;

        assert_non_null(e);
        assert_int_equal(e->state, ENVIRONMENT_RESOLVING);
        environments_work(m);
        assert_int_equal(e->state, ENVIRONMENT_RESOLVING);
        node = builder(m, "a");
        environments_work(m);
        assert_int_equal(e->state, ENVIRONMENT_LOCKED);
        assert_true(environment_name_is_built(e->name));
        assert_null(environments_pick(m, job, node));
        set_ready(node, e->name);
        assert_ptr_equal(environments_pick(m, job, node), e);
}

static void test_same_request_is_one(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *alice = fixture_session(m, "alice"), *bob = fixture_session(m, "bob");
        char *ab[] = { (char *) "a", (char *) "b", NULL }, *ba[] = { (char *) "b", (char *) "a", NULL };
        Job *first = job_with(alice, &(EnvironmentRequest){ .packages = ab }),
            *second = job_with(alice, &(EnvironmentRequest){ .packages = ba }),
            *other = job_with(bob, &(EnvironmentRequest){ .packages = ab }),
            *none = job_with(bob, &(EnvironmentRequest){ 0 });

        assert_ptr_equal(first->environment, second->environment);
        assert_int_equal(first->environment->n_references, 2);
        assert_ptr_not_equal(first->environment, other->environment);
        assert_null(none->environment);
}

static void test_default_without_manifest(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ 0 });
        Node *node = builder(m, "a");

        assert_null(environments_pick(m, job, node));
        environment_default_want(m, "3.11");
        assert_string_equal(environments_pick(m, job, node)->name, "python-3.11");
}

static void test_given_up_everywhere(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .lock = "x==1" HASH });
        Node *nodes[2] = { builder(m, "a"), builder(m, "b") };
        Task *task = fixture_task(job);
        NodeEnvironment *there;
        Environment *e = job->environment;

        environments_work(m);
        for (size_t i = 0; i < 2; i++) {
                assert_int_equal(e->state, ENVIRONMENT_LOCKED);
                OK(node_environment_get(nodes[i], e->name, &there));
                environment_build_failed(there, "installer", "the words\nof it");
                environments_there_changed(m, e->name);
        }
        assert_int_equal(e->state, ENVIRONMENT_FAILED);
        assert_int_equal(task->state, TASK_QUEUED);
        environments_work(m);
        assert_int_equal(task->state, TASK_ENDED);
        assert_int_equal(task->outcome_kind, OUTCOME_ENVIRONMENT);
        assert_non_null(strstr(task->outcome, "of it"));
        /* It is remembered for a while, and then tried again. */
        environments_task_comes(m, job);
        assert_int_equal(e->state, ENVIRONMENT_FAILED);
        m->test_clock += 31 * USEC_PER_SEC;
        environments_task_comes(m, job);
        assert_int_equal(e->state, ENVIRONMENT_LOCKED);
        assert_null(node_environment_find(nodes[0], e->name));
}

static void test_the_nodes_fault(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .lock = "x==1" HASH });
        Node *node = builder(m, "a");
        NodeEnvironment *there;
        Environment *e = job->environment;

        environments_work(m);
        for (unsigned i = 0; i < ORDER_NODE_ATTEMPTS; i++) {
                assert_int_equal(e->state, ENVIRONMENT_LOCKED);
                OK(node_environment_get(node, e->name, &there));
                environment_build_failed(there, "infrastructure", "full");
                environments_there_changed(m, e->name);
        }
        assert_int_equal(e->state, ENVIRONMENT_FAILED);
}

static void test_resolving_is_tried_elsewhere(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        char *packages[] = { (char *) "x", NULL };
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .packages = packages });
        Environment *e = job->environment;

        for (unsigned i = 1; i < ORDER_ATTEMPTS; i++) {
                environment_resolve_failed(e, "infrastructure", "no");
                assert_int_equal(e->state, ENVIRONMENT_RESOLVING);
                assert_true(e->not_before > manager_now(m));
        }
        environment_resolve_failed(e, "infrastructure", "no");
        assert_int_equal(e->state, ENVIRONMENT_FAILED);
        m->test_clock += 31 * USEC_PER_SEC;
        environments_task_comes(m, job);
        assert_int_equal(e->state, ENVIRONMENT_RESOLVING);
        environment_resolve_failed(e, "installer", "never");
        assert_int_equal(e->state, ENVIRONMENT_FAILED);
}

static void test_one_owner_has_a_bound(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session = fixture_session(m, "alice");
        Environment *e = NULL;
        int r = 0;

        for (unsigned i = 0; i <= ENVIRONMENTS_OWNER_MAX && r >= 0; i++) {
                _cleanup_(freep) char *name = strformat("x%u", i);
                char *packages[] = { name, NULL };
                Job *job = fixture_job(session, 1, 1);

                r = environments_request(m, session, "3.11", &(EnvironmentRequest){ .packages = packages },
                                         &job->environment);
                assert_true(r < 0 || i < ENVIRONMENTS_OWNER_MAX);
        }
        assert_int_equal(r, -ENOSPC);
        /* Another is not concerned. */
        OK(environments_request(m, fixture_session(m, "bob"), "3.11",
                                &(EnvironmentRequest){ .lock = "y==1" HASH }, &e));
        environment_unref(e);
}

static void test_python_and_labels_decide(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = fixture_job(fixture_session(m, "alice"), 1, MIB(1));
        Node *node = builder(m, "a");

        environment_default_want(m, "3.11");
        environment_default_want(m, "3.12");
        fixture_task(job);
        strcpy(job->python, "3.12");
        assert_null(scheduler_pick(m, job));
        strcpy(job->python, "3.11");
        assert_ptr_equal(scheduler_pick(m, job), node);
        OK(strv_extend(&job->labels, "zone=a"));
        assert_null(scheduler_pick(m, job));
        OK(strv_extend(&node->labels, "zone=a"));
        assert_ptr_equal(scheduler_pick(m, job), node);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_base_names),
                cmocka_unit_test(test_resources),
                cmocka_unit_test(test_labels),
                cmocka_unit_test(test_lock_waits_for_a_node),
                cmocka_unit_test(test_same_request_is_one),
                cmocka_unit_test(test_default_without_manifest),
                cmocka_unit_test(test_given_up_everywhere),
                cmocka_unit_test(test_the_nodes_fault),
                cmocka_unit_test(test_resolving_is_tried_elsewhere),
                cmocka_unit_test(test_one_owner_has_a_bound),
                cmocka_unit_test(test_python_and_labels_decide),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
