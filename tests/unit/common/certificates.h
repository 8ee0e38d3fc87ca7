/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>

/* Certificates for tests, good ones and such as no authority of ours would issue. Every function aborts the
 * program when OpenSSL fails. */

typedef struct TestCredential {
        EVP_PKEY *key;
        X509 *certificate;
} TestCredential;

typedef struct TestCertificate {
        const char *uris[4];   /* subject alternative names of type URI */
        const char *names;     /* further ones in OpenSSL's words: "DNS:localhost,IP:127.0.0.1" */
        const char *usage;     /* extended key usage; NULL: "serverAuth,clientAuth", "": none */
        long serial;           /* 0: 1 */
        long begins_s, ends_s; /* from now; ends_s 0: in an hour */
        bool authority;
} TestCertificate;

/* issuer NULL: signed by itself. */
TestCredential test_credential_new(const TestCertificate *what, const TestCredential *issuer);
void test_credential_done(TestCredential *c);
/* A certificate for a key that is there already: what a renewal makes. */
TestCredential test_credential_renew(const TestCertificate *what, const TestCredential *issuer,
                                     const TestCredential *old);

/* Encoded; to be freed with free(). */
unsigned char *test_certificate_der(const X509 *certificate, size_t *ret_size);

/* n updates of the key, which are TLS's own and none of the application's, as they are to go to the socket.
 * The handshake is over. To be freed with free(). */
unsigned char *test_key_updates(SSL *ssl, size_t n, size_t *ret_size);

/* PEM files in a folder: NAME.crt, NAME.key; the list of those revoked, good until until_s from now. */
void test_credential_write(const TestCredential *c, const char *directory, const char *name);
void test_revoked_write(const TestCredential *authority, const char *directory, const char *name,
                        const long *serials, size_t n, long until_s);
