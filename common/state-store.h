/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "memory-util.h"

/* The few things that must outlive the master: epoch, nodes, drains, services. Small values under keys,
 * changed by versioned compare-and-set, so that several masters can share one store. Calls may take as long
 * as a disk flush: never on the hot path.
 *
 * A key is a path, "nodes/node1": 1 … 8 parts of 1 … 64 bytes joined by '/', any bytes but NUL, '/'. A value
 * has at most 1 MiB. Versions count a key's changes from 1; a key that was deleted begins anew. */
typedef struct StateStore StateStore;

enum { STATE_KEY_PARTS_MAX = 8, STATE_KEY_PART_MAX = 64, STATE_VALUE_MAX = 1 << 20 };

/* version: the new one, 0 when the key was deleted. Called from within the changing call (file store) or
 * from the event loop. */
typedef void (*StateWatch)(StateStore *store, const char *key, uint64_t version, void *userdata);

typedef struct StateStoreOperations {
        int (*get)(StateStore *store, const char *key, void **ret_value, size_t *ret_size,
                   uint64_t *ret_version);
        int (*compare_and_set)(StateStore *store, const char *key, uint64_t expected_version,
                               const void *value, size_t size, uint64_t *ret_version);
        int (*remove)(StateStore *store, const char *key, uint64_t expected_version);
        int (*list)(StateStore *store, const char *prefix, char ***ret_keys);
        int (*watch)(StateStore *store, const char *prefix, StateWatch callback, void *userdata,
                     uint64_t *ret_watch);
        void (*unwatch)(StateStore *store, uint64_t watch);
        void (*close)(StateStore *store);
} StateStoreOperations;

/* First member of every implementation. */
struct StateStore {
        const StateStoreOperations *operations;
};

/* The value (a NUL is put behind it) and its version. Returns 0, -ENOENT, -EBADMSG when what is stored is
 * damaged, -EINVAL for a key that is none, -errno. Outputs may be NULL. */
int state_store_get(StateStore *store, const char *key, void **ret_value, size_t *ret_size,
                    uint64_t *ret_version);
/* expected_version 0: the key must not exist. Durable when it returns 0. Returns -ESTALE when the version is
 * another one (or the key exists, or is gone), -EBADMSG when what is stored is damaged, -EFBIG, -EINVAL,
 * -ENAMETOOLONG, -ENOSPC, -errno. After an error the old value stands; only after -EIO either may.
 * ret_version may be NULL. */
int state_store_compare_and_set(StateStore *store, const char *key, uint64_t expected_version,
                                const void *value, size_t size, uint64_t *ret_version);
/* Without a comparison: reads the version and tries again if another was faster. */
int state_store_set(StateStore *store, const char *key, const void *value, size_t size);
/* Returns 0, -ENOENT, -ESTALE, -errno. expected_version 0: whatever it is. */
int state_store_remove(StateStore *store, const char *key, uint64_t expected_version);
/* The keys below prefix (whole parts: "nodes" has "nodes/a"; "" is everything), sorted. Returns 0 (an empty
 * array when there is none), -errno. */
int state_store_list(StateStore *store, const char *prefix, char ***ret_keys);
/* Calls back for each later change of prefix itself or of keys below it. Returns 0, -ENOMEM, -errno. */
int state_store_watch(StateStore *store, const char *prefix, StateWatch callback, void *userdata,
                      uint64_t *ret_watch);
void state_store_unwatch(StateStore *store, uint64_t watch);
/* Takes NULL, returns NULL. */
StateStore *state_store_close(StateStore *store);
DEFINE_CLEANUP(StateStore, state_store_close);

bool state_key_is_valid(const char *key);

/* The file implementation: one checksummed file per key below an absolute directory, which is made (0700) if
 * it is not there. Survives a power cut at any moment with either the old or the new value. Watches see
 * changes made through this object only. Returns 0, -EBUSY when another process has it open, -errno. */
int state_store_file_open(const char *directory, StateStore **ret);
