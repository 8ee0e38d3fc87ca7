/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "environments.h"
#include "fd-util.h"
#include "json-util.h"
#include "time-util.h"

/* The table between a launcher and a master that are this test. */

enum { REQUESTS_MAX = 64, TOLD_MAX = 64 };

#define ONE "1111111111111111111111111111111111111111"
#define TWO "2222222222222222222222222222222222222222"
#define THREE "3333333333333333333333333333333333333333"

static sd_event *event;
static Environments *table;
static ServerConfig config;
static char *pythons[] = { (char[]){ "3.11" }, (char[]){ "3.12" }, NULL };

static struct {
        LauncherRequest request;
        char *order; /* what came beside it */
} requests[REQUESTS_MAX];
static size_t n_requests;
static struct {
        json_object *json;
        char *payloads; /* all of them, one after the other */
} told[TOLD_MAX];
static size_t n_told;
static const char *wanted;
static bool disk_is_full; /* of the node */
static char followed[512];

static int on_ask(LauncherRequest *request, const int *fds, size_t n_fds, void *userdata) {
        uint64_t size;

        assert_true(n_requests < REQUESTS_MAX);
        requests[n_requests].request = *request;
        if (n_fds > 0) {
                assert_int_equal(n_fds, 1);
                assert_ok(memfd_check_sealed(fds[0], &size));
                requests[n_requests].order = calloc(1, size + 1);
                assert_int_equal(pread(fds[0], requests[n_requests].order, size, 0), size);
        }
        n_requests++;
        return 0;
}

static int on_tell(json_object *json, const struct iovec *payloads, size_t n_payloads, void *userdata) {
        char *p;

        assert_true(n_told < TOLD_MAX);
        told[n_told].json = json_object_get(json);
        told[n_told].payloads = p = calloc(1, FRAME_PAYLOAD_TOTAL_MAX + 1);
        for (size_t i = 0; i < n_payloads; i++)
                p = mempcpy(p, payloads[i].iov_base, payloads[i].iov_len);
        n_told++;
        return 0;
}

static int on_dial(const ConnectionHandlers *handlers, void *handlers_userdata, Connection **ret,
                   void *userdata) {
        return -ENOTCONN;
}

static bool is_wanted(const char *name, void *userdata) {
        return streq_ptr(wanted, name);
}

static void on_follow(const char *former, const char *name, void *userdata) {
        size_t size = strlen(followed);

        snprintf(followed + size, sizeof(followed) - size, "%.7s>%.7s ", former, name);
}

static void on_cool(const char *name, void *userdata) {
        size_t size = strlen(followed);

        snprintf(followed + size, sizeof(followed) - size, "%s cold ", name);
}

static const EnvironmentsHandlers handlers = {
        .ask = on_ask,
        .tell = on_tell,
        .dial = on_dial,
        .is_wanted = is_wanted,
        .cool = on_cool,
        .follow = on_follow,
};

static void forget(void) {
        for (size_t i = 0; i < n_requests; i++)
                requests[i].order = mfree(requests[i].order);
        for (size_t i = 0; i < n_told; i++) {
                json_object_put(told[i].json);
                free(told[i].payloads);
        }
        n_requests = n_told = 0;
        followed[0] = '\0';
}

static int setup(void **state) {
        char *directory = test_directory();

        assert_ok(sd_event_new(&event));
        assert_ok(server_config_load(&(ServerConfigSources){ .directory = directory, .subuid = "/dev/null" },
                                     &config, NULL));
        test_directory_remove(directory);
        config.environments.size = 1000;
        wanted = NULL;
        disk_is_full = false;
        assert_ok(environments_new(event, &config, pythons, &handlers, NULL, &table));
        return 0;
}

static int teardown(void **state) {
        table = environments_free(table);
        server_config_done(&config);
        event = sd_event_unref(event);
        forget();
        return 0;
}

/* All that can be done now. */
static void settle(void) {
        while (sd_event_run(event, 0) > 0)
                ;
}

