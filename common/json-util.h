/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "id.h"
#include "memory-util.h"

enum { JSON_DEPTH_MAX = 16 };

static inline json_object *json_put(json_object *object) {
        json_object_put(object);
        return NULL;
}
DEFINE_CLEANUP(json_object, json_put);

/* One JSON value, nothing behind it but white space; strict syntax, valid UTF-8, no NUL, at most depth
 * levels. Returns 0, -EBADMSG, -ENOMEM. What json-c's strict mode still lets pass: keys in single quotes,
 * control characters in strings, NaN and Infinity (which json_get_double() refuses). */
int json_parse_strict(const char *text, size_t size, int depth, json_object **ret);
/* As above, and the value must be an object. */
int json_parse_strict_object(const char *text, size_t size, int depth, json_object **ret);

/* Typed access to the members of an object. Return 0, -ENOENT when the key is missing or null, -EINVAL when
 * it has another type, -ERANGE when it is over its bound. What is returned is borrowed from the object.
 *
 * Strings: at most max_size bytes, and without an embedded NUL (-EINVAL). Numbers: inclusive bounds;
 * json_get_double takes integers too and refuses what is not finite. */
int json_get(json_object *object, const char *key, json_type type, json_object **ret);
int json_get_string(json_object *object, const char *key, size_t max_size, const char **ret);
int json_get_int64(json_object *object, const char *key, int64_t min, int64_t max, int64_t *ret);
int json_get_uint64(json_object *object, const char *key, uint64_t max, uint64_t *ret);
int json_get_double(json_object *object, const char *key, double min, double max, double *ret);
int json_get_bool(json_object *object, const char *key, bool *ret);
int json_get_object(json_object *object, const char *key, json_object **ret);
int json_get_array(json_object *object, const char *key, size_t max_length, json_object **ret);
int json_get_id(json_object *object, const char *key, Id *ret);

/* The same, but a missing (or null) key gives the default and 0; NULL for objects and arrays. */
int json_get_string_optional(json_object *object, const char *key, size_t max_size, const char *fallback,
                             const char **ret);
int json_get_int64_optional(json_object *object, const char *key, int64_t min, int64_t max, int64_t fallback,
                            int64_t *ret);
int json_get_uint64_optional(json_object *object, const char *key, uint64_t max, uint64_t fallback,
                             uint64_t *ret);
int json_get_double_optional(json_object *object, const char *key, double min, double max, double fallback,
                             double *ret);
int json_get_bool_optional(json_object *object, const char *key, bool fallback, bool *ret);
int json_get_object_optional(json_object *object, const char *key, json_object **ret);
int json_get_array_optional(json_object *object, const char *key, size_t max_length, json_object **ret);
int json_get_id_optional(json_object *object, const char *key, Id fallback, Id *ret);

/* Building. Return 0, -ENOMEM. A key's former value is replaced; keys and strings are copied. A
 * NULL string adds nothing. */
int json_new_object(json_object **ret);
int json_new_array(json_object **ret);
/* Takes the value in any case, also on failure; a NULL value is -ENOMEM, so that json_object_new_*() can be
 * passed on. */
int json_add(json_object *object, const char *key, json_object *value);
int json_add_string(json_object *object, const char *key, const char *value);
int json_add_int64(json_object *object, const char *key, int64_t value);
int json_add_uint64(json_object *object, const char *key, uint64_t value);
int json_add_double(json_object *object, const char *key,
                    double value); /* what is not finite becomes null */
int json_add_bool(json_object *object, const char *key, bool value);
int json_add_null(json_object *object, const char *key);
int json_add_id(json_object *object, const char *key, Id value);
int json_append(json_object *array, json_object *value); /* takes the value in any case, as json_add() */
int json_append_string(json_object *array, const char *value);
int json_append_id(json_object *array, Id value);

/* Adds an empty object (array) under the key (to the array) and hands out a borrowed pointer to fill it. */
int json_add_new_object(json_object *object, const char *key, json_object **ret);
int json_add_new_array(json_object *object, const char *key, json_object **ret);
int json_append_new_object(json_object *array, json_object **ret);

/* The plain text, borrowed until the object changes or is put, or NULL without memory. */
const char *json_text(json_object *object, size_t *ret_size);
