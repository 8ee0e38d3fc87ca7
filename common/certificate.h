/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "identity.h"
#include "memory-util.h"

/* Keys, requests, certificates and revocation lists, one at a time: how they are made and read. Whose they
 * are and which there are is authority.h's affair.
 *
 * Keys are ECDSA on P-256, signatures SHA-256. Moments are unix seconds. All functions return 0, -ENOMEM,
 * -EIO when libcrypto fails, and what is said. */

enum {
        CERTIFICATE_PEM_MAX = 16 << 10, /* of anything that is read: certificate, key */
        CERTIFICATE_REQUEST_MAX = 4 << 10,
        CERTIFICATE_LIST_MAX = 16 << 20, /* of a revocation list: about 300,000 entries */
        CERTIFICATE_NAMES_MAX = 64,      /* host names and addresses */
        CERTIFICATE_SERIAL_SIZE = 41,    /* 32 digits of ours, up to 40 of a stranger's, and the NUL */
};

#define DEFINE_OPENSSL_CLEANUP(Type, name)                                                                  \
        Type *name(Type *object);                                                                           \
        DEFINE_CLEANUP(Type, name)

/* Take NULL, return NULL. */
DEFINE_OPENSSL_CLEANUP(EVP_PKEY, key_free);
DEFINE_OPENSSL_CLEANUP(X509, certificate_free);
DEFINE_OPENSSL_CLEANUP(X509_CRL, revocation_free);

/* Text that holds a key: overwritten before it is freed. */
char *secret_free(char *text);
DEFINE_CLEANUP(char, secret_free);

int key_new(EVP_PKEY **ret);
/* Free the text with secret_free(). */
int key_to_pem(const EVP_PKEY *key, char **ret);
/* -EBADMSG for what is no private key, or one of another kind. An encrypted one is none. */
int key_from_pem(const char *pem, size_t size, EVP_PKEY **ret);

/* A request for a certificate: proves that whoever sends it has the key. Nothing else in it is believed. */
int request_new(EVP_PKEY *key, char **ret_pem);
/* -EBADMSG for what is none, is signed by another key than its own, or whose key is of another kind;
 * -EMSGSIZE over CERTIFICATE_REQUEST_MAX. The key is the caller's. */
int request_read(const char *pem, size_t size, EVP_PKEY **ret_public_key);

/* -EBADMSG for what is not exactly one certificate. */
int certificate_from_pem(const char *pem, size_t size, X509 **ret);
int certificate_to_pem(const X509 *certificate, char **ret);

/* A certificate for itself, that signs others and revocation lists. */
int certificate_new_authority(EVP_PKEY *key, const char *common_name, int64_t not_before, int64_t not_after,
                              X509 **ret);

typedef struct CertificateDraft {
        Identity identity;
        char *const *names;   /* host names and addresses, NULL-terminated, or NULL */
        EVP_PKEY *public_key; /* a private one will do */
        int64_t not_before, not_after;
} CertificateDraft;

/* With a random serial number. -EINVAL for a name that is neither a host name nor an address, or too many.
 */
int certificate_new(const CertificateDraft *draft, const X509 *authority, EVP_PKEY *authority_key,
                    X509 **ret);

/* Whether it is a host name (letters, digits, '-', labels of up to 63; "*" alone as the first) or an address
 * as it stands in a certificate. */
bool certificate_name_is_valid(const char *name);

/* Lower-case hex, at least 32 digits. */
char *certificate_serial(const X509 *certificate, char buffer[static CERTIFICATE_SERIAL_SIZE]);
void certificate_validity(const X509 *certificate, int64_t *ret_not_before, int64_t *ret_not_after);
/* Host names and addresses; an empty list is NULL. */
int certificate_names(const X509 *certificate, char ***ret);
/* SHA-256 of the encoded certificate. */
int certificate_digest(const X509 *certificate, Digest *ret);
bool certificate_has_key(const X509 *certificate, const EVP_PKEY *key);
bool certificate_is_signed_by(const X509 *certificate, const X509 *authority);
bool certificate_is_authority(const X509 *certificate);
/* The common name, for people; "" when there is none. buffer is returned. */
char *certificate_common_name(const X509 *certificate, char *buffer, size_t size);
/* Borrowed. NULL for a key that cannot be read. */
EVP_PKEY *certificate_key(const X509 *certificate);

/* Why a certificate was revoked, as RFC 5280 numbers it. */
typedef enum RevocationReason {
        REVOCATION_UNSPECIFIED = 0,
        REVOCATION_KEY_COMPROMISE = 1,
        REVOCATION_AFFILIATION_CHANGED = 3,
        REVOCATION_SUPERSEDED = 4,
        REVOCATION_CESSATION = 5,
        _REVOCATION_REASON_MAX,
} RevocationReason;

DEFINE_NAME_TABLE_DECLARATION(revocation_reason, RevocationReason);

/* -EBADMSG for what is none. */
int revocation_from_pem(const char *pem, size_t size, X509_CRL **ret);
int revocation_to_pem(const X509_CRL *list, char **ret);
/* A list with what is in former (NULL: nothing) and the serial numbers of certificates (those that are in it
 * already stay as they are). It is good for as long as the authority is. */
int revocation_new(const X509_CRL *former, X509 *const *certificates, size_t n, RevocationReason reason,
                   int64_t now, const X509 *authority, EVP_PKEY *authority_key, X509_CRL **ret);
/* Whether a certificate is in the list; list may be NULL. ret_when and ret_reason may be NULL. */
bool revocation_find(const X509_CRL *list, const X509 *certificate, int64_t *ret_when,
                     RevocationReason *ret_reason);
size_t revocation_size(const X509_CRL *list);
/* The serial of entry i, in hex as certificate_serial(). */
char *revocation_serial(const X509_CRL *list, size_t i, char buffer[static CERTIFICATE_SERIAL_SIZE]);
bool revocation_is_signed_by(const X509_CRL *list, const X509 *authority);