/* Waits for what a timer does. */
#define wait_for(condition)                                                                                 \
        do {                                                                                                \
                uint64_t _until = now_usec(CLOCK_MONOTONIC) + 30 * USEC_PER_SEC;                            \
                while (!(condition)) {                                                                      \
                        assert_ok(sd_event_run(event, 100 * USEC_PER_MSEC));                                \
                        if (now_usec(CLOCK_MONOTONIC) > _until)                                             \
                                fail_msg("never: %s", #condition);                                          \
                }                                                                                           \
        } while (0)

static void launcher_says(LauncherEvent *e, const char *log, const char *report) {
        int fds[2] = { -EBADF, -EBADF };
        size_t n = 0;

        if (log)
                fds[n++] = memfd_new_sealed("log", log, strlen(log));
        if (report)
                fds[n++] = memfd_new_sealed("report", report, strlen(report));
        environments_launcher_event(table, e, fds, n);
        close_many(fds, 2);
        settle();
}

static LauncherEvent environment_event(LauncherOp op, const char *name, uint64_t bytes, uint64_t used_at) {
        LauncherEvent e = { .op = op };

        strcpy(e.environment.environment, name);
        strcpy(e.environment.python, "3.11");
        strcpy(e.environment.unit, "clupy-build-1.scope");
        e.environment.bytes = bytes;
        e.environment.files = 3;
        e.environment.built_at = 1;
        e.environment.used_at = used_at;
        return e;
}

static void there_is_of(const char *owner, const char *name, uint64_t bytes, uint64_t used_at,
                        unsigned in_use) {
        LauncherEvent e = environment_event(LAUNCHER_ENVIRONMENT, name, bytes, used_at);

        strcpy(e.environment.owner, owner);
        e.environment.in_use = in_use;
        launcher_says(&e, NULL, NULL);
}

static void there_is(const char *name, uint64_t bytes, uint64_t used_at, unsigned in_use) {
        there_is_of("", name, bytes, used_at, in_use);
}

static void list_ends(void) {
        launcher_says(&(LauncherEvent){ .op = LAUNCHER_ENVIRONMENTS_END }, NULL, NULL);
}

static void build_started(const char *name) {
        LauncherEvent e = environment_event(LAUNCHER_BUILD_STARTED, name, 0, 0);

        launcher_says(&e, NULL, NULL);
}

static void build_ended(const char *name, OutcomeKind outcome, const char *log, const char *report) {
        LauncherEvent e = { .op = LAUNCHER_BUILD_ENDED };

        strcpy(e.build_ended.environment, name);
        e.build_ended.outcome = outcome;
        e.build_ended.status = 1;
        e.build_ended.limit = disk_is_full ? 0 : 1000;
        e.build_ended.bytes = 400;
        e.build_ended.files = 7;
        e.build_ended.run_usec = 2500000;
        launcher_says(&e, log, report);
}

static void refused(const char *name, int error, const char *text) {
        LauncherEvent e = { .op = LAUNCHER_REFUSED, .error = error };

        strcpy(e.refused.environment, name);
        strcpy(e.refused.text, text);
        launcher_says(&e, NULL, NULL);
}

/* Single quotes, for readability. */
static int master_says_with(const char *text, const struct iovec *payloads, size_t n_payloads) {
        Frame frame = { .type = FRAME_ENVIRONMENT, .payloads = payloads, .n_payloads = n_payloads };
        char quoted[4096];
        size_t i = 0;
        int r;

        for (; text[i]; i++)
                quoted[i] = text[i] == '\'' ? '"' : text[i];
        assert_ok(json_parse_strict(quoted, i, JSON_DEPTH_MAX, &frame.json));
        r = environments_master_frame(table, &frame);
        json_object_put(frame.json);
        settle();
        return r;
}

static void master_says(const char *text) {
        assert_ok(master_says_with(text, NULL, 0));
}

static void order(const char *key, const char *name) {
        char text[256];

        snprintf(text, sizeof(text), "{'%s':[{'name':'%s','python':'3.11','packages':['a']}]}", key, name);
        master_says(text);
}

static void order_of(const char *owner, const char *key, const char *name) {
        char text[256];

        snprintf(text, sizeof(text), "{'%s':[{'name':'%s','owner':'%s','python':'3.11','packages':['a']}]}",
                 key, name, owner);
        master_says(text);
}

static void connect_up(void) {
        environments_launcher_up(table);
        list_ends();
        environments_master_up(table);
        settle();
        forget();
}

/* The n-th request of a kind, from 1 on; NULL when there are fewer. */
static const LauncherRequest *asked(LauncherOp op, size_t n) {
        for (size_t i = 0; i < n_requests; i++)
                if (requests[i].request.op == op && --n == 0)
                        return &requests[i].request;
        return NULL;
}

/* The last entry about one, with its frame in ret. */
static json_object *entry_of(const char *name, size_t *ret) {
        json_object *found = NULL;

        for (size_t i = 0; i < n_told; i++) {
                json_object *array;

                assert_ok(json_get_array(told[i].json, "environments", 10000, &array));
                for (size_t k = 0; k < json_object_array_length(array); k++) {
                        json_object *entry = json_object_array_get_idx(array, k);
                        const char *text;

                        assert_ok(json_get_string(entry, "name", 100, &text));
                        if (streq(text, name)) {
                                found = entry;
                                if (ret)
                                        *ret = i;
                        }
                }
        }
        return found;
}

static void assert_text(json_object *object, const char *key, const char *expected) {
        const char *text;

        assert_non_null(object);
        assert_ok(json_get_string(object, key, 10000, &text));
        assert_string_equal(text, expected);
}

static void assert_has(json_object *object, const char *key, const char *expected) {
        const char *text;

        assert_non_null(object);
        assert_ok(json_get_string(object, key, 10000, &text));
        if (!strstr(text, expected))
                fail_msg("expected '%s' in: %s", expected, text);
}

#define assert_told(name, state) assert_text(entry_of((name), NULL), "state", (state))

static bool is_complete(size_t i) {
        bool complete;

        assert_ok(json_get_bool(told[i].json, "complete", &complete));
        return complete;
}

/* Tests. */

static void test_complete_when_both_have_spoken(void **state) {
        json_object *array;
        uint64_t n;

        environments_master_up(table);
        settle();
        environments_launcher_up(table);
        settle();
        assert_non_null(asked(LAUNCHER_ENVIRONMENTS, 1));
        there_is(ONE, 100, 7000, 2);
        assert_int_equal(n_told, 0);
        list_ends();
        assert_int_equal(n_told, 1);
        assert_true(is_complete(0));
        assert_told(ONE, "ready");
        assert_ok(json_get_uint64(entry_of(ONE, NULL), "bytes", 1000, &n));
        assert_int_equal(n, 100);
        assert_ok(json_get_uint64(entry_of(ONE, NULL), "used_at", 1000, &n));
        assert_int_equal(n, 7);
        assert_ok(json_get_uint64(entry_of(ONE, NULL), "in_use", 1000, &n));
        assert_int_equal(n, 2);

        /* Another connection: all of it again. */
        forget();
        environments_master_down(table);
        environments_master_up(table);
        settle();
        assert_int_equal(n_told, 1);
        assert_true(is_complete(0));
        assert_ok(json_get_array(told[0].json, "environments", 10, &array));
        assert_int_equal(json_object_array_length(array), 1);
}

static void test_build(void **state) {
        const LauncherBuild *build;
        json_object *libraries, *object;
        double seconds;

        connect_up();
        master_says("{'build':[{'name':'" ONE "','owner':'alice','python':'3.12','packages':['numpy>=2'],"
                    "'only_wheels':true,'preload':['numpy']}]}");
        assert_non_null(asked(LAUNCHER_BUILD, 1));
        build = &asked(LAUNCHER_BUILD, 1)->build;
        assert_string_equal(build->environment, ONE);
        assert_string_equal(build->owner, "alice");
        assert_string_equal(build->python, "3.12");
        assert_int_equal(build->flags, 0);
        assert_int_equal(build->memory_max, config.environments.memory);
        assert_int_equal(build->disk_max, config.environments.disk);
        assert_int_equal(build->files_max, config.environments.files);
        assert_int_equal(build->tasks_max, config.environments.processes);
        assert_int_equal(build->timeout_usec, config.environments.timeout);
        assert_true(build->cpu_quota_usec >= 10000);
        assert_ok(json_parse_strict_object(requests[0].order, strlen(requests[0].order), 8, &object));
        assert_text(object, "op", "build");
        assert_text(object, "target", ENVIRONMENT_FOLDER "/" ONE);
        json_object_put(object);
        assert_told(ONE, "building");
        assert_non_null(environments_current(table));
        build_started(ONE);
        build_ended(ONE, OUTCOME_VALUE, "words",
                    "{\"libraries\":{\"numpy\":\"2.1.0\"},\"installer\":\"uv 1\"}");
        assert_told(ONE, "ready");
        assert_text(entry_of(ONE, NULL), "installer", "uv 1");
        assert_ok(json_get_object(entry_of(ONE, NULL), "libraries", &libraries));
        assert_text(libraries, "numpy", "2.1.0");
        assert_ok(json_get_double(entry_of(ONE, NULL), "seconds", 0, 100, &seconds));
        assert_true(seconds == 2.5);
        assert_null(environments_current(table));
        assert_int_equal(environments_statistics(table)->builds, 1);
        assert_int_equal(environments_statistics(table)->build_bytes, 400);
        assert_int_equal(environments_bytes(table), 400);

        /* Ordered once more: it is told, and not built. */
        forget();
        order("build", ONE);
        assert_told(ONE, "ready");
        assert_int_equal(n_requests, 0);
}

static void test_one_at_a_time(void **state) {
        connect_up();
        master_says("{'build':[{'name':'" ONE "','python':'3.11'},{'name':'" TWO "','python':'3.11'}]}");
        assert_null(asked(LAUNCHER_BUILD, 2));
        assert_null(entry_of(TWO, NULL));
        order("build", ONE);
        order("build", TWO);
        assert_null(asked(LAUNCHER_BUILD, 2));
        build_ended(ONE, OUTCOME_VALUE, "", NULL);
        assert_told(ONE, "ready");
        assert_string_equal(asked(LAUNCHER_BUILD, 2)->build.environment, TWO);
        assert_told(TWO, "building");

        /* A complete state has what waits, too. */
        order("build", THREE);
        forget();
        environments_master_down(table);
        environments_master_up(table);
        settle();
        assert_told(TWO, "building");
        assert_told(THREE, "building");
}

/* The names of what was begun, in that order. */
static void assert_begun(const char *expected) {
        char names[512] = "";

        for (size_t n = 1; asked(LAUNCHER_BUILD, n); n++)
                snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s ",
                         asked(LAUNCHER_BUILD, n)->build.environment);
        assert_string_equal(names, expected);
}

