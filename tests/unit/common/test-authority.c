/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "authority-index.h"
#include "authority.h"
#include "fd-util.h"
#include "folder-file.h"

#define NOW ((int64_t) 1800000000)
#define DAY ((int64_t) 86400)

static char *const names[] = { (char *) "master.example", (char *) "10.0.0.1", (char *) "::1", NULL };

typedef struct Fixture {
        char *base, *folder;
        Authority *authority;
} Fixture;

static int setup(void **state) {
        Fixture *f = new0(Fixture);
        AuthorityDraft draft = { .names = names, .days = CERTIFICATE_DAYS, .cluster = "test", .now = NOW };
        const char *file;

        assert_non_null(f);
        f->base = test_directory();
        f->folder = strformat("%s/pki", f->base);
        draft.folder = f->folder;
        assert_ok(authority_create(&draft, &file));
        assert_ok(authority_open(f->folder, AUTHORITY_SIGN, NULL, &f->authority, &file));
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;

        authority_close(f->authority);
        free(f->folder);
        test_directory_remove(f->base);
        free(f);
        return 0;
}

static mode_t mode_of(const Fixture *f, const char *name) {
        struct stat st;

        assert_ok(fstatat(authority_folder(f->authority), name, &st, AT_SYMLINK_NOFOLLOW));
        return st.st_mode & 07777;
}

static X509 *read_certificate(const Fixture *f, const char *name) {
        _cleanup_(freep) char *text = NULL;
        X509 *certificate;
        size_t size;

        assert_ok(folder_read_file(authority_folder(f->authority), name, 1 << 20, &text, &size));
        assert_ok(certificate_from_pem(text, size, &certificate));
        return certificate;
}

/* As a stranger's program judges it, at that moment. */
static int verify(const Fixture *f, X509 *certificate, int purpose, int64_t when) {
        X509_STORE *store = X509_STORE_new();
        X509_STORE_CTX *context = X509_STORE_CTX_new();
        int r;

        assert_true(store && context);
        assert_int_equal(X509_STORE_add_cert(store, (X509 *) authority_certificate(f->authority)), 1);
        assert_int_equal(X509_STORE_add_crl(store, (X509_CRL *) authority_revoked(f->authority)), 1);
        assert_int_equal(X509_STORE_CTX_init(context, store, certificate, NULL), 1);
        X509_STORE_CTX_set_time(context, 0, when);
        X509_STORE_CTX_set_flags(context, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_X509_STRICT);
        assert_int_equal(X509_STORE_CTX_set_purpose(context, purpose), 1);
        r = X509_verify_cert(context) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(context);
        X509_STORE_CTX_free(context);
        X509_STORE_free(store);
        return r;
}

static void test_create(void **state) {
        Fixture *f = *state;
        _cleanup_(certificate_freep) X509 *master = read_certificate(f, "master.crt");
        _cleanup_(strv_freep) char **found = NULL;
        AuthorityDraft draft = { .folder = f->folder, .names = names, .days = 1, .now = NOW };
        const char *file, *why;
        Identity identity;

        assert_int_equal(mode_of(f, "ca.key"), 0600);
        assert_int_equal(mode_of(f, "master.key"), 0600);
        assert_int_equal(mode_of(f, "ca.crt"), 0644);
        assert_int_equal(mode_of(f, "ca.crl"), 0644);
        assert_int_equal(mode_of(f, "issued"), 0700);
        assert_ok(identity_from_certificate(master, &identity, &why));
        assert_int_equal(identity.role, IDENTITY_MASTER);
        assert_ok(certificate_names(master, &found));
        assert_int_equal(strv_length(found), 3);
        assert_string_equal(found[0], "master.example");
        assert_string_equal(found[2], "::1");
        assert_int_equal(verify(f, master, X509_PURPOSE_SSL_SERVER, NOW), X509_V_OK);
        assert_int_equal(verify(f, master, X509_PURPOSE_SSL_CLIENT, NOW), X509_V_OK);
        assert_int_equal(X509_check_host(master, "master.example", 0, 0, NULL), 1);
        assert_int_equal(X509_check_ip_asc(master, "10.0.0.1", 0), 1);
        assert_int_equal(X509_get_pathlen((X509 *) authority_certificate(f->authority)), 0);

        assert_error(authority_create(&draft, &file), EEXIST);
        assert_non_null(file);
}

