/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "identity.h"
#include "memory-util.h"

/* What lets one node into the cluster, once: a line that is shown once, and a file that knows only the hash
 * of its secret.
 *
 *     clupy-join-ID-SECRET-AUTHORITY      16, 32 and 64 lower-case hexadecimal digits
 *
 * AUTHORITY is the SHA-256 of the encoded ca.crt: the node knows by it that it talks to the right master.
 *
 * In the folder of tokens, ID.token is one that is good, ID.used and ID.revoked are what became of others.
 * Taking one is a rename: of two who try only one succeeds, whatever dies meanwhile. */

#define JOIN_TOKEN_FOLDER "/var/lib/clupy-signer/tokens"

enum {
        JOIN_TOKEN_ID_SIZE = 17, /* with the NUL */
        JOIN_TOKEN_SECRET_SIZE = 33,
        JOIN_TOKEN_TEXT_SIZE = sizeof("clupy-join-") + JOIN_TOKEN_ID_SIZE + JOIN_TOKEN_SECRET_SIZE + 64,
        JOIN_TOKEN_DAYS_MAX = 30,
        JOIN_TOKEN_KEPT_S = 7 * 86400, /* used, revoked, expired ones: to say what became of them */
        JOIN_TOKEN_MAX = 10000,        /* at once */
};

typedef struct JoinToken {
        char id[JOIN_TOKEN_ID_SIZE];
        char secret[JOIN_TOKEN_SECRET_SIZE];
        Digest authority;
} JoinToken;

/* White space around it is allowed. Returns 0, -EINVAL. */
int join_token_parse(const char *text, JoinToken *ret);
/* buffer is returned. */
char *join_token_to_string(const JoinToken *token, char buffer[static JOIN_TOKEN_TEXT_SIZE]);
bool join_token_id_is_valid(const char *id);

typedef enum JoinTokenState {
        JOIN_TOKEN_GOOD,
        JOIN_TOKEN_EXPIRED,
        JOIN_TOKEN_USED,
        JOIN_TOKEN_REVOKED,
        _JOIN_TOKEN_STATE_MAX,
} JoinTokenState;

DEFINE_NAME_TABLE_DECLARATION(join_token_state, JoinTokenState);

typedef struct JoinTokenRecord {
        char id[JOIN_TOKEN_ID_SIZE];
        char node[IDENTITY_NAME_MAX + 1]; /* "": any */
        Digest secret;                    /* of the secret's digits */
        int64_t created_at, expires_at;   /* unix seconds */
        JoinTokenState state;
} JoinTokenRecord;

/* folder: its descriptor. node NULL: any. valid_s: for how long. Returns 0, -EINVAL (node), -EMFILE (too
 * many tokens), -errno. */
int join_token_new(int folder, const char *node, int64_t now, int64_t valid_s, const Digest *authority,
                   JoinToken *ret);

/* All that are known, oldest first; free the list. Forgets those that ended long ago. Returns 0, -errno. */
int join_token_list(int folder, int64_t now, JoinTokenRecord **ret, size_t *ret_n);

/* Returns 0, -ENOENT when there is no good one with this id, -errno. */
int join_token_revoke(int folder, const char *id);

/* Whether a node could take the token now. ret_bound: it is for this node and no other. Returns as
 * join_token_take(). */
int join_token_check(int folder, const char *id, const char *secret, const char *node, int64_t now,
                     bool *ret_bound);

/* Takes the token for a node, so that nobody can take it again, also after a power cut. Returns 0; -ENOENT:
 * there is no such token, or the secret is another; -EALREADY: it has been used; -EKEYREVOKED: it was
 * revoked; -ETIME: it has expired; -EXDEV: it is for another node; -errno: and then it has not been used. */
int join_token_take(int folder, const char *id, const char *secret, const char *node, int64_t now);