/* Who orders much waits for himself, and nobody for him; everybody's is first. */
static void test_owners_take_turns(void **state) {
        static const char *const order_of_ends[] = { "a1", "all", "b1", "a2", "b2", "a3" };

        connect_up();
        order_of("anna", "build", "a1");
        order_of("anna", "resolve", "a2");
        order_of("anna", "build", "a3");
        order_of("bert", "build", "b1");
        order_of("bert", "build", "b2");
        order("build", "all");
        assert_begun("a1 ");
        for (size_t i = 0; i < ELEMENTSOF(order_of_ends); i++)
                build_ended(order_of_ends[i], OUTCOME_EXIT, "words", NULL);
        assert_begun("a1 all b1 a2 b2 a3 ");
}

/* Also where there is room for two. */
static void test_one_build_of_an_owner(void **state) {
        config.environments.builds = 2;
        connect_up();
        order_of("anna", "build", "a1");
        order_of("anna", "build", "a2");
        assert_begun("a1 ");
        order_of("bert", "build", "b1");
        assert_begun("a1 b1 ");
        build_ended("b1", OUTCOME_VALUE, "", NULL);
        assert_begun("a1 b1 ");
        build_ended("a1", OUTCOME_VALUE, "", NULL);
        assert_begun("a1 b1 a2 ");
}

