/* SPDX-License-Identifier: Apache-2.0 */
#include "payload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "fd-util.h"
#include "hashmap.h"
#include "json-util.h"
#include "list.h"

enum {
        PUMP_MAX = 1 << 20, /* bytes sent before the loop gets its turn */
        CREDIT_STEP = PAYLOAD_WINDOW / 4,
        ERROR_CODE_MAX = 64,
        MESSAGE_MAX = 512,
};

typedef struct PayloadOut {
        PayloadStreams *streams;
        uint64_t stream;
        int fd;
        uint64_t offset, size, credit;
        ListLink turn; /* among those that have something to send and may */
} PayloadOut;

struct PayloadIn {
        PayloadStreams *streams;
        uint64_t stream; /* 0: waits for its turn */
        Id task, group;
        uint32_t attempt;
        bool is_code;
        Digest code;
        DigestContext *digest;
        int fd;
        uint64_t offset, size;
        uint64_t window;   /* bytes that the peer may still send */
        uint64_t consumed; /* since the last credit */
        PayloadInDone done;
        void *userdata;
        ListLink all;
};

struct PayloadStreams {
        sd_event_source *pump;
        const PayloadWire *wire;
        void *userdata;
        Hashmap *out; /* by stream */
        Hashmap *in;
        ListLink turns;  /* of PayloadOut */
        ListLink all_in; /* in the order in which they were asked for */
        uint64_t next_stream;
};

static PayloadOut *payload_out_free(PayloadOut *out) {
        list_remove(&out->turn);
        (void) hashmap_remove_u64(out->streams->out, out->stream);
        close_fd(out->fd);
        return mfree(out);
}

static PayloadIn *payload_in_free(PayloadIn *in) {
        list_remove(&in->all);
        if (in->stream > 0)
                (void) hashmap_remove_u64(in->streams->in, in->stream);
        digest_context_free(in->digest);
        close_fd(in->fd);
        return mfree(in);
}
DEFINE_CLEANUP(PayloadIn, payload_in_free);

static int send_stream(PayloadStreams *p, FrameType type, uint64_t stream, uint64_t bytes, const char *error,
                       const char *message, const struct iovec *payload) {
        _cleanup_(json_putp) json_object *json = NULL;
        int r;

        r = json_new_object(&json);
        if (r >= 0)
                r = json_add_uint64(json, "stream", stream);
        if (r >= 0 && bytes > 0)
                r = json_add_uint64(json, "bytes", bytes);
        if (r >= 0)
                r = json_add_string(json, "error", error);
        if (r >= 0)
                r = json_add_string(json, "message", message);
        return r < 0 ? r : p->wire->send(type, json, payload, payload ? 1 : 0, p->userdata);
}

static void payload_streams_wake(PayloadStreams *p) {
        (void) sd_event_source_set_enabled(p->pump, SD_EVENT_ONESHOT);
}

/* Ready to send or to end, or neither. */
static void payload_out_update(PayloadOut *out) {
        bool ready = out->credit > 0 || out->offset == out->size;

        if (ready && !list_is_linked(&out->turn)) {
                list_append(&out->streams->turns, &out->turn);
                payload_streams_wake(out->streams);
        } else if (!ready)
                list_remove(&out->turn);
}

/* Sends one piece, or the end. buffer has PAYLOAD_CHUNK bytes. Returns the bytes. */
static size_t payload_out_turn(PayloadOut *out, uint8_t *buffer) {
        PayloadStreams *p = out->streams;
        size_t size = (size_t) MIN(MIN(out->credit, out->size - out->offset), (uint64_t) PAYLOAD_CHUNK);
        ssize_t n = 0;

        if (size > 0) {
                n = pread(out->fd, buffer, size, (off_t) out->offset);
                if (n <= 0) {
                        (void) send_stream(p, FRAME_END, out->stream, 0, "gone",
                                           "the payload cannot be read any more", NULL);
                        payload_out_free(out);
                        return 0;
                }
                (void) send_stream(p, FRAME_DATA, out->stream, 0, NULL, NULL,
                                   &(struct iovec){ .iov_base = buffer, .iov_len = (size_t) n });
                out->offset += (size_t) n;
                out->credit -= (size_t) n;
        }
        if (out->offset == out->size) {
                (void) send_stream(p, FRAME_END, out->stream, 0, NULL, NULL, NULL);
                payload_out_free(out);
                return (size_t) n;
        }
        /* To the end of the line. */
        list_remove(&out->turn);
        payload_out_update(out);
        return (size_t) n;
}

