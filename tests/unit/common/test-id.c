/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <sys/mman.h>

#include "digest.h"
#include "fd-util.h"
#include "id.h"

static void test_id(void **state) {
        char hex[ID_HEX_SIZE];
        Id a, b;

        assert_ok(id_random(&a));
        assert_ok(id_random(&b));
        assert_false(id_equal(a, b));
        assert_false(id_is_null(a));
        assert_true(id_is_null(ID_NULL));
        assert_ok(id_from_hex(id_to_hex(a, hex), &b));
        assert_true(id_equal(a, b));
        assert_int_equal(id_hash(a), id_hash(b));
        assert_string_equal(ID_HEX(ID_NULL), "00000000000000000000000000000000");
        assert_error(id_from_hex("", &b), EINVAL);
        assert_error(id_from_hex("0000000000000000000000000000000", &b), EINVAL);
        assert_error(id_from_hex("000000000000000000000000000000000", &b), EINVAL);
        assert_error(id_from_hex("0000000000000000000000000000000G", &b), EINVAL);
        assert_error(id_from_hex("0000000000000000000000000000000A", &b), EINVAL);
        /* Failure leaves the output alone. */
        assert_true(id_equal(a, b));
}

static void test_digest(void **state) {
        /* FIPS 180-2, appendix B.1, and the empty message. */
        static const char abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        static const char none[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        _cleanup_(digest_context_freep) DigestContext *context = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        char hex[DIGEST_HEX_SIZE];
        Digest a, b;

        assert_ok(digest_sha256("abc", 3, &a));
        assert_string_equal(digest_to_hex(&a, hex), abc);
        assert_ok(digest_from_hex(abc, &b));
        assert_true(digest_equal(&a, &b));
        assert_error(digest_from_hex("ba78", &b), EINVAL);
        assert_ok(digest_sha256(NULL, 0, &b));
        assert_string_equal(digest_to_hex(&b, hex), none);
        assert_false(digest_equal(&a, &b));
        assert_ok(digest_context_new(&context));
        assert_ok(digest_context_update(context, "a", 1));
        assert_ok(digest_context_update(context, "bc", 2));
        assert_ok(digest_context_final(context, &b));
        assert_true(digest_equal(&a, &b));
        assert_error(digest_context_update(context, "a", 1), EINVAL);
        fd = memfd_new_sealed("x", "abc", 3);
        assert_ok(fd);
        assert_ok(digest_sha256_fd(fd, &b));
        assert_true(digest_equal(&a, &b));
        assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_id), cmocka_unit_test(test_digest) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