static void test_an_owner_fills_no_queue(void **state) {
        char name[16];

        connect_up();
        for (unsigned i = 0; i < 66; i++) {
                snprintf(name, sizeof(name), "anna-%u", i);
                order_of("anna", "build", name);
                forget(); /* what is told */
        }
        order_of("anna", "build", "one-more");
        assert_told("one-more", "failed");
        assert_text(entry_of("one-more", NULL), "reason", "infrastructure");
        order_of("bert", "build", "berts");
        assert_null(entry_of("berts", NULL));
        build_ended("anna-0", OUTCOME_VALUE, "", NULL);
        assert_non_null(asked(LAUNCHER_BUILD, 1));
}

/* What nobody waits for any more makes way for others. */
static void test_orders_are_withdrawn(void **state) {
        connect_up();
        order_of("anna", "resolve", "request-1");
        order_of("anna", "resolve", "request-2");
        order_of("bert", "build", "b1");
        master_says("{'remove':['request-1','request-2']}");
        assert_string_equal(asked(LAUNCHER_BUILD_STOP, 1)->environment.environment, "request-1");
        assert_null(asked(LAUNCHER_BUILD_STOP, 2));
        assert_told("request-2", "removed");
        /* It had just come to its end. */
        build_ended("request-1", OUTCOME_VALUE, "", "{\"lock\":\"\"}");
        assert_told("request-1", "removed");
        assert_begun("request-1 b1 ");
        assert_int_equal(hashmap_size(environments_all(table)), 1);
}