/* A folder whose files may not grow beyond some bytes is a full disk. */
static void test_create_full(void **state) {
        Fixture *f = *state;
        _cleanup_(freep) char *folder = strformat("%s/full", f->base);
        AuthorityDraft draft = { .folder = folder, .names = names, .days = 1, .now = NOW };
        _cleanup_(strv_freep) char **left = NULL, **issued = NULL;
        _cleanup_(close_fdp) int fd = -EBADF, issued_fd = -EBADF;
        struct rlimit full = { 300, 300 }, before;
        const char *file;

        assert_ok(getrlimit(RLIMIT_FSIZE, &before));
        full.rlim_max = before.rlim_max;
        (void) signal(SIGXFSZ, SIG_IGN);
        assert_ok(setrlimit(RLIMIT_FSIZE, &full));
        assert_error(authority_create(&draft, &file), EFBIG);
        assert_ok(setrlimit(RLIMIT_FSIZE, &before));
        fd = folder_open(folder, false, 0);
        assert_ok(fd);
        assert_ok(folder_list(fd, &left));
        assert_int_equal(strv_length(left), 1); /* issued */
        issued_fd = openat(fd, "issued", O_RDONLY | O_DIRECTORY);
        assert_ok(issued_fd);
        assert_ok(folder_list(issued_fd, &issued));
        assert_int_equal(strv_length(issued), 0);
        assert_ok(authority_create(&draft, &file));
}

static void test_open_refuses(void **state) {
        Fixture *f = *state;
        _cleanup_(freep) char *folder = strformat("%s/other", f->base),
                              *nothing = strformat("%s/no", f->base);
        AuthorityDraft draft = { .folder = folder, .names = names, .days = 1, .now = NOW };
        _cleanup_(freep) char *key = strformat("%s/ca.key", folder);
        Authority *a = NULL;
        const char *file;

        assert_error(authority_open(nothing, AUTHORITY_SIGN, NULL, &a, &file), ENOENT);
        assert_string_equal(file, "ca.crt");
        f->authority = authority_close(f->authority);
        assert_ok(authority_create(&draft, &file));
        assert_error(authority_open(f->folder, AUTHORITY_SIGN, key, &a, &file), EBADMSG);
        assert_string_equal(file, "ca.key");
        assert_ok(unlink(key));
        assert_error(authority_open(folder, AUTHORITY_SIGN, NULL, &a, &file), ENOENT);
        assert_string_equal(file, "ca.key");
        assert_ok(authority_open(folder, AUTHORITY_READ, NULL, &a, &file));
        authority_close(a);
        /* A list that another authority signed. */
        {
                _cleanup_(freep) char *command = strformat("cp %s/ca.crl %s/ca.crl", f->folder, folder);

                assert_int_equal(system(command), 0);
        }
        assert_error(authority_open(folder, AUTHORITY_READ, NULL, &a, &file), EBADMSG);
        assert_string_equal(file, "ca.crl");
}

static X509 *issue(Fixture *f, IdentityRole role, const char *name, EVP_PKEY *key, unsigned days) {
        Identity identity;
        X509 *certificate;

        assert_ok(identity_set(role, name, &identity));
        assert_ok(authority_issue(f->authority, &identity, NULL, key, days, NOW, &certificate));
        return certificate;
}

static void test_issue_and_list(void **state) {
        Fixture *f = *state;
        _cleanup_(key_freep) EVP_PKEY *key = NULL, *other = NULL;
        _cleanup_(certificate_freep) X509 *agent = NULL, *user = NULL, *found = NULL;
        char serial[CERTIFICATE_SERIAL_SIZE];
        size_t n, strange;
        Issued *list;

        assert_ok(key_new(&key));
        assert_ok(key_new(&other));
        agent = issue(f, IDENTITY_AGENT, "node1", key, 365);
        user = issue(f, IDENTITY_USER, "alice", other, 10);
        assert_int_equal(verify(f, agent, X509_PURPOSE_SSL_CLIENT, NOW), X509_V_OK);
        assert_int_not_equal(verify(f, agent, X509_PURPOSE_SSL_SERVER, NOW), X509_V_OK);
        assert_int_equal(verify(f, user, X509_PURPOSE_SSL_CLIENT, NOW + 11 * DAY),
                         X509_V_ERR_CERT_HAS_EXPIRED);
        assert_true(certificate_has_key(agent, key));
        assert_false(certificate_has_key(agent, other));
        assert_false(certificate_is_authority(agent));
        assert_int_equal(strlen(certificate_serial(agent, serial)), 32);
        assert_ok(authority_find(f->authority, serial, &found));
        assert_error(authority_find(f->authority, "../../ca", &found), ENOENT);

        assert_ok(authority_list(f->authority, NOW, &list, &n, &strange));
        assert_int_equal(n, 3);
        assert_int_equal(strange, 0);
        assert_int_equal(list[0].identity.role, IDENTITY_MASTER);
        assert_string_equal(list[1].identity.name, "node1");
        assert_int_equal(list[1].state, ISSUED_VALID);
        assert_int_equal(list[2].state, ISSUED_SOON);
        assert_int_equal(list[2].not_after, NOW + 10 * DAY);
        issued_free(list, n);
        assert_ok(authority_list(f->authority, NOW + 10 * DAY, &list, &n, &strange));
        assert_int_equal(list[2].state, ISSUED_EXPIRED);
        issued_free(list, n);
        assert_ok(authority_list(f->authority, NOW - DAY, &list, &n, &strange));
        assert_int_equal(list[2].state, ISSUED_EARLY);
        issued_free(list, n);
}

