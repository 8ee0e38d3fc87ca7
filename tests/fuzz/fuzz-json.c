/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "json-util.h"

/* All typed getters on every key of every object, and what was parsed must come out of its own text again.
 */
static void walk(json_object *o) {
        if (json_object_is_type(o, json_type_array))
                for (size_t i = 0; i < json_object_array_length(o); i++)
                        walk(json_object_array_get_idx(o, i));
        if (!json_object_is_type(o, json_type_object))
                return;
        json_object_object_foreach(o, key, value) {
                json_object *v;
                const char *s;
                uint64_t u;
                int64_t i;
                double d;
                bool b;
                Id id;

                if (json_get_string(o, key, 100, &s) >= 0)
                        CHECK(strlen(s) <= 100);
                if (json_get_int64(o, key, -5, 1000, &i) >= 0)
                        CHECK(i >= -5 && i <= 1000);
                if (json_get_int64(o, key, INT64_MIN, INT64_MAX, &i) >= 0 &&
                    json_get_uint64(o, key, UINT64_MAX, &u) >= 0)
                        CHECK((uint64_t) i == u);
                if (json_get_uint64(o, key, 1000, &u) >= 0)
                        CHECK(u <= 1000);
                if (json_get_double(o, key, 0, 1, &d) >= 0)
                        CHECK(d >= 0 && d <= 1);
                if (json_get_array(o, key, 3, &v) >= 0)
                        CHECK(json_object_array_length(v) <= 3);
                if (json_get_id(o, key, &id) >= 0)
                        CHECK(strcmp(ID_HEX(id), json_object_get_string(value)) == 0);
                (void) json_get_bool_optional(o, key, true, &b);
                (void) json_get_object_optional(o, key, &v);
                walk(value);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(json_putp) json_object *first = NULL, *second = NULL;
        const char *text;
        size_t text_size;
        char *copy;
        int r;

        copy = memdup(data, size);
        CHECK(copy);
        r = json_parse_strict(copy, size, JSON_DEPTH_MAX, &first);
        free(copy);
        if (r < 0)
                return 0;
        walk(first);
        text = json_text(first, &text_size);
        CHECK(text && text_size == strlen(text));
        CHECK(json_parse_strict(text, text_size, JSON_DEPTH_MAX, &second) >= 0);
        return 0;
}
