/* SPDX-License-Identifier: Apache-2.0 */
#include "certificate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <time.h>

#include "id.h"

/* libcrypto's queue of errors is per thread and would be found by whoever looks next. */
static int failed(int error) {
        ERR_clear_error();
        return error;
}

EVP_PKEY *key_free(EVP_PKEY *key) {
        EVP_PKEY_free(key);
        return NULL;
}

X509 *certificate_free(X509 *certificate) {
        X509_free(certificate);
        return NULL;
}

static void request_freep(X509_REQ **request) {
        X509_REQ_free(*request);
}

char *secret_free(char *text) {
        if (text)
                OPENSSL_cleanse(text, strlen(text));
        return mfree(text);
}

static void bio_freep(BIO **bio) {
        BIO_free(*bio);
}

/* What was written to a memory BIO, as text. */
static int bio_take(BIO *bio, char **ret) {
        char *data, *text;
        long size = BIO_get_mem_data(bio, &data);

        if (size <= 0)
                return failed(-EIO);
        text = memdup_nul(data, (size_t) size);
        if (!text)
                return -ENOMEM;
        *ret = text;
        return 0;
}

/* Nothing but white space may follow. */
static bool bio_is_empty(BIO *bio) {
        char c;

        while (BIO_read(bio, &c, 1) == 1)
                if (!strchr(" \t\r\n", c) || c == '\0')
                        return false;
        return true;
}

/* libcrypto would ask the terminal for a pass phrase. */
static int no_passphrase(char *buffer, int size, int writing, void *userdata) {
        return -1;
}

static bool key_is_ours(const EVP_PKEY *key) {
        char group[32];

        return EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 &&
               streq(group, "prime256v1");
}

int key_new(EVP_PKEY **ret) {
        EVP_PKEY *key = EVP_EC_gen("P-256");

        if (!key)
                return failed(-EIO);
        *ret = key;
        return 0;
}

int key_to_pem(const EVP_PKEY *key, char **ret) {
        /* Overwrites what it frees. */
        _cleanup_(bio_freep) BIO *bio = BIO_new(BIO_s_secmem());

        if (!bio)
                return failed(-ENOMEM);
        if (PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
                return failed(-EIO);
        return bio_take(bio, ret);
}

int key_from_pem(const char *pem, size_t size, EVP_PKEY **ret) {
        _cleanup_(bio_freep) BIO *bio = NULL;
        _cleanup_(key_freep) EVP_PKEY *key = NULL;

        if (size > CERTIFICATE_PEM_MAX)
                return -EBADMSG;
        bio = BIO_new_mem_buf(pem, (int) size);
        if (!bio)
                return failed(-ENOMEM);
        key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
        if (!key || !key_is_ours(key))
                return failed(-EBADMSG);
        *ret = TAKE_PTR(key);
        return 0;
}

static int name_new(const char *common_name, X509_NAME **ret) {
        X509_NAME *name = X509_NAME_new();

        if (!name)
                return failed(-ENOMEM);
        if (X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *) common_name, -1,
                                       -1, 0) != 1) {
                X509_NAME_free(name);
                return failed(-EIO);
        }
        *ret = name;
        return 0;
}

static void name_freep(X509_NAME **name) {
        X509_NAME_free(*name);
}

int request_new(EVP_PKEY *key, char **ret_pem) {
        _cleanup_(request_freep) X509_REQ *request = X509_REQ_new();
        _cleanup_(bio_freep) BIO *bio = BIO_new(BIO_s_mem());

        if (!request || !bio)
                return failed(-ENOMEM);
        if (X509_REQ_set_version(request, X509_REQ_VERSION_1) != 1 ||
            X509_REQ_set_pubkey(request, key) != 1 || X509_REQ_sign(request, key, EVP_sha256()) <= 0 ||
            PEM_write_bio_X509_REQ(bio, request) != 1)
                return failed(-EIO);
        return bio_take(bio, ret_pem);
}

