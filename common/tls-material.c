/* SPDX-License-Identifier: Apache-2.0 */
#include "tls-material.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fd-util.h"
#include "time-util.h"

enum { FILE_MAX = 64 << 10, REVOKED_MAX = 32 << 20 };

/* Who can make what is missing. */
static const char *const remedy_table[_IDENTITY_ROLE_MAX] = {
        [IDENTITY_MASTER] =
                "'clupyctl pki init' makes the cluster's authority and this master's certificate",
        [IDENTITY_AGENT] = "'clupy-agent --join MASTER' gets this node its certificate",
        [IDENTITY_USER] = "have an administrator make one with 'clupyctl pki issue user NAME'",
        [IDENTITY_ADMIN] = "have an administrator make one with 'clupyctl pki issue admin NAME'",
};

static void set_message(char **ret_message, char *message) {
        free(*ret_message);
        *ret_message = message;
}

/* Returns the memory BIO over the file's text, which lives in ret_text. */
static int file_open(const char *path, size_t max, IdentityRole role, bool secret, char **ret_text,
                     BIO **ret, char **ret_message) {
        _cleanup_(close_fdp) int fd = -EBADF;
        struct stat st;
        size_t size;
        int r;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &st) < 0) {
                r = -errno;
                if (r == -ENOENT)
                        set_message(ret_message,
                                    strformat("%s: there is no such file: %s", path, remedy_table[role]));
                else
                        set_message(ret_message, strformat("%s: cannot be read: %s", path, strerror(-r)));
                return r;
        }
        /* Not the group: a credential's access list shows as the group's bits. */
        if (secret && (st.st_mode & S_IRWXO) != 0) {
                set_message(ret_message,
                            strformat("%s: everybody can get at this private key: 'chmod 0600' it, "
                                      "and make a new one if others may have read it",
                                      path));
                return -EPERM;
        }
        r = read_fd_full(fd, max, ret_text, &size);
        if (r < 0) {
                set_message(ret_message, strformat("%s: cannot be read: %s", path, strerror(-r)));
                return r;
        }
        *ret = BIO_new_mem_buf(*ret_text, (int) size);
        return *ret ? 0 : -ENOMEM;
}

/* A prompt on a terminal that a daemon does not have is no way to ask. */
static int no_passphrase(char *buffer, int size, int writing, void *userdata) {
        return -1;
}

static int load_certificate(const char *path, IdentityRole role, X509 **ret, char **ret_message) {
        _cleanup_(freep) char *text = NULL;
        X509 *certificate, *second;
        BIO *bio = NULL;
        int r;

        r = file_open(path, FILE_MAX, role, false, &text, &bio, ret_message);
        if (r < 0)
                return r;
        certificate = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        second = certificate ? PEM_read_bio_X509(bio, NULL, no_passphrase, NULL) : NULL;
        BIO_free(bio);
        ERR_clear_error();
        if (!certificate || second) {
                set_message(ret_message,
                            strformat("%s: %s", path,
                                      second ? "has more than one certificate, expected is a single one"
                                             : "is no certificate in PEM form"));
                X509_free(certificate);
                X509_free(second);
                return -EBADMSG;
        }
        *ret = certificate;
        return 0;
}

static int load_key(const char *path, IdentityRole role, EVP_PKEY **ret, char **ret_message) {
        char *text = NULL;
        BIO *bio = NULL;
        int r;

        r = file_open(path, FILE_MAX, role, true, &text, &bio, ret_message);
        if (r >= 0) {
                *ret = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
                /* What the units give for a credential that does not exist. */
                if (!*ret && streq_ptr(text, "none")) {
                        set_message(ret_message,
                                    strformat("%s: there is no private key: %s", path, remedy_table[role]));
                        r = -ENOENT;
                } else if (!*ret) {
                        set_message(ret_message,
                                    strformat("%s: is no private key in PEM form without passphrase", path));
                        r = -EBADMSG;
                }
        }
        BIO_free(bio);
        ERR_clear_error();
        if (text)
                explicit_bzero(text, strlen(text));
        free(text);
        return r;
}

static int load_revoked(const char *path, IdentityRole role, const X509 *authority, X509_CRL **ret,
                        char **ret_message) {
        _cleanup_(freep) char *text = NULL, *ignored = NULL;
        const char *wrong = NULL;
        X509_CRL *crl;
        BIO *bio = NULL;
        int r;

        r = file_open(path, REVOKED_MAX, role, false, &text, &bio, &ignored);
        if (r == -ENOENT)
                return 0;
        if (r < 0) {
                set_message(ret_message, TAKE_PTR(ignored));
                return r;
        }
        crl = PEM_read_bio_X509_CRL(bio, NULL, no_passphrase, NULL);
        BIO_free(bio);
        if (!crl)
                wrong = "is no revocation list in PEM form";
        else if (X509_NAME_cmp(X509_CRL_get_issuer(crl), X509_get_subject_name(authority)) != 0 ||
                 X509_CRL_verify(crl, X509_get0_pubkey(authority)) != 1)
                wrong = "is not a revocation list of this cluster's authority";
        else {
                STACK_OF(X509_EXTENSION) *extensions =
                        (STACK_OF(X509_EXTENSION) *) X509_CRL_get0_extensions(crl);

                /* One that speaks of other certificates only (a delta, a part) would pass for the whole. */
                for (int i = 0; i < sk_X509_EXTENSION_num(extensions); i++)
                        if (X509_EXTENSION_get_critical(sk_X509_EXTENSION_value(extensions, i)))
                                wrong = "is not the whole revocation list of this cluster's authority";
        }
        ERR_clear_error();
        if (wrong) {
                set_message(ret_message, strformat("%s: %s", path, wrong));
                X509_CRL_free(crl);
                return -EBADMSG;
        }
        *ret = crl;
        return 0;
}

