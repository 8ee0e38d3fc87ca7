/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "authority.h"
#include "fd-util.h"
#include "folder-file.h"
#include "request.h"

#define NOW ((int64_t) 1800000000)
#define DAY ((int64_t) 86400)

typedef struct Fixture {
        char *base, *folder, *tokens;
        int tokens_fd;
        EVP_PKEY *key;
        char *request;
        SignerSettings settings;
} Fixture;

static const Digest digest = { { 1 } };

static int setup(void **state) {
        Fixture *f = new0(Fixture);
        AuthorityDraft draft = { .names = NULL, .days = CERTIFICATE_DAYS, .cluster = "test", .now = NOW };
        const char *file;

        assert_non_null(f);
        f->base = test_directory();
        f->folder = strformat("%s/pki", f->base);
        f->tokens = strformat("%s/tokens", f->base);
        f->tokens_fd = folder_open(f->tokens, true, 0700);
        assert_ok(f->tokens_fd);
        draft.folder = f->folder;
        assert_ok(authority_create(&draft, &file));
        assert_ok(key_new(&f->key));
        assert_ok(request_new(f->key, &f->request));
        f->settings = (SignerSettings){ .folder = f->folder, .tokens = f->tokens, .now = NOW };
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;

        close_fd(f->tokens_fd);
        key_free(f->key);
        free(f->request);
        free(f->folder);
        free(f->tokens);
        test_directory_remove(f->base);
        free(f);
        return 0;
}

static JoinToken token_new(Fixture *f, const char *node) {
        JoinToken token;

        assert_ok(join_token_new(f->tokens_fd, node, NOW, 900, &digest, &token));
        return token;
}

/* Filled up with NULs. */
static void fill(char *field, size_t size, const char *text) {
        assert_true(strlen(text) < size);
        memset(field, 0, size);
        memcpy(field, text, strlen(text));
}
#define FILL(field, text) fill(field, sizeof(field), text)

static SignerRequest request_join(const Fixture *f, const JoinToken *token, const char *node) {
        SignerRequest request = { .magic = SIGNER_MAGIC, .kind = SIGNER_JOIN };

        FILL(request.token, token->id);
        FILL(request.secret, token->secret);
        FILL(request.node, node);
        FILL(request.request, f->request);
        return request;
}

static SignerRequest request_renew(const Fixture *f, const char *serial, const char *identity) {
        SignerRequest request = { .magic = SIGNER_MAGIC, .kind = SIGNER_RENEW };

        FILL(request.serial, serial);
        FILL(request.identity, identity);
        FILL(request.request, f->request);
        return request;
}

static SignerResult ask(Fixture *f, const SignerRequest *request, SignerAnswer *answer) {
        SignerAnswer local;
        SignerOutcome outcome;

        answer = answer ?: &local;
        signer_handle(&f->settings, request, sizeof(*request), answer, &outcome);
        assert_int_equal(answer->magic, SIGNER_MAGIC);
        assert_int_equal(answer->result, outcome.result);
        /* A certificate comes with SIGNER_SIGNED and with nothing else. */
        assert_int_equal(answer->certificate[0] != '\0', outcome.result == SIGNER_SIGNED);
        return outcome.result;
}

static size_t count_issued(const Fixture *f) {
        _cleanup_(freep) char *path = strformat("%s/issued", f->folder);
        _cleanup_(close_fdp) int fd = folder_open(path, false, 0);
        _cleanup_(strv_freep) char **names = NULL;

        assert_ok(fd);
        assert_ok(folder_list(fd, &names));
        return strv_length(names);
}

static void test_join(void **state) {
        Fixture *f = *state;
        JoinToken token = token_new(f, "node1");
        SignerRequest request = request_join(f, &token, "node1"), other = request_join(f, &token, "node2");
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        Identity identity;
        SignerAnswer answer;
        const char *why;
        int64_t from, until;

        assert_int_equal(ask(f, &other, NULL), SIGNER_TOKEN_OTHER_NODE);
        assert_int_equal(ask(f, &request, &answer), SIGNER_SIGNED);
        assert_ok(certificate_from_pem(answer.certificate, strlen(answer.certificate), &certificate));
        assert_true(certificate_has_key(certificate, f->key));
        assert_ok(identity_from_certificate(certificate, &identity, &why));
        assert_int_equal(identity.role, IDENTITY_AGENT);
        assert_string_equal(identity.name, "node1");
        certificate_validity(certificate, &from, &until);
        assert_int_equal(until, NOW + CERTIFICATE_DAYS * DAY);
        assert_int_equal(count_issued(f), 2);

        assert_int_equal(ask(f, &request, NULL), SIGNER_TOKEN_USED);
        assert_int_equal(ask(f, &other, NULL), SIGNER_TOKEN_USED);
        assert_int_equal(count_issued(f), 2);
}

