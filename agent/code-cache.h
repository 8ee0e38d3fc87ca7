/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "id.h"
#include "launcher/launcher-protocol.h"
#include "list.h"
#include "memory-util.h"

/* Functions' code in sealed memfds, by owner and hash: one owner's code is never given to another, even
 * where the hash is the same. Keeps at most so many bytes; what was not used for longest goes first, but
 * never what somebody holds. */
typedef struct CodeCache CodeCache;

/* "hash:owner". */
enum { CODE_KEY_SIZE = DIGEST_HEX_SIZE + OWNER_NAME_MAX };
char *code_key(const char *owner, const Digest *digest, char buffer[static CODE_KEY_SIZE]);

typedef struct CodeEntry {
        char key[CODE_KEY_SIZE];
        int fd; /* sealed */
        uint64_t size;
        unsigned users;
        CodeCache *cache; /* NULL: was put out while it was in use */
        ListLink age;
} CodeEntry;

/* Returns 0, -ENOMEM. */
int code_cache_new(uint64_t max_bytes, CodeCache **ret);
/* Entries in use live on until they are dropped. */
CodeCache *code_cache_free(CodeCache *c);
DEFINE_CLEANUP(CodeCache, code_cache_free);

/* The entry, held for the caller, who ends that with code_entry_drop(); NULL when it is not there. */
CodeEntry *code_cache_get(CodeCache *c, const char *owner, const Digest *digest);
/* Adds what is not there yet, held for the caller; what is over the bound then goes. fd becomes the cache's
 * on success only. Returns 0, -EEXIST, -ENOMEM. */
int code_cache_add(CodeCache *c, const char *owner, const Digest *digest, int fd, uint64_t size,
                   CodeEntry **ret);
/* Takes NULL, returns NULL. */
CodeEntry *code_entry_drop(CodeEntry *e);

uint64_t code_cache_bytes(const CodeCache *c);
