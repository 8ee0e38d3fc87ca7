/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <unistd.h>

#include "epoch-store.h"

static const Address masters[] = { { "one", 7878 }, { "2001:db8::1", 7879 } };

static uint64_t read_back(const char *directory, const Address *given, size_t n) {
        _cleanup_(epoch_store_closep) EpochStore *store = NULL;
        uint64_t epoch = 99;

        assert_ok(epoch_store_open(directory, given, n, &store, &epoch));
        return epoch;
}

static void test_outlives_its_writer(void **state) {
        char *directory = test_directory();
        EpochStore *store = NULL, *second = NULL;
        uint64_t epoch;

        assert_ok(epoch_store_open(directory, masters, 2, &store, &epoch));
        assert_int_equal(epoch, 0);
        assert_error(epoch_store_open(directory, masters, 2, &second, &epoch), EBUSY);
        assert_ok(epoch_store_write(store, 4));
        assert_ok(epoch_store_write(store, UINT64_MAX));
        assert_ok(epoch_store_write(store, 5));
        store = epoch_store_close(store);
        assert_int_equal(read_back(directory, masters, 2), 5);
        test_directory_remove(directory);
}

static void test_is_one_clusters(void **state) {
        char *directory = test_directory();
        EpochStore *store = NULL;
        uint64_t epoch;

        assert_ok(epoch_store_open(directory, masters, 2, &store, &epoch));
        assert_ok(epoch_store_write(store, 7));
        store = epoch_store_close(store);
        assert_int_equal(read_back(directory, masters, 1), 0);
        assert_int_equal(read_back(directory, masters + 1, 1), 0);
        assert_int_equal(read_back(directory, masters, 2), 7);
        test_directory_remove(directory);
}

static void test_damage_is_told(void **state) {
        char *directory = test_directory(), path[200];
        EpochStore *store = NULL;
        uint64_t epoch;

        assert_ok(epoch_store_open(directory, masters, 2, &store, &epoch));
        assert_ok(epoch_store_write(store, 7));
        store = epoch_store_close(store);
        snprintf(path, sizeof(path), "%s/epoch", directory);
        assert_ok(truncate(path, 20));
        assert_error(epoch_store_open(directory, masters, 2, &store, &epoch), EBADMSG);
        test_directory_remove(directory);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_outlives_its_writer),
                cmocka_unit_test(test_is_one_clusters),
                cmocka_unit_test(test_damage_is_told),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
