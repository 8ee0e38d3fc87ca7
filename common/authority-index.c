/* SPDX-License-Identifier: Apache-2.0 */
#include "authority-index.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "certificate.h"
#include "folder-file.h"

enum { INDEX_FILE_MAX = 2 * INDEX_MAX * CERTIFICATE_SERIAL_SIZE };

/* Neither has a '/', and no list of the folder shows them. */
void index_of_identity(const Identity *identity, char name[static INDEX_NAME_SIZE]) {
        char uri[IDENTITY_URI_SIZE];

        snprintf(name, INDEX_NAME_SIZE, ".%s", identity_to_uri(identity, uri) + strlen("clupy:"));
}

int index_of_key(const EVP_PKEY *key, char name[static INDEX_NAME_SIZE]) {
        char hex[DIGEST_HEX_SIZE];
        unsigned char *der = NULL;
        Digest digest;
        int n, r;

        n = i2d_PUBKEY(key, &der);
        if (n <= 0) {
                ERR_clear_error();
                return -EIO;
        }
        r = digest_sha256(der, (size_t) n, &digest);
        OPENSSL_free(der);
        if (r < 0)
                return r;
        snprintf(name, INDEX_NAME_SIZE, ".key-%s", digest_to_hex(&digest, hex));
        return 0;
}

int index_read(int folder, const char *name, char ***ret) {
        _cleanup_(strv_freep) char **serials = NULL;
        _cleanup_(freep) char *text = NULL;
        char *rest, *line;
        int r;

        r = folder_read_file(folder, name, INDEX_FILE_MAX, &text, NULL);
        if (r < 0 && r != -ENOENT)
                return r;
        rest = text;
        while (rest && (line = strsep(&rest, "\n")))
                if (line[0] && strv_extend(&serials, line) < 0)
                        return -ENOMEM;
        *ret = TAKE_PTR(serials);
        return 0;
}

int index_write(int folder, const char *name, char *const *serials) {
        _cleanup_(freep) char *text = NULL;
        size_t size = 1;
        char *p;

        for (char *const *s = serials; s && *s; s++)
                size += strlen(*s) + 1;
        p = text = malloc(size);
        if (!text)
                return -ENOMEM;
        for (char *const *s = serials; s && *s; s++) {
                p = stpcpy(p, *s);
                *p++ = '\n';
        }
        /* As the certificates: nobody else gets into the folder. */
        return folder_write_file(folder, name, 0644, text, (size_t) (p - text), FOLDER_REPLACE);
}
