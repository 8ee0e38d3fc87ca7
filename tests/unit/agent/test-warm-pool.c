/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "warm-pool.h"

static unsigned n_asked, last_count;
static char last_owner[OWNER_NAME_MAX];

static void on_ask(const LauncherKey *key, unsigned count, void *userdata) {
        n_asked++;
        last_count = count;
        strcpy(last_owner, key->owner);
}

static void test_once_for_each_key(void **state) {
        _cleanup_(warm_pool_freep) WarmPool *pool = NULL;
        LauncherKey key = { .owner = "alice", .environment = "default", .policy = "default" };
        sd_event *event;

        n_asked = 0;
        assert_ok(sd_event_new(&event));
        assert_ok(warm_pool_new(event, 4, on_ask, NULL, &pool));
        for (int i = 0; i < 3; i++)
                warm_pool_use(pool, &key);
        assert_int_equal(n_asked, 1);
        assert_int_equal(last_count, 4);
        key.host_network = 1;
        warm_pool_use(pool, &key);
        assert_int_equal(n_asked, 2);
        warm_pool_renew(pool);
        assert_int_equal(n_asked, 4);
        for (int i = 0; i < 1000; i++) { /* bounded, whatever comes */
                snprintf(key.owner, sizeof(key.owner), "owner%d", i);
                warm_pool_use(pool, &key);
        }
        n_asked = 0;
        warm_pool_renew(pool);
        assert_int_equal(n_asked, 256);
        pool = warm_pool_free(pool);
        sd_event_unref(event);
}

static void test_environments_come_and_go(void **state) {
        _cleanup_(warm_pool_freep) WarmPool *pool = NULL;
        LauncherKey key = { .owner = "alice", .environment = "first" };
        sd_event *event;

        n_asked = 0;
        assert_ok(sd_event_new(&event));
        assert_ok(warm_pool_new(event, 4, on_ask, NULL, &pool));
        warm_pool_use(pool, &key);
        memcpy(key.environment, "other", sizeof("other"));
        warm_pool_use(pool, &key);
        warm_pool_follow(pool, "first", "next");
        assert_int_equal(n_asked, 3);
        assert_int_equal(last_count, 4);
        warm_pool_follow(pool, "first", "next"); /* is warm already */
        warm_pool_follow(pool, "unknown", "more");
        assert_int_equal(n_asked, 3);
        warm_pool_forget(pool, "first");
        assert_int_equal(n_asked, 4);
        assert_int_equal(last_count, 0);
        warm_pool_renew(pool);
        assert_int_equal(n_asked, 6);
        /* And is asked for again when it is used again. */
        memcpy(key.environment, "first", sizeof("first"));
        warm_pool_use(pool, &key);
        assert_int_equal(n_asked, 7);
        pool = warm_pool_free(pool);
        sd_event_unref(event);
}

static void test_none_wanted(void **state) {
        _cleanup_(warm_pool_freep) WarmPool *pool = NULL;
        LauncherKey key = { .owner = "alice" };
        sd_event *event;

        n_asked = 0;
        assert_ok(sd_event_new(&event));
        assert_ok(warm_pool_new(event, 0, on_ask, NULL, &pool));
        warm_pool_use(pool, &key);
        assert_int_equal(n_asked, 0);
        pool = warm_pool_free(pool);
        sd_event_unref(event);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_once_for_each_key),
                cmocka_unit_test(test_environments_come_and_go),
                cmocka_unit_test(test_none_wanted),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
