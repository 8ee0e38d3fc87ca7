/* SPDX-License-Identifier: Apache-2.0 */
#include "hashmap.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* A dense array of entries in the order of insertion, with holes where entries were removed, and beside it
 * an open-addressed table of their numbers. Walking is walking the array; removal never moves an entry, so
 * it is safe during a walk; holes go when the next insertion finds the array full. */

typedef struct Entry {
        union {
                const char *string;
                Id id;
                uint64_t number;
        } key;
        void *value; /* NULL: a hole */
        uint32_t hash;
} Entry;

enum { SLOT_FREE = 0, SLOT_DELETED = 1, SLOT_BIAS = 2, CAPACITY_MIN = 8, KEEP_MAX = 64 };

struct Hashmap {
        HashmapKey type;
        Entry *entries;
        size_t used;     /* entries with holes */
        size_t size;     /* entries without */
        size_t capacity; /* of entries; the table has twice as many slots, a power of two */
        uint32_t *slots;
};

static inline uint64_t rotate_left(uint64_t x, int n) {
        return x << n | x >> (64 - n);
}

typedef struct SipState {
        uint64_t v0, v1, v2, v3;
} SipState;

static inline void sip_round(SipState *s) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = rotate_left(s->v1, 13) ^ s->v0;
        s->v3 = rotate_left(s->v3, 16) ^ s->v2;
        s->v0 = rotate_left(s->v0, 32);
        s->v2 += s->v1;
        s->v0 += s->v3;
        s->v1 = rotate_left(s->v1, 17) ^ s->v2;
        s->v3 = rotate_left(s->v3, 21) ^ s->v0;
        s->v2 = rotate_left(s->v2, 32);
}

static const uint64_t *hash_seed(void) {
        static uint64_t seed[2];
        static bool seeded;

        if (!seeded) {
                /* Early in the boot the generator may not be ready. A guessable seed costs time at worst,
                 * waiting would cost more. */
                if (getrandom(seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed)) {
                        struct timespec ts = { 0 };

                        (void) clock_gettime(CLOCK_REALTIME, &ts);
                        seed[0] = (uint64_t) ts.tv_nsec << 32 ^ (uint64_t) ts.tv_sec;
                        seed[1] = (uint64_t) getpid();
                }
                seeded = true;
        }
        return seed;
}

