/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "environments-internal.h"
#include "json-util.h"
#include "log.h"

enum {
        BATCH_MAX = 64,                  /* environments of one frame of news */
        BATCH_BYTES_MAX = 512 << 10,     /* of payloads and of libraries in one, before the last one */
        LIBRARIES_TOTAL_MAX = 384 << 10, /* of a complete frame */
};

/* A frame that is being filled. Payloads are borrowed from the environments. */
typedef struct Batch {
        json_object *json, *array; /* array is borrowed */
        size_t n, bytes;
        struct iovec payloads[FRAME_PAYLOAD_COUNT_MAX];
        size_t n_payloads;
} Batch;

static int batch_begin(Batch *b) {
        int r;

        *b = (Batch){ 0 };
        r = json_new_object(&b->json);
        return r < 0 ? r : json_add_new_array(b->json, "environments", &b->array);
}

static int batch_add_text(Batch *b, const Environment *e, json_object *object) {
        size_t first = b->n_payloads;
        int r;

        for (size_t offset = 0; offset < e->text_size;) {
                size_t size = MIN(e->text_size - offset, (size_t) FRAME_PAYLOAD_SIZE_MAX);

                if (b->n_payloads >= ELEMENTSOF(b->payloads))
                        return -E2BIG;
                b->payloads[b->n_payloads++] =
                        (struct iovec){ .iov_base = e->text + offset, .iov_len = size };
                offset += size;
        }
        b->bytes += e->text_size;
        if (b->n_payloads == first)
                return 0;
        r = json_add_uint64(object, "payload", first);
        return r < 0 ? r : json_add_uint64(object, "payloads", b->n_payloads - first);
}

static int batch_add(Batch *b, const Environment *e, bool libraries) {
        json_object *object;
        int r;

        r = json_append_new_object(b->array, &object);
        if (r >= 0)
                r = environment_to_json(e, libraries, object);
        if (r >= 0 && e->text && (e->state == ENVIRONMENT_RESOLVED || e->state == ENVIRONMENT_FAILED))
                r = batch_add_text(b, e, object);
        if (r >= 0)
                b->n++;
        return r;
}

static size_t libraries_size(const Environment *e) {
        size_t size = 0;

        if (e->libraries)
                (void) json_text(e->libraries, &size);
        return size;
}

static int batch_send(Environments *t, Batch *b, bool complete) {
        int r;

        r = json_add_bool(b->json, "complete", complete);
        return r < 0 ? r : t->handlers->tell(b->json, b->payloads, b->n_payloads, t->userdata);
}

/* Told: those that there are stay, the others are over. */
static void environment_told(Environment *e) {
        list_remove(&e->news);
        if (e->state == ENVIRONMENT_RESOLVED || e->state == ENVIRONMENT_FAILED ||
            e->state == ENVIRONMENT_REMOVED)
                environment_free(e);
}

/* All that is there or is being made; what has failed follows as news. */
static int tell_all(Environments *t) {
        size_t total = 0;
        Environment *e;
        Batch b;
        int r;

        r = batch_begin(&b);
        HASHMAP_FOREACH(e, t->all) {
                size_t libraries;

                if (e->state != ENVIRONMENT_READY && e->state != ENVIRONMENT_WAITING &&
                    !environment_is_being_made(e))
                        continue;
                libraries = libraries_size(e);
                if (r >= 0)
                        r = batch_add(&b, e, total + libraries <= LIBRARIES_TOTAL_MAX);
                total += libraries;
        }
        if (r >= 0)
                r = batch_send(t, &b, true);
        b.json = json_put(b.json);
        if (r < 0)
                return r;
        t->told = true;
        HASHMAP_FOREACH(e, t->all)
                if (e->state == ENVIRONMENT_READY || environment_is_being_made(e))
                        list_remove(&e->news);
        return 0;
}

/* One frame of news. */
static int tell_news(Environments *t) {
        Batch b;
        int r;

        r = batch_begin(&b);
        LIST_FOREACH(Environment, e, news, &t->news) {
                if (r < 0 || b.n >= BATCH_MAX || b.bytes > BATCH_BYTES_MAX)
                        break;
                b.bytes += libraries_size(e);
                r = batch_add(&b, e, true);
        }
        if (r >= 0)
                r = batch_send(t, &b, false);
        if (r >= 0)
                LIST_FOREACH(Environment, e, news, &t->news) {
                        if (b.n-- == 0)
                                break;
                        environment_told(e);
                }
        b.json = json_put(b.json);
        return r;
}

void environments_tell(Environments *t) {
        int r = 0;

        /* Until the launcher has said what there is, anything would be wrong. */
        if (!t->master_up || !t->listed)
                return;
        if (!t->told)
                r = tell_all(t);
        while (r >= 0 && !list_is_empty(&t->news))
                r = tell_news(t);
        if (r < 0 && r != -ENOTCONN)
                log_error_errno(r, "Cannot tell the master of environments");
}
