/* SPDX-License-Identifier: Apache-2.0 */
#include "code-cache.h"

#include <errno.h>
#include <stdio.h>

#include "fd-util.h"
#include "hashmap.h"

struct CodeCache {
        Hashmap *entries;
        ListLink by_age; /* the least recently used first */
        uint64_t bytes, max_bytes;
};

char *code_key(const char *owner, const Digest *digest, char buffer[static CODE_KEY_SIZE]) {
        char hex[DIGEST_HEX_SIZE];

        snprintf(buffer, CODE_KEY_SIZE, "%s:%s", digest_to_hex(digest, hex), owner);
        return buffer;
}

int code_cache_new(uint64_t max_bytes, CodeCache **ret) {
        _cleanup_(code_cache_freep) CodeCache *c = NULL;
        int r;

        c = new0(CodeCache);
        if (!c)
                return -ENOMEM;
        c->max_bytes = max_bytes;
        list_init(&c->by_age);
        r = hashmap_new(HASHMAP_STRING, &c->entries);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

static void code_entry_free(CodeEntry *e) {
        close_fd(e->fd);
        free(e);
}

static void code_cache_put_out(CodeCache *c, CodeEntry *e) {
        (void) hashmap_remove(c->entries, e->key);
        list_remove(&e->age);
        c->bytes -= e->size;
        e->cache = NULL;
        if (e->users == 0)
                code_entry_free(e);
}

CodeCache *code_cache_free(CodeCache *c) {
        if (!c)
                return NULL;
        LIST_FOREACH(CodeEntry, e, age, &c->by_age)
                code_cache_put_out(c, e);
        hashmap_free(c->entries);
        return mfree(c);
}

static void code_cache_trim(CodeCache *c) {
        LIST_FOREACH(CodeEntry, e, age, &c->by_age) {
                if (c->bytes <= c->max_bytes)
                        return;
                if (e->users == 0)
                        code_cache_put_out(c, e);
        }
}

CodeEntry *code_cache_get(CodeCache *c, const char *owner, const Digest *digest) {
        char key[CODE_KEY_SIZE];
        CodeEntry *e;

        e = hashmap_get(c->entries, code_key(owner, digest, key));
        if (!e)
                return NULL;
        list_remove(&e->age);
        list_append(&c->by_age, &e->age);
        e->users++;
        return e;
}

int code_cache_add(CodeCache *c, const char *owner, const Digest *digest, int fd, uint64_t size,
                   CodeEntry **ret) {
        _cleanup_(freep) CodeEntry *e = NULL;
        int r;

        e = new0(CodeEntry);
        if (!e)
                return -ENOMEM;
        code_key(owner, digest, e->key);
        e->size = size;
        e->users = 1;
        e->cache = c;
        r = hashmap_put(c->entries, e->key, e);
        if (r < 0)
                return r;
        e->fd = fd;
        list_append(&c->by_age, &e->age);
        c->bytes += size;
        code_cache_trim(c);
        *ret = TAKE_PTR(e);
        return 0;
}

CodeEntry *code_entry_drop(CodeEntry *e) {
        if (!e || --e->users > 0)
                return NULL;
        if (!e->cache)
                code_entry_free(e);
        else
                code_cache_trim(e->cache);
        return NULL;
}

uint64_t code_cache_bytes(const CodeCache *c) {
        return c->bytes;
}
