/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <openssl/types.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "digest.h"
#include "identity.h"
#include "memory-util.h"
#include "tls-material.h"

/* What all TLS connections of one end share: certificate, key, authority and revocation list, and the rules
 * (TLS 1.3 only, X25519 or P-256, no tickets). The files are watched; when they have changed they are read
 * again, and connections from then on use them. Files that cannot be used change nothing.
 *
 * Reference-counted: connections hold one. */
typedef struct TlsContext TlsContext;

typedef enum TlsSide {
        TLS_SERVER, /* certificates of clients are asked for; who has none is told apart by
                       connection_identity() */
        TLS_CLIENT, /* the other end must be the master, under the name or address that was dialled */
} TlsSide;

typedef struct TlsContextOptions {
        TlsSide side;
        IdentityRole role; /* of our own certificate; IDENTITY_USER takes an admin's too */
        TlsPaths paths;    /* copied */
        /* A client that does not have the authority's certificate yet, only its SHA-256: it is taken from
         * what the master sends. Copied; paths.authority is NULL then. */
        const Digest *authority;
} TlsContextOptions;

/* From the event loop. May be NULL. */
typedef struct TlsContextHandlers {
        /* New files are in force: connection_check_peer() may think otherwise of those that are open. */
        void (*changed)(TlsContext *c, void *userdata);
        /* Changed files cannot be used, the old ones stay in force: one sentence that says why. */
        void (*failed)(TlsContext *c, const char *message, void *userdata);
} TlsContextHandlers;

/* event: NULL to read the files this once. Returns 0, or a negative errno with ret_message: one sentence
 * that names the file, what is wrong and what to do (NULL without memory). */
int tls_context_new(sd_event *event, const TlsContextOptions *options, const TlsContextHandlers *handlers,
                    void *userdata, TlsContext **ret, char **ret_message);
TlsContext *tls_context_ref(TlsContext *c);
TlsContext *tls_context_unref(TlsContext *c); /* takes NULL, returns NULL */
DEFINE_CLEANUP(TlsContext, tls_context_unref);
/* No handler is called any more, no file watched: for an owner that goes before its connections do. */
void tls_context_stop(TlsContext *c);

/* Reads the files again now, whatever the watch says, and calls a handler. Returns 0, a negative errno. */
int tls_context_reload(TlsContext *c);

/* For daemons, before there is a private key in memory: no core file, no debugger of the same user. */
void tls_protect_memory(void);

TlsSide tls_context_side(const TlsContext *c);
/* Who we are ourselves; NULL without a certificate. */
const Identity *tls_context_identity(const TlsContext *c);
const TlsMaterial *tls_context_material(const TlsContext *c);
const TlsPaths *tls_context_paths(const TlsContext *c);
SSL_CTX *tls_context_ssl(const TlsContext *c);

enum { TLS_EXPIRY_WARNING_DAYS = 30 };
/* When our certificate or the authority's expires, whichever is first: CLOCK_REALTIME µs, 0 when there is
 * none. */
uint64_t tls_context_expires(const TlsContext *c);
/* The end of our own certificate, NULL without. */
const ASN1_TIME *tls_context_not_after(const TlsContext *c);
/* What somebody should see to: a certificate that has expired or will within TLS_EXPIRY_WARNING_DAYS, a
 * revocation list that should have been renewed, changed files that cannot be used. now: CLOCK_REALTIME µs.
 * Sentences are appended to *list. Returns their number, -ENOMEM. */
int tls_context_warnings(const TlsContext *c, uint64_t now, char ***list);

/* Another number for another authority. */
unsigned tls_context_generation(const TlsContext *c);
/* Of a peer's certificate that was accepted when the number was `generation`: whether it would be now.
 * Returns 0, -EKEYREVOKED, -EKEYREJECTED (another authority), -EKEYEXPIRED. */
int tls_context_check_certificate(const TlsContext *c, unsigned generation, const X509 *certificate);