static int check_authority(const TlsPaths *paths, const TlsMaterial *m, char **ret_message) {
        /* 1: by basicConstraints; other values are for certificates of before version 3. */
        if (X509_check_ca(m->authority) == 1)
                return 0;
        set_message(
                ret_message,
                strformat("%s: is not the certificate of an authority: it must be a copy of the cluster's "
                          "ca.crt",
                          paths->authority));
        return -EBADMSG;
}

static int check_certificate(const TlsPaths *paths, IdentityRole role, TlsMaterial *m, char **ret_message) {
        const char *why;
        int r;

        r = identity_from_certificate(m->certificate, &m->identity, &why);
        if (r < 0) {
                set_message(ret_message, strformat("%s: the certificate %s: %s", paths->certificate, why,
                                                   remedy_table[role]));
                return r;
        }
        if (m->identity.role != role && !(role == IDENTITY_USER && m->identity.role == IDENTITY_ADMIN)) {
                set_message(ret_message,
                            strformat("%s: is the certificate of %s, expected is one for the role %s: %s",
                                      paths->certificate, IDENTITY_STRING(&m->identity),
                                      identity_role_to_string(role), remedy_table[role]));
                return -EBADMSG;
        }
        if (!X509_check_private_key(m->certificate, m->key)) {
                ERR_clear_error();
                set_message(
                        ret_message,
                        strformat("%s: does not belong to the private key in %s: both must come from the "
                                  "same issue, renewing keeps the key",
                                  paths->certificate, paths->key));
                return -EKEYREJECTED;
        }
        if (m->authority && !tls_material_is_issued(m, m->certificate)) {
                set_message(ret_message,
                            strformat("%s: was not issued by the authority in %s: %s", paths->certificate,
                                      paths->authority, remedy_table[role]));
                return -EKEYREJECTED;
        }
        return 0;
}

int tls_material_load(const TlsPaths *paths, IdentityRole role, TlsMaterial *ret, char **ret_message) {
        _cleanup_(freep) char *message = NULL;
        TlsMaterial m = { 0 };
        int r = 0;

        if (paths->certificate)
                r = load_certificate(paths->certificate, role, &m.certificate, &message);
        if (r >= 0 && paths->key)
                r = load_key(paths->key, role, &m.key, &message);
        if (r >= 0 && paths->authority)
                r = load_certificate(paths->authority, role, &m.authority, &message);
        if (r >= 0 && m.authority)
                r = check_authority(paths, &m, &message);
        if (r >= 0 && m.certificate && m.key)
                r = check_certificate(paths, role, &m, &message);
        if (r >= 0 && m.authority && paths->revoked)
                r = load_revoked(paths->revoked, role, m.authority, &m.revoked, &message);
        if (r < 0) {
                tls_material_done(&m);
                if (ret_message)
                        *ret_message = TAKE_PTR(message);
                return r;
        }
        *ret = m;
        return 0;
}

void tls_material_done(TlsMaterial *m) {
        X509_free(m->certificate);
        EVP_PKEY_free(m->key);
        X509_free(m->authority);
        X509_CRL_free(m->revoked);
        *m = (TlsMaterial){ 0 };
}

bool tls_material_is_revoked(const TlsMaterial *m, const X509 *certificate) {
        X509_REVOKED *entry;

        return m->revoked &&
               X509_CRL_get0_by_serial(m->revoked, &entry, X509_get0_serialNumber(certificate)) == 1;
}

bool tls_material_is_issued(const TlsMaterial *m, const X509 *certificate) {
        bool issued =
                X509_NAME_cmp(X509_get_issuer_name(certificate), X509_get_subject_name(m->authority)) == 0 &&
                X509_verify((X509 *) certificate, X509_get0_pubkey(m->authority)) == 1;

        ERR_clear_error();
        return issued;
}

uint64_t tls_time_usec(const ASN1_TIME *time) {
        struct tm tm;
        time_t t;

        if (!time || ASN1_TIME_to_tm(time, &tm) != 1)
                return 0;
        t = timegm(&tm);
        return t > 0 ? (uint64_t) t * USEC_PER_SEC : 0;
}

char *tls_time_to_string(const ASN1_TIME *time, char buffer[static TLS_TIME_SIZE]) {
        struct tm tm;

        if (!time || ASN1_TIME_to_tm(time, &tm) != 1 ||
            strftime(buffer, TLS_TIME_SIZE, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
                memcpy(buffer, "?", 2);
        return buffer;
}

char *tls_serial_to_string(const X509 *certificate, char buffer[static TLS_SERIAL_SIZE]) {
        const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
        const unsigned char *bytes = ASN1_STRING_get0_data(serial);
        int size = MIN(ASN1_STRING_length(serial), (TLS_SERIAL_SIZE - 1) / 2);

        buffer[0] = '\0';
        for (int i = 0; i < size; i++)
                snprintf(buffer + 2 * (size_t) i, 3, "%02x", bytes[i]);
        return buffer;
}
