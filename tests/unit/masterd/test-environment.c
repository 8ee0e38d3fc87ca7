/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client-link.h"
#include "environment-default.h"
#include "environment-job.h"
#include "environment-link.h"
#include "environment-node.h"
#include "environment-order.h"
#include "environment-record.h"
#include "environments.h"
#include "json-util.h"
#include "owner.h"
#include "wheel-store.h"

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

/* What nodes say */

/* One frame of the node, with a payload if text is not NULL. */
static int tell(Node *node, const char *json, const char *text) {
        struct iovec payload = { (char *) text, strlen(strempty(text)) };
        Frame frame = { .type = FRAME_ENVIRONMENT_STATE, .payloads = &payload, .n_payloads = text != NULL };
        Peer peer = { .manager = node->manager, .node = node };
        int r;

        OK(json_parse_strict_object(json, strlen(json), 16, &frame.json));
        r = environment_link_state(&peer, &frame);
        json_object_put(frame.json);
        return r;
}

static int tell_of(Node *node, const char *name, const char *state, const char *text) {
        _cleanup_(freep) char *json = strformat(
                "{\"environments\":[{\"name\":\"%.40s\",\"state\":\"%s\"%s,\"libraries\":{\"x\":\"0\"}}]}",
                name, state, text ? ",\"payload\":0" : "");

        return tell(node, json, text);
}

static void test_locks_of_nodes(void **state) {
        static const char *const bad[] = { "", "x\n", "y==1" HASH, "x==1" HASH "--index-url=http://y\n" };
        char *packages[] = { (char *) "X>=1", (char *) "z; python_version < '3'", NULL };

        for (size_t i = 0; i <= ELEMENTSOF(bad); i++) {
                _cleanup_(manager_freep) Manager *m = fixture_new();
                Job *job =
                        job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .packages = packages });
                Node *node = builder(m, "a");
                Environment *e = job->environment;

                e->resolver = node;
                OK(tell_of(node, e->id, "resolved", i < ELEMENTSOF(bad) ? bad[i] : "x==1" HASH "w==2" HASH));
                if (i < ELEMENTSOF(bad)) {
                        assert_int_equal(e->state, ENVIRONMENT_RESOLVING);
                        assert_null(e->resolver);
                        assert_int_equal(e->failures, 1);
                        continue;
                }
                assert_int_equal(e->state, ENVIRONMENT_LOCKED);
                /* Neither then nor later does a node say which versions these are. */
                set_ready(node, e->name);
                OK(tell_of(node, e->name, "ready", NULL));
                assert_string_equal(json_object_get_string(json_object_object_get(e->libraries, "x")), "1");
                assert_string_equal(json_object_get_string(json_object_object_get(e->libraries, "w")), "2");
        }
}

/* Whether it was tried on the node: it cannot be sent there. */
static void test_who_may_resolve(void **state) {
        for (unsigned i = 0; i < 2; i++) {
                _cleanup_(manager_freep) Manager *m = fixture_new();
                DependencyConfig *config;
                DefaultEnvironment *d;
                char *message;

                OK(dependency_config_parse("d.yaml",
                                           i == 0 ? "packages: [x]\nresolve_on: [b]\n"
                                                  : "packages: [x]\nresolve_on: [a]\n",
                                           strlen("packages: [x]\nresolve_on: [b]\n"), &config, &message));
                m->environments->config = config;
                (void) builder(m, "a");
                environment_default_want(m, "3.11");
                d = hashmap_get(m->environments->defaults, "3.11");
                environments_work(m);
                assert_int_equal(d->next->state, ENVIRONMENT_RESOLVING);
                assert_int_equal(d->next->failures, i);
        }
}

/* What a client says. */
static int submit(Session *session, const char *json) {
        Frame frame = { .type = FRAME_SUBMIT };
        Peer peer = { .manager = session->manager, .session = session };
        int r;

        OK(json_parse_strict_object(json, strlen(json), 16, &frame.json));
        r = client_link_frame(&peer, &frame);
        json_object_put(frame.json);
        return r;
}

#define JOB_ID "11111111111111111111111111111111"
#define JOB                                                                                                 \
        "{\"jobs\":[{\"id\":\"" JOB_ID                                                                      \
        "\",\"code\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\"code_size\":1," \
        "\"python\":\"3.11\",\"environment\":{\"packages\":[\"x\"]}}]}"
