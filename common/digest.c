/* SPDX-License-Identifier: Apache-2.0 */
#include "digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <unistd.h>

#include "id.h"

struct DigestContext {
        EVP_MD_CTX *evp;
        bool final;
};

int digest_context_new(DigestContext **ret) {
        _cleanup_(digest_context_freep) DigestContext *context = NULL;

        context = new0(DigestContext);
        if (!context)
                return -ENOMEM;
        context->evp = EVP_MD_CTX_new();
        if (!context->evp)
                return -ENOMEM;
        if (EVP_DigestInit_ex(context->evp, EVP_sha256(), NULL) != 1)
                return -EIO;
        *ret = TAKE_PTR(context);
        return 0;
}

int digest_context_update(DigestContext *context, const void *data, size_t size) {
        if (context->final)
                return -EINVAL;
        return EVP_DigestUpdate(context->evp, data, size) == 1 ? 0 : -EIO;
}

int digest_context_final(DigestContext *context, Digest *ret) {
        Digest digest;
        unsigned size = 0;

        if (context->final)
                return -EINVAL;
        context->final = true;
        if (EVP_DigestFinal_ex(context->evp, digest.bytes, &size) != 1 || size != sizeof(digest.bytes))
                return -EIO;
        *ret = digest;
        return 0;
}

DigestContext *digest_context_free(DigestContext *context) {
        if (!context)
                return NULL;
        EVP_MD_CTX_free(context->evp);
        return mfree(context);
}

int digest_sha256(const void *data, size_t size, Digest *ret) {
        _cleanup_(digest_context_freep) DigestContext *context = NULL;
        int r;

        r = digest_context_new(&context);
        if (r < 0)
                return r;
        r = digest_context_update(context, data, size);
        if (r < 0)
                return r;
        return digest_context_final(context, ret);
}

int digest_sha256_fd(int fd, Digest *ret) {
        _cleanup_(digest_context_freep) DigestContext *context = NULL;
        uint8_t buffer[32 * 1024];
        off_t offset = 0;
        int r;

        r = digest_context_new(&context);
        if (r < 0)
                return r;
        for (;;) {
                ssize_t n = pread(fd, buffer, sizeof(buffer), offset);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (n == 0)
                        return digest_context_final(context, ret);
                r = digest_context_update(context, buffer, (size_t) n);
                if (r < 0)
                        return r;
                offset += n;
        }
}

char *digest_to_hex(const Digest *digest, char buffer[static DIGEST_HEX_SIZE]) {
        return hex_encode(digest->bytes, sizeof(digest->bytes), buffer);
}

int digest_from_hex(const char *hex, Digest *ret) {
        return hex_decode(hex, ret->bytes, sizeof(ret->bytes));
}

bool digest_equal(const Digest *left, const Digest *right) {
        return memcmp(left->bytes, right->bytes, sizeof(left->bytes)) == 0;
}
