/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>

#include "code-cache.h"
#include "fd-util.h"

static CodeEntry *add(CodeCache *cache, const char *owner, const char *text, uint64_t size) {
        CodeEntry *entry;
        Digest digest;
        int fd = memfd_new_sealed("code", text, strlen(text));

        assert_ok(fd);
        assert_ok(digest_sha256(text, strlen(text), &digest));
        assert_ok(code_cache_add(cache, owner, &digest, fd, size, &entry));
        return entry;
}

static CodeEntry *get(CodeCache *cache, const char *owner, const char *text) {
        Digest digest;

        assert_ok(digest_sha256(text, strlen(text), &digest));
        return code_cache_get(cache, owner, &digest);
}

static void test_owners_are_apart(void **state) {
        _cleanup_(code_cache_freep) CodeCache *cache = NULL;
        CodeEntry *entry;

        assert_ok(code_cache_new(100, &cache));
        code_entry_drop(add(cache, "alice", "f", 10));
        assert_null(get(cache, "bob", "f"));
        entry = get(cache, "alice", "f");
        assert_non_null(entry);
        code_entry_drop(entry);
        code_entry_drop(add(cache, "bob", "f", 10));
        assert_int_equal(code_cache_bytes(cache), 20);
}

static void test_twice(void **state) {
        _cleanup_(code_cache_freep) CodeCache *cache = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        CodeEntry *other;
        Digest digest;

        assert_ok(code_cache_new(100, &cache));
        code_entry_drop(add(cache, "alice", "f", 10));
        assert_ok(digest_sha256("f", 1, &digest));
        fd = memfd_new_sealed("code", "f", 1);
        assert_error(code_cache_add(cache, "alice", &digest, fd, 10, &other), EEXIST);
        assert_int_equal(code_cache_bytes(cache), 10);
}

static void test_least_recently_used_goes(void **state) {
        _cleanup_(code_cache_freep) CodeCache *cache = NULL;

        assert_ok(code_cache_new(30, &cache));
        code_entry_drop(add(cache, "a", "1", 10));
        code_entry_drop(add(cache, "a", "2", 10));
        code_entry_drop(add(cache, "a", "3", 10));
        code_entry_drop(get(cache, "a", "1"));
        code_entry_drop(add(cache, "a", "4", 10));
        assert_int_equal(code_cache_bytes(cache), 30);
        assert_null(get(cache, "a", "2"));
        code_entry_drop(get(cache, "a", "1"));
        code_entry_drop(get(cache, "a", "3"));
        code_entry_drop(get(cache, "a", "4"));
}

static void test_used_ones_stay(void **state) {
        _cleanup_(code_cache_freep) CodeCache *cache = NULL;
        CodeEntry *held;

        assert_ok(code_cache_new(15, &cache));
        held = add(cache, "a", "1", 10);
        code_entry_drop(add(cache, "a", "2", 10));
        /* The held one is older but in use: the other went as soon as nobody used it. */
        assert_true(fcntl(held->fd, F_GETFD) >= 0);
        assert_null(get(cache, "a", "2"));
        assert_int_equal(code_cache_bytes(cache), 10);
        code_entry_drop(held);
        assert_int_equal(code_cache_bytes(cache), 10);
}

static void test_cache_dies_first(void **state) {
        CodeCache *cache;
        CodeEntry *held;
        char byte;

        assert_ok(code_cache_new(15, &cache));
        held = add(cache, "a", "1", 10);
        code_cache_free(cache);
        assert_int_equal(pread(held->fd, &byte, 1, 0), 1);
        code_entry_drop(held);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_owners_are_apart),         cmocka_unit_test(test_twice),
                cmocka_unit_test(test_least_recently_used_goes), cmocka_unit_test(test_used_ones_stay),
                cmocka_unit_test(test_cache_dies_first),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