uint64_t hash_bytes(const void *data, size_t size) {
        const uint64_t *seed = hash_seed();
        const uint8_t *p = data;
        SipState s = { seed[0] ^ UINT64_C(0x736f6d6570736575), seed[1] ^ UINT64_C(0x646f72616e646f6d),
                       seed[0] ^ UINT64_C(0x6c7967656e657261), seed[1] ^ UINT64_C(0x7465646279746573) };
        uint64_t word;
        size_t left = size;

        for (; left >= 8; left -= 8, p += 8) {
                memcpy(&word, p, 8);
                s.v3 ^= word;
                sip_round(&s);
                s.v0 ^= word;
        }
        word = 0;
        if (left > 0)
                memcpy(&word, p, left);
        word |= (uint64_t) size << 56;
        s.v3 ^= word;
        sip_round(&s);
        s.v0 ^= word;
        s.v2 ^= 0xff;
        for (int i = 0; i < 3; i++)
                sip_round(&s);
        return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

int hashmap_new(HashmapKey type, Hashmap **ret) {
        Hashmap *map = new0(Hashmap);

        if (!map)
                return -ENOMEM;
        map->type = type;
        *ret = map;
        return 0;
}

Hashmap *hashmap_free(Hashmap *map) {
        if (!map)
                return NULL;
        free(map->entries);
        free(map->slots);
        return mfree(map);
}

void hashmap_clear(Hashmap *map) {
        if (!map)
                return;
        map->entries = mfree(map->entries);
        map->slots = mfree(map->slots);
        map->used = map->size = map->capacity = 0;
}

static uint32_t key_hash(const Hashmap *map, const void *key) {
        switch (map->type) {
        case HASHMAP_STRING:
                return (uint32_t) hash_bytes(key, strlen(key));
        case HASHMAP_ID:
                return (uint32_t) hash_bytes(key, sizeof(Id));
        case HASHMAP_U64:
                return (uint32_t) hash_bytes(key, sizeof(uint64_t));
        }
        return 0;
}

static bool key_equal(const Hashmap *map, const Entry *entry, const void *key) {
        switch (map->type) {
        case HASHMAP_STRING:
                return streq(entry->key.string, key);
        case HASHMAP_ID:
                return memcmp(&entry->key.id, key, sizeof(Id)) == 0;
        case HASHMAP_U64:
                return memcmp(&entry->key.number, key, sizeof(uint64_t)) == 0;
        }
        return false;
}

static void key_store(const Hashmap *map, Entry *entry, const void *key) {
        switch (map->type) {
        case HASHMAP_STRING:
                entry->key.string = key;
                break;
        case HASHMAP_ID:
                memcpy(&entry->key.id, key, sizeof(Id));
                break;
        case HASHMAP_U64:
                memcpy(&entry->key.number, key, sizeof(uint64_t));
                break;
        }
}

/* The slot that holds the key, or NULL. */
static uint32_t *slot_find(const Hashmap *map, const void *key, uint32_t hash) {
        size_t mask = 2 * map->capacity - 1;

        if (map->capacity == 0)
                return NULL;
        for (size_t i = hash & mask;; i = (i + 1) & mask) {
                uint32_t slot = map->slots[i];

                if (slot == SLOT_FREE)
                        return NULL;
                if (slot != SLOT_DELETED) {
                        const Entry *entry = map->entries + (slot - SLOT_BIAS);

                        if (entry->hash == hash && key_equal(map, entry, key))
                                return map->slots + i;
                }
        }
}

static void slot_insert(uint32_t *slots, size_t mask, uint32_t hash, size_t index) {
        size_t i = hash & mask;

        while (slots[i] >= SLOT_BIAS)
                i = (i + 1) & mask;
        slots[i] = (uint32_t) index + SLOT_BIAS;
}

/* Called when the array is full: drops the holes and gives it a size that fits what is there. */
static int hashmap_rebuild(Hashmap *map) {
        size_t capacity = CAPACITY_MIN, n = 0;
        uint32_t *slots;
        Entry *entries;

        while (capacity < map->size + map->size / 2 + 1)
                capacity *= 2;
        if (capacity > UINT32_C(1) << 30)
                return -ENOSPC;
        entries = malloc(capacity * sizeof(Entry));
        slots = newn0(uint32_t, 2 * capacity);
        if (!entries || !slots) {
                free(entries);
                free(slots);
                return -ENOMEM;
        }
        for (size_t i = 0; i < map->used; i++) {
                if (!map->entries[i].value)
                        continue;
                entries[n] = map->entries[i];
                slot_insert(slots, 2 * capacity - 1, entries[n].hash, n);
                n++;
        }
        free(map->entries);
        free(map->slots);
        map->entries = entries;
        map->slots = slots;
        map->capacity = capacity;
        map->used = n;
        return 0;
}

static int hashmap_insert(Hashmap *map, const void *key, uint32_t hash, void *value) {
        Entry *entry;
        int r;

        /* Each entry ever used takes at most one slot, live or deleted, until the rebuild: so at least half
         * of them are free and every search ends. */
        if (map->used == map->capacity) {
                r = hashmap_rebuild(map);
                if (r < 0)
                        return r;
        }
        entry = map->entries + map->used;
        key_store(map, entry, key);
        entry->value = value;
        entry->hash = hash;
        slot_insert(map->slots, 2 * map->capacity - 1, hash, map->used);
        map->used++;
        map->size++;
        return 0;
}

int hashmap_put(Hashmap *map, const void *key, void *value) {
        uint32_t hash = key_hash(map, key);

        if (!value)
                return -EINVAL;
        if (slot_find(map, key, hash))
                return -EEXIST;
        return hashmap_insert(map, key, hash, value);
}

int hashmap_replace(Hashmap *map, const void *key, void *value, void **ret_old) {
        uint32_t hash = key_hash(map, key), *slot;
        void *old = NULL;
        int r;

        if (!value)
                return -EINVAL;
        slot = slot_find(map, key, hash);
        if (slot) {
                Entry *entry = map->entries + (*slot - SLOT_BIAS);

                old = entry->value;
                entry->value = value;
                key_store(map, entry, key);
        } else {
                r = hashmap_insert(map, key, hash, value);
                if (r < 0)
                        return r;
        }
        if (ret_old)
                *ret_old = old;
        return 0;
}

void *hashmap_get(const Hashmap *map, const void *key) {
        uint32_t *slot;

        if (!map || map->size == 0)
                return NULL;
        slot = slot_find(map, key, key_hash(map, key));
        return slot ? map->entries[*slot - SLOT_BIAS].value : NULL;
}

void *hashmap_remove(Hashmap *map, const void *key) {
        uint32_t *slot;
        Entry *entry;
        void *value;

        if (!map || map->size == 0)
                return NULL;
        slot = slot_find(map, key, key_hash(map, key));
        if (!slot)
                return NULL;
        entry = map->entries + (*slot - SLOT_BIAS);
        value = entry->value;
        entry->value = NULL;
        *slot = SLOT_DELETED;
        map->size--;
        if (map->size == 0) {
                if (map->capacity > KEEP_MAX)
                        hashmap_clear(map);
                else {
                        memset(map->slots, 0, 2 * map->capacity * sizeof(uint32_t));
                        map->used = 0;
                }
        }
        return value;
}

size_t hashmap_size(const Hashmap *map) {
        return map ? map->size : 0;
}

bool hashmap_iterate(const Hashmap *map, HashmapIterator *iterator, void **ret_value, const void **ret_key) {
        for (; map && iterator->position < map->used; iterator->position++) {
                const Entry *entry = map->entries + iterator->position;

                if (!entry->value)
                        continue;
                iterator->position++;
                *ret_value = entry->value;
                if (ret_key)
                        *ret_key = map->type == HASHMAP_STRING ? (const void *) entry->key.string
                                                               : (const void *) &entry->key;
                return true;
        }
        return false;
}

void *hashmap_first(const Hashmap *map) {
        HashmapIterator iterator = HASHMAP_ITERATOR;
        void *value;

        return hashmap_iterate(map, &iterator, &value, NULL) ? value : NULL;
}
