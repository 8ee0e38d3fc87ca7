/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "connection.h"
#include "frame.h"
#include "types.h"

/* Entries of one array that travel together in as few frames as the bounds allow. Holds no memory while it
 * is empty. Payloads are borrowed until the batch is sent unless they were given to it. */
struct Batch {
        FrameType type;
        const char *key; /* the array's name in the frame */
        bool with_epoch;
        uint64_t epoch;
        json_object *json, *array;
        struct iovec *payloads;
        bool *owned;
        size_t n_payloads, capacity;
        size_t payload_bytes, json_bytes, n_entries;
};

#define BATCH_INIT(frame_type, array_key) ((Batch){ .type = (frame_type), .key = (array_key) })

void batch_done(Batch *batch);

/* Whether an entry of about that size still fits into the frame that is being filled. */
bool batch_has_room(const Batch *batch, size_t json_size, size_t payload_size);

/* Adds an entry (taken in any case). payload NULL: none; else "payload": index is added to the entry; `own`:
 * its memory is the batch's now and freed with it (also on failure). Returns 0, -ENOMEM. */
int batch_add(Batch *batch, json_object *entry, size_t json_size, const struct iovec *payload, bool own);

static inline bool batch_is_empty(const Batch *batch) {
        return batch->n_entries == 0;
}

/* Sends what there is, and empties the batch in any case; connection NULL: only that. Returns 0 or what
 * connection_send() does. */
int batch_send(Batch *batch, Connection *connection);

/* Adds a value from text that is JSON already; it goes into the output as it is. NULL gives null. Returns 0,
 * -ENOMEM. */
int json_add_raw(json_object *object, const char *key, const char *text);