static void test_revoke_and_renew(void **state) {
        Fixture *f = *state;
        _cleanup_(key_freep) EVP_PKEY *key = NULL;
        _cleanup_(certificate_freep) X509 *first = NULL, *second = NULL, *third = NULL;
        RevocationReason reason;
        Authority *again;
        const char *file;
        int64_t when, from, until;
        Identity node, other;

        assert_ok(identity_set(IDENTITY_AGENT, "node1", &node));
        assert_ok(identity_set(IDENTITY_USER, "node1", &other));
        assert_ok(key_new(&key));
        first = issue(f, IDENTITY_AGENT, "node1", key, 10);
        assert_ok(authority_renew(f->authority, first, 100, NOW + DAY, &second));
        assert_true(certificate_has_key(second, key));
        certificate_validity(second, &from, &until);
        assert_int_equal(until, NOW + 101 * DAY);
        assert_error(authority_renew(f->authority, first, 100, NOW + 10 * DAY, &third), EKEYEXPIRED);
        assert_error(authority_renew(f->authority, first, 100, NOW - DAY, &third), EKEYEXPIRED);

        assert_int_equal(authority_revoke(f->authority, &first, 1, REVOCATION_KEY_COMPROMISE, NOW + DAY), 1);
        assert_int_equal(authority_revoke(f->authority, &first, 1, REVOCATION_SUPERSEDED, NOW + DAY), 0);
        assert_true(revocation_find(authority_revoked(f->authority), first, &when, &reason));
        assert_int_equal(when, NOW + DAY);
        assert_int_equal(reason, REVOCATION_KEY_COMPROMISE);
        assert_false(revocation_find(authority_revoked(f->authority), second, NULL, NULL));
        assert_int_equal(verify(f, first, X509_PURPOSE_SSL_CLIENT, NOW + DAY), X509_V_ERR_CERT_REVOKED);
        assert_int_equal(verify(f, second, X509_PURPOSE_SSL_CLIENT, NOW + DAY), X509_V_OK);
        /* The list does not run out before the authority does. */
        assert_int_equal(verify(f, second, X509_PURPOSE_SSL_CLIENT, NOW + 100 * DAY), X509_V_OK);
        /* Its key is known to others, whatever certificate says so. */
        assert_error(authority_renew(f->authority, first, 100, NOW + DAY, &third), EKEYREVOKED);
        assert_error(authority_renew(f->authority, second, 100, NOW + DAY, &third), EKEYREVOKED);

        assert_true(authority_key_is_revoked(f->authority, key));
        assert_int_equal(authority_has_valid(f->authority, &node, NOW + DAY), 1); /* the second */
        assert_int_equal(authority_has_valid(f->authority, &other, NOW + DAY), 0);
        assert_int_equal(authority_has_valid(f->authority, &node, NOW + 101 * DAY), 0);
        assert_int_equal(authority_revoke(f->authority, &second, 1, REVOCATION_SUPERSEDED, NOW + DAY), 1);
        assert_int_equal(authority_has_valid(f->authority, &node, NOW + DAY), 0);

        /* Whoever does not let go is not waited for without end. */
        assert_error(authority_open(f->folder, AUTHORITY_SIGN, NULL, &again, &file), EBUSY);
        assert_string_equal(file, "issued");
        /* Who only reads neither waits nor keeps others waiting. */
        assert_ok(authority_open(f->folder, AUTHORITY_READ, NULL, &again, &file));
        assert_int_equal(revocation_size(authority_revoked(again)), 2);
        f->authority = authority_close(f->authority);
        assert_ok(authority_open(f->folder, AUTHORITY_SIGN, NULL, &f->authority, &file));
        authority_close(again);
}