#define TASK "{\"tasks\":[{\"id\":\"22222222222222222222222222222222\",\"job\":\"" JOB_ID "\",\"size\":1}]}"

static void test_rights_come_first(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *alice = fixture_session(m, "alice"), *eve = fixture_session(m, "eve");
        Environment *e;
        Job *job;

        OK(strv_extend(&m->config->policies, "default"));
        (void) builder(m, "a");
        eve->owner->limits.rights = 0;
        alice->owner->limits.rights = ACCESS_RUN;
        OK(submit(eve, JOB));
        job = hashmap_first(eve->jobs);
        assert_string_equal(job->refused_reason, "not-allowed");
        assert_null(job->environment);
        assert_int_equal(hashmap_size(m->environments->table), 0);
        /* Also when the right comes later: its calls would run with other packages. */
        eve->owner->limits.rights = ACCESS_RUN;
        m->config_generation++;
        OK(submit(eve, TASK));
        assert_int_equal(LIST_FIRST(Task, in_session, &eve->tasks)->outcome_kind, OUTCOME_REFUSED);
        assert_int_equal(hashmap_size(m->environments->table), 0);

        /* Nothing is ordered of a node before there is a task. */
        OK(submit(alice, JOB));
        job = hashmap_first(alice->jobs);
        e = job->environment;
        assert_non_null(e);
        environments_work(m);
        assert_int_equal(e->failures, 0);
        OK(submit(alice, TASK));
        environments_work(m);
        assert_int_equal(e->failures, 1); /* it cannot be sent */
}

static void test_words_of_nodes(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        _cleanup_(freep) char *words = malloc(ENVIRONMENT_LOG_MAX + 2);
        Node *node = builder(m, "a");
        NodeEnvironment *there;

        /* Nobody has ordered it. */
        OK(tell_of(node, "0123", "building", NULL));
        OK(tell_of(node, "0123", "failed", "words"));
        assert_int_equal(hashmap_size(node->environments), 0);
        OK(tell_of(node, "0123", "ready", NULL));
        assert_int_equal(hashmap_size(node->environments), 1);
        /* A payload counts once. */
        assert_int_equal(tell(node,
                              "{\"environments\":[{\"name\":\"0123\",\"state\":\"failed\",\"payload\":0},"
                              "{\"name\":\"0123\",\"state\":\"failed\",\"payload\":0}]}",
                              "words"),
                         -EBADMSG);
        /* All together are bounded, however many fail. */
        memset(words, 'w', ENVIRONMENT_LOG_MAX + 1);
        words[ENVIRONMENT_LOG_MAX + 1] = '\0';
        OK(tell_of(node, "0123", "ready", NULL));
        assert_int_equal(tell_of(node, "0123", "failed", words), -EBADMSG);
        words[ENVIRONMENT_LOG_MAX] = '\0';
        for (unsigned i = 0; i < 100; i++) {
                char name[8];

                snprintf(name, sizeof(name), "e%u", i);
                OK(node_environment_get(node, name, &there));
                OK(tell_of(node, name, "failed", words));
                assert_int_equal(there->state, NODE_ENVIRONMENT_FAILED);
                assert_true(strlen(there->log) >= NODE_WORDS_CUT);
        }
        assert_true(node->words_size <= NODE_WORDS_MAX + 100 * NODE_WORDS_CUT);
        node_environments_clear(node);
        assert_int_equal(node->words_size, 0);
}

static void test_words_of_many_tasks(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        _cleanup_(freep) char *words = malloc(100 << 10);
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .lock = "x==1" HASH });
        Task *tasks[2] = { fixture_task(job), fixture_task(job) };
        char name[ENVIRONMENT_NAME_SIZE];

        memset(words, 'w', 100 << 10);
        strcpy(words + (100 << 10) - 9, "\nwhy not");
        environment_fail(job->environment, "installer", words);
        environments_work(m);
        environment_name_shown(job->environment, name);
        name[12] = '\0';
        for (size_t i = 0; i < 2; i++) {
                assert_int_equal(tasks[i]->state, TASK_ENDED);
                assert_true(strlen(tasks[i]->outcome) < 3000);
                assert_non_null(strstr(tasks[i]->outcome, "why not"));
                assert_non_null(strstr(tasks[i]->outcome, name));
        }
        assert_int_equal(strlen(job->environment->log), strlen(words));
}

