/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <math.h>

#include "json-util.h"

static json_object *parse(const char *text) {
        json_object *object;

        assert_ok(json_parse_strict(text, strlen(text), JSON_DEPTH_MAX, &object));
        return object;
}

static void test_strict(void **state) {
        static const char *const bad[] = {
                "",           " ",           "{",           "{]",
                "{\"a\":1,}", "{\"a\":1} x", "{\"a\":1}{}", "nul",
                "[1,]",       "{\"a\" 1}",   "{a:1}",       "// x\n{}",
                "\"\xff\"",   "\"\x80\"",    "[1 2]",       "{\"\xc3\":1}",
        };
        _cleanup_(json_putp) json_object *object = NULL;
        char deep[64];

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (json_parse_strict(bad[i], strlen(bad[i]), JSON_DEPTH_MAX, &object) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i]);
        assert_error(json_parse_strict("{}\0", 3, JSON_DEPTH_MAX, &object), EBADMSG);
        memset(deep, '[', 32);
        memset(deep + 32, ']', 32);
        assert_error(json_parse_strict(deep, 64, JSON_DEPTH_MAX, &object), EBADMSG);
        assert_ok(json_parse_strict(deep + 20, 24, JSON_DEPTH_MAX, &object));
        object = json_put(object);
        assert_ok(json_parse_strict(" {\"a\": 1} \n", 11, JSON_DEPTH_MAX, &object));
        object = json_put(object);
        assert_ok(json_parse_strict("12", 2, JSON_DEPTH_MAX, &object));
        object = json_put(object);
        assert_error(json_parse_strict_object("[]", 2, JSON_DEPTH_MAX, &object), EBADMSG);
        assert_error(json_parse_strict_object("null", 4, JSON_DEPTH_MAX, &object), EBADMSG);
        assert_ok(json_parse_strict_object("{}", 2, JSON_DEPTH_MAX, &object));
}

static void test_get(void **state) {
        _cleanup_(json_putp) json_object *o =
                parse("{\"s\":\"text\",\"z\":\"a\\u0000b\",\"i\":-5,\"u\":18446744073709551615,\"d\":1.5,"
                      "\"b\":true,\"o\":{\"x\":1},"
                      "\"a\":[1,2,3],\"n\":null,\"h\":\"0123456789abcdef0123456789abcdef\",\"big\":1e400,"
                      "\"nan\":NaN}");
        json_object *v;
        const char *s;
        int64_t i;
        uint64_t u;
        double d;
        bool b;
        Id id;

        assert_ok(json_get_string(o, "s", 4, &s));
        assert_string_equal(s, "text");
        assert_error(json_get_string(o, "s", 3, &s), ERANGE);
        assert_error(json_get_string(o, "z", 10, &s), EINVAL);
        assert_error(json_get_string(o, "i", 10, &s), EINVAL);
        assert_error(json_get_string(o, "missing", 10, &s), ENOENT);
        assert_error(json_get_string(o, "n", 10, &s), ENOENT);
        assert_error(json_get_string(NULL, "s", 10, &s), EINVAL);
        assert_ok(json_get_int64(o, "i", -5, 5, &i));
        assert_int_equal(i, -5);
        assert_error(json_get_int64(o, "i", -4, 5, &i), ERANGE);
        assert_error(json_get_int64(o, "u", INT64_MIN, INT64_MAX, &i), ERANGE);
        assert_error(json_get_int64(o, "d", 0, 5, &i), EINVAL);
        assert_ok(json_get_uint64(o, "u", UINT64_MAX, &u));
        assert_true(u == UINT64_MAX);
        assert_error(json_get_uint64(o, "u", UINT64_MAX - 1, &u), ERANGE);
        assert_error(json_get_uint64(o, "i", UINT64_MAX, &u), ERANGE);
        assert_ok(json_get_double(o, "d", 0, 2, &d));
        assert_true(d == 1.5);
        assert_ok(json_get_double(o, "i", -10, 2, &d));
        assert_true(d == -5);
        assert_error(json_get_double(o, "d", 0, 1, &d), ERANGE);
        assert_error(json_get_double(o, "big", 0, 1, &d), EINVAL);
        assert_error(json_get_double(o, "nan", 0, 1, &d), EINVAL);
        assert_ok(json_get_bool(o, "b", &b));
        assert_true(b);
        assert_error(json_get_bool(o, "i", &b), EINVAL);
        assert_ok(json_get_object(o, "o", &v));
        assert_error(json_get_object(o, "a", &v), EINVAL);
        assert_ok(json_get_array(o, "a", 3, &v));
        assert_error(json_get_array(o, "a", 2, &v), ERANGE);
        assert_ok(json_get_id(o, "h", &id));
        assert_string_equal(ID_HEX(id), "0123456789abcdef0123456789abcdef");
        assert_error(json_get_id(o, "s", &id), EINVAL);

        assert_ok(json_get_string_optional(o, "missing", 1, "x", &s));
        assert_string_equal(s, "x");
        assert_error(json_get_string_optional(o, "i", 1, "x", &s), EINVAL);
        assert_ok(json_get_uint64_optional(o, "missing", 1, 7, &u));
        assert_int_equal(u, 7);
        assert_ok(json_get_int64_optional(o, "n", 0, 1, -7, &i));
        assert_int_equal(i, -7);
        assert_ok(json_get_double_optional(o, "missing", 0, 1, 0.5, &d));
        assert_ok(json_get_bool_optional(o, "missing", true, &b));
        assert_ok(json_get_object_optional(o, "missing", &v));
        assert_null(v);
        assert_ok(json_get_array_optional(o, "missing", 1, &v));
        assert_null(v);
        assert_ok(json_get_id_optional(o, "missing", ID_NULL, &id));
        assert_true(id_is_null(id));
}

static void test_build(void **state) {
        _cleanup_(json_putp) json_object *o = NULL;
        json_object *list, *item;
        size_t size;

        assert_ok(json_new_object(&o));
        assert_ok(json_add_string(o, "s", "a/b"));
        assert_ok(json_add_string(o, "no", NULL));
        assert_ok(json_add_int64(o, "i", INT64_MIN));
        assert_ok(json_add_uint64(o, "u", UINT64_MAX));
        assert_ok(json_add_double(o, "d", 0.5));
        assert_ok(json_add_double(o, "nan", NAN));
        assert_ok(json_add_bool(o, "b", false));
        assert_ok(json_add_id(o, "id", ID_NULL));
        assert_ok(json_add_new_array(o, "l", &list));
        assert_ok(json_append_string(list, "x"));
        assert_ok(json_append_new_object(list, &item));
        assert_ok(json_add_int64(item, "y", 1));
        assert_error(json_add(o, "x", NULL), ENOMEM);
        assert_string_equal(
                json_text(o, &size),
                "{\"s\":\"a/"
                "b\",\"i\":-9223372036854775808,\"u\":18446744073709551615,\"d\":0.5,\"nan\":null,"
                "\"b\":false,\"id\":\"00000000000000000000000000000000\",\"l\":[\"x\",{\"y\":1}]}");
        assert_int_equal(size, strlen(json_text(o, NULL)));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_strict),
                cmocka_unit_test(test_get),
                cmocka_unit_test(test_build),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
