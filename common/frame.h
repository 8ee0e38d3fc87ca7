/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "macros.h"
#include "memory-util.h"

/* The frames of docs/protocol.md, which has their layout and bounds. */

typedef enum FrameType {
        FRAME_HELLO = 1,
        FRAME_WELCOME = 2,
        FRAME_REFUSED = 3,
        FRAME_GOODBYE = 4,
        FRAME_HEARTBEAT = 5,
        FRAME_HEARTBEAT_ACK = 6,
        FRAME_JOIN = 7,
        FRAME_JOINED = 8,
        FRAME_RENEW = 9,
        FRAME_RENEWED = 10,
        FRAME_SUBMIT = 16,
        FRAME_CANCEL = 17,
        FRAME_ACK = 18,
        FRAME_QUERY = 19,
        FRAME_STATUS = 32,
        FRAME_RESULT = 33,
        FRAME_ANSWER = 34,
        FRAME_DISPATCH = 48,
        FRAME_STOP = 49,
        FRAME_RELEASE = 50,
        FRAME_RECONCILE = 51,
        FRAME_REPORT = 64,
        FRAME_STARTED = 65,
        FRAME_ENDED = 66,
        FRAME_LOG = 67,
        FRAME_PROGRESS = 68,
        FRAME_FETCH = 80,
        FRAME_DATA = 81,
        FRAME_CREDIT = 82,
        FRAME_END = 83,
        FRAME_ENVIRONMENT = 96,
        FRAME_ENVIRONMENT_STATE = 97,
        FRAME_INDEX = 98,
} FrameType;

/* "HELLO" …; "?" for a number that is no type. */
const char *frame_type_to_string(FrameType type);
bool frame_type_is_valid(unsigned type);

enum {
        FRAME_PROTOCOL_VERSION = 1,
        FRAME_HEADER_SIZE = 24,
        FRAME_JSON_MAX = 1 << 20,
        FRAME_PAYLOAD_COUNT_MAX = 256,
        FRAME_PAYLOAD_SIZE_MAX = 256 << 10,
        FRAME_PAYLOAD_TOTAL_MAX = 2 << 20,
        FRAME_HELLO_JSON_MAX = 16 << 10,
};

typedef struct FrameLimits {
        uint32_t json_max; /* bytes */
        uint16_t payload_count_max;
        uint32_t payload_size_max;  /* bytes, each */
        uint64_t payload_total_max; /* bytes, all together */
} FrameLimits;

extern const FrameLimits FRAME_LIMITS_HELLO; /* before the hello is accepted */
extern const FrameLimits FRAME_LIMITS;       /* afterwards */

typedef struct FrameHeader {
        FrameType type;
        uint32_t json_size;
        uint16_t payload_count;
        uint64_t payload_total;
} FrameHeader;

/* Reads one header from buffer and holds it against the limits. Returns 0, -EAGAIN when size is too short,
 * -EPROTONOSUPPORT for another protocol version, -EMSGSIZE when a size or count is over its limit, -EBADMSG
 * for everything else that is no frame (magic, unknown type, flags, reserved field, payloads without a
 * count). */
int frame_header_parse(const void *buffer, size_t size, const FrameLimits *limits, FrameHeader *ret);

/* The fixed part and the payload sizes. buffer has at least frame_head_size(n_payloads) bytes. */
static inline size_t frame_head_size(size_t n_payloads) {
        return FRAME_HEADER_SIZE + 4 * n_payloads;
}
/* Returns the bytes written, -EMSGSIZE when FRAME_LIMITS are broken. */
ssize_t frame_head_write(void *buffer, FrameType type, size_t json_size, const struct iovec *payloads,
                         size_t n_payloads);

/* A decoded frame. Everything in it is borrowed from the decoder. */
typedef struct Frame {
        FrameType type;
        json_object *json;            /* an object, or NULL when the frame had none */
        const struct iovec *payloads; /* fit for connection_send() */
        size_t n_payloads;
        size_t size; /* bytes on the wire */
} Frame;

/* Incremental decoder. It holds no buffer between whole frames: a frame that lies in the input as a whole is
 * decoded in place, one that does not is collected in a buffer of exactly its (declared, bounded) size which
 * is freed with it. */
typedef struct FrameDecoder {
        FrameLimits limits;
        uint8_t *buffer;       /* a frame that has begun, or NULL */
        size_t filled, needed; /* bytes there, bytes until the next step: header, sizes, whole frame */
        size_t capacity;
        bool complete;          /* `buffer` holds the frame given out last */
        struct iovec *payloads; /* of the frame given out last */
        json_object *json;
        int error; /* sticky */
} FrameDecoder;

void frame_decoder_init(FrameDecoder *decoder, const FrameLimits *limits);
/* From the next frame on. */
void frame_decoder_set_limits(FrameDecoder *decoder, const FrameLimits *limits);
void frame_decoder_done(FrameDecoder *decoder);

/* Takes bytes from *data, *size (which move on) until a frame is whole. Returns 1 and the frame, 0 when all
 * was taken and no frame is whole yet; as frame_header_parse() (except -EAGAIN) and -EBADMSG for JSON that
 * is none, for sizes that do not add up; -ENOMEM. After an error the decoder stays in it. The frame is valid
 * until the next call on this decoder and while the input is: it may point into it. */
int frame_decoder_next(FrameDecoder *decoder, const uint8_t **data, size_t *size, Frame *ret);

/* Frees what the frame given out last occupies. */
void frame_decoder_release(FrameDecoder *decoder);

/* Room for the rest of a frame that has begun, to read() straight into; 0 bytes when there is none. After
 * reading n bytes into it call frame_decoder_filled(n), then frame_decoder_next() with what else came (or no
 * bytes). */
size_t frame_decoder_room(FrameDecoder *decoder, void **ret_buffer);
void frame_decoder_filled(FrameDecoder *decoder, size_t n);

/* Whether a frame has begun but is not whole. */
bool frame_decoder_is_partial(const FrameDecoder *decoder);