static void test_join_refused(void **state) {
        Fixture *f = *state;
        JoinToken token = token_new(f, NULL), revoked = token_new(f, NULL);
        SignerRequest request = request_join(f, &token, "node1"), broken;

        broken = request;
        broken.secret[3] = broken.secret[3] == 'a' ? 'b' : 'a';
        assert_int_equal(ask(f, &broken, NULL), SIGNER_TOKEN_UNKNOWN);
        broken = request;
        broken.token[0] = broken.token[0] == 'a' ? 'b' : 'a';
        assert_int_equal(ask(f, &broken, NULL), SIGNER_TOKEN_UNKNOWN);
        FILL(broken.token, "../../pki/ca");
        assert_int_equal(ask(f, &broken, NULL), SIGNER_TOKEN_UNKNOWN);
        f->settings.now = NOW + 900;
        assert_int_equal(ask(f, &request, NULL), SIGNER_TOKEN_EXPIRED);
        f->settings.now = NOW;
        assert_ok(join_token_revoke(f->tokens_fd, revoked.id));
        broken = request_join(f, &revoked, "node1");
        assert_int_equal(ask(f, &broken, NULL), SIGNER_TOKEN_REVOKED);

        /* What is wrong with the rest of a request does not use the token up. */
        broken = request;
        FILL(broken.node, "no/de");
        assert_int_equal(ask(f, &broken, NULL), SIGNER_BAD_REQUEST);
        broken = request;
        broken.request[40] ^= 1;
        assert_int_equal(ask(f, &broken, NULL), SIGNER_BAD_REQUEST);
        broken = request;
        broken.magic++;
        assert_int_equal(ask(f, &broken, NULL), SIGNER_BAD_REQUEST);
        broken = request;
        broken.kind = 3;
        assert_int_equal(ask(f, &broken, NULL), SIGNER_BAD_REQUEST);
        broken = request;
        memset(broken.node, 'a', sizeof(broken.node));
        assert_int_equal(ask(f, &broken, NULL), SIGNER_BAD_REQUEST);
        broken = request;
        broken.node[sizeof(broken.node) - 1] = 'x';
        assert_int_equal(ask(f, &broken, NULL), SIGNER_BAD_REQUEST);
        f->settings.key_path = "/nonexistent/ca.key";
        assert_int_equal(ask(f, &request, NULL), SIGNER_FAILED);
        f->settings.key_path = NULL;
        assert_int_equal(count_issued(f), 1);
        assert_int_equal(ask(f, &request, NULL), SIGNER_SIGNED);
}

static void revoke_certificate(Fixture *f, const SignerAnswer *answer) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        _cleanup_(authority_closep) Authority *a = NULL;
        const char *file;

        assert_ok(certificate_from_pem(answer->certificate, strlen(answer->certificate), &certificate));
        assert_ok(authority_open(f->folder, AUTHORITY_SIGN, NULL, &a, &file));
        assert_int_equal(authority_revoke(a, &certificate, 1, REVOCATION_KEY_COMPROMISE, NOW), 1);
}

/* A token for any node lets in none whose name somebody has, and no key that was revoked. */
static void test_join_of_a_living_node(void **state) {
        Fixture *f = *state;
        JoinToken first = token_new(f, NULL), any = token_new(f, NULL), bound = token_new(f, "node1");
        SignerRequest request = request_join(f, &any, "node1"), again = request_join(f, &first, "node1");
        SignerAnswer answer, another;

        assert_int_equal(ask(f, &again, &answer), SIGNER_SIGNED);
        assert_int_equal(ask(f, &request, NULL), SIGNER_NAME_TAKEN);
        again = request_join(f, &bound, "node1");
        assert_int_equal(ask(f, &again, &another), SIGNER_SIGNED);
        revoke_certificate(f, &answer);
        assert_int_equal(ask(f, &request, NULL), SIGNER_CERTIFICATE_REVOKED);
        key_free(f->key);
        free(f->request);
        assert_ok(key_new(&f->key));
        assert_ok(request_new(f->key, &f->request));
        request = request_join(f, &any, "node1");
        assert_int_equal(ask(f, &request, NULL), SIGNER_NAME_TAKEN);
        revoke_certificate(f, &another);
        /* The token has not been used all the time. */
        assert_int_equal(ask(f, &request, NULL), SIGNER_SIGNED);
        assert_int_equal(ask(f, &request, NULL), SIGNER_TOKEN_USED);
}

static void die(void) {
        (void) raise(SIGKILL);
}