static void test_resolve(void **state) {
        static char lock[300000], report[400000];
        struct iovec payloads[2];
        json_object *object;
        uint64_t n;
        size_t i;

        connect_up();
        payloads[0] = (struct iovec){ .iov_base = (char[]){ "numpy=" }, .iov_len = 6 };
        payloads[1] = (struct iovec){ .iov_base = (char[]){ "=2.1.0\n" }, .iov_len = 7 };
        assert_ok(master_says_with("{'resolve':[{'name':'request-1','python':'3.11','packages':['numpy'],"
                                   "'index':true,'folders':2,'payload':0,'payloads':2,"
                                   "'wheels':[{'name':'x-1.0-py3-none-any.whl','digest':"
                                   "'0000000000000000000000000000000000000000000000000000000000000000'}]}]}",
                                   payloads, 2));
        assert_int_equal(asked(LAUNCHER_BUILD, 1)->build.flags, BUILD_FLAG_RESOLVE | BUILD_FLAG_INDEX);
        assert_ok(json_parse_strict_object(requests[0].order, strlen(requests[0].order), 8, &object));
        assert_text(object, "op", "resolve");
        assert_text(object, "lock", "numpy==2.1.0\n");
        assert_text(object, "index", "http://127.0.0.1:7879/simple/");
        assert_non_null(strstr(requests[0].order, "http://127.0.0.1:7879/local/1/"));
        json_object_put(object);
        assert_told("request-1", "resolving");
        build_started("request-1");

        memset(lock, 'x', sizeof(lock) - 1);
        snprintf(report, sizeof(report), "{\"lock\":\"%s\",\"installer\":\"uv 1\"}", lock);
        build_ended("request-1", OUTCOME_VALUE, "", report);
        assert_told("request-1", "resolved");
        assert_ok(json_get_uint64(entry_of("request-1", &i), "payloads", 100, &n));
        assert_int_equal(n, 2);
        assert_string_equal(told[i].payloads, lock);
        /* It is over with that. */
        assert_null(hashmap_get(environments_all(table), "request-1"));
        assert_int_equal(environments_statistics(table)->builds, 0);
}

static void test_failures(void **state) {
        static const struct {
                OutcomeKind outcome;
                const char *reason, *message;
        } cases[] = {
                { OUTCOME_EXIT, "installer", "exit status 1" },
                { OUTCOME_MEMORY, "memory", "environments.memory" },
                { OUTCOME_TIMEOUT, "timeout", "environments.timeout" },
                { OUTCOME_DISK, "disk", "environments.disk" },
                { OUTCOME_SIGNAL, "signal", "signal" },
        };
        uint64_t n;
        size_t i;

        connect_up();
        for (size_t k = 0; k < ELEMENTSOF(cases); k++) {
                forget();
                order("build", ONE);
                build_ended(ONE, cases[k].outcome, "no such package", NULL);
                assert_told(ONE, "failed");
                assert_text(entry_of(ONE, &i), "reason", cases[k].reason);
                assert_has(entry_of(ONE, NULL), "message", cases[k].message);
                assert_ok(json_get_uint64(entry_of(ONE, NULL), "payloads", 100, &n));
                assert_int_equal(n, 1);
                assert_string_equal(told[i].payloads, "no such package");
                assert_int_equal(hashmap_size(environments_all(table)), 0);
        }
        assert_int_equal(environments_statistics(table)->failures, ELEMENTSOF(cases));

        /* Not its own fault: others may have room. */
        forget();
        disk_is_full = true;
        order("build", ONE);
        build_ended(ONE, OUTCOME_DISK, "words", NULL);
        assert_told(ONE, "failed");
        assert_text(entry_of(ONE, NULL), "reason", "infrastructure");
        assert_null(asked(LAUNCHER_BUILD, 2));

        /* A builder that is not to be believed. */
        forget();
        order("resolve", "request-1");
        build_ended("request-1", OUTCOME_VALUE, "", "{\"lock\":7}");
        assert_told("request-1", "failed");
        assert_text(entry_of("request-1", NULL), "reason", "infrastructure");
        /* Of a build only what it says is missing then. */
        order("build", ONE);
        build_ended(ONE, OUTCOME_VALUE, "", "{\"libraries\":{\"a b\":\"1\"}}");
        assert_told(ONE, "ready");
        assert_false(json_object_object_get_ex(entry_of(ONE, NULL), "libraries", NULL));

        /* What this node can never make. */
        master_says("{'build':[{'name':'" TWO "','python':'3.9'}]}");
        assert_told(TWO, "failed");
        assert_has(entry_of(TWO, NULL), "message", "does not have that Python");
}

