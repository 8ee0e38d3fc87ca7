/* SPDX-License-Identifier: Apache-2.0 */
#include "json-util.h"

#include <errno.h>
#include <limits.h>
#include <math.h>

int json_parse_strict(const char *text, size_t size, int depth, json_object **ret) {
        json_tokener *tokener;
        json_object *object = NULL;
        enum json_tokener_error error;
        size_t end;

        if (size == 0 || size > INT_MAX || memchr(text, '\0', size))
                return -EBADMSG;
        tokener = json_tokener_new_ex(depth);
        if (!tokener)
                return -ENOMEM;
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        object = json_tokener_parse_ex(tokener, text, (int) size);
        error = json_tokener_get_error(tokener);
        if (error == json_tokener_continue && !object) {
                /* A number at the very end could go on; the NUL says that it does not. */
                object = json_tokener_parse_ex(tokener, "", 1);
                error = json_tokener_get_error(tokener);
                end = size;
        } else
                end = json_tokener_get_parse_end(tokener);
        json_tokener_free(tokener);
        if (error != json_tokener_success) {
                json_object_put(object);
                return -EBADMSG;
        }
        for (; end < size; end++)
                if (!strchr(" \t\r\n", text[end])) {
                        json_object_put(object);
                        return -EBADMSG;
                }
        *ret = object;
        return 0;
}

int json_parse_strict_object(const char *text, size_t size, int depth, json_object **ret) {
        _cleanup_(json_putp) json_object *object = NULL;
        int r;

        r = json_parse_strict(text, size, depth, &object);
        if (r < 0)
                return r;
        if (!json_object_is_type(object, json_type_object))
                return -EBADMSG;
        *ret = TAKE_PTR(object);
        return 0;
}

static int json_find(json_object *object, const char *key, json_object **ret) {
        json_object *value;

        if (!object || !json_object_is_type(object, json_type_object))
                return -EINVAL;
        if (!json_object_object_get_ex(object, key, &value) || !value)
                return -ENOENT;
        *ret = value;
        return 0;
}

int json_get(json_object *object, const char *key, json_type type, json_object **ret) {
        json_object *value;
        int r;

        r = json_find(object, key, &value);
        if (r < 0)
                return r;
        if (!json_object_is_type(value, type))
                return -EINVAL;
        *ret = value;
        return 0;
}

int json_get_string(json_object *object, const char *key, size_t max_size, const char **ret) {
        json_object *value;
        const char *s;
        size_t size;
        int r;

        r = json_get(object, key, json_type_string, &value);
        if (r < 0)
                return r;
        s = json_object_get_string(value);
        size = (size_t) json_object_get_string_len(value);
        if (size > max_size)
                return -ERANGE;
        if (memchr(s, '\0', size))
                return -EINVAL;
        *ret = s;
        return 0;
}

int json_get_int64(json_object *object, const char *key, int64_t min, int64_t max, int64_t *ret) {
        json_object *value;
        int64_t n;
        int r;

        r = json_get(object, key, json_type_int, &value);
        if (r < 0)
                return r;
        /* json-c keeps what is over INT64_MAX as unsigned and clamps it here: such a number is told by its
         * unsigned value. */
        n = json_object_get_int64(value);
        if (n == INT64_MAX && json_object_get_uint64(value) != (uint64_t) INT64_MAX)
                return -ERANGE;
        if (n < min || n > max)
                return -ERANGE;
        *ret = n;
        return 0;
}

int json_get_uint64(json_object *object, const char *key, uint64_t max, uint64_t *ret) {
        json_object *value;
        uint64_t n;
        int r;

        r = json_get(object, key, json_type_int, &value);
        if (r < 0)
                return r;
        if (json_object_get_int64(value) < 0)
                return -ERANGE;
        n = json_object_get_uint64(value);
        if (n > max)
                return -ERANGE;
        *ret = n;
        return 0;
}

int json_get_double(json_object *object, const char *key, double min, double max, double *ret) {
        json_object *value;
        double n;
        int r;

        r = json_find(object, key, &value);
        if (r < 0)
                return r;
        if (!json_object_is_type(value, json_type_double) && !json_object_is_type(value, json_type_int))
                return -EINVAL;
        n = json_object_get_double(value);
        if (!isfinite(n))
                return -EINVAL;
        if (n < min || n > max)
                return -ERANGE;
        *ret = n;
        return 0;
}

int json_get_bool(json_object *object, const char *key, bool *ret) {
        json_object *value;
        int r;

        r = json_get(object, key, json_type_boolean, &value);
        if (r < 0)
                return r;
        *ret = json_object_get_boolean(value);
        return 0;
}

int json_get_object(json_object *object, const char *key, json_object **ret) {
        return json_get(object, key, json_type_object, ret);
}

int json_get_array(json_object *object, const char *key, size_t max_length, json_object **ret) {
        json_object *value;
        int r;

        r = json_get(object, key, json_type_array, &value);
        if (r < 0)
                return r;
        if (json_object_array_length(value) > max_length)
                return -ERANGE;
        *ret = value;
        return 0;
}

