/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "certificate.h"
#include "identity.h"
#include "memory-util.h"

/* A cluster's certificate authority: the folder (by default /etc/clupy/pki) where its key lies and that has
 * a copy of everything it signed.
 *
 *     ca.crt  ca.key  ca.crl     the authority, its key (only where it lives), what it has revoked
 *     issued/SERIAL.crt          each certificate that it has issued
 *
 * Moments are unix seconds. Whoever has one open to sign keeps others from doing so, until
 * authority_unlock() or authority_close(): authority_open() waits for them, not for ever. Who only reads
 * disturbs nobody. All functions return 0, -ENOMEM, -EIO when libcrypto fails, -errno of the files, and what
 * is said.
 */
typedef struct Authority Authority;

#define AUTHORITY_FOLDER "/etc/clupy/pki"

enum {
        AUTHORITY_PATIENCE_MS = 2000, /* for whoever else has it open: less than the master has */
        AUTHORITY_DAYS = 3650,        /* the authority's own */
        CERTIFICATE_DAYS = 365,
        CERTIFICATE_DAYS_MAX = 3650,
        CERTIFICATE_SOON_DAYS = 30,   /* before the end they are warned of */
        CERTIFICATE_BACKDATE_S = 300, /* for machines whose clocks are behind */
};

typedef struct AuthorityDraft {
        const char *folder;
        const char *cluster; /* for people: stands in the authority's common name */
        char *const *names;  /* of the master's machine, NULL-terminated */
        unsigned days;       /* of the master's certificate */
        const char *owner;   /* the user who is to have issued/, NULL: nobody else */
        int64_t now;
} AuthorityDraft;

/* Makes the folder, the authority, its empty revocation list, and the master's certificate and key. Nothing
 * is overwritten: -EEXIST when one of the files is there. Nothing is left when it fails. ret_file: which
 * file it was about, static, or NULL. */
int authority_create(const AuthorityDraft *draft, const char **ret_file);

typedef enum AuthorityAccess {
        AUTHORITY_READ, /* certificates: authority_list() and what needs no more than that */
        AUTHORITY_SIGN, /* the key as well */
} AuthorityAccess;

/* key_path: NULL for ca.key in the folder. -ENOENT: there is none (ret_file "ca.crt"), or not its key
 * ("ca.key"); -EBADMSG: ret_file is not what it should be: unreadable, or of another authority; -EBUSY:
 * another process does not let go of it. */
int authority_open(const char *folder, AuthorityAccess access, const char *key_path, Authority **ret,
                   const char **ret_file);
Authority *authority_close(Authority *a);
DEFINE_CLEANUP(Authority, authority_close);

/* Lets others go on: for who has signed all that is to be, and prints it now, to somebody who may take a
 * long time to read it. What was read stays readable; nothing else is to be done with it. */
void authority_unlock(Authority *a);

const X509 *authority_certificate(const Authority *a);
const X509_CRL *authority_revoked(const Authority *a); /* NULL without a list */
int authority_folder(const Authority *a);              /* its descriptor */

/* Signs and writes down. -ERANGE: the authority itself ends too soon; -EMFILE: that identity has INDEX_MAX
 * good certificates, or that key as many. */
int authority_issue(Authority *a, const Identity *identity, char *const *names, EVP_PKEY *public_key,
                    unsigned days, int64_t now, X509 **ret);

/* An issued certificate by its serial number. -ENOENT. */
int authority_find(Authority *a, const char *serial, X509 **ret);

/* 1 when somebody can show a certificate of this identity: one that has not ended and is not revoked; 0.
 * Costs what that identity has had, not what there is. */
int authority_has_valid(Authority *a, const Identity *identity, int64_t now);

/* 1 when a revoked certificate has this key too: then the key itself is not to be trusted any more; 0. */
int authority_key_is_revoked(Authority *a, const EVP_PKEY *key);

/* Signs a certificate for the same key and the same names once more. -EKEYREVOKED: that certificate, or
 * another one of the same key, is revoked; -EKEYEXPIRED: it has ended, or has not begun; as
 * authority_issue(). */
int authority_renew(Authority *a, const X509 *former, unsigned days, int64_t now, X509 **ret);

typedef enum IssuedState {
        ISSUED_VALID,
        ISSUED_SOON, /* valid, but ends within CERTIFICATE_SOON_DAYS */
        ISSUED_EXPIRED,
        ISSUED_EARLY, /* not valid yet */
        ISSUED_REVOKED,
        _ISSUED_STATE_MAX,
} IssuedState;

DEFINE_NAME_TABLE_DECLARATION(issued_state, IssuedState);

typedef struct Issued {
        X509 *certificate;
        Identity identity;
        char serial[CERTIFICATE_SERIAL_SIZE];
        int64_t not_before, not_after;
        IssuedState state;
        int64_t revoked_at; /* 0: it is not */
        RevocationReason reason;
} Issued;

/* Takes the certificate, also on failure. -EBADMSG for one without an identity. */
int issued_from(X509 *certificate, const X509_CRL *revoked, int64_t now, Issued *ret);

/* All of them, by role, name and date. What is no certificate of this authority is left out and counted. */
int authority_list(Authority *a, int64_t now, Issued **ret, size_t *ret_n, size_t *ret_strange);
Issued *issued_free(Issued *list, size_t n);

/* A new revocation list with these in it, in the place of the former one. Returns the number of new entries.
 */
int authority_revoke(Authority *a, X509 *const *certificates, size_t n, RevocationReason reason,
                     int64_t now);
