/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "authority.h"
#include "digest.h"
#include "fd-util.h"
#include "folder-file.h"
#include "request.h"

/* Whatever a master says to the signer that holds the authority's key. The input is the message's fixed
 * part, with the request for a certificate behind it, as long as the input is. Some tokens are good; nothing
 * is signed but for one who has a token's secret, and then only for a node. */

#define SECRET "00000000000000000000000000000000"
#define NOW ((int64_t) 1800000000)

enum { HEAD = offsetof(SignerRequest, request) };

static char base[] = "/tmp/clupy-fuzz-signer-XXXXXX";
static char folder[64], tokens[64];

static void remove_all(void) {
        char command[96];

        snprintf(command, sizeof(command), "rm -rf '%s'", base);
        if (system(command) != 0)
                perror("rm");
}

static void token_write(int fd, const char *id, const char *node) {
        char name[40], hex[DIGEST_HEX_SIZE], text[256];
        Digest digest;
        int n;

        CHECK(digest_sha256(SECRET, 32, &digest) >= 0);
        snprintf(name, sizeof(name), "%s.used", id);
        (void) unlinkat(fd, name, 0);
        snprintf(name, sizeof(name), "%s.token", id);
        n = snprintf(text, sizeof(text),
                     "{\"secret\":\"%s\",\"node\":\"%s\",\"created_at\":%lld,\"expires_at\":%lld}",
                     digest_to_hex(&digest, hex), node, (long long) NOW, (long long) NOW + 900);
        CHECK(folder_write_file(fd, name, 0600, text, (size_t) n, FOLDER_REPLACE) >= 0);
}

static void make(void) {
        AuthorityDraft draft = { .folder = folder, .days = 365, .cluster = "fuzz", .now = NOW };
        const char *file;

        CHECK(mkdtemp(base));
        atexit(remove_all);
        snprintf(folder, sizeof(folder), "%s/pki", base);
        snprintf(tokens, sizeof(tokens), "%s/tokens", base);
        CHECK(mkdir(tokens, 0700) >= 0);
        CHECK(authority_create(&draft, &file) >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static unsigned n_signed;
        _cleanup_(close_fdp) int fd = -EBADF;
        SignerRequest request = { 0 };
        SignerAnswer answer;
        SignerOutcome outcome;

        if (!tokens[0])
                make();
        fd = folder_open(tokens, false, 0);
        CHECK(fd >= 0);
        token_write(fd, "0000000000000000", "");
        token_write(fd, "1111111111111111", "node1");
        memcpy(&request, data, MIN(size, sizeof(request)));

        signer_handle(&(SignerSettings){ .folder = folder, .tokens = tokens, .now = NOW + 1 },
                      size > HEAD ? (const void *) &request : data, size > HEAD ? sizeof(request) : size,
                      &answer, &outcome);
        CHECK(answer.magic == SIGNER_MAGIC && answer.result == (uint32_t) outcome.result);
        CHECK((answer.certificate[0] != '\0') == (outcome.result == SIGNER_SIGNED));
        if (outcome.result == SIGNER_SIGNED) {
                _cleanup_(certificate_freep) X509 *certificate = NULL;
                Identity identity;
                const char *why;

                CHECK(request.kind == SIGNER_JOIN && strcmp(request.secret, SECRET) == 0);
                CHECK(certificate_from_pem(answer.certificate, strlen(answer.certificate), &certificate) >=
                      0);
                CHECK(identity_from_certificate(certificate, &identity, &why) >= 0);
                CHECK(identity.role == IDENTITY_AGENT && strcmp(identity.name, request.node) == 0);
                CHECK(!certificate_is_authority(certificate));
                CHECK(request.token[0] == '0' || strcmp(request.node, "node1") == 0);
                /* The folder does not grow for ever. */
                if (++n_signed % 256 == 0) {
                        remove_all();
                        memcpy(base + sizeof(base) - 7, "XXXXXX", 6);
                        make();
                }
        }
        return 0;
}
