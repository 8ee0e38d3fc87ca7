/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "hashmap.h"
#include "list.h"
#include "prioq.h"

static void test_hashmap_strings(void **state) {
        _cleanup_(hashmap_freep) Hashmap *map = NULL;
        int a = 1, b = 2;
        void *old;

        assert_ok(hashmap_new(HASHMAP_STRING, &map));
        assert_null(hashmap_get(NULL, "x"));
        assert_null(hashmap_get(map, "x"));
        assert_int_equal(hashmap_size(NULL), 0);
        assert_ok(hashmap_put(map, "one", &a));
        assert_error(hashmap_put(map, "one", &b), EEXIST);
        assert_error(hashmap_put(map, "null", NULL), EINVAL);
        assert_ptr_equal(hashmap_get(map, "one"), &a);
        assert_ok(hashmap_replace(map, "one", &b, &old));
        assert_ptr_equal(old, &a);
        assert_ok(hashmap_replace(map, "two", &a, &old));
        assert_null(old);
        assert_int_equal(hashmap_size(map), 2);
        assert_ptr_equal(hashmap_first(map), &b);
        assert_ptr_equal(hashmap_remove(map, "one"), &b);
        assert_null(hashmap_remove(map, "one"));
        assert_ptr_equal(hashmap_first(map), &a);
        hashmap_clear(map);
        assert_null(hashmap_first(map));
}

static void test_hashmap_ids(void **state) {
        _cleanup_(hashmap_freep) Hashmap *map = NULL;
        Id a, b;
        int x;

        assert_ok(hashmap_new(HASHMAP_ID, &map));
        assert_ok(id_random(&a));
        assert_ok(id_random(&b));
        assert_ok(hashmap_put(map, &a, &x));
        /* Keys are copied. */
        b = a;
        memset(&a, 0, sizeof(a));
        assert_ptr_equal(hashmap_get(map, &b), &x);
        assert_null(hashmap_get(map, &a));
}

/* Against a plain array, with many collisions of the table's places, holes and rebuilds. */
static void test_hashmap_model(void **state) {
        enum { KEYS = 2000, STEPS = 60000 };
        static int values[KEYS];
        static bool present[KEYS];
        _cleanup_(hashmap_freep) Hashmap *map = NULL;
        size_t size = 0;

        memset(present, 0, sizeof(present));
        srand(1);
        assert_ok(hashmap_new(HASHMAP_U64, &map));
        for (int i = 0; i < STEPS; i++) {
                unsigned key = (unsigned) rand() % (i % 10000 < 5000 ? KEYS : 20);
                bool remove = i % 20000 > 15000 || rand() % 3 == 0;

                if (remove) {
                        assert_ptr_equal(hashmap_remove_u64(map, key), present[key] ? &values[key] : NULL);
                        size -= present[key];
                        present[key] = false;
                } else {
                        assert_int_equal(hashmap_put_u64(map, key, &values[key]),
                                         present[key] ? -EEXIST : 0);
                        size += !present[key];
                        present[key] = true;
                }
                assert_int_equal(hashmap_size(map), size);
        }
        for (unsigned key = 0; key < KEYS; key++)
                assert_ptr_equal(hashmap_get_u64(map, key), present[key] ? &values[key] : NULL);
}

static void test_hashmap_walk(void **state) {
        _cleanup_(hashmap_freep) Hashmap *map = NULL;
        HashmapIterator iterator = HASHMAP_ITERATOR;
        const void *key;
        void *value;
        int values[100], *v, next = 0;

        assert_ok(hashmap_new(HASHMAP_U64, &map));
        for (int i = 0; i < 100; i++) {
                values[i] = i;
                assert_ok(hashmap_put_u64(map, (uint64_t) i, &values[i]));
        }
        /* In the order of insertion, and removing while walking is allowed, also of others. */
        HASHMAP_FOREACH(v, map) {
                assert_int_equal(*v, next);
                next += 2;
                assert_ptr_equal(hashmap_remove_u64(map, (uint64_t) *v), v);
                assert_non_null(hashmap_remove_u64(map, (uint64_t) *v + 1));
        }
        assert_int_equal(next, 100);
        assert_int_equal(hashmap_size(map), 0);
        assert_ok(hashmap_put_u64(map, 7, &values[7]));
        assert_true(hashmap_iterate(map, &iterator, &value, &key));
        assert_int_equal(*(const uint64_t *) key, 7);
        assert_false(hashmap_iterate(map, &iterator, &value, &key));
}

typedef struct Member {
        int value;
        size_t index;
        ListLink link;
} Member;

static void test_list(void **state) {
        ListLink head = { 0 };
        Member m[4] = { { .value = 0 }, { .value = 1 }, { .value = 2 }, { .value = 3 } };
        int n = 0;

        assert_true(list_is_empty(&head));
        LIST_FOREACH(Member, i, link, &head)
                fail();
        list_init(&head);
        assert_null(LIST_FIRST(Member, link, &head));
        list_append(&head, &m[1].link);
        list_append(&head, &m[2].link);
        list_prepend(&head, &m[0].link);
        list_append(&head, &m[3].link);
        assert_ptr_equal(LIST_FIRST(Member, link, &head), &m[0]);
        assert_ptr_equal(LIST_LAST(Member, link, &head), &m[3]);
        LIST_FOREACH(Member, i, link, &head) {
                assert_int_equal(i->value, n);
                n++;
                if (n == 3)
                        break;
        }
        assert_int_equal(n, 3);
        LIST_FOREACH(Member, i, link, &head)
                list_remove(&i->link);
        assert_true(list_is_empty(&head));
        assert_false(list_is_linked(&m[0].link));
        list_remove(&m[0].link);
}

static int compare_members(const void *left, const void *right) {
        const Member *l = left, *r = right;

        return (l->value > r->value) - (l->value < r->value);
}

static void test_prioq(void **state) {
        enum { N = 500 };
        _cleanup_(prioq_freep) Prioq *q = NULL;
        static Member m[N];
        int last = -1;
        size_t n = 0;

        srand(2);
        assert_ok(prioq_new(compare_members, offsetof(Member, index), &q));
        assert_null(prioq_pop(q));
        for (int i = 0; i < N; i++) {
                m[i] = (Member){ .value = rand() % 1000, .index = PRIOQ_NONE };
                assert_ok(prioq_put(q, m + i));
                assert_error(prioq_put(q, m + i), EEXIST);
        }
        for (int i = 0; i < N; i += 3)
                prioq_remove(q, m + i);
        prioq_remove(q, m);
        for (int i = 1; i < N; i += 3) {
                m[i].value = rand() % 1000;
                prioq_reshuffle(q, m + i);
        }
        assert_int_equal(prioq_size(q), N - (N + 2) / 3);
        for (Member *i; (i = prioq_pop(q)); n++) {
                assert_true(i->value >= last);
                assert_int_equal(i->index, PRIOQ_NONE);
                last = i->value;
        }
        assert_int_equal(n, N - (N + 2) / 3);
        assert_ok(prioq_put(q, m));
        assert_ptr_equal(prioq_at(q, 0), m);
        assert_null(prioq_at(q, 1));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_hashmap_strings),
                cmocka_unit_test(test_hashmap_ids),
                cmocka_unit_test(test_hashmap_model),
                cmocka_unit_test(test_hashmap_walk),
                cmocka_unit_test(test_list),
                cmocka_unit_test(test_prioq),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
