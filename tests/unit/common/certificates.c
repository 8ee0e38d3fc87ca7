/* SPDX-License-Identifier: Apache-2.0 */
#include "certificates.h"

#include <limits.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                                    \
        do {                                                                                                \
                if (!(condition)) {                                                                         \
                        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                     \
                        ERR_print_errors_fp(stderr);                                                        \
                        abort();                                                                            \
                }                                                                                           \
        } while (0)

static void add_extension(X509 *certificate, const TestCredential *issuer, int nid, const char *value) {
        X509_EXTENSION *extension;
        X509V3_CTX context;

        X509V3_set_ctx(&context, issuer ? issuer->certificate : certificate, certificate, NULL, NULL, 0);
        extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
        CHECK(extension && X509_add_ext(certificate, extension, -1) == 1);
        X509_EXTENSION_free(extension);
}

/* Made by hand: OpenSSL's own notation would trip over a comma in a name. */
static void add_names(X509 *certificate, const TestCertificate *what) {
        GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();

        CHECK(names);
        if (what->names) {
                X509_EXTENSION *extension =
                        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, what->names);

                CHECK(extension);
                sk_GENERAL_NAME_free(names);
                names = X509V3_EXT_d2i(extension);
                CHECK(names);
                X509_EXTENSION_free(extension);
        }
        for (size_t i = 0; i < sizeof(what->uris) / sizeof(what->uris[0]) && what->uris[i]; i++) {
                GENERAL_NAME *name = GENERAL_NAME_new();
                ASN1_IA5STRING *uri = ASN1_IA5STRING_new();

                CHECK(name && uri && ASN1_STRING_set(uri, what->uris[i], -1) == 1);
                GENERAL_NAME_set0_value(name, GEN_URI, uri);
                CHECK(sk_GENERAL_NAME_push(names, name) > 0);
        }
        if (sk_GENERAL_NAME_num(names) > 0)
                CHECK(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) ==
                      1);
        GENERAL_NAMES_free(names);
}

