/* SPDX-License-Identifier: Apache-2.0 */
#include "request.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>

#include "authority.h"
#include "fd-util.h"
#include "folder-file.h"
#include "parse-util.h"

/* Filled up with NULs, the last one among them: no byte of a field is without a meaning. */
static bool text_is_whole(const char *text, size_t size) {
        size_t n = strnlen(text, size);

        for (size_t i = n; i < size; i++)
                if (text[i] != '\0')
                        return false;
        return n < size;
}

static bool request_is_valid(const void *data, size_t size, SignerRequest *ret) {
        SignerRequest r;

        if (size != sizeof(r))
                return false;
        memcpy(&r, data, sizeof(r));
        if (r.magic != SIGNER_MAGIC || (r.kind != SIGNER_JOIN && r.kind != SIGNER_RENEW) ||
            !text_is_whole(r.token, sizeof(r.token)) || !text_is_whole(r.secret, sizeof(r.secret)) ||
            !text_is_whole(r.node, sizeof(r.node)) || !text_is_whole(r.serial, sizeof(r.serial)) ||
            !text_is_whole(r.identity, sizeof(r.identity)) || !text_is_whole(r.request, sizeof(r.request)))
                return false;
        *ret = r;
        return true;
}

static SignerResult failed(SignerOutcome *outcome, int error, const char *what) {
        outcome->error = error;
        outcome->what = what;
        return SIGNER_FAILED;
}

static SignerResult signed_now(SignerOutcome *outcome, SignerAnswer *answer, const X509 *certificate) {
        _cleanup_(freep) char *pem = NULL;
        const char *why;
        int r;

        r = certificate_to_pem(certificate, &pem);
        if (r >= 0 && strlen(pem) >= sizeof(answer->certificate))
                r = -EMSGSIZE;
        if (r >= 0)
                r = identity_from_certificate(certificate, &outcome->identity, &why);
        if (r < 0)
                return failed(outcome, r, NULL);
        certificate_serial(certificate, outcome->serial);
        memcpy(answer->certificate, pem, strlen(pem));
        return SIGNER_SIGNED;
}

static SignerResult refused_token(SignerOutcome *outcome, int error) {
        switch (error) {
        case -ENOENT:
                return SIGNER_TOKEN_UNKNOWN;
        case -EALREADY:
                return SIGNER_TOKEN_USED;
        case -EKEYREVOKED:
                return SIGNER_TOKEN_REVOKED;
        case -ETIME:
                return SIGNER_TOKEN_EXPIRED;
        case -EXDEV:
                return SIGNER_TOKEN_OTHER_NODE;
        default:
                return failed(outcome, error, "tokens");
        }
}

/* A token, as it was before the authority was opened. */
typedef struct Admission {
        Identity identity;
        int tokens;
        bool bound; /* the token names the node */
} Admission;

static int check_token(const SignerSettings *settings, const SignerRequest *request, Admission *admission) {
        return join_token_check(admission->tokens, request->token, request->secret, request->node,
                                settings->now, &admission->bound);
}

static void admission_done(Admission *admission) {
        close_fd(admission->tokens);
}

/* Who has no token costs no look at the authority, nor anybody else the time that it is locked. Returns
 * SIGNER_SIGNED for one who may go on. */
static SignerResult admit(const SignerSettings *settings, const SignerRequest *request, Admission *admission,
                          SignerOutcome *outcome) {
        int r;

        if (!node_name_is_valid(request->node) ||
            identity_set(IDENTITY_AGENT, request->node, &admission->identity) < 0)
                return SIGNER_BAD_REQUEST;
        admission->tokens = folder_open(settings->tokens, false, 0);
        if (admission->tokens == -ENOENT)
                return SIGNER_TOKEN_UNKNOWN;
        if (admission->tokens < 0)
                return failed(outcome, admission->tokens, "tokens");
        r = check_token(settings, request, admission);
        return r < 0 ? refused_token(outcome, r) : SIGNER_SIGNED;
}

