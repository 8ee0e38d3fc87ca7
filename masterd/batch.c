/* SPDX-License-Identifier: Apache-2.0 */
#include "batch.h"

#include <errno.h>

#include "json-util.h"
#include "memory-util.h"

enum { JSON_ROOM = FRAME_JSON_MAX / 2 }; /* sizes are estimates: leave as much again */

void batch_done(Batch *batch) {
        for (size_t i = 0; i < batch->n_payloads; i++)
                if (batch->owned[i])
                        free(batch->payloads[i].iov_base);
        batch->payloads = mfree(batch->payloads);
        batch->owned = mfree(batch->owned);
        batch->json = json_put(batch->json);
        batch->array = NULL;
        batch->n_payloads = batch->capacity = batch->payload_bytes = batch->json_bytes = batch->n_entries =
                0;
}

bool batch_has_room(const Batch *batch, size_t json_size, size_t payload_size) {
        if (batch->n_entries == 0)
                return true;
        return batch->json_bytes + json_size <= JSON_ROOM && batch->n_payloads < FRAME_PAYLOAD_COUNT_MAX &&
               batch->payload_bytes + payload_size <= FRAME_PAYLOAD_TOTAL_MAX;
}

static int batch_begin(Batch *batch) {
        int r;

        if (batch->json)
                return 0;
        r = json_new_object(&batch->json);
        if (r < 0)
                return r;
        if (batch->with_epoch) {
                r = json_add_uint64(batch->json, "epoch", batch->epoch);
                if (r < 0)
                        return r;
        }
        return json_add_new_array(batch->json, batch->key, &batch->array);
}

static int batch_reserve_payload(Batch *batch) {
        size_t capacity = MAX(batch->n_payloads + 1, batch->capacity * 2);
        struct iovec *payloads;
        bool *owned;

        if (batch->n_payloads < batch->capacity)
                return 0;
        payloads = realloc(batch->payloads, capacity * sizeof(*payloads));
        if (!payloads)
                return -ENOMEM;
        batch->payloads = payloads;
        owned = realloc(batch->owned, capacity * sizeof(*owned));
        if (!owned)
                return -ENOMEM;
        batch->owned = owned;
        batch->capacity = capacity;
        return 0;
}

int batch_add(Batch *batch, json_object *entry, size_t json_size, const struct iovec *payload, bool own) {
        int r;

        r = batch_begin(batch);
        if (r >= 0 && payload) {
                r = batch_reserve_payload(batch);
                if (r >= 0)
                        r = json_add_uint64(entry, "payload", batch->n_payloads);
        }
        if (r < 0) {
                json_put(entry);
                if (payload && own)
                        free(payload->iov_base);
                return r;
        }
        if (payload) {
                batch->payloads[batch->n_payloads] = *payload;
                batch->owned[batch->n_payloads++] = own;
                batch->payload_bytes += payload->iov_len;
        }
        batch->json_bytes += json_size;
        batch->n_entries++;
        return json_append(batch->array, entry);
}

int batch_send(Batch *batch, Connection *connection) {
        int r = 0;

        if (batch->n_entries > 0 && connection)
                r = connection_send(connection, batch->type, batch->json, batch->payloads,
                                    batch->n_payloads);
        batch_done(batch);
        return r;
}

int json_add_raw(json_object *object, const char *key, const char *text) {
        json_object *value;
        char *copy;

        if (!text)
                return json_add_null(object, key);
        copy = strdup(text);
        value = copy ? json_object_new_boolean(false) : NULL;
        if (!value) {
                free(copy);
                return -ENOMEM;
        }
        json_object_set_serializer(value, json_object_userdata_to_json_string, copy,
                                   json_object_free_userdata);
        return json_add(object, key, value);
}
