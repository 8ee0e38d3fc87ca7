/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <openssl/types.h>
#include <stdint.h>

#include "identity.h"
#include "memory-util.h"

/* The four files behind one end of TLS, read and checked against each other. Paths are borrowed. */
typedef struct TlsPaths {
        const char *certificate; /* PEM; NULL together with key: none, for a node that joins */
        const char *key;         /* PEM, not encrypted */
        const char *authority;   /* PEM, one certificate; NULL: taken from the peer by its digest */
        const char *revoked;     /* PEM, a revocation list; may be missing as a file, and NULL */
} TlsPaths;

typedef struct TlsMaterial {
        X509 *certificate;
        EVP_PKEY *key;
        X509 *authority;
        X509_CRL *revoked;
        Identity identity; /* of the certificate */
} TlsMaterial;

/* role: of our own certificate; IDENTITY_USER takes an admin's too. Dates are not checked: a certificate
 * that has expired is renewed without a restart. Returns 0, or a negative errno with ret_message: one
 * sentence that names the file, what is wrong with it and what to do (NULL without memory). */
int tls_material_load(const TlsPaths *paths, IdentityRole role, TlsMaterial *ret, char **ret_message);
void tls_material_done(TlsMaterial *m);

/* Of one certificate: whether the list names it. */
bool tls_material_is_revoked(const TlsMaterial *m, const X509 *certificate);
/* Whether the authority signed it. */
bool tls_material_is_issued(const TlsMaterial *m, const X509 *certificate);

/* CLOCK_REALTIME µs; 0 for what cannot be told. */
uint64_t tls_time_usec(const ASN1_TIME *time);
/* "2027-01-31 12:00:00 UTC", or "?". */
enum { TLS_TIME_SIZE = 32 };
char *tls_time_to_string(const ASN1_TIME *time, char buffer[static TLS_TIME_SIZE]);
/* Lower-case hexadecimal, at most 20 bytes of it as RFC 5280 allows. */
enum { TLS_SERIAL_SIZE = 2 * 20 + 1 };
char *tls_serial_to_string(const X509 *certificate, char buffer[static TLS_SERIAL_SIZE]);
