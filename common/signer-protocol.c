/* SPDX-License-Identifier: Apache-2.0 */
#include "signer-protocol.h"

#include <errno.h>

static const char *const signer_result_table[_SIGNER_RESULT_MAX] = {
        [SIGNER_SIGNED] = "signed",
        [SIGNER_BAD_REQUEST] = "bad-request",
        [SIGNER_TOKEN_UNKNOWN] = "token-unknown",
        [SIGNER_TOKEN_USED] = "token-used",
        [SIGNER_TOKEN_REVOKED] = "token-revoked",
        [SIGNER_TOKEN_EXPIRED] = "token-expired",
        [SIGNER_TOKEN_OTHER_NODE] = "token-for-another-node",
        [SIGNER_NAME_TAKEN] = "name-taken",
        [SIGNER_CERTIFICATE_UNKNOWN] = "certificate-unknown",
        [SIGNER_CERTIFICATE_REVOKED] = "certificate-revoked",
        [SIGNER_CERTIFICATE_EXPIRED] = "certificate-expired",
        [SIGNER_FAILED] = "failed",
};

DEFINE_NAME_TABLE(signer_result, SignerResult, signer_result_table);

const char *signer_result_sentence(SignerResult result) {
        switch (result) {
        case SIGNER_SIGNED:
                return "The certificate is signed";
        case SIGNER_BAD_REQUEST:
                return "The request for a certificate is not as it should be: install the same version of "
                       "CluPy on "
                       "both machines";
        case SIGNER_TOKEN_UNKNOWN:
                return "The master does not know this token: clupyctl token new on its machine makes one";
        case SIGNER_TOKEN_USED:
                return "The token has been used already: each lets one node in, once; clupyctl token new on "
                       "the "
                       "master's machine makes another";
        case SIGNER_TOKEN_REVOKED:
                return "The token has been revoked: clupyctl token new on the master's machine makes "
                       "another";
        case SIGNER_TOKEN_EXPIRED:
                return "The token has expired: clupyctl token new on the master's machine makes another, "
                       "--valid "
                       "says for how long";
        case SIGNER_TOKEN_OTHER_NODE:
                return "The token is for a node of another name: set `name` in clupy.server.yaml, or have a "
                       "token "
                       "made for this node";
        case SIGNER_NAME_TAKEN:
                return "There is a node of this name already, and the token, which has not been used, is "
                       "not "
                       "for it: clupyctl token new --node NAME on the master's machine makes one that is; "
                       "or "
                       "revoke the certificate first: clupyctl pki revoke agent:NAME";
        case SIGNER_CERTIFICATE_UNKNOWN:
                return "The certificate to be renewed is not one that the authority has issued to you for "
                       "this "
                       "key: have a new one issued";
        case SIGNER_CERTIFICATE_REVOKED:
                return "The certificate, or another one of the same key, has been revoked: have a new one "
                       "issued, "
                       "with a new key";
        case SIGNER_CERTIFICATE_EXPIRED:
                return "The certificate is not valid now and cannot be renewed: have a new one issued";
        default:
                return "The signer could not sign: journalctl -u clupy-signer on the master's machine says "
                       "why";
        }
}