int request_read(const char *pem, size_t size, EVP_PKEY **ret_public_key) {
        _cleanup_(request_freep) X509_REQ *request = NULL;
        _cleanup_(bio_freep) BIO *bio = NULL;
        EVP_PKEY *key;

        if (size > CERTIFICATE_REQUEST_MAX)
                return -EMSGSIZE;
        bio = BIO_new_mem_buf(pem, (int) size);
        if (!bio)
                return failed(-ENOMEM);
        request = PEM_read_bio_X509_REQ(bio, NULL, no_passphrase, NULL);
        if (!request)
                return failed(-EBADMSG);
        key = X509_REQ_get0_pubkey(request);
        if (!key || !key_is_ours(key) || X509_REQ_verify(request, key) != 1)
                return failed(-EBADMSG);
        if (EVP_PKEY_up_ref(key) != 1)
                return failed(-EIO);
        *ret_public_key = key;
        return failed(0);
}

int certificate_from_pem(const char *pem, size_t size, X509 **ret) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        _cleanup_(bio_freep) BIO *bio = NULL;

        if (size > CERTIFICATE_PEM_MAX)
                return -EBADMSG;
        bio = BIO_new_mem_buf(pem, (int) size);
        if (!bio)
                return failed(-ENOMEM);
        certificate = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        if (!certificate || !bio_is_empty(bio))
                return failed(-EBADMSG);
        *ret = TAKE_PTR(certificate);
        return failed(0);
}

int certificate_to_pem(const X509 *certificate, char **ret) {
        _cleanup_(bio_freep) BIO *bio = BIO_new(BIO_s_mem());

        if (!bio)
                return failed(-ENOMEM);
        if (PEM_write_bio_X509(bio, certificate) != 1)
                return failed(-EIO);
        return bio_take(bio, ret);
}

/* Making one */

static int time_set(const X509 *certificate, int64_t not_before, int64_t not_after) {
        return ASN1_TIME_set(X509_getm_notBefore(certificate), not_before) &&
                               ASN1_TIME_set(X509_getm_notAfter(certificate), not_after)
                       ? 0
                       : failed(-EIO);
}

/* 128 random bits, the first digit not 0: it is 32 digits long however it is written. */
static int serial_set(X509 *certificate) {
        uint8_t bytes[16];
        BIGNUM *number;
        bool ok;

        if (RAND_bytes(bytes, sizeof(bytes)) != 1)
                return failed(-EIO);
        if (bytes[0] < 0x10)
                bytes[0] |= 0x10;
        number = BN_bin2bn(bytes, sizeof(bytes), NULL);
        ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
        BN_free(number);
        return ok ? 0 : failed(-EIO);
}

/* Extensions whose text is ours, with nothing of a stranger's in it. */
static int extension_add(X509 *certificate, const X509 *issuer, int nid, const char *value) {
        X509_EXTENSION *extension;
        X509V3_CTX context;
        bool ok;

        X509V3_set_ctx(&context, (X509 *) issuer, certificate, NULL, NULL, 0);
        X509V3_set_ctx_nodb(&context);
        extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
        ok = extension && X509_add_ext(certificate, extension, -1) == 1;
        X509_EXTENSION_free(extension);
        return ok ? 0 : failed(-EIO);
}

typedef struct ExtensionText {
        int nid;
        const char *value;
} ExtensionText;

static int extensions_add(X509 *certificate, const X509 *issuer, const ExtensionText *texts, size_t n) {
        for (size_t i = 0; i < n; i++) {
                int r = extension_add(certificate, issuer, texts[i].nid, texts[i].value);

                if (r < 0)
                        return r;
        }
        return 0;
}

int certificate_new_authority(EVP_PKEY *key, const char *common_name, int64_t not_before, int64_t not_after,
                              X509 **ret) {
        static const ExtensionText extensions[] = {
                { NID_basic_constraints, "critical,CA:TRUE,pathlen:0" },
                { NID_key_usage, "critical,keyCertSign,cRLSign" },
                { NID_subject_key_identifier, "hash" },
        };
        _cleanup_(certificate_freep) X509 *certificate = X509_new();
        _cleanup_(name_freep) X509_NAME *name = NULL;
        int r;

        if (!certificate)
                return failed(-ENOMEM);
        r = name_new(common_name, &name);
        if (r >= 0)
                r = serial_set(certificate);
        if (r >= 0)
                r = time_set(certificate, not_before, not_after);
        if (r < 0)
                return r;
        if (X509_set_version(certificate, X509_VERSION_3) != 1 ||
            X509_set_subject_name(certificate, name) != 1 || X509_set_issuer_name(certificate, name) != 1 ||
            X509_set_pubkey(certificate, key) != 1)
                return failed(-EIO);
        r = extensions_add(certificate, certificate, extensions, ELEMENTSOF(extensions));
        if (r < 0)
                return r;
        if (X509_sign(certificate, key, EVP_sha256()) <= 0)
                return failed(-EIO);
        *ret = TAKE_PTR(certificate);
        return 0;
}