int json_get_id(json_object *object, const char *key, Id *ret) {
        const char *hex;
        int r;

        r = json_get_string(object, key, ID_HEX_SIZE - 1, &hex);
        if (r < 0)
                return r;
        return id_from_hex(hex, ret);
}

/* The one rule of all *_optional functions. */
#define OPTIONAL(call, fallback, ret)                                                                       \
        ({                                                                                                  \
                int _r = (call);                                                                            \
                if (_r == -ENOENT) {                                                                        \
                        *(ret) = (fallback);                                                                \
                        _r = 0;                                                                             \
                }                                                                                           \
                _r;                                                                                         \
        })

int json_get_string_optional(json_object *object, const char *key, size_t max_size, const char *fallback,
                             const char **ret) {
        return OPTIONAL(json_get_string(object, key, max_size, ret), fallback, ret);
}

int json_get_int64_optional(json_object *object, const char *key, int64_t min, int64_t max, int64_t fallback,
                            int64_t *ret) {
        return OPTIONAL(json_get_int64(object, key, min, max, ret), fallback, ret);
}

int json_get_uint64_optional(json_object *object, const char *key, uint64_t max, uint64_t fallback,
                             uint64_t *ret) {
        return OPTIONAL(json_get_uint64(object, key, max, ret), fallback, ret);
}

int json_get_double_optional(json_object *object, const char *key, double min, double max, double fallback,
                             double *ret) {
        return OPTIONAL(json_get_double(object, key, min, max, ret), fallback, ret);
}

int json_get_bool_optional(json_object *object, const char *key, bool fallback, bool *ret) {
        return OPTIONAL(json_get_bool(object, key, ret), fallback, ret);
}

int json_get_object_optional(json_object *object, const char *key, json_object **ret) {
        return OPTIONAL(json_get_object(object, key, ret), NULL, ret);
}

int json_get_array_optional(json_object *object, const char *key, size_t max_length, json_object **ret) {
        return OPTIONAL(json_get_array(object, key, max_length, ret), NULL, ret);
}

int json_get_id_optional(json_object *object, const char *key, Id fallback, Id *ret) {
        return OPTIONAL(json_get_id(object, key, ret), fallback, ret);
}

int json_new_object(json_object **ret) {
        json_object *object = json_object_new_object();

        if (!object)
                return -ENOMEM;
        *ret = object;
        return 0;
}

int json_new_array(json_object **ret) {
        json_object *array = json_object_new_array();

        if (!array)
                return -ENOMEM;
        *ret = array;
        return 0;
}

int json_add(json_object *object, const char *key, json_object *value) {
        if (!value)
                return -ENOMEM;
        if (json_object_object_add(object, key, value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}

int json_add_string(json_object *object, const char *key, const char *value) {
        return value ? json_add(object, key, json_object_new_string(value)) : 0;
}

int json_add_int64(json_object *object, const char *key, int64_t value) {
        return json_add(object, key, json_object_new_int64(value));
}

int json_add_uint64(json_object *object, const char *key, uint64_t value) {
        return json_add(object, key, json_object_new_uint64(value));
}

int json_add_double(json_object *object, const char *key, double value) {
        if (!isfinite(value))
                return json_add_null(object, key);
        return json_add(object, key, json_object_new_double(value));
}

int json_add_bool(json_object *object, const char *key, bool value) {
        return json_add(object, key, json_object_new_boolean(value));
}

int json_add_null(json_object *object, const char *key) {
        return json_object_object_add(object, key, NULL) < 0 ? -ENOMEM : 0;
}

int json_add_id(json_object *object, const char *key, Id value) {
        char hex[ID_HEX_SIZE];

        return json_add(object, key, json_object_new_string_len(id_to_hex(value, hex), ID_HEX_SIZE - 1));
}

int json_append(json_object *array, json_object *value) {
        if (!value)
                return -ENOMEM;
        if (json_object_array_add(array, value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}

int json_append_string(json_object *array, const char *value) {
        return json_append(array, json_object_new_string(value));
}

int json_append_id(json_object *array, Id value) {
        char hex[ID_HEX_SIZE];

        return json_append(array, json_object_new_string_len(id_to_hex(value, hex), ID_HEX_SIZE - 1));
}

int json_add_new_object(json_object *object, const char *key, json_object **ret) {
        json_object *value = json_object_new_object();
        int r;

        r = json_add(object, key, value);
        if (r < 0)
                return r;
        *ret = value;
        return 0;
}

int json_add_new_array(json_object *object, const char *key, json_object **ret) {
        json_object *value = json_object_new_array();
        int r;

        r = json_add(object, key, value);
        if (r < 0)
                return r;
        *ret = value;
        return 0;
}

int json_append_new_object(json_object *array, json_object **ret) {
        json_object *value = json_object_new_object();
        int r;

        r = json_append(array, value);
        if (r < 0)
                return r;
        *ret = value;
        return 0;
}

const char *json_text(json_object *object, size_t *ret_size) {
        return json_object_to_json_string_length(
                object, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, ret_size);
}