static void test_one_order_each(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *alice = fixture_session(m, "alice"), *bob = fixture_session(m, "bob");
        char *x[] = { (char *) "x", NULL }, *y[] = { (char *) "y", NULL };
        Job *first = job_with(alice, &(EnvironmentRequest){ .packages = x }),
            *second = job_with(alice, &(EnvironmentRequest){ .packages = y }),
            *other = job_with(bob, &(EnvironmentRequest){ .packages = y });
        Node *node = builder(m, "a");
        NodeEnvironment *there;

        environments_want(m, first);
        environments_want(m, second);
        environments_want(m, other);
        environment_set_resolver(first->environment, node);
        assert_int_equal(node->n_orders, 1);
        environments_work(m);
        /* It cannot be sent, but that was tried: only for one who has nothing there. */
        assert_true(second->environment->waits_for_turn);
        assert_int_equal(second->environment->failures, 0);
        assert_int_equal(other->environment->failures, 1);
        /* Until it is answered, or given up. */
        environment_unref(TAKE_PTR(first->environment));
        assert_int_equal(node->n_orders, 0);
        environments_work(m);
        assert_false(second->environment->waits_for_turn);
        assert_int_equal(second->environment->failures, 1);

        /* Builds likewise. */
        OK(node_environment_get(node, "x", &there));
        OK(node_environment_order(there, "alice"));
        assert_int_equal(node->n_orders, 1);
        assert_false(node_order_is_free(node, "alice"));
        assert_true(node_order_is_free(node, "bob"));
        assert_true(node_order_is_free(node, ENVIRONMENT_OWNER_SHARED));
        node_environment_set_state(there, NODE_ENVIRONMENT_BUILDING);
        assert_false(node_order_is_free(node, "alice"));
        node_environment_set_state(there, NODE_ENVIRONMENT_READY);
        assert_true(node_order_is_free(node, "alice"));
        assert_int_equal(node->n_orders, 0);
}

/* What waits on a node goes with the last call that needs it. */
static void test_orders_are_taken_back(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .lock = "x==1" HASH });
        Node *nodes[2] = { builder(m, "a"), builder(m, "b") };
        Environment *e = job->environment;
        NodeEnvironment *there;

        environments_work(m);
        for (size_t i = 0; i < 2; i++) {
                OK(node_environment_get(nodes[i], e->name, &there));
                OK(node_environment_order(there, e->asker));
        }
        node_environment_set_state(there, NODE_ENVIRONMENT_BUILDING);
        environment_unref(TAKE_PTR(job->environment));
        assert_int_equal(hashmap_size(m->environments->table), 1);
        assert_null(node_environment_find(nodes[0], e->name));
        assert_non_null(node_environment_find(nodes[1], e->name));
        assert_true(node_order_is_free(nodes[0], "alice"));
}

static void test_time_begins_with_the_work(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        char *x[] = { (char *) "x", NULL };
        Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .packages = x });
        Node *node = builder(m, "a");
        Environment *e = job->environment;

        environments_want(m, job);
        environment_set_resolver(e, node);
        m->test_clock += (ORDER_RESOLVE_MAX_S + 10) * USEC_PER_SEC;
        environments_work(m);
        assert_ptr_equal(e->resolver, node);
        OK(tell_of(node, e->id, "resolving", NULL));
        m->test_clock += (ORDER_RESOLVE_MAX_S - 10) * USEC_PER_SEC;
        environments_work(m);
        assert_ptr_equal(e->resolver, node);
        m->test_clock += 20 * USEC_PER_SEC;
        environments_work(m);
        assert_null(e->resolver);
        assert_int_equal(e->failures, 1);
}

static FILE *open_new(char *path) {
        int fd = mkstemp(path);
        FILE *file = fd < 0 ? NULL : fdopen(fd, "w");

        assert_non_null(file);
        return file;
}

