/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "frame.h"
#include "json-util.h"

/* The first byte: the limits and how the rest is cut into pieces. Each piece is a copy of its exact size, so
 * that every read behind its end is seen. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FrameDecoder decoder;
        size_t step, consumed = 0;

        if (size < 1)
                return 0;
        step = data[0] >> 1 == 0 ? size : (size_t) (data[0] >> 1);
        frame_decoder_init(&decoder, data[0] & 1 ? &FRAME_LIMITS : &FRAME_LIMITS_HELLO);
        data++;
        size--;
        for (size_t at = 0; at < size;) {
                void *room;
                size_t n = MIN(step, size - at), into = MIN(frame_decoder_room(&decoder, &room), n),
                       left = n - into;
                uint8_t *piece = memdup(data + at + into, left);
                const uint8_t *p = piece;
                Frame frame;
                int r;

                CHECK(piece);
                if (into > 0) {
                        memcpy(room, data + at, into);
                        frame_decoder_filled(&decoder, into);
                }
                while ((r = frame_decoder_next(&decoder, &p, &left, &frame)) > 0) {
                        uint8_t sink = 0;

                        consumed += frame.size;
                        CHECK(frame_type_is_valid(frame.type));
                        CHECK(frame.n_payloads <= decoder.limits.payload_count_max);
                        CHECK(!frame.json || json_object_is_type(frame.json, json_type_object));
                        for (size_t i = 0; i < frame.n_payloads; i++) {
                                CHECK(frame.payloads[i].iov_len <= decoder.limits.payload_size_max);
                                for (size_t j = 0; j < frame.payloads[i].iov_len; j++)
                                        sink ^= ((const uint8_t *) frame.payloads[i].iov_base)[j];
                        }
                        /* So that the reads are not optimised away. */
                        __asm__ volatile("" ::"r"(sink));
                }
                CHECK(r < 0 || left == 0);
                CHECK(r < 0 || frame_decoder_is_partial(&decoder) == (consumed < at + n));
                CHECK(r >= 0 || decoder.buffer == NULL);
                CHECK(decoder.capacity <= FRAME_HEADER_SIZE + 4 * FRAME_PAYLOAD_COUNT_MAX +
                                                  decoder.limits.json_max +
                                                  decoder.limits.payload_total_max);
                frame_decoder_release(&decoder);
                free(piece);
                at += n;
        }
        frame_decoder_done(&decoder);
        return 0;
}