static void payload_in_end(PayloadIn *in, int error, const char *message);
static void payload_in_begin_waiting(PayloadStreams *p);

static int on_pump(sd_event_source *source, void *userdata) {
        PayloadStreams *p = userdata;
        _cleanup_(freep) uint8_t *buffer = NULL;
        PayloadOut *out;
        size_t sent = 0;

        payload_in_begin_waiting(p);
        /* The buffer lives only as long as there is something to send. */
        while ((out = LIST_FIRST(PayloadOut, turn, &p->turns)) && sent < PUMP_MAX &&
               !p->wire->congested(p->userdata)) {
                if (!buffer)
                        buffer = malloc(PAYLOAD_CHUNK);
                if (!buffer)
                        break;
                sent += payload_out_turn(out, buffer);
        }
        if (!list_is_empty(&p->turns) && !p->wire->congested(p->userdata))
                payload_streams_wake(p);
        return 0;
}

int payload_streams_new(sd_event *event, const PayloadWire *wire, void *userdata, PayloadStreams **ret) {
        _cleanup_(payload_streams_freep) PayloadStreams *p = NULL;
        int r;

        p = new0(PayloadStreams);
        if (!p)
                return -ENOMEM;
        p->wire = wire;
        p->userdata = userdata;
        p->next_stream = 1;
        list_init(&p->turns);
        list_init(&p->all_in);
        r = hashmap_new(HASHMAP_U64, &p->out);
        if (r >= 0)
                r = hashmap_new(HASHMAP_U64, &p->in);
        if (r >= 0)
                r = sd_event_add_defer(event, &p->pump, on_pump, p);
        if (r >= 0)
                r = sd_event_source_set_enabled(p->pump, SD_EVENT_OFF);
        /* After the connections of this turn of the loop. */
        if (r >= 0)
                r = sd_event_source_set_priority(p->pump, SD_EVENT_PRIORITY_NORMAL + 10);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

PayloadStreams *payload_streams_free(PayloadStreams *p) {
        PayloadOut *out;

        if (!p)
                return NULL;
        LIST_FOREACH(PayloadIn, in, all, &p->all_in)
                payload_in_free(in);
        HASHMAP_FOREACH(out, p->out)
                payload_out_free(out);
        hashmap_free(p->out);
        hashmap_free(p->in);
        sd_event_source_disable_unref(p->pump);
        return mfree(p);
}

void payload_streams_reset(PayloadStreams *p) {
        PayloadOut *out;
        PayloadIn *in;

        HASHMAP_FOREACH(out, p->out)
                payload_out_free(out);
        /* A callback may cancel others: from the front until there is none. None may start here. */
        while ((in = LIST_FIRST(PayloadIn, all, &p->all_in)))
                payload_in_end(in, -ECONNRESET, "the connection to the master was lost");
        p->next_stream = 1;
}

void payload_streams_writable(PayloadStreams *p) {
        if (!list_is_empty(&p->turns))
                payload_streams_wake(p);
}

size_t payload_streams_count(const PayloadStreams *p) {
        return hashmap_size(p->out) + hashmap_size(p->in);
}

/* Incoming. */

static unsigned group_open(PayloadStreams *p, Id group) {
        unsigned n = 0;

        LIST_FOREACH(PayloadIn, in, all, &p->all_in)
                n += in->stream > 0 && !in->is_code && id_equal(in->group, group);
        return n;
}

static int payload_in_fetch(PayloadIn *in) {
        _cleanup_(json_putp) json_object *json = NULL;
        PayloadStreams *p = in->streams;
        char hex[DIGEST_HEX_SIZE];
        int r;

        r = hashmap_put_u64(p->in, p->next_stream, in);
        if (r < 0)
                return r;
        in->stream = p->next_stream;
        p->next_stream += 2; /* odd: we are the side that connected */
        in->window = PAYLOAD_WINDOW;

        r = json_new_object(&json);
        if (r >= 0)
                r = json_add_uint64(json, "stream", in->stream);
        if (r >= 0)
                r = json_add_id(json, "task", in->task);
        if (r >= 0)
                r = json_add_uint64(json, "attempt", in->attempt);
        if (r >= 0)
                r = json_add_string(json, "what", in->is_code ? "code" : "args");
        if (r >= 0 && in->is_code)
                r = json_add_string(json, "code", digest_to_hex(&in->code, hex));
        if (r >= 0)
                r = json_add_uint64(json, "size", in->size);
        if (r >= 0)
                r = json_add_uint64(json, "window", PAYLOAD_WINDOW);
        return r < 0 ? r : p->wire->send(FRAME_FETCH, json, NULL, 0, p->userdata);
}

/* One session's arguments must not take all of the master's memory, nor must one client that sends nothing
 * keep others waiting: a bound for each session. */
static void payload_in_begin_waiting(PayloadStreams *p) {
        LIST_FOREACH(PayloadIn, in, all, &p->all_in) {
                if (in->stream > 0 || (!in->is_code && group_open(p, in->group) >= PAYLOAD_IN_GROUP))
                        continue;
                if (payload_in_fetch(in) < 0) {
                        payload_in_end(in, -ENOMEM, "no memory for a payload stream");
                        payload_streams_wake(p);
                        return; /* the callback may have changed the list */
                }
        }
}

int payload_in_start(PayloadStreams *p, const PayloadRequest *request, PayloadInDone done, void *userdata,
                     PayloadIn **ret) {
        _cleanup_(payload_in_freep) PayloadIn *in = NULL;
        int r;

        in = new0(PayloadIn);
        if (!in)
                return -ENOMEM;
        in->fd = -EBADF;
        in->streams = p;
        in->task = request->task;
        in->attempt = request->attempt;
        in->group = request->group;
        in->size = request->size;
        in->done = done;
        in->userdata = userdata;
        if (request->code) {
                in->is_code = true;
                in->code = *request->code;
                r = digest_context_new(&in->digest);
                if (r < 0)
                        return r;
        }
        in->fd = memfd_new(request->code ? "clupy-code" : "clupy-arguments");
        if (in->fd < 0)
                return in->fd;
        list_append(&p->all_in, &in->all);
        payload_streams_wake(p);
        *ret = TAKE_PTR(in);
        return 0;
}

PayloadIn *payload_in_cancel(PayloadIn *in) {
        PayloadStreams *p;

        if (!in)
                return NULL;
        p = in->streams;
        if (in->stream > 0)
                (void) send_stream(p, FRAME_END, in->stream, 0, "cancelled", NULL, NULL);
        payload_streams_wake(p); /* another may begin */
        return payload_in_free(in);
}

static void payload_in_end(PayloadIn *in, int error, const char *message) {
        PayloadInDone done = in->done;
        void *userdata = in->userdata;
        int fd = -EBADF;

        payload_streams_wake(in->streams);
        if (error == 0)
                fd = TAKE_FD(in->fd);
        /* Out of the tables first: the callback may start others. */
        list_remove(&in->all);
        if (in->stream > 0)
                (void) hashmap_remove_u64(in->streams->in, in->stream);
        in->stream = 0;
        done(in, error, fd, message, userdata);
        payload_in_free(in);
}

/* Fails one whose peer still sends. */
static void payload_in_fail(PayloadIn *in, int error, const char *message) {
        (void) send_stream(in->streams, FRAME_END, in->stream, 0, error == -EBADMSG ? "bad" : "failed",
                           message, NULL);
        payload_in_end(in, error, message);
}

static int write_at(int fd, const void *data, size_t size, uint64_t offset) {
        const uint8_t *bytes = data;

        while (size > 0) {
                ssize_t n = pwrite(fd, bytes, size, (off_t) offset);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                bytes += n;
                size -= (size_t) n;
                offset += (size_t) n;
        }
        return 0;
}

static int payload_in_data(PayloadIn *in, const Frame *frame) {
        const struct iovec *piece = frame->payloads;
        int r;

        if (frame->n_payloads != 1 || piece->iov_len == 0 || piece->iov_len > in->window)
                return -EBADMSG;
        if (piece->iov_len > in->size - in->offset) {
                payload_in_fail(in, -EBADMSG, "more was sent than had been announced");
                return 0;
        }
        r = write_at(in->fd, piece->iov_base, piece->iov_len, in->offset);
        if (r >= 0 && in->digest)
                r = digest_context_update(in->digest, piece->iov_base, piece->iov_len);
        if (r < 0) {
                payload_in_fail(in, r, "the node has no memory left for the payload");
                return 0;
        }
        in->offset += piece->iov_len;
        in->window -= piece->iov_len;
        in->consumed += piece->iov_len;
        if (in->consumed >= CREDIT_STEP && in->offset + in->window < in->size) {
                (void) send_stream(in->streams, FRAME_CREDIT, in->stream, in->consumed, NULL, NULL, NULL);
                in->window += in->consumed;
                in->consumed = 0;
        }
        return 0;
}

static void payload_in_complete(PayloadIn *in) {
        Digest digest;
        int r;

        if (in->offset != in->size) {
                payload_in_end(in, -EBADMSG, "less was sent than had been announced");
                return;
        }
        if (in->digest) {
                r = digest_context_final(in->digest, &digest);
                if (r < 0) {
                        payload_in_end(in, r, "the code's hash cannot be computed");
                        return;
                }
                if (!digest_equal(&digest, &in->code)) {
                        payload_in_end(in, -EBADMSG, "the code does not match its hash");
                        return;
                }
        }
        r = memfd_seal(in->fd);
        payload_in_end(in, r, r < 0 ? "the payload cannot be sealed" : NULL);
}

static int payload_in_ended(PayloadIn *in, const Frame *frame) {
        const char *error, *message;

        if (json_get_string_optional(frame->json, "error", ERROR_CODE_MAX, NULL, &error) < 0 ||
            json_get_string_optional(frame->json, "message", MESSAGE_MAX, NULL, &message) < 0)
                return -EBADMSG;
        if (error)
                payload_in_end(in, streq(error, "gone") ? -ENODATA : -EIO, message ?: error);
        else
                payload_in_complete(in);
        return 0;
}

/* Outgoing. */

int payload_out_start(PayloadStreams *p, uint64_t stream, int fd, uint64_t size, uint64_t window) {
        PayloadOut *out;
        int r;

        if (hashmap_size(p->out) >= PAYLOAD_OUT_MAX)
                return -EBUSY;
        out = new0(PayloadOut);
        if (!out)
                return -ENOMEM;
        out->streams = p;
        out->stream = stream;
        out->size = size;
        out->credit = MIN(window, (uint64_t) PAYLOAD_WINDOW_MAX);
        r = hashmap_put_u64(p->out, stream, out);
        if (r < 0) {
                free(out);
                return r;
        }
        out->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (out->fd < 0) {
                r = -errno;
                payload_out_free(out);
                return r;
        }
        payload_out_update(out);
        return 0;
}

void payload_out_refuse(PayloadStreams *p, uint64_t stream, const char *error, const char *message) {
        (void) send_stream(p, FRAME_END, stream, 0, error, message, NULL);
}

static int payload_out_credit(PayloadOut *out, const Frame *frame) {
        uint64_t bytes;

        if (json_get_uint64(frame->json, "bytes", PAYLOAD_WINDOW_MAX, &bytes) < 0)
                return -EBADMSG;
        out->credit = MIN(out->credit + bytes, (uint64_t) PAYLOAD_WINDOW_MAX);
        payload_out_update(out);
        return 0;
}

int payload_streams_frame(PayloadStreams *p, const Frame *frame) {
        uint64_t stream;
        PayloadOut *out;
        PayloadIn *in;

        if (!frame->json || json_get_uint64(frame->json, "stream", UINT64_MAX, &stream) < 0)
                return -EBADMSG;
        /* A stream that is not there any more: what was on its way when we ended it. */
        in = hashmap_get_u64(p->in, stream);
        out = hashmap_get_u64(p->out, stream);
        switch (frame->type) {
        case FRAME_DATA:
                return in ? payload_in_data(in, frame) : 0;
        case FRAME_CREDIT:
                return out ? payload_out_credit(out, frame) : 0;
        case FRAME_END:
                if (in)
                        return payload_in_ended(in, frame);
                if (out)
                        payload_out_free(out);
                return 0;
        default:
                return -EBADMSG;
        }
}