/* The master's lock and a client's packages. */
static void test_merging(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        _cleanup_(strv_freep) char **packages = newn0(char *, 1001);
        char lock[] = "/tmp/test-lock-XXXXXX", manifest[] = "/tmp/test-manifest-XXXXXX";
        Environment *e = NULL;
        FILE *file = open_new(lock);

        for (unsigned i = 0; i < 5000; i++)
                assert_true(fprintf(file, "p%u==1" HASH, i) > 0);
        OK(fclose(file));
        file = open_new(manifest);
        assert_true(fprintf(file, "lock: %s\n", lock) > 0);
        OK(fclose(file));
        OK(free_and_strdup(&m->config->dependencies, manifest));
        OK(environments_load_config(m));
        (void) unlink(lock);
        (void) unlink(manifest);
        for (unsigned i = 0; i < 1000; i++)
                packages[i] = strformat("P%u>=2", i / 2);
        OK(environments_request(m, fixture_session(m, "alice"), "3.11",
                                &(EnvironmentRequest){ .packages = packages }, &e));
        assert_int_equal(strv_length(e->packages), 5000);
        assert_true(strv_contains(e->packages, "P499>=2"));
        assert_true(strv_contains(e->packages, "p500==1"));
        assert_false(strv_contains(e->packages, "p499==1"));
        environment_unref(e);
}

/* One frame cannot have the master look at any number of them. */
static void test_environments_of_a_frame(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        char *pins[3001] = { 0 };
        Session *alice = fixture_session(m, "alice");
        _cleanup_(freep) char *json = strdup("{\"jobs\":[");
        unsigned n_full = 0;
        Job *job;

        OK(strv_extend(&m->config->policies, "default"));
        alice->owner->limits.rights = ACCESS_RUN;
        for (size_t i = 0; i < ELEMENTSOF(pins) - 1; i++)
                pins[i] = (char *) "p==1";
        m->environments->config = new0(DependencyConfig);
        m->environments->config->packages = pins;
        for (unsigned i = 0; i < ENVIRONMENTS_OWNER_MAX + 5; i++) {
                char *longer = strformat(
                        "%s%s{\"id\":\"%032u\",\"code\":\"0123456789abcdef0123456789abcdef0123456789abcdef"
                        "0123456789abcdef\",\"code_size\":1,\"python\":\"3.11\",\"environment\":{"
                        "\"packages\":"
                        "[\"x\"]}}",
                        json, i > 0 ? "," : "", i + 1);

                free(json);
                json = longer;
        }
        {
                _cleanup_(freep) char *all = strformat("%s]}", json);

                OK(submit(alice, all));
        }
        HASHMAP_FOREACH(job, alice->jobs)
                n_full += job->environments_full && streq(job->refused_reason, "quota");
        assert_int_equal(n_full, 5);
        /* The next one has its own. */
        OK(submit(alice, JOB));
        assert_int_equal(hashmap_size(m->environments->table), 1);
        HASHMAP_FOREACH(job, alice->jobs)
                n_full -= job->environments_full;
        assert_int_equal(n_full, 0);
        m->environments->config->packages = NULL;
}

static void test_two_nodes_refuse(void **state) {
        static const char *const second[] = { "installer", "infrastructure" };

        for (size_t i = 0; i < 2; i++) {
                _cleanup_(manager_freep) Manager *m = fixture_new();
                char *x[] = { (char *) "x", NULL };
                Job *job = job_with(fixture_session(m, "alice"), &(EnvironmentRequest){ .packages = x });
                Node *nodes[2] = { builder(m, "a"), builder(m, "b") };
                Environment *e = job->environment;

                environment_set_resolver(e, nodes[0]);
                OK(tell_of(nodes[0], e->id, "failed", "words"));
                assert_int_equal(e->failures, 1); /* a reason is missing: it is the node's fault */
                environment_set_resolver(e, nodes[0]);
                environment_resolve_failed(e, "installer", "first");
                assert_int_equal(e->state, ENVIRONMENT_RESOLVING);
                assert_ptr_equal(e->refused_by, nodes[0]);
                for (unsigned n = 0; n < ORDER_ATTEMPTS && e->state == ENVIRONMENT_RESOLVING; n++) {
                        environment_set_resolver(e, nodes[1]);
                        environment_resolve_failed(e, second[i], "second");
                }
                assert_int_equal(e->state, ENVIRONMENT_FAILED);
                assert_string_equal(e->reason, "installer");
                assert_string_equal(e->log, i == 0 ? "second" : "first");
                assert_null(e->refused_by);
                /* The next time it is another's turn. */
                environment_try_again(e);
                assert_ptr_equal(e->avoid, nodes[1]);
        }
}