static X509 *certificate_new(const TestCertificate *what, const TestCredential *issuer, EVP_PKEY *key) {
        X509 *certificate = X509_new();
        X509_NAME *name;
        const char *common = what->authority ? "an authority" : "somebody";

        CHECK(certificate && X509_set_version(certificate, X509_VERSION_3) == 1);
        CHECK(ASN1_INTEGER_set(X509_get_serialNumber(certificate), what->serial ? what->serial : 1) == 1);
        CHECK(X509_gmtime_adj(X509_getm_notBefore(certificate), what->begins_s));
        CHECK(X509_gmtime_adj(X509_getm_notAfter(certificate), what->ends_s ? what->ends_s : 3600));
        name = X509_get_subject_name(certificate);
        CHECK(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *) common, -1, -1,
                                         0) == 1);
        CHECK(X509_set_issuer_name(certificate,
                                   issuer ? X509_get_subject_name(issuer->certificate) : name) == 1);
        CHECK(X509_set_pubkey(certificate, key) == 1);
        add_extension(certificate, issuer, NID_basic_constraints,
                      what->authority ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE");
        add_extension(certificate, issuer, NID_subject_key_identifier, "hash");
        add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always");
        add_extension(certificate, issuer, NID_key_usage,
                      what->authority ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
        if (!what->authority && (!what->usage || *what->usage))
                add_extension(certificate, issuer, NID_ext_key_usage,
                              what->usage ? what->usage : "serverAuth,clientAuth");
        add_names(certificate, what);
        CHECK(X509_sign(certificate, issuer ? issuer->key : key, EVP_sha256()) > 0);
        return certificate;
}

TestCredential test_credential_new(const TestCertificate *what, const TestCredential *issuer) {
        TestCredential c = { .key = EVP_EC_gen("P-256") };

        CHECK(c.key);
        c.certificate = certificate_new(what, issuer, c.key);
        return c;
}

TestCredential test_credential_renew(const TestCertificate *what, const TestCredential *issuer,
                                     const TestCredential *old) {
        TestCredential c = { .key = old->key };

        CHECK(EVP_PKEY_up_ref(c.key) == 1);
        c.certificate = certificate_new(what, issuer, c.key);
        return c;
}

void test_credential_done(TestCredential *c) {
        EVP_PKEY_free(c->key);
        X509_free(c->certificate);
        *c = (TestCredential){ 0 };
}

unsigned char *test_certificate_der(const X509 *certificate, size_t *ret_size) {
        int size = i2d_X509(certificate, NULL);
        unsigned char *der, *p;

        CHECK(size > 0);
        der = p = malloc((size_t) size);
        CHECK(der && i2d_X509(certificate, &p) == size);
        *ret_size = (size_t) size;
        return der;
}

/* Renamed over what was there, as `clupyctl pki` does it: nobody ever reads half a file. */
static FILE *file_begin(const char *directory, const char *name, const char *suffix, char path[PATH_MAX]) {
        FILE *f;

        snprintf(path, PATH_MAX, "%s/%s%s.new", directory, name, suffix);
        f = fopen(path, "we");
        CHECK(f);
        return f;
}

static void file_end(FILE *f, char path[PATH_MAX]) {
        char final[PATH_MAX];

        CHECK(fclose(f) == 0);
        snprintf(final, sizeof(final), "%.*s", (int) (strlen(path) - strlen(".new")), path);
        CHECK(rename(path, final) == 0);
}

void test_credential_write(const TestCredential *c, const char *directory, const char *name) {
        char path[PATH_MAX];
        FILE *f;

        f = file_begin(directory, name, ".crt", path);
        CHECK(PEM_write_X509(f, c->certificate) == 1);
        file_end(f, path);
        f = file_begin(directory, name, ".key", path);
        CHECK(PEM_write_PKCS8PrivateKey(f, c->key, NULL, NULL, 0, NULL, NULL) == 1);
        CHECK(fchmod(fileno(f), 0600) == 0);
        file_end(f, path);
}

void test_revoked_write(const TestCredential *authority, const char *directory, const char *name,
                        const long *serials, size_t n, long until_s) {
        X509_CRL *crl = X509_CRL_new();
        ASN1_TIME *now = X509_gmtime_adj(NULL, -3600), *until = X509_gmtime_adj(NULL, until_s);
        char path[PATH_MAX];
        FILE *f;

        CHECK(crl && now && until && X509_CRL_set_version(crl, X509_CRL_VERSION_2) == 1);
        CHECK(X509_CRL_set_issuer_name(crl, X509_get_subject_name(authority->certificate)) == 1);
        CHECK(X509_CRL_set1_lastUpdate(crl, now) == 1 && X509_CRL_set1_nextUpdate(crl, until) == 1);
        for (size_t i = 0; i < n; i++) {
                X509_REVOKED *revoked = X509_REVOKED_new();
                ASN1_INTEGER *serial = ASN1_INTEGER_new();

                CHECK(revoked && serial && ASN1_INTEGER_set(serial, serials[i]) == 1);
                CHECK(X509_REVOKED_set_serialNumber(revoked, serial) == 1);
                CHECK(X509_REVOKED_set_revocationDate(revoked, now) == 1);
                CHECK(X509_CRL_add0_revoked(crl, revoked) == 1);
                ASN1_INTEGER_free(serial);
        }
        CHECK(X509_CRL_sort(crl) == 1 && X509_CRL_sign(crl, authority->key, EVP_sha256()) > 0);
        f = file_begin(directory, name, "", path);
        CHECK(PEM_write_X509_CRL(f, crl) == 1);
        file_end(f, path);
        X509_CRL_free(crl);
        ASN1_TIME_free(now);
        ASN1_TIME_free(until);
}

unsigned char *test_key_updates(SSL *ssl, size_t n, size_t *ret_size) {
        BIO *socket = SSL_get_wbio(ssl), *memory = BIO_new(BIO_s_mem());
        unsigned char *copy;
        char *data;

        CHECK(memory && BIO_up_ref(socket) == 1);
        SSL_set0_wbio(ssl, memory);
        for (size_t i = 0; i < n; i++)
                CHECK(SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1 && SSL_do_handshake(ssl) == 1);
        *ret_size = (size_t) BIO_get_mem_data(memory, &data);
        copy = malloc(*ret_size);
        CHECK(copy);
        memcpy(copy, data, *ret_size);
        SSL_set0_wbio(ssl, socket);
        return copy;
}