/* Killed between the token and the signature: the token is gone, and nothing is signed. */
static void test_killed_between(void **state) {
        Fixture *f = *state;
        JoinToken token = token_new(f, NULL);
        SignerRequest request = request_join(f, &token, "node1");
        pid_t child;
        int status;

        child = fork();
        assert_ok(child);
        if (child == 0) {
                f->settings.taken = die;
                (void) ask(f, &request, NULL);
                _exit(1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(count_issued(f), 1);
        assert_int_equal(ask(f, &request, NULL), SIGNER_TOKEN_USED);
        assert_int_equal(count_issued(f), 1);
}

/* Two signers at once, with one token. */
static void test_concurrent(void **state) {
        Fixture *f = *state;
        enum { PROCESSES = 4 };
        JoinToken token = token_new(f, NULL);
        SignerRequest request = request_join(f, &token, "node1");
        pid_t children[PROCESSES];
        unsigned n_signed = 0;

        for (int i = 0; i < PROCESSES; i++) {
                children[i] = fork();
                assert_ok(children[i]);
                if (children[i] == 0)
                        _exit(10 + (int) ask(f, &request, NULL));
        }
        for (int i = 0; i < PROCESSES; i++) {
                int status;

                assert_int_equal(waitpid(children[i], &status, 0), children[i]);
                assert_true(WIFEXITED(status));
                if (WEXITSTATUS(status) == 10 + SIGNER_SIGNED)
                        n_signed++;
                else
                        assert_int_equal(WEXITSTATUS(status), 10 + SIGNER_TOKEN_USED);
        }
        assert_int_equal(n_signed, 1);
        assert_int_equal(count_issued(f), 2);
}

static void test_renew(void **state) {
        Fixture *f = *state;
        _cleanup_(certificate_freep) X509 *former = NULL, *next = NULL;
        _cleanup_(key_freep) EVP_PKEY *stranger = NULL;
        _cleanup_(authority_closep) Authority *a = NULL;
        _cleanup_(freep) char *other_request = NULL;
        JoinToken token = token_new(f, NULL);
        SignerRequest request = request_join(f, &token, "node1");
        char serial[CERTIFICATE_SERIAL_SIZE];
        SignerAnswer answer;
        const char *file;
        int64_t from, until;

        assert_int_equal(ask(f, &request, &answer), SIGNER_SIGNED);
        assert_ok(certificate_from_pem(answer.certificate, strlen(answer.certificate), &former));
        certificate_serial(former, serial);

        f->settings.now = NOW + 10 * DAY;
        request = request_renew(f, serial, "clupy:agent:node1");
        assert_int_equal(ask(f, &request, &answer), SIGNER_SIGNED);
        assert_ok(certificate_from_pem(answer.certificate, strlen(answer.certificate), &next));
        certificate_validity(next, &from, &until);
        assert_int_equal(until, NOW + (10 + CERTIFICATE_DAYS) * DAY);
        assert_true(certificate_has_key(next, f->key));

        /* Somebody else's, another key, none at all. */
        request = request_renew(f, serial, "clupy:agent:node2");
        assert_int_equal(ask(f, &request, NULL), SIGNER_CERTIFICATE_UNKNOWN);
        request = request_renew(f, serial, "clupy:admin:node1");
        assert_int_equal(ask(f, &request, NULL), SIGNER_CERTIFICATE_UNKNOWN);
        request = request_renew(f, serial, "admin");
        assert_int_equal(ask(f, &request, NULL), SIGNER_BAD_REQUEST);
        request = request_renew(f, "00112233445566778899aabbccddeeff", "clupy:agent:node1");
        assert_int_equal(ask(f, &request, NULL), SIGNER_CERTIFICATE_UNKNOWN);
        assert_ok(key_new(&stranger));
        assert_ok(request_new(stranger, &other_request));
        request = request_renew(f, serial, "clupy:agent:node1");
        FILL(request.request, other_request);
        assert_int_equal(ask(f, &request, NULL), SIGNER_CERTIFICATE_UNKNOWN);

        request = request_renew(f, serial, "clupy:agent:node1");
        f->settings.now = NOW + 400 * DAY;
        assert_int_equal(ask(f, &request, NULL), SIGNER_CERTIFICATE_EXPIRED);
        f->settings.now = NOW;
        assert_ok(authority_open(f->folder, AUTHORITY_SIGN, NULL, &a, &file));
        assert_int_equal(authority_revoke(a, &next, 1, REVOCATION_KEY_COMPROMISE, NOW), 1);
        a = authority_close(a);
        /* The one that is revoked has the same key. */
        assert_int_equal(ask(f, &request, NULL), SIGNER_CERTIFICATE_REVOKED);
}

static void test_sizes(void **state) {
        Fixture *f = *state;
        JoinToken token = token_new(f, NULL);
        SignerRequest request = request_join(f, &token, "node1");
        uint8_t longer[sizeof(request) + 1] = { 0 };
        SignerAnswer answer;
        SignerOutcome outcome;

        memcpy(longer, &request, sizeof(request));
        signer_handle(&f->settings, longer, sizeof(longer), &answer, &outcome);
        assert_int_equal(outcome.result, SIGNER_BAD_REQUEST);
        for (size_t size = 0; size < sizeof(request); size += 97) {
                signer_handle(&f->settings, longer, size, &answer, &outcome);
                assert_int_equal(outcome.result, SIGNER_BAD_REQUEST);
        }
        for (int i = 0; i < _SIGNER_RESULT_MAX; i++) {
                assert_string_not_equal(signer_result_to_string((SignerResult) i), "?");
                assert_true(strlen(signer_result_sentence((SignerResult) i)) > 10);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_join, setup, teardown),
                cmocka_unit_test_setup_teardown(test_join_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_join_of_a_living_node, setup, teardown),
                cmocka_unit_test_setup_teardown(test_killed_between, setup, teardown),
                cmocka_unit_test_setup_teardown(test_concurrent, setup, teardown),
                cmocka_unit_test_setup_teardown(test_renew, setup, teardown),
                cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