static int issued_folder(const Fixture *f) {
        int fd = openat(authority_folder(f->authority), "issued", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_ok(fd);
        return fd;
}

/* Whose certificates there are is known without a look at all of them, also where that was not noted down
 * when they were issued. */
static void test_index(void **state) {
        Fixture *f = *state;
        _cleanup_(key_freep) EVP_PKEY *key = NULL, *other = NULL;
        _cleanup_(certificate_freep) X509 *first = NULL, *second = NULL, *third = NULL;
        _cleanup_(strv_freep) char **many = NULL, **left = NULL;
        char name[INDEX_NAME_SIZE], key_name[INDEX_NAME_SIZE], serial[CERTIFICATE_SERIAL_SIZE];
        _cleanup_(close_fdp) int issued = issued_folder(f);
        Identity node;
        const char *file;

        assert_ok(key_new(&key));
        assert_ok(key_new(&other));
        assert_ok(identity_set(IDENTITY_AGENT, "node1", &node));
        first = issue(f, IDENTITY_AGENT, "node1", key, 10);
        index_of_identity(&node, name);
        assert_string_equal(name, ".agent:node1");
        assert_ok(index_of_key(key, key_name));
        assert_ok(unlinkat(issued, name, 0));
        assert_ok(unlinkat(issued, key_name, 0));
        assert_int_equal(authority_has_valid(f->authority, &node, NOW), 0);
        assert_ok(unlinkat(issued, ".indexed", 0));
        f->authority = authority_close(f->authority);
        assert_ok(authority_open(f->folder, AUTHORITY_SIGN, NULL, &f->authority, &file));
        assert_int_equal(authority_has_valid(f->authority, &node, NOW), 1);
        assert_int_equal(authority_key_is_revoked(f->authority, key), 0);
        assert_int_equal(authority_revoke(f->authority, &first, 1, REVOCATION_SUPERSEDED, NOW), 1);
        assert_int_equal(authority_key_is_revoked(f->authority, key), 1);

        /* What is of no use any more makes room; the certificates of one key are so many, and no more. */
        for (unsigned i = 0; i < INDEX_MAX; i++) {
                _cleanup_(freep) char *unknown = strformat("%032x", i);

                assert_ok(strv_extend(&many, unknown));
        }
        assert_ok(index_write(issued, name, many));
        second = issue(f, IDENTITY_AGENT, "node1", other, 10);
        assert_ok(index_read(issued, name, &left));
        assert_int_equal(strv_length(left), 1);
        assert_string_equal(left[0], certificate_serial(second, serial));
        assert_ok(index_of_key(other, key_name));
        assert_ok(index_write(issued, key_name, many));
        assert_error(authority_renew(f->authority, second, 10, NOW, &third), EMFILE);
}

static void test_names(void **state) {
        static const char *const good[] = { "a",
                                            "node-1",
                                            "a.b.c",
                                            "*.example.org",
                                            "10.0.0.1",
                                            "fe80::1",
                                            "xn--bcher-kva.example",
                                            "under_score" };
        static const char *const bad[] = { "",
                                           ".",
                                           "a.",
                                           ".a",
                                           "a..b",
                                           "-a",
                                           "a-",
                                           "*",
                                           "a*b",
                                           "a b",
                                           "a/b",
                                           "a,DNS:b",
                                           "URI:clupy:master",
                                           "a\n",
                                           "ä" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_true(certificate_name_is_valid(good[i]));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(certificate_name_is_valid(bad[i]));
}

static void test_requests(void **state) {
        _cleanup_(key_freep) EVP_PKEY *key = NULL, *public_key = NULL, *again = NULL;
        _cleanup_(freep) char *pem = NULL;
        _cleanup_(secret_freep) char *secret = NULL;
        EVP_PKEY *none = NULL;
        char *digit;

        assert_ok(key_new(&key));
        assert_ok(key_to_pem(key, &secret));
        assert_ok(key_from_pem(secret, strlen(secret), &again));
        assert_error(key_from_pem("x", 1, &none), EBADMSG);
        assert_ok(request_new(key, &pem));
        assert_ok(request_read(pem, strlen(pem), &public_key));
        assert_error(request_read(pem, strlen(pem) / 2, &none), EBADMSG);
        assert_error(request_read("", 0, &none), EBADMSG);
        assert_error(request_read(pem, CERTIFICATE_REQUEST_MAX + 1, &none), EMSGSIZE);
        /* A signature that does not fit. */
        digit = strstr(pem, "\n-----END") - 8;
        *digit = *digit == 'A' ? 'B' : 'A';
        assert_error(request_read(pem, strlen(pem), &none), EBADMSG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_create, setup, teardown),
                cmocka_unit_test_setup_teardown(test_create_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_open_refuses, setup, teardown),
                cmocka_unit_test_setup_teardown(test_issue_and_list, setup, teardown),
                cmocka_unit_test_setup_teardown(test_revoke_and_renew, setup, teardown),
                cmocka_unit_test_setup_teardown(test_index, setup, teardown),
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_requests),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