/* The bytes of an address: 4 or 16, 0 when it is none. */
static size_t address_bytes(const char *name, uint8_t bytes[static 16]) {
        if (inet_pton(AF_INET, name, bytes) == 1)
                return 4;
        return inet_pton(AF_INET6, name, bytes) == 1 ? 16 : 0;
}

bool certificate_name_is_valid(const char *name) {
        uint8_t bytes[16];
        const char *s = name;

        if (address_bytes(name, bytes) > 0)
                return true;
        if (strlen(name) > 253 || isempty(name))
                return false;
        if (s[0] == '*' && s[1] == '.')
                s += 2;
        for (;;) {
                size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

                if (n == 0 || n > 63 || s[0] == '-' || s[n - 1] == '-')
                        return false;
                if (s[n] == '\0')
                        return true;
                if (s[n] != '.')
                        return false;
                s += n + 1;
        }
}

static void names_freep(GENERAL_NAMES **names) {
        GENERAL_NAMES_free(*names);
}

static int names_add(GENERAL_NAMES *names, int type, const void *data, size_t size) {
        ASN1_STRING *value = type == GEN_IPADD ? (ASN1_STRING *) ASN1_OCTET_STRING_new()
                                               : (ASN1_STRING *) ASN1_IA5STRING_new();
        GENERAL_NAME *name = GENERAL_NAME_new();

        if (!value || !name || ASN1_STRING_set(value, data, (int) size) != 1) {
                ASN1_STRING_free(value);
                GENERAL_NAME_free(name);
                return failed(-ENOMEM);
        }
        GENERAL_NAME_set0_value(name, type, value);
        if (sk_GENERAL_NAME_push(names, name) <= 0) {
                GENERAL_NAME_free(name);
                return failed(-ENOMEM);
        }
        return 0;
}

/* Not by a configuration's text, in which a name could be more than a name. */
static int alternative_names_add(X509 *certificate, const CertificateDraft *draft) {
        _cleanup_(names_freep) GENERAL_NAMES *names = GENERAL_NAMES_new();
        char uri[IDENTITY_URI_SIZE];
        int r;

        if (!names)
                return failed(-ENOMEM);
        if (strv_length(draft->names) > CERTIFICATE_NAMES_MAX)
                return -EINVAL;
        identity_to_uri(&draft->identity, uri);
        r = names_add(names, GEN_URI, uri, strlen(uri));
        for (char *const *name = draft->names; name && *name && r >= 0; name++) {
                uint8_t bytes[16];
                size_t size = address_bytes(*name, bytes);

                if (size > 0)
                        r = names_add(names, GEN_IPADD, bytes, size);
                else
                        r = certificate_name_is_valid(*name)
                                    ? names_add(names, GEN_DNS, *name, strlen(*name))
                                    : -EINVAL;
        }
        if (r < 0)
                return r;
        return X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1
                       ? 0
                       : failed(-EIO);
}

