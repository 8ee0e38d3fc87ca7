/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of revoked certificates; the rest of certificate.h. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <time.h>

#include "certificate.h"
#include "id.h"

static const char *const revocation_reason_table[_REVOCATION_REASON_MAX] = {
        [REVOCATION_UNSPECIFIED] = "unspecified",
        [REVOCATION_KEY_COMPROMISE] = "key-compromise",
        [REVOCATION_AFFILIATION_CHANGED] = "affiliation-changed",
        [REVOCATION_SUPERSEDED] = "superseded",
        [REVOCATION_CESSATION] = "cessation",
};

DEFINE_NAME_TABLE(revocation_reason, RevocationReason, revocation_reason_table);

static int failed(int error) {
        ERR_clear_error();
        return error;
}

X509_CRL *revocation_free(X509_CRL *list) {
        X509_CRL_free(list);
        return NULL;
}

static void bio_freep(BIO **bio) {
        BIO_free(*bio);
}

static void time_freep(ASN1_TIME **time) {
        ASN1_TIME_free(*time);
}

int revocation_from_pem(const char *pem, size_t size, X509_CRL **ret) {
        _cleanup_(bio_freep) BIO *bio = NULL;
        X509_CRL *list;

        if (size > CERTIFICATE_LIST_MAX)
                return -EBADMSG;
        bio = BIO_new_mem_buf(pem, (int) size);
        if (!bio)
                return failed(-ENOMEM);
        list = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL);
        if (!list)
                return failed(-EBADMSG);
        *ret = list;
        return 0;
}

int revocation_to_pem(const X509_CRL *list, char **ret) {
        _cleanup_(bio_freep) BIO *bio = BIO_new(BIO_s_mem());
        char *data, *text;
        long size;

        if (!bio)
                return failed(-ENOMEM);
        if (PEM_write_bio_X509_CRL(bio, list) != 1)
                return failed(-EIO);
        size = BIO_get_mem_data(bio, &data);
        text = memdup_nul(data, (size_t) size);
        if (!text)
                return -ENOMEM;
        *ret = text;
        return 0;
}

static bool entry_set_reason(X509_REVOKED *entry, RevocationReason reason) {
        ASN1_ENUMERATED *value;
        bool ok;

        if (reason == REVOCATION_UNSPECIFIED) /* is said by saying nothing */
                return true;
        value = ASN1_ENUMERATED_new();
        ok = value && ASN1_ENUMERATED_set(value, reason) == 1 &&
             X509_REVOKED_add1_ext_i2d(entry, NID_crl_reason, value, 0, 0) == 1;
        ASN1_ENUMERATED_free(value);
        return ok;
}

static int entry_add(X509_CRL *list, const X509 *certificate, RevocationReason reason,
                     const ASN1_TIME *when) {
        X509_REVOKED *entry = X509_REVOKED_new();

        if (!entry)
                return failed(-ENOMEM);
        if (X509_REVOKED_set_serialNumber(entry, (ASN1_INTEGER *) X509_get0_serialNumber(certificate)) !=
                    1 ||
            X509_REVOKED_set_revocationDate(entry, (ASN1_TIME *) when) != 1 ||
            !entry_set_reason(entry, reason) || X509_CRL_add0_revoked(list, entry) != 1) {
                X509_REVOKED_free(entry);
                return failed(-EIO);
        }
        return 0;
}

static int copy_entries(X509_CRL *list, const X509_CRL *former) {
        STACK_OF(X509_REVOKED) *entries = former ? X509_CRL_get_REVOKED((X509_CRL *) former) : NULL;

        for (int i = 0; i < sk_X509_REVOKED_num(entries); i++) {
                X509_REVOKED *copy = X509_REVOKED_dup(sk_X509_REVOKED_value(entries, i));

                if (!copy)
                        return failed(-ENOMEM);
                if (X509_CRL_add0_revoked(list, copy) != 1) {
                        X509_REVOKED_free(copy);
                        return failed(-EIO);
                }
        }
        return 0;
}

/* One more than the former list's. */
static int number_set(X509_CRL *list, const X509_CRL *former) {
        ASN1_INTEGER *number =
                former ? X509_CRL_get_ext_d2i((X509_CRL *) former, NID_crl_number, NULL, NULL) : NULL;
        int64_t value = 0;
        bool ok;

        if (number)
                (void) ASN1_INTEGER_get_int64(&value, number);
        else
                number = ASN1_INTEGER_new();
        ok = number && ASN1_INTEGER_set_int64(number, value + 1) == 1 &&
             X509_CRL_add1_ext_i2d(list, NID_crl_number, number, 0, 0) == 1;
        ASN1_INTEGER_free(number);
        return ok ? 0 : failed(-EIO);
}

