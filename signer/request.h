/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "signer-protocol.h"

typedef struct SignerSettings {
        const char *folder;   /* the authority's */
        const char *key_path; /* the authority's key, NULL: in the folder */
        const char *tokens;   /* folder of the join tokens */
        int64_t now;          /* unix seconds */
        /* Called when a token is used and nothing signed yet: for tests of what dies just then. NULL: none.
         */
        void (*taken)(void);
} SignerSettings;

typedef struct SignerOutcome {
        SignerResult result;
        Identity identity;                    /* SIGNER_SIGNED: for whom */
        char serial[CERTIFICATE_SERIAL_SIZE]; /* SIGNER_SIGNED: of the new certificate */
        int error;                            /* SIGNER_FAILED: negative errno */
        const char *what;                     /* SIGNER_FAILED: which file it was about, static, or NULL */
} SignerOutcome;

/* Does what a message asks for, if it may be. data is a stranger's; answer is always filled. For a JOIN the
 * token is used up before anything is signed. */
void signer_handle(const SignerSettings *settings, const void *data, size_t size, SignerAnswer *answer,
                   SignerOutcome *ret);