static Environment *ask_for_wheels(Session *session, unsigned n) {
        _cleanup_(strv_freep) char **wheels = NULL;
        Environment *e;

        for (unsigned i = 0; i < n; i++) {
                _cleanup_(freep) char *wheel = strformat("%064u/x%u-1-py3-none-any.whl", i, i);

                OK(strv_extend(&wheels, wheel));
        }
        OK(environments_request(session->manager, session, "3.11",
                                &(EnvironmentRequest){ .wheels = wheels, .base_none = true }, &e));
        return e;
}

/* Who asks for wheels and does not send them. */
static void test_wheels_take_turns(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        static const char *const users[] = { "a", "b", "c", "d", "e" };
        char folder[] = "/tmp/test-wheels-XXXXXX";
        Environment *all[ELEMENTSOF(users)];
        Session *sessions[ELEMENTSOF(users)];
        _cleanup_(freep) char *wheels = NULL;

        assert_non_null(mkdtemp(folder));
        OK(free_and_strdup(&m->config->state_directory, folder));
        m->config->wheels_size = m->config->wheels_total = MIB(100);
        for (size_t i = 0; i < ELEMENTSOF(users); i++) {
                sessions[i] = fixture_session(m, users[i]);
                all[i] = ask_for_wheels(sessions[i], 10);
                assert_int_equal(all[i]->state, ENVIRONMENT_FETCHING);
                assert_int_equal(m->streams.n_waiting,
                                 MIN((i + 1) * WHEELS_FLOWING_OWNER_MAX, (size_t) WHEELS_FLOWING_MAX));
        }
        /* One goes: all that it has asked for does. */
        session_end(TAKE_PTR(sessions[0]), "test");
        assert_int_equal(all[0]->state, ENVIRONMENT_FAILED);
        assert_int_equal(all[4]->state, ENVIRONMENT_FETCHING);
        assert_int_equal(m->streams.n_waiting, WHEELS_FLOWING_MAX);
        /* Others are in the way only for so long. */
        m->test_clock += WHEEL_STALL_S * USEC_PER_SEC;
        wheel_store_end_stalled(m->environments->wheels);
        assert_int_equal(all[1]->state, ENVIRONMENT_FAILED);
        assert_non_null(strstr(all[1]->log, "while others waited"));
        for (size_t i = 0; i < ELEMENTSOF(users); i++)
                environment_unref(all[i]);
        environments_stop(m->environments);
        wheels = strformat("%s/wheels", folder);
        OK(rmdir(wheels));
        OK(rmdir(folder));
}

/* One user's locks, which are as long as there may be, and those of others. */
static void test_one_owner_has_a_share(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *alice = fixture_session(m, "alice"), *bob = fixture_session(m, "bob");
        _cleanup_(freep) char *lock = malloc(ENVIRONMENT_LOCK_MAX + 1);
        const size_t line = strlen("x==1" HASH);
        Environment *bobs, *first, *e = NULL;
        unsigned n = 0;

        for (size_t i = 0; i + line <= ENVIRONMENT_LOCK_MAX; i += line)
                strcpy(lock + i, "x==1" HASH);
        OK(environments_request(m, bob, "3.11", &(EnvironmentRequest){ .lock = "x==1" HASH }, &bobs));
        OK(environment_lock(bobs, bobs->lock, strlen(bobs->lock), "linux"));
        environment_unref(bobs); /* the oldest that nobody needs */
        m->test_clock += USEC_PER_SEC;
        for (; n < 50; n++) {
                _cleanup_(freep) char *name = strformat("x%u", n);
                char *packages[] = { name, NULL };

                OK(environments_request(m, alice, "3.11", &(EnvironmentRequest){ .packages = packages },
                                        &e));
                OK(environment_lock(e, lock, strlen(lock), "linux"));
                if (n == 0)
                        first = e;
                if (e->state == ENVIRONMENT_FAILED)
                        break;
                assert_int_equal(e->state, ENVIRONMENT_LOCKED);
        }
        assert_true(n > 5 && n < 50);
        assert_string_equal(e->reason, "quota");
        assert_int_equal(bobs->state, ENVIRONMENT_LOCKED);
        assert_int_equal(hashmap_size(m->environments->table), n + 2);
        /* One that is not needed any more makes room, and bob's stays. */
        environment_unref(first);
        environment_try_again(e);
        OK(environment_lock(e, lock, strlen(lock), "linux"));
        assert_int_equal(e->state, ENVIRONMENT_LOCKED);
        assert_int_equal(hashmap_size(m->environments->table), n + 1);
        assert_ptr_equal(hashmap_get(m->environments->table, bobs->id), bobs);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
        return remove(path);
}

