/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <endian.h>
#include <errno.h>

#include "json-util.h"

const FrameLimits FRAME_LIMITS_HELLO = { .json_max = FRAME_HELLO_JSON_MAX };

const FrameLimits FRAME_LIMITS = {
        .json_max = FRAME_JSON_MAX,
        .payload_count_max = FRAME_PAYLOAD_COUNT_MAX,
        .payload_size_max = FRAME_PAYLOAD_SIZE_MAX,
        .payload_total_max = FRAME_PAYLOAD_TOTAL_MAX,
};

static const char *const frame_type_table[] = {
        [FRAME_HELLO] = "HELLO",
        [FRAME_WELCOME] = "WELCOME",
        [FRAME_REFUSED] = "REFUSED",
        [FRAME_GOODBYE] = "GOODBYE",
        [FRAME_HEARTBEAT] = "HEARTBEAT",
        [FRAME_HEARTBEAT_ACK] = "HEARTBEAT_ACK",
        [FRAME_JOIN] = "JOIN",
        [FRAME_JOINED] = "JOINED",
        [FRAME_RENEW] = "RENEW",
        [FRAME_RENEWED] = "RENEWED",
        [FRAME_SUBMIT] = "SUBMIT",
        [FRAME_CANCEL] = "CANCEL",
        [FRAME_ACK] = "ACK",
        [FRAME_QUERY] = "QUERY",
        [FRAME_STATUS] = "STATUS",
        [FRAME_RESULT] = "RESULT",
        [FRAME_ANSWER] = "ANSWER",
        [FRAME_DISPATCH] = "DISPATCH",
        [FRAME_STOP] = "STOP",
        [FRAME_RELEASE] = "RELEASE",
        [FRAME_RECONCILE] = "RECONCILE",
        [FRAME_REPORT] = "REPORT",
        [FRAME_STARTED] = "STARTED",
        [FRAME_ENDED] = "ENDED",
        [FRAME_LOG] = "LOG",
        [FRAME_PROGRESS] = "PROGRESS",
        [FRAME_FETCH] = "FETCH",
        [FRAME_DATA] = "DATA",
        [FRAME_CREDIT] = "CREDIT",
        [FRAME_END] = "END",
        [FRAME_ENVIRONMENT] = "ENVIRONMENT",
        [FRAME_ENVIRONMENT_STATE] = "ENVIRONMENT_STATE",
        [FRAME_INDEX] = "INDEX",
};

bool frame_type_is_valid(unsigned type) {
        return type < ELEMENTSOF(frame_type_table) && frame_type_table[type];
}

const char *frame_type_to_string(FrameType type) {
        return frame_type_is_valid((unsigned) type) ? frame_type_table[type] : "?";
}

/* The header as it lies on the wire; every field is naturally aligned, so there is no padding. */
typedef struct WireHeader {
        uint8_t magic[4];
        uint8_t version;
        uint8_t type;
        uint16_t flags;
        uint32_t json_size;
        uint16_t payload_count;
        uint16_t reserved;
        uint64_t payload_total;
} WireHeader;
_Static_assert(sizeof(WireHeader) == FRAME_HEADER_SIZE, "the header has no padding");

static const uint8_t magic[4] = { 'C', 'L', 'P', 'Y' };

int frame_header_parse(const void *buffer, size_t size, const FrameLimits *limits, FrameHeader *ret) {
        WireHeader wire;
        FrameHeader header;

        /* A stranger is told apart by its first bytes, without waiting for all of a header that it may never
         * send. */
        if (size > 0 && memcmp(buffer, magic, MIN(size, sizeof(magic))) != 0)
                return -EBADMSG;
        if (size > offsetof(WireHeader, version) &&
            ((const uint8_t *) buffer)[offsetof(WireHeader, version)] != FRAME_PROTOCOL_VERSION)
                return -EPROTONOSUPPORT;
        if (size < sizeof(wire))
                return -EAGAIN;
        memcpy(&wire, buffer, sizeof(wire));
        header = (FrameHeader){
                .type = wire.type,
                .json_size = le32toh(wire.json_size),
                .payload_count = le16toh(wire.payload_count),
                .payload_total = le64toh(wire.payload_total),
        };
        if (!frame_type_is_valid(wire.type) || wire.flags != 0 || wire.reserved != 0)
                return -EBADMSG;
        if (header.json_size > limits->json_max || header.payload_count > limits->payload_count_max ||
            header.payload_total > limits->payload_total_max)
                return -EMSGSIZE;
        if (header.payload_count == 0 && header.payload_total > 0)
                return -EBADMSG;
        *ret = header;
        return 0;
}

