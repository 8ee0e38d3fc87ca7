/* SPDX-License-Identifier: Apache-2.0 */
#include "state-store.h"

#include <errno.h>

bool state_key_is_valid(const char *key) {
        size_t parts = 1, part = 0;

        for (; key && *key; key++) {
                if (*key != '/') {
                        if (++part > STATE_KEY_PART_MAX)
                                return false;
                        continue;
                }
                if (part == 0 || ++parts > STATE_KEY_PARTS_MAX)
                        return false;
                part = 0;
        }
        return part > 0;
}

int state_store_get(StateStore *store, const char *key, void **ret_value, size_t *ret_size,
                    uint64_t *ret_version) {
        _cleanup_(freep) void *value = NULL;
        uint64_t version;
        size_t size;
        int r;

        if (!state_key_is_valid(key))
                return -EINVAL;
        r = store->operations->get(store, key, &value, &size, &version);
        if (r < 0)
                return r;
        if (ret_value)
                *ret_value = TAKE_PTR(value);
        if (ret_size)
                *ret_size = size;
        if (ret_version)
                *ret_version = version;
        return 0;
}

int state_store_compare_and_set(StateStore *store, const char *key, uint64_t expected_version,
                                const void *value, size_t size, uint64_t *ret_version) {
        uint64_t version;
        int r;

        if (!state_key_is_valid(key))
                return -EINVAL;
        if (size > STATE_VALUE_MAX)
                return -EFBIG;
        r = store->operations->compare_and_set(store, key, expected_version, value, size, &version);
        if (r < 0)
                return r;
        if (ret_version)
                *ret_version = version;
        return 0;
}

int state_store_set(StateStore *store, const char *key, const void *value, size_t size) {
        for (;;) {
                uint64_t version = 0;
                int r;

                r = state_store_get(store, key, NULL, NULL, &version);
                if (r < 0 && r != -ENOENT)
                        return r;
                r = state_store_compare_and_set(store, key, version, value, size, NULL);
                if (r != -ESTALE)
                        return r;
        }
}

int state_store_remove(StateStore *store, const char *key, uint64_t expected_version) {
        if (!state_key_is_valid(key))
                return -EINVAL;
        return store->operations->remove(store, key, expected_version);
}

int state_store_list(StateStore *store, const char *prefix, char ***ret_keys) {
        if (!isempty(prefix) && !state_key_is_valid(prefix))
                return -EINVAL;
        return store->operations->list(store, strempty(prefix), ret_keys);
}

int state_store_watch(StateStore *store, const char *prefix, StateWatch callback, void *userdata,
                      uint64_t *ret_watch) {
        if (!isempty(prefix) && !state_key_is_valid(prefix))
                return -EINVAL;
        return store->operations->watch(store, strempty(prefix), callback, userdata, ret_watch);
}

void state_store_unwatch(StateStore *store, uint64_t watch) {
        store->operations->unwatch(store, watch);
}

StateStore *state_store_close(StateStore *store) {
        if (store)
                store->operations->close(store);
        return NULL;
}