/* What the installer has no part in is tried again; a busy launcher is only waited for. */
static void test_tried_again(void **state) {
        connect_up();
        order("build", ONE);
        for (unsigned i = 0; i < 2; i++) {
                refused(ONE, -EAGAIN, "the launcher is about to end");
                wait_for(asked(LAUNCHER_BUILD, 2 * i + 2));
                build_ended(ONE, OUTCOME_INFRASTRUCTURE, "", NULL);
                wait_for(asked(LAUNCHER_BUILD, 2 * i + 3));
        }
        build_ended(ONE, OUTCOME_INFRASTRUCTURE, "words", NULL);
        assert_told(ONE, "failed");
        assert_text(entry_of(ONE, NULL), "reason", "infrastructure");
        assert_has(entry_of(ONE, NULL), "message", "its sandbox broke");
}

static void test_end_without_a_master(void **state) {
        connect_up();
        order("build", ONE);
        environments_master_down(table);
        build_ended(ONE, OUTCOME_EXIT, "words", NULL);
        forget();
        environments_master_up(table);
        settle();
        assert_int_equal(n_told, 2);
        assert_true(is_complete(0) && !is_complete(1));
        assert_told(ONE, "failed");
        assert_int_equal(hashmap_size(environments_all(table)), 0);
}

static void test_launcher_goes_away(void **state) {
        connect_up();
        order("build", ONE);
        for (unsigned i = 0; i < 2; i++) {
                environments_launcher_down(table);
                settle();
                assert_null(environments_current(table));
                environments_launcher_up(table);
                settle();
                assert_non_null(asked(LAUNCHER_BUILD, i + 2));
        }
        environments_launcher_down(table);
        settle();
        assert_told(ONE, "failed");
        assert_text(entry_of(ONE, NULL), "reason", "infrastructure");
}

static void test_launcher_refuses(void **state) {
        connect_up();
        order("build", ONE);
        refused(ONE, -EALREADY, "there is a build of it");
        assert_null(environments_current(table));
        wait_for(asked(LAUNCHER_BUILD, 2));
        refused(ONE, -EEXIST, "it is there");
        assert_told(ONE, "ready");
        order("build", TWO);
        refused(TWO, -ENOSPC, "the disk is full");
        assert_told(TWO, "failed");
        assert_text(entry_of(TWO, NULL), "message", "the disk is full");
}

static void test_use(void **state) {
        char why[ENVIRONMENTS_WHY_SIZE];

        connect_up();
        there_is(ONE, 100, 0, 0);
        assert_ok(environments_use(table, "default", why));
        assert_ok(environments_use(table, "python-3.12", why));
        assert_ok(environments_use(table, "system-3.11", why));
        assert_ok(environments_use(table, ONE, why));
        assert_int_equal(environments_statistics(table)->hits, 1);
        assert_int_equal(environments_use(table, "python-3.9", why), -ENOENT);
        assert_non_null(strstr(why, "no Python 3.9"));
        assert_int_equal(environments_use(table, TWO, why), -ENOENT);
        assert_non_null(strstr(why, "not known there"));
        order("build", TWO);
        assert_int_equal(environments_use(table, TWO, why), -ENOENT);
        assert_non_null(strstr(why, "it is building"));
}