ssize_t frame_head_write(void *buffer, FrameType type, size_t json_size, const struct iovec *payloads,
                         size_t n_payloads) {
        WireHeader wire = { .version = FRAME_PROTOCOL_VERSION, .type = (uint8_t) type };
        uint8_t *p = buffer;
        uint64_t total = 0;

        if (json_size > FRAME_JSON_MAX || n_payloads > FRAME_PAYLOAD_COUNT_MAX)
                return -EMSGSIZE;
        p += sizeof(wire);
        for (size_t i = 0; i < n_payloads; i++) {
                uint32_t size;

                if (payloads[i].iov_len > FRAME_PAYLOAD_SIZE_MAX)
                        return -EMSGSIZE;
                total += payloads[i].iov_len;
                size = htole32((uint32_t) payloads[i].iov_len);
                memcpy(p, &size, sizeof(size));
                p += sizeof(size);
        }
        if (total > FRAME_PAYLOAD_TOTAL_MAX)
                return -EMSGSIZE;
        memcpy(wire.magic, magic, sizeof(magic));
        wire.json_size = htole32((uint32_t) json_size);
        wire.payload_count = htole16((uint16_t) n_payloads);
        wire.payload_total = htole64(total);
        memcpy(buffer, &wire, sizeof(wire));
        return p - (uint8_t *) buffer;
}

void frame_decoder_init(FrameDecoder *decoder, const FrameLimits *limits) {
        *decoder = (FrameDecoder){ .limits = *limits };
}

void frame_decoder_set_limits(FrameDecoder *decoder, const FrameLimits *limits) {
        decoder->limits = *limits;
}

void frame_decoder_release(FrameDecoder *decoder) {
        decoder->json = json_put(decoder->json);
        decoder->payloads = mfree(decoder->payloads);
        if (decoder->complete) {
                decoder->buffer = mfree(decoder->buffer);
                decoder->filled = decoder->needed = decoder->capacity = 0;
                decoder->complete = false;
        }
}

void frame_decoder_done(FrameDecoder *decoder) {
        frame_decoder_release(decoder);
        decoder->buffer = mfree(decoder->buffer);
        decoder->filled = decoder->needed = decoder->capacity = 0;
}

bool frame_decoder_is_partial(const FrameDecoder *decoder) {
        return decoder->filled > 0 && !decoder->complete;
}

/* How many bytes from the start of a frame must be there for the next step: the header, then the sizes, then
 * all of it. The sizes are held against their bounds as soon as they are there, so that nothing is allocated
 * for a frame that is refused. Returns 1 when the whole frame is there, 0, or an error as
 * frame_header_parse(). */
static int frame_measure(const uint8_t *data, size_t size, const FrameLimits *limits,
                         FrameHeader *ret_header, size_t *ret_needed) {
        uint64_t total = 0;
        size_t head;
        int r;

        r = frame_header_parse(data, size, limits, ret_header);
        if (r == -EAGAIN) {
                *ret_needed = FRAME_HEADER_SIZE;
                return 0;
        }
        if (r < 0)
                return r;
        head = frame_head_size(ret_header->payload_count);
        if (size < head) {
                *ret_needed = head;
                return 0;
        }
        for (size_t i = 0; i < ret_header->payload_count; i++) {
                uint32_t payload_size;

                memcpy(&payload_size, data + FRAME_HEADER_SIZE + 4 * i, sizeof(payload_size));
                payload_size = le32toh(payload_size);
                if (payload_size > limits->payload_size_max)
                        return -EMSGSIZE;
                total += payload_size;
        }
        if (total != ret_header->payload_total)
                return -EBADMSG;
        *ret_needed = head + ret_header->json_size + total;
        return size >= *ret_needed;
}

