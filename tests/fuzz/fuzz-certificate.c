/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <errno.h>
#include <openssl/x509.h>
#include <string.h>

#include "certificates.h"
#include "identity.h"

/* Who a certificate is. The first byte of an input says what the rest is: a whole certificate ('0'), a name
 * ('1'), or changes to a good certificate, which is made at the start ('2'). So the corpus is mostly text.
 */

static TestCredential seeds[3];

static void make_seeds(void) {
        static const TestCertificate what[] = {
                { .uris = { "clupy:master" }, .names = "DNS:master,IP:127.0.0.1" },
                { .uris = { "clupy:agent:node1", "https://example.org" } },
                { .uris = { "clupy:user:alice", "clupy:admin:alice" }, .usage = "clientAuth" },
        };

        for (size_t i = 0; i < ELEMENTSOF(seeds); i++)
                seeds[i] = test_credential_new(&what[i], NULL);
}

/* What was taken says the same when it is written and read again. */
static void check_identity(const Identity *identity) {
        char uri[IDENTITY_URI_SIZE];
        Identity again;

        identity_to_uri(identity, uri);
        CHECK(identity_parse(uri, strlen(uri), &again) >= 0 && identity_equal(identity, &again));
        CHECK((identity->role == IDENTITY_MASTER) == (identity->name[0] == '\0'));
        CHECK(identity->role == IDENTITY_MASTER || identity_name_is_valid(identity->name));
}

/* A seed with some of its bytes changed: pairs of a position and a value. */
static void fuzz_changed(const uint8_t *data, size_t size) {
        const char *why = NULL;
        Identity identity;
        unsigned char *der;
        size_t der_size;
        int r;

        if (size < 1)
                return;
        der = test_certificate_der(seeds[data[0] % ELEMENTSOF(seeds)].certificate, &der_size);
        for (size_t i = 1; i + 2 < size; i += 3)
                der[(data[i] << 8 | data[i + 1]) % der_size] = data[i + 2];
        r = identity_from_der(der, der_size, &identity, &why);
        CHECK((r < 0) == (why != NULL));
        if (r >= 0)
                check_identity(&identity);
        free(der);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const char *why = NULL;
        Identity identity;
        int r;

        if (!seeds[0].key)
                make_seeds();
        if (size == 0)
                return 0;
        switch (data[0] % 3) {
        case 0:
                r = identity_from_der(data + 1, size - 1, &identity, &why);
                CHECK((r < 0) == (why != NULL));
                break;
        case 1:
                r = identity_parse((const char *) data + 1, size - 1, &identity);
                if (r >= 0) {
                        char uri[IDENTITY_URI_SIZE];

                        CHECK(strlen(identity_to_uri(&identity, uri)) == size - 1);
                        CHECK(memcmp(uri, data + 1, size - 1) == 0);
                }
                break;
        default:
                fuzz_changed(data + 1, size - 1);
                return 0;
        }
        if (r >= 0)
                check_identity(&identity);
        return 0;
}