/* Least recently used first, never one in use or a default one. */
static void test_room(void **state) {
        char why[ENVIRONMENTS_WHY_SIZE];

        environments_launcher_up(table);
        environments_master_up(table);
        settle();
        forget();
        there_is("in-use", 300, 1000, 1);
        there_is("kept", 300, 2000, 0);
        there_is("wanted", 300, 3000, 0);
        there_is("older", 300, 4000, 0);
        there_is("newer", 300, 5000, 0);
        there_is("fresh", 300, 500, 0);
        wanted = "wanted";
        assert_ok(environments_use(table, "fresh", why));
        list_ends();
        /* What is to be kept is not known yet. */
        assert_int_equal(n_requests, 0);
        master_says("{'keep':['kept']}");
        /* 1800: three have to go, and three may not. Whether one is in use is the launcher's to say. */
        assert_string_equal(asked(LAUNCHER_ENVIRONMENT_REMOVE, 1)->environment.environment, "in-use");
        assert_string_equal(asked(LAUNCHER_ENVIRONMENT_REMOVE, 2)->environment.environment, "older");
        assert_string_equal(asked(LAUNCHER_ENVIRONMENT_REMOVE, 3)->environment.environment, "newer");
        assert_null(asked(LAUNCHER_ENVIRONMENT_REMOVE, 4));
        assert_int_equal(environments_use(table, "newer", why), -ENOENT);

        /* A task has it: it stays, and nothing else may go in its place. */
        refused("in-use", -EBUSY, "it is in use");
        assert_told("in-use", "ready");
        assert_null(asked(LAUNCHER_ENVIRONMENT_REMOVE, 4));
        launcher_says(&(LauncherEvent){ .op = LAUNCHER_ENVIRONMENT_REMOVED,
                                        .environment = { .environment = "older" } },
                      NULL, NULL);
        assert_told("older", "removed");
        assert_null(hashmap_get(environments_all(table), "older"));

        followed[0] = '\0';
        launcher_says(&(LauncherEvent){ .op = LAUNCHER_ENVIRONMENT_REMOVED,
                                        .environment = { .environment = "newer" } },
                      NULL, NULL);
        assert_told("newer", "removed");
        assert_string_equal(followed, "newer cold ");
        assert_int_equal(environments_bytes(table), 1200);
}

/* Who has the most makes room, not those who have little. */
static void test_room_of_the_largest_owner(void **state) {
        environments_launcher_up(table);
        environments_master_up(table);
        settle();
        forget();
        there_is_of("bert", "small", 200, 1000, 0);
        there_is("old-default", 100, 1500, 0);
        there_is_of("anna", "large-1", 400, 9000, 0);
        there_is_of("anna", "large-2", 400, 8000, 0);
        list_ends();
        master_says("{'keep':[]}");
        assert_string_equal(asked(LAUNCHER_ENVIRONMENT_REMOVE, 1)->environment.environment, "large-2");
        assert_null(asked(LAUNCHER_ENVIRONMENT_REMOVE, 2));
}

/* What may not go, and what a build may write, are within the bounds together. */
static void test_no_room_for_a_build(void **state) {
        connect_up();
        there_is("kept", 300, 1000, 0);
        there_is_of("anna", "used", 300, 2000, 0);
        wanted = "used";
        master_says("{'keep':['kept','" TWO "']}");
        order_of("bert", "build", ONE);
        assert_told(ONE, "failed");
        assert_text(entry_of(ONE, NULL), "reason", "infrastructure");
        assert_has(entry_of(ONE, NULL), "message", "environments.size");
        assert_null(asked(LAUNCHER_BUILD, 1));
        /* The default ones in any case, and what stays nowhere. */
        order("build", TWO);
        assert_non_null(asked(LAUNCHER_BUILD, 1));
        build_ended(TWO, OUTCOME_EXIT, "", NULL);
        order_of("bert", "resolve", "request-1");
        assert_non_null(asked(LAUNCHER_BUILD, 2));
        build_ended("request-1", OUTCOME_EXIT, "", NULL);
        wanted = NULL;
        order_of("bert", "build", ONE);
        assert_non_null(asked(LAUNCHER_BUILD, 3));
}

