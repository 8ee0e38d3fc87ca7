/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "certificates.h"
#include "identity.h"

#define LETTERS_16 "abcdefghijklmnop"
#define LETTERS_64 LETTERS_16 LETTERS_16 LETTERS_16 LETTERS_16

static void test_uri(void **state) {
        static const struct {
                const char *uri;
                IdentityRole role;
                const char *name, *people;
        } good[] = {
                { "clupy:master", IDENTITY_MASTER, "", "master" },
                { "clupy:agent:node1", IDENTITY_AGENT, "node1", "agent node1" },
                { "clupy:agent:Node-1.example.org", IDENTITY_AGENT, "Node-1.example.org",
                  "agent Node-1.example.org" },
                { "clupy:user:alice@example.org", IDENTITY_USER, "alice@example.org",
                  "user alice@example.org" },
                { "clupy:admin:9_", IDENTITY_ADMIN, "9_", "admin 9_" },
                { "clupy:user:" LETTERS_64, IDENTITY_USER, LETTERS_64, "user " LETTERS_64 },
        };
        static const char *const bad[] = {
                "",
                "clupy",
                "clupy:",
                "clupy:master:",
                "clupy:master:x",
                "clupy:masters",
                "clupy: master",
                "Clupy:master",
                "clupy:Master",
                "clupy:user",
                "clupy:user:",
                "clupy:user::a",
                "clupy:user:a:b",
                "clupy:user:.a",
                "clupy:user:-a",
                "clupy:user:@a",
                "clupy:user:_a",
                "clupy:user:a b",
                "clupy:user:a/b",
                "clupy:user:a,b",
                "clupy:user:a%41",
                "clupy:user:\xc3\xa4",
                "clupy:user:a\n",
                "clupy:user:" LETTERS_64 "a",
                "clupy:agentnode1",
                "clupy:agents:node1",
                "clupy:signer:a",
                " clupy:user:a",
                "clupy:user:a ",
                "//clupy:user:a",
                "clupy://user:a",
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                char buffer[IDENTITY_URI_SIZE];
                Identity identity, again;

                assert_ok(identity_parse(good[i].uri, strlen(good[i].uri), &identity));
                assert_int_equal(identity.role, good[i].role);
                assert_string_equal(identity.name, good[i].name);
                assert_string_equal(identity_to_uri(&identity, buffer), good[i].uri);
                assert_string_equal(IDENTITY_STRING(&identity), good[i].people);
                assert_ok(identity_set(good[i].role, good[i].name, &again));
                assert_true(identity_equal(&identity, &again));
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Identity identity;

                if (identity_parse(bad[i], strlen(bad[i]), &identity) >= 0)
                        fail_msg("'%s' was taken", bad[i]);
        }
        /* A NUL does not end a name that came with its size. */
        assert_error(identity_parse("clupy:user:a\0b", strlen("clupy:user:a") + 2, &(Identity){ 0 }),
                     EINVAL);
        assert_error(identity_parse("clupy:master\0", strlen("clupy:master") + 1, &(Identity){ 0 }), EINVAL);
}

static void test_set(void **state) {
        Identity a, b;

        assert_error(identity_set(IDENTITY_MASTER, "x", &a), EINVAL);
        assert_error(identity_set(IDENTITY_USER, NULL, &a), EINVAL);
        assert_error(identity_set(IDENTITY_USER, "", &a), EINVAL);
        assert_error(identity_set(IDENTITY_AGENT, "a b", &a), EINVAL);
        assert_error(identity_set(_IDENTITY_ROLE_MAX, "a", &a), EINVAL);
        assert_ok(identity_set(IDENTITY_MASTER, NULL, &a));
        assert_ok(identity_set(IDENTITY_USER, "a", &a));
        assert_ok(identity_set(IDENTITY_ADMIN, "a", &b));
        assert_false(identity_equal(&a, &b));
        assert_ok(identity_set(IDENTITY_USER, "b", &b));
        assert_false(identity_equal(&a, &b));
}

static int identity_of(const TestCertificate *what, Identity *ret) {
        TestCredential c = test_credential_new(what, NULL);
        const char *why = NULL;
        unsigned char *der;
        size_t size;
        int r;

        der = test_certificate_der(c.certificate, &size);
        r = identity_from_der(der, size, ret, &why);
        assert_int_equal(r < 0, why != NULL);
        /* Neither less than a certificate nor more. */
        assert_error(identity_from_der(der, size - 1, ret, &why), EBADMSG);
        der = realloc(der, size + 1);
        der[size] = 0;
        assert_error(identity_from_der(der, size + 1, ret, &why), EBADMSG);
        free(der);
        test_credential_done(&c);
        return r;
}

static void test_certificate(void **state) {
        Identity identity;

        assert_ok(identity_of(&(TestCertificate){ .uris = { "clupy:user:alice" } }, &identity));
        assert_int_equal(identity.role, IDENTITY_USER);
        assert_string_equal(identity.name, "alice");
        assert_ok(identity_of(&(TestCertificate){ .uris = { "https://example.org/", "clupy:master" },
                                                  .names = "DNS:master.example.org,IP:10.0.0.1,email:a@b" },
                              &identity));
        assert_int_equal(identity.role, IDENTITY_MASTER);

        assert_error(identity_of(&(TestCertificate){ 0 }, &identity), ENOENT);
        assert_error(identity_of(&(TestCertificate){ .names = "DNS:localhost" }, &identity), ENOENT);
        assert_error(identity_of(&(TestCertificate){ .uris = { "https://example.org/" } }, &identity),
                     ENOENT);
        /* Only names of the type URI count. */
        assert_error(identity_of(&(TestCertificate){ .names = "DNS:clupy:master" }, &identity), ENOENT);
        assert_error(
                identity_of(&(TestCertificate){ .uris = { "clupy:user:a", "clupy:admin:a" } }, &identity),
                EBADMSG);
        assert_error(
                identity_of(&(TestCertificate){ .uris = { "clupy:user:a", "clupy:user:a" } }, &identity),
                EBADMSG);
        assert_error(identity_of(&(TestCertificate){ .uris = { "clupy:user:a", "clupy:x" } }, &identity),
                     EBADMSG);
        assert_error(identity_of(&(TestCertificate){ .uris = { "CLUPY:admin:a" } }, &identity), EBADMSG);
        assert_error(
                identity_of(&(TestCertificate){ .uris = { "clupy:user:a,URI:clupy:admin:a" } }, &identity),
                EBADMSG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_uri),
                cmocka_unit_test(test_set),
                cmocka_unit_test(test_certificate),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
