/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "id.h"
#include "memory-util.h"

/* A hash table from strings, ids or numbers to pointers. The hash is SipHash-1-3 with a random seed per
 * process: keys come from strangers. Iteration is in the order of insertion. Memory is given back as the
 * table empties. */
typedef struct Hashmap Hashmap;

typedef enum HashmapKey {
        HASHMAP_STRING, /* keys are borrowed: a key must live as long as its entry (usually inside the value)
                         */
        HASHMAP_ID,     /* keys are copied: pass a const Id * */
        HASHMAP_U64,    /* keys are copied: pass a const uint64_t * */
} HashmapKey;

/* Returns 0, -ENOMEM. */
int hashmap_new(HashmapKey type, Hashmap **ret);
/* Frees the table, not the values. */
Hashmap *hashmap_free(Hashmap *map);
DEFINE_CLEANUP(Hashmap, hashmap_free);

/* value must not be NULL. Returns 0, -EEXIST when the key is there (even with the same value), -ENOMEM,
 * -ENOSPC over 2^30 entries. */
int hashmap_put(Hashmap *map, const void *key, void *value);
/* As hashmap_put, but a value that is there already is replaced and handed out (NULL if there was none); a
 * string key is replaced too. */
int hashmap_replace(Hashmap *map, const void *key, void *value, void **ret_old);
/* All of these take a NULL map for an empty one. */
void *hashmap_get(const Hashmap *map, const void *key);
void *hashmap_remove(Hashmap *map, const void *key); /* returns the value, NULL when there was none */
size_t hashmap_size(const Hashmap *map);
void *hashmap_first(const Hashmap *map); /* the oldest entry's value, NULL */
void hashmap_clear(Hashmap *map);

static inline int hashmap_put_u64(Hashmap *map, uint64_t key, void *value) {
        return hashmap_put(map, &key, value);
}
static inline void *hashmap_get_u64(const Hashmap *map, uint64_t key) {
        return hashmap_get(map, &key);
}
static inline void *hashmap_remove_u64(Hashmap *map, uint64_t key) {
        return hashmap_remove(map, &key);
}

/* Walks over all entries. Entries may be removed (any of them) while walking; putting ends the walk's
 * guarantees. */
typedef struct HashmapIterator {
        size_t position;
} HashmapIterator;
#define HASHMAP_ITERATOR ((HashmapIterator){ 0 })
/* Returns false at the end; ret_key may be NULL (const char **, or const Id ** / const uint64_t ** into the
 * table). */
bool hashmap_iterate(const Hashmap *map, HashmapIterator *iterator, void **ret_value, const void **ret_key);

/* HASHMAP_FOREACH(task, map) { … } */
#define HASHMAP_FOREACH(value, map)                                                                         \
        for (HashmapIterator _iterator_##value = HASHMAP_ITERATOR;                                          \
             hashmap_iterate((map), &_iterator_##value, (void **) &(value), NULL);)

/* SipHash-1-3 of the bytes under the process's random seed: for tables of one's own; differs from run to
 * run. */
uint64_t hash_bytes(const void *data, size_t size);
