/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "memory-util.h"

/* SHA-256, from OpenSSL's libcrypto. All return 0, -ENOMEM, -EIO when libcrypto fails, -errno of reading. */
typedef struct Digest {
        uint8_t bytes[32];
} Digest;

enum { DIGEST_HEX_SIZE = 65 }; /* with the NUL */

int digest_sha256(const void *data, size_t size, Digest *ret);
/* From offset 0 to the end, with pread: the file offset stays. Blocks for as long as reading does: memfds,
 * small files. */
int digest_sha256_fd(int fd, Digest *ret);

/* In pieces. */
typedef struct DigestContext DigestContext;
int digest_context_new(DigestContext **ret);
int digest_context_update(DigestContext *context, const void *data, size_t size);
int digest_context_final(DigestContext *context, Digest *ret); /* the context can only be freed afterwards */
DigestContext *digest_context_free(DigestContext *context);
DEFINE_CLEANUP(DigestContext, digest_context_free);

char *digest_to_hex(const Digest *digest, char buffer[static DIGEST_HEX_SIZE]);
/* Exactly 64 lower-case digits. Returns 0, -EINVAL. */
int digest_from_hex(const char *hex, Digest *ret);
bool digest_equal(const Digest *left, const Digest *right);