/* Makes a Frame of bytes that are a whole, measured one. */
static int frame_assemble(FrameDecoder *decoder, const uint8_t *data, const FrameHeader *header,
                          Frame *ret) {
        const uint8_t *p = data + frame_head_size(header->payload_count);
        int r;

        if (header->json_size > 0) {
                r = json_parse_strict_object((const char *) p, header->json_size, JSON_DEPTH_MAX,
                                             &decoder->json);
                if (r < 0)
                        return r;
                p += header->json_size;
        }
        if (header->payload_count > 0) {
                decoder->payloads = newn0(struct iovec, header->payload_count);
                if (!decoder->payloads)
                        return -ENOMEM;
        }
        for (size_t i = 0; i < header->payload_count; i++) {
                uint32_t size;

                memcpy(&size, data + FRAME_HEADER_SIZE + 4 * i, sizeof(size));
                size = le32toh(size);
                decoder->payloads[i] = (struct iovec){ .iov_base = (void *) p, .iov_len = size };
                p += size;
        }
        *ret = (Frame){
                .type = header->type,
                .json = decoder->json,
                .payloads = decoder->payloads,
                .n_payloads = header->payload_count,
                .size = (size_t) (p - data),
        };
        return 1;
}

/* Makes `needed` what the frame in the buffer needs next, and the buffer as large. Returns as
 * frame_measure(). */
static int decoder_advance(FrameDecoder *decoder, FrameHeader *ret_header) {
        int r;

        r = frame_measure(decoder->buffer, decoder->filled, &decoder->limits, ret_header, &decoder->needed);
        if (r != 0)
                return r;
        if (decoder->needed > decoder->capacity) {
                uint8_t *larger = realloc(decoder->buffer, decoder->needed);

                if (!larger)
                        return -ENOMEM;
                decoder->buffer = larger;
                decoder->capacity = decoder->needed;
        }
        return 0;
}

static int decoder_step(FrameDecoder *decoder, const uint8_t **data, size_t *size, Frame *ret) {
        FrameHeader header;
        size_t needed;
        int r;

        if (decoder->filled == 0) {
                if (*size == 0)
                        return 0;
                r = frame_measure(*data, *size, &decoder->limits, &header, &needed);
                if (r < 0)
                        return r;
                if (r > 0) {
                        r = frame_assemble(decoder, *data, &header, ret);
                        *data += needed;
                        *size -= needed;
                        return r;
                }
                decoder->buffer = malloc(needed);
                if (!decoder->buffer)
                        return -ENOMEM;
                decoder->capacity = decoder->needed = needed;
        }
        for (;;) {
                size_t n = MIN(decoder->needed - decoder->filled, *size);

                if (n > 0) {
                        memcpy(decoder->buffer + decoder->filled, *data, n);
                        decoder->filled += n;
                        *data += n;
                        *size -= n;
                }
                r = decoder_advance(decoder, &header);
                if (r < 0)
                        return r;
                if (r > 0) {
                        r = frame_assemble(decoder, decoder->buffer, &header, ret);
                        if (r > 0)
                                decoder->complete = true;
                        return r;
                }
                if (*size == 0)
                        return 0;
        }
}

int frame_decoder_next(FrameDecoder *decoder, const uint8_t **data, size_t *size, Frame *ret) {
        int r;

        if (decoder->error < 0)
                return decoder->error;
        frame_decoder_release(decoder);
        r = decoder_step(decoder, data, size, ret);
        if (r < 0) {
                decoder->error = r;
                frame_decoder_done(decoder);
        }
        return r;
}

size_t frame_decoder_room(FrameDecoder *decoder, void **ret_buffer) {
        if (!frame_decoder_is_partial(decoder))
                return 0;
        *ret_buffer = decoder->buffer + decoder->filled;
        return decoder->needed - decoder->filled;
}

void frame_decoder_filled(FrameDecoder *decoder, size_t n) {
        decoder->filled += n;
}