static bool has_lock(const char *folder, const char *digest) {
        _cleanup_(freep) char *path = strformat("%s/.locks/%s", folder, digest);

        return access(path, F_OK) == 0;
}

/* The file of a lock goes with the last one that has it. */
static void test_locks_are_removed(void **state) {
        Manager *m = fixture_new();
        char folder[] = "/tmp/test-locks-XXXXXX", lock_file[DIGEST_HEX_SIZE];
        _cleanup_(freep) char *locks = NULL, *store = NULL;
        Session *sessions[2] = { fixture_session(m, "alice"), fixture_session(m, "bob") };
        Environment *e[2];

        assert_non_null(mkdtemp(folder));
        store = strformat("%s/store", folder);
        OK(free_and_strdup(&m->config->state_directory, folder));
        OK(state_store_file_open(store, &m->store));
        for (size_t i = 0; i < 2; i++) {
                OK(environments_request(m, sessions[i], "3.11", &(EnvironmentRequest){ .lock = "x==1" HASH },
                                        &e[i]));
                OK(environment_lock(e[i], e[i]->lock, strlen(e[i]->lock), "linux"));
                assert_true(e[i]->recorded);
        }
        COPY_TEXT(lock_file, e[0]->lock_file);
        assert_true(has_lock(folder, lock_file));
        environment_record_remove(e[0]);
        assert_true(has_lock(folder, lock_file));
        /* Another lock in its place. */
        OK(environment_lock(e[1], "y==1" HASH, strlen("y==1" HASH), "linux"));
        environment_record_write(e[1]);
        assert_string_not_equal(e[1]->lock_file, lock_file);
        assert_false(has_lock(folder, lock_file));
        assert_true(has_lock(folder, e[1]->lock_file));
        environment_record_remove(e[1]);
        environment_unref(e[0]);
        environment_unref(e[1]);
        manager_free(m);
        locks = strformat("%s/.locks", folder);
        OK(rmdir(locks));
        OK(nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS));
}

/* Those of no bytes at all take room, too. */
static void test_small_wheels_count(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *alice = fixture_session(m, "alice");
        char folder[] = "/tmp/test-wheels-XXXXXX";
        Environment *e;

        assert_non_null(mkdtemp(folder));
        OK(free_and_strdup(&m->config->state_directory, folder));
        m->config->wheels_size = m->config->wheels_total = MIB(1);
        e = ask_for_wheels(alice, 16);
        assert_int_equal(e->state, ENVIRONMENT_FETCHING);
        session_end(alice, "test");
        environment_unref(e);
        e = ask_for_wheels(fixture_session(m, "bob"), 17);
        assert_int_equal(e->state, ENVIRONMENT_FAILED);
        assert_non_null(strstr(e->log, "wheels.size"));
        environment_unref(e);
        environments_stop(m->environments);
        OK(nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS));
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
                cmocka_unit_test(test_locks_of_nodes),
                cmocka_unit_test(test_who_may_resolve),
                cmocka_unit_test(test_rights_come_first),
                cmocka_unit_test(test_words_of_nodes),
                cmocka_unit_test(test_words_of_many_tasks),
                cmocka_unit_test(test_one_order_each),
                cmocka_unit_test(test_orders_are_taken_back),
                cmocka_unit_test(test_time_begins_with_the_work),
                cmocka_unit_test(test_merging),
                cmocka_unit_test(test_environments_of_a_frame),
                cmocka_unit_test(test_two_nodes_refuse),
                cmocka_unit_test(test_wheels_take_turns),
                cmocka_unit_test(test_one_owner_has_a_share),
                cmocka_unit_test(test_locks_are_removed),
                cmocka_unit_test(test_small_wheels_count),
                cmocka_unit_test(test_one_owner_has_a_bound),
                cmocka_unit_test(test_python_and_labels_decide),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
