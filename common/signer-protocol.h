/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>

#include "certificate.h"
#include "identity.h"
#include "join-token.h"
#include "macros.h"

/* What clupy-masterd asks clupy-signer, over a SEQPACKET socket: one message of a fixed size each way, then
 * the connection ends. Texts end with a NUL and are filled up with NULs. Both ends are of one machine and
 * one build. */

#define SIGNER_SOCKET "/run/clupy/signer.sock"

enum {
        SIGNER_MAGIC = 0x31474953,
        SIGNER_CERTIFICATE_MAX = 8 << 10,
};

typedef enum SignerKind {
        SIGNER_JOIN = 1,
        SIGNER_RENEW = 2,
} SignerKind;

typedef struct SignerRequest {
        uint32_t magic;
        uint32_t kind;
        char token[JOIN_TOKEN_ID_SIZE];        /* JOIN */
        char secret[JOIN_TOKEN_SECRET_SIZE];   /* JOIN */
        char node[IDENTITY_NAME_MAX + 1];      /* JOIN */
        char serial[CERTIFICATE_SERIAL_SIZE];  /* RENEW: of the certificate to be renewed */
        char identity[IDENTITY_URI_SIZE];      /* RENEW: of who asks, by the certificate of the connection */
        char request[CERTIFICATE_REQUEST_MAX]; /* PEM */
} SignerRequest;

typedef enum SignerResult {
        SIGNER_SIGNED,
        SIGNER_BAD_REQUEST,
        SIGNER_TOKEN_UNKNOWN,
        SIGNER_TOKEN_USED,
        SIGNER_TOKEN_REVOKED,
        SIGNER_TOKEN_EXPIRED,
        SIGNER_TOKEN_OTHER_NODE,
        SIGNER_NAME_TAKEN,          /* by a valid certificate, and the token is for any node */
        SIGNER_CERTIFICATE_UNKNOWN, /* not one of ours, of somebody else, or of another key */
        SIGNER_CERTIFICATE_REVOKED,
        SIGNER_CERTIFICATE_EXPIRED,
        SIGNER_FAILED, /* the signer's journal says why */
        _SIGNER_RESULT_MAX,
} SignerResult;

DEFINE_NAME_TABLE_DECLARATION(signer_result, SignerResult);

/* A sentence for the one who asked, without a full stop; static. */
const char *signer_result_sentence(SignerResult result);

typedef struct SignerAnswer {
        uint32_t magic;
        uint32_t result;
        char certificate[SIGNER_CERTIFICATE_MAX]; /* PEM, SIGNER_SIGNED */
} SignerAnswer;
