/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <openssl/types.h>
#include <stdbool.h>

#include "tls-context.h"

/* Why a handshake failed, in a sentence for the log: which certificate, what is wrong with it, what to do.
 */
typedef struct TlsFailure {
        char *host; /* that was dialled */
        int error;  /* negative errno, 0: none yet */
        char why[640];
} TlsFailure;

/* error: X509_V_ERR_… of the peer's certificate (depth 0) or its authority's (depth 1). */
void tls_failure_verify(TlsFailure *f, const TlsContext *context, const X509 *certificate, int depth,
                        int error);
/* The peer's certificate does not say in our way who it is. clause: identity_from_certificate()'s. */
void tls_failure_certificate(TlsFailure *f, const TlsContext *context, const X509 *certificate,
                             const char *clause);
/* Somebody else answers where the master should. */
void tls_failure_role(TlsFailure *f, const Identity *identity);

/* These return f->error. */
int tls_failure_plaintext(TlsFailure *f, const TlsContext *context);
/* What OpenSSL has in its queue of errors: an alert of the peer, or our own reason. shaken: the handshake
 * was over (for us: a master tells a client only then that it does not take its certificate). */
int tls_failure_library(TlsFailure *f, const TlsContext *context, bool shaken);
/* The socket's end within the handshake. error: 0 for an end without one. */
int tls_failure_broken(TlsFailure *f, const TlsContext *context, int error, bool received);