static int issuer_key_set(X509_CRL *list, const X509 *authority) {
        X509_EXTENSION *extension;
        X509V3_CTX context;
        bool ok;

        X509V3_set_ctx(&context, (X509 *) authority, NULL, NULL, list, 0);
        X509V3_set_ctx_nodb(&context);
        extension = X509V3_EXT_conf_nid(NULL, &context, NID_authority_key_identifier, "keyid:always");
        ok = extension && X509_CRL_add_ext(list, extension, -1) == 1;
        X509_EXTENSION_free(extension);
        return ok ? 0 : failed(-EIO);
}

int revocation_new(const X509_CRL *former, X509 *const *certificates, size_t n, RevocationReason reason,
                   int64_t now, const X509 *authority, EVP_PKEY *authority_key, X509_CRL **ret) {
        _cleanup_(revocation_freep) X509_CRL *list = X509_CRL_new();
        _cleanup_(time_freep) ASN1_TIME *when = ASN1_TIME_set(NULL, now);
        int r;

        if (!list || !when)
                return failed(-ENOMEM);
        /* A list that has run out would shut everybody out: it is good for as long as the authority is. */
        if (X509_CRL_set_version(list, X509_CRL_VERSION_2) != 1 ||
            X509_CRL_set_issuer_name(list, X509_get_subject_name(authority)) != 1 ||
            X509_CRL_set1_lastUpdate(list, when) != 1 ||
            X509_CRL_set1_nextUpdate(list, X509_get0_notAfter(authority)) != 1)
                return failed(-EIO);
        r = copy_entries(list, former);
        for (size_t i = 0; i < n && r >= 0; i++)
                if (!revocation_find(former, certificates[i], NULL, NULL))
                        r = entry_add(list, certificates[i], reason, when);
        if (r >= 0)
                r = issuer_key_set(list, authority);
        if (r >= 0)
                r = number_set(list, former);
        if (r < 0)
                return r;
        if (X509_CRL_sort(list) != 1 || X509_CRL_sign(list, authority_key, EVP_sha256()) <= 0)
                return failed(-EIO);
        *ret = TAKE_PTR(list);
        return failed(0);
}

bool revocation_find(const X509_CRL *list, const X509 *certificate, int64_t *ret_when,
                     RevocationReason *ret_reason) {
        X509_REVOKED *entry;
        struct tm tm;

        if (!list || X509_CRL_get0_by_serial((X509_CRL *) list, &entry,
                                             (ASN1_INTEGER *) X509_get0_serialNumber(certificate)) != 1)
                return false;
        if (ret_when)
                *ret_when = ASN1_TIME_to_tm(X509_REVOKED_get0_revocationDate(entry), &tm) == 1
                                    ? (int64_t) timegm(&tm)
                                    : 0;
        if (ret_reason) {
                ASN1_ENUMERATED *value = X509_REVOKED_get_ext_d2i(entry, NID_crl_reason, NULL, NULL);
                long reason = value ? ASN1_ENUMERATED_get(value) : 0;

                ASN1_ENUMERATED_free(value);
                *ret_reason =
                        reason > 0 && reason < _REVOCATION_REASON_MAX && revocation_reason_table[reason]
                                ? (RevocationReason) reason
                                : REVOCATION_UNSPECIFIED;
        }
        ERR_clear_error();
        return true;
}

size_t revocation_size(const X509_CRL *list) {
        int n = list ? sk_X509_REVOKED_num(X509_CRL_get_REVOKED((X509_CRL *) list)) : 0;

        return n < 0 ? 0 : (size_t) n;
}

char *revocation_serial(const X509_CRL *list, size_t i, char buffer[static CERTIFICATE_SERIAL_SIZE]) {
        const X509_REVOKED *entry = sk_X509_REVOKED_value(X509_CRL_get_REVOKED((X509_CRL *) list), (int) i);
        const ASN1_INTEGER *serial = X509_REVOKED_get0_serialNumber(entry);
        size_t size = MIN((size_t) ASN1_STRING_length(serial), (size_t) 20);

        memset(buffer, '0', 32);
        return hex_encode(ASN1_STRING_get0_data(serial), size, buffer + (size < 16 ? 32 - 2 * size : 0)),
               buffer;
}

bool revocation_is_signed_by(const X509_CRL *list, const X509 *authority) {
        EVP_PKEY *key = certificate_key(authority);
        bool good = key && X509_CRL_verify((X509_CRL *) list, key) == 1;

        ERR_clear_error();
        return good;
}