static SignerResult join(const SignerSettings *settings, const SignerRequest *request, Admission *admission,
                         EVP_PKEY *key, Authority *authority, SignerAnswer *answer, SignerOutcome *outcome) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        const Identity *identity = &admission->identity;
        int r;

        /* It may have been used while others had the authority. */
        r = check_token(settings, request, admission);
        if (r < 0)
                return refused_token(outcome, r);
        /* Still before the token is used up. */
        r = authority_key_is_revoked(authority, key);
        if (r < 0)
                return failed(outcome, r, "issued");
        if (r > 0)
                return SIGNER_CERTIFICATE_REVOKED;
        /* Whoever has any token is not to be able to be any node. */
        r = admission->bound ? 0 : authority_has_valid(authority, identity, settings->now);
        if (r < 0)
                return failed(outcome, r, "issued");
        if (r > 0)
                return SIGNER_NAME_TAKEN;
        r = join_token_take(admission->tokens, request->token, request->secret, request->node,
                            settings->now);
        if (r < 0)
                return refused_token(outcome, r);
        if (settings->taken)
                settings->taken();
        r = authority_issue(authority, identity, NULL, key, CERTIFICATE_DAYS, settings->now, &certificate);
        return r < 0 ? failed(outcome, r, "issued") : signed_now(outcome, answer, certificate);
}

static SignerResult renew(const SignerSettings *settings, const SignerRequest *request, EVP_PKEY *key,
                          Authority *authority, SignerAnswer *answer, SignerOutcome *outcome) {
        _cleanup_(certificate_freep) X509 *former = NULL, *certificate = NULL;
        Identity asking, identity;
        const char *why;
        int r;

        if (identity_parse(request->identity, strlen(request->identity), &asking) < 0)
                return SIGNER_BAD_REQUEST;
        r = authority_find(authority, request->serial, &former);
        if (r == -ENOENT)
                return SIGNER_CERTIFICATE_UNKNOWN;
        if (r < 0)
                return failed(outcome, r, "issued");
        if (!certificate_has_key(former, key) || identity_from_certificate(former, &identity, &why) < 0 ||
            !identity_equal(&identity, &asking))
                return SIGNER_CERTIFICATE_UNKNOWN;
        r = authority_renew(authority, former, CERTIFICATE_DAYS, settings->now, &certificate);
        if (r == -EKEYREVOKED)
                return SIGNER_CERTIFICATE_REVOKED;
        if (r == -EKEYEXPIRED)
                return SIGNER_CERTIFICATE_EXPIRED;
        return r < 0 ? failed(outcome, r, "issued") : signed_now(outcome, answer, certificate);
}

static SignerResult handle(const SignerSettings *settings, const SignerRequest *request,
                           SignerAnswer *answer, SignerOutcome *outcome) {
        _cleanup_(admission_done) Admission admission = { .tokens = -EBADF };
        _cleanup_(authority_closep) Authority *authority = NULL;
        _cleanup_(key_freep) EVP_PKEY *key = NULL;
        const char *file;
        int r;

        if (request->kind == SIGNER_JOIN) {
                SignerResult result = admit(settings, request, &admission, outcome);

                if (result != SIGNER_SIGNED)
                        return result;
        }
        r = request_read(request->request, strlen(request->request), &key);
        if (r == -EBADMSG || r == -EMSGSIZE)
                return SIGNER_BAD_REQUEST;
        if (r < 0)
                return failed(outcome, r, NULL);
        /* Before a token is used up: what cannot sign must not cost one. */
        r = authority_open(settings->folder, AUTHORITY_SIGN, settings->key_path, &authority, &file);
        if (r < 0)
                return failed(outcome, r, file);
        return request->kind == SIGNER_JOIN
                       ? join(settings, request, &admission, key, authority, answer, outcome)
                       : renew(settings, request, key, authority, answer, outcome);
}

void signer_handle(const SignerSettings *settings, const void *data, size_t size, SignerAnswer *answer,
                   SignerOutcome *ret) {
        SignerRequest request;

        *ret = (SignerOutcome){ .result = SIGNER_BAD_REQUEST };
        memset(answer, 0, sizeof(*answer));
        answer->magic = SIGNER_MAGIC;
        if (request_is_valid(data, size, &request)) {
                ret->result = handle(settings, &request, answer, ret);
                OPENSSL_cleanse(&request, sizeof(request));
        }
        answer->result = (uint32_t) ret->result;
}