int certificate_new(const CertificateDraft *draft, const X509 *authority, EVP_PKEY *authority_key,
                    X509 **ret) {
        const ExtensionText extensions[] = {
                { NID_basic_constraints, "critical,CA:FALSE" },
                { NID_key_usage, "critical,digitalSignature" },
                { NID_ext_key_usage,
                  draft->identity.role == IDENTITY_MASTER ? "serverAuth,clientAuth" : "clientAuth" },
                { NID_subject_key_identifier, "hash" },
                { NID_authority_key_identifier, "keyid:always" },
        };
        _cleanup_(certificate_freep) X509 *certificate = X509_new();
        _cleanup_(name_freep) X509_NAME *subject = NULL;
        char text[IDENTITY_URI_SIZE], common_name[65];
        int r;

        if (!certificate)
                return failed(-ENOMEM);
        /* Its bound is 64 characters; the name as a whole stands in the URI. */
        snprintf(common_name, sizeof(common_name), "%.64s", identity_to_string(&draft->identity, text));
        r = name_new(common_name, &subject);
        if (r >= 0)
                r = serial_set(certificate);
        if (r >= 0)
                r = time_set(certificate, draft->not_before, draft->not_after);
        if (r < 0)
                return r;
        if (X509_set_version(certificate, X509_VERSION_3) != 1 ||
            X509_set_subject_name(certificate, subject) != 1 ||
            X509_set_issuer_name(certificate, X509_get_subject_name(authority)) != 1 ||
            X509_set_pubkey(certificate, draft->public_key) != 1)
                return failed(-EIO);
        r = extensions_add(certificate, authority, extensions, ELEMENTSOF(extensions));
        if (r >= 0)
                r = alternative_names_add(certificate, draft);
        if (r < 0)
                return r;
        if (X509_sign(certificate, authority_key, EVP_sha256()) <= 0)
                return failed(-EIO);
        *ret = TAKE_PTR(certificate);
        return 0;
}

/* Reading one */

char *certificate_serial(const X509 *certificate, char buffer[static CERTIFICATE_SERIAL_SIZE]) {
        const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
        const uint8_t *bytes = ASN1_STRING_get0_data(serial);
        size_t size = MIN((size_t) ASN1_STRING_length(serial), (size_t) 20);

        memset(buffer, '0', 32);
        hex_encode(bytes, size, buffer + (size < 16 ? 32 - 2 * size : 0));
        return buffer;
}

static int64_t time_get(const ASN1_TIME *time) {
        struct tm tm;

        return ASN1_TIME_to_tm(time, &tm) == 1 ? (int64_t) timegm(&tm) : 0;
}

void certificate_validity(const X509 *certificate, int64_t *ret_not_before, int64_t *ret_not_after) {
        *ret_not_before = time_get(X509_get0_notBefore(certificate));
        *ret_not_after = time_get(X509_get0_notAfter(certificate));
        ERR_clear_error();
}

int certificate_names(const X509 *certificate, char ***ret) {
        _cleanup_(names_freep) GENERAL_NAMES *names =
                X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
        _cleanup_(strv_freep) char **list = NULL;

        ERR_clear_error();
        for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
                char address[INET6_ADDRSTRLEN];
                const ASN1_STRING *value;
                const char *text = NULL;
                int type, r;

                value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
                if (type == GEN_DNS && strlen((const char *) ASN1_STRING_get0_data(value)) ==
                                               (size_t) ASN1_STRING_length(value))
                        text = (const char *) ASN1_STRING_get0_data(value);
                else if (type == GEN_IPADD)
                        text = inet_ntop(ASN1_STRING_length(value) == 4 ? AF_INET : AF_INET6,
                                         ASN1_STRING_get0_data(value), address, sizeof(address));
                r = text && certificate_name_is_valid(text) ? strv_extend(&list, text) : 0;
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(list);
        return 0;
}

int certificate_digest(const X509 *certificate, Digest *ret) {
        unsigned size = sizeof(ret->bytes);

        return X509_digest(certificate, EVP_sha256(), ret->bytes, &size) == 1 ? 0 : failed(-EIO);
}

EVP_PKEY *certificate_key(const X509 *certificate) {
        EVP_PKEY *key = X509_get0_pubkey(certificate);

        ERR_clear_error();
        return key;
}

bool certificate_has_key(const X509 *certificate, const EVP_PKEY *key) {
        EVP_PKEY *own = certificate_key(certificate);
        bool same = own && EVP_PKEY_eq(own, key) == 1;

        ERR_clear_error();
        return same;
}

bool certificate_is_signed_by(const X509 *certificate, const X509 *authority) {
        EVP_PKEY *key = certificate_key(authority);
        bool good = key && X509_verify((X509 *) certificate, key) == 1;

        ERR_clear_error();
        return good;
}

bool certificate_is_authority(const X509 *certificate) {
        bool is = X509_check_ca((X509 *) certificate) == 1;

        ERR_clear_error();
        return is;
}

char *certificate_common_name(const X509 *certificate, char *buffer, size_t size) {
        if (X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, buffer,
                                      (int) size) < 0)
                buffer[0] = '\0';
        ERR_clear_error();
        return buffer;
}
