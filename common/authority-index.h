/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <openssl/types.h>

#include "digest.h"
#include "identity.h"

/* Which certificates an identity, or a key, has: files in the folder of issued certificates with a serial
 * number on each line, the oldest first, so that one question costs no look at all of them, which may be a
 * million. All functions return 0, -ENOMEM, -EIO when libcrypto fails, -errno of the files. */

enum {
        INDEX_MAX = 1024, /* serial numbers of one identity, and of one key */
        INDEX_NAME_SIZE = sizeof(".key-") + DIGEST_HEX_SIZE + IDENTITY_URI_SIZE,
};

/* The names of these files. */
void index_of_identity(const Identity *identity, char name[static INDEX_NAME_SIZE]);
int index_of_key(const EVP_PKEY *key, char name[static INDEX_NAME_SIZE]);

/* The serial numbers; NULL for none. */
int index_read(int folder, const char *name, char ***ret);
/* Puts these into the place of what is there. */
int index_write(int folder, const char *name, char *const *serials);