static void test_removed_by_order(void **state) {
        uint64_t n;

        connect_up();
        there_is(ONE, 100, 0, 0);
        master_says("{'remove':['" ONE "','" TWO "']}");
        assert_told(TWO, "removed"); /* there is none */
        assert_string_equal(asked(LAUNCHER_ENVIRONMENT_REMOVE, 1)->environment.environment, ONE);
        refused(ONE, -EBUSY, "it is in use");
        assert_told(ONE, "ready");
        assert_ok(json_get_uint64(entry_of(ONE, NULL), "in_use", 10, &n));
        assert_int_equal(n, 1);

        /* Ordered while it goes: it is built when it has gone. */
        master_says("{'remove':['" ONE "']}");
        order("build", ONE);
        assert_null(asked(LAUNCHER_BUILD, 1));
        refused(ONE, -ENOENT, "there is none");
        assert_string_equal(asked(LAUNCHER_BUILD, 1)->build.environment, ONE);

        /* One that is built, and one that waits. */
        order("build", TWO);
        forget();
        master_says("{'remove':['" ONE "','" TWO "']}");
        assert_told(TWO, "removed");
        assert_string_equal(asked(LAUNCHER_BUILD_STOP, 1)->environment.environment, ONE);
        build_ended(ONE, OUTCOME_CANCELLED, "", NULL);
        assert_told(ONE, "removed");
        assert_int_equal(hashmap_size(environments_all(table)), 0);
}

static void test_removed_by_hand(void **state) {
        connect_up();
        there_is(ONE, 100, 0, 0);
        environments_launcher_down(table);
        environments_launcher_up(table);
        settle();
        list_ends();
        assert_told(ONE, "removed");
}

static void test_default_is_followed(void **state) {
        connect_up();
        there_is(ONE, 100, 0, 0);
        master_says("{'keep':['" ONE "']}");
        assert_non_null(strstr(followed, "python->1111111 "));
        assert_non_null(strstr(followed, "default>1111111 "));
        forget();
        master_says("{'keep':['" TWO "'],'build':[{'name':'" TWO "','python':'3.11'}]}");
        assert_string_equal(followed, "");
        build_ended(TWO, OUTCOME_VALUE, "", NULL);
        assert_non_null(strstr(followed, "1111111>2222222 "));
        forget();
        master_says("{'keep':['" TWO "']}");
        assert_string_equal(followed, "");
}

static void test_broken_frames(void **state) {
        static const char *const broken[] = {
                "{'build':1}",
                "{'build':[1]}",
                "{'build':[{'name':'" ONE "'}]}",
                "{'build':[{'name':'../x','python':'3.11'}]}",
                "{'build':[{'name':'x','python':'3'}]}",
                "{'build':[{'name':'x','python':'3.11','owner':'a/b'}]}",
                "{'build':[{'name':'x','python':'3.11','packages':'a'}]}",
                "{'build':[{'name':'x','python':'3.11','packages':['']}]}",
                "{'build':[{'name':'x','python':'3.11','packages':['a\\n-r /etc/passwd']}]}",
                "{'build':[{'name':'x','python':'3.11','payload':0}]}",
                "{'build':[{'name':'x','python':'3.11','index':1}]}",
                "{'build':[{'name':'x','python':'3.11','folders':100}]}",
                "{'build':[{'name':'x','python':'3.11','wheels':[{'name':'a.whl','digest':'0'}]}]}",
                "{'remove':['A']}",
                "{'keep':[7]}",
        };

        connect_up();
        for (size_t i = 0; i < ELEMENTSOF(broken); i++)
                assert_int_equal(master_says_with(broken[i], NULL, 0), -EBADMSG);
        assert_int_equal(n_requests, 0);
        assert_int_equal(hashmap_size(environments_all(table)), 0);
        /* What is unknown may be there. */
        master_says("{'weather':'fine','build':[{'name':'x','python':'3.11','colour':'red'}]}");
        assert_non_null(asked(LAUNCHER_BUILD, 1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_complete_when_both_have_spoken),
                TEST(test_build),
                TEST(test_one_at_a_time),
                TEST(test_owners_take_turns),
                TEST(test_one_build_of_an_owner),
                TEST(test_an_owner_fills_no_queue),
                TEST(test_orders_are_withdrawn),
                TEST(test_resolve),
                TEST(test_failures),
                TEST(test_tried_again),
                TEST(test_end_without_a_master),
                TEST(test_launcher_goes_away),
                TEST(test_launcher_refuses),
                TEST(test_use),
                TEST(test_room),
                TEST(test_room_of_the_largest_owner),
                TEST(test_no_room_for_a_build),
                TEST(test_removed_by_order),
                TEST(test_removed_by_hand),
                TEST(test_default_is_followed),
                TEST(test_broken_frames),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
