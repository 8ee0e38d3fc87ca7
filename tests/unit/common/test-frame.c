/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "frame.h"
#include "json-util.h"

/* Writes a whole frame into out. Returns its size. */
static size_t build(uint8_t *out, FrameType type, const char *json, const struct iovec *payloads, size_t n) {
        ssize_t size = frame_head_write(out, type, json ? strlen(json) : 0, payloads, n);
        uint8_t *p = out + size;

        assert_ok(size);
        if (json)
                p = (uint8_t *) mempcpy(p, json, strlen(json));
        for (size_t i = 0; i < n; i++)
                if (payloads[i].iov_len > 0)
                        p = (uint8_t *) mempcpy(p, payloads[i].iov_base, payloads[i].iov_len);
        return (size_t) (p - out);
}

static void test_header(void **state) {
        uint8_t wire[64], bad[64];
        FrameHeader header;
        static const struct {
                size_t offset;
                uint8_t value;
                int error;
        } broken[] = {
                { 0, 'X', -EBADMSG },       { 3, 0, -EBADMSG },      { 4, 2, -EPROTONOSUPPORT },
                { 4, 0, -EPROTONOSUPPORT }, { 5, 0, -EBADMSG },      { 5, 15, -EBADMSG },
                { 5, 255, -EBADMSG },       { 6, 1, -EBADMSG },      { 7, 1, -EBADMSG },
                { 11, 1, -EMSGSIZE },       { 10, 0x11, -EMSGSIZE }, { 13, 2, -EMSGSIZE },
                { 14, 1, -EBADMSG },        { 15, 1, -EBADMSG },     { 16, 1, -EBADMSG },
                { 19, 1, -EMSGSIZE },       { 23, 255, -EMSGSIZE },
        };

        assert_int_equal(build(wire, FRAME_HEARTBEAT, "{}", NULL, 0), 26);
        assert_memory_equal(wire, "CLPY\x01\x05\0\0\x02\0\0\0", 12);
        for (size_t i = 0; i < FRAME_HEADER_SIZE; i++)
                assert_error(frame_header_parse(wire, i, &FRAME_LIMITS, &header), EAGAIN);
        assert_ok(frame_header_parse(wire, FRAME_HEADER_SIZE, &FRAME_LIMITS, &header));
        assert_int_equal(header.type, FRAME_HEARTBEAT);
        assert_int_equal(header.json_size, 2);
        for (size_t i = 0; i < ELEMENTSOF(broken); i++) {
                memcpy(bad, wire, sizeof(bad));
                bad[broken[i].offset] = broken[i].value;
                assert_int_equal(frame_header_parse(bad, FRAME_HEADER_SIZE, &FRAME_LIMITS, &header),
                                 broken[i].error);
        }
        /* A stranger is recognised by its first byte. */
        assert_error(frame_header_parse("GET /", 1, &FRAME_LIMITS, &header), EBADMSG);
        /* Before the hello. */
        wire[9] = 0x41;
        assert_error(frame_header_parse(wire, FRAME_HEADER_SIZE, &FRAME_LIMITS_HELLO, &header), EMSGSIZE);
        wire[9] = 0;
        wire[12] = 1;
        assert_error(frame_header_parse(wire, FRAME_HEADER_SIZE, &FRAME_LIMITS_HELLO, &header), EMSGSIZE);
        assert_string_equal(frame_type_to_string(FRAME_HEARTBEAT_ACK), "HEARTBEAT_ACK");
        assert_string_equal(frame_type_to_string(FRAME_END), "END");
        assert_string_equal(frame_type_to_string(15), "?");
}

static void test_write_bounds(void **state) {
        static uint8_t head[FRAME_HEADER_SIZE + 4 * 300];
        struct iovec payloads[300] = { 0 };

        assert_int_equal(frame_head_write(head, FRAME_DATA, FRAME_JSON_MAX, payloads, 256),
                         frame_head_size(256));
        assert_error(frame_head_write(head, FRAME_DATA, FRAME_JSON_MAX + 1, NULL, 0), EMSGSIZE);
        assert_error(frame_head_write(head, FRAME_DATA, 0, payloads, 257), EMSGSIZE);
        payloads[0].iov_len = FRAME_PAYLOAD_SIZE_MAX + 1;
        assert_error(frame_head_write(head, FRAME_DATA, 0, payloads, 1), EMSGSIZE);
        for (int i = 0; i < 8; i++)
                payloads[i].iov_len = FRAME_PAYLOAD_SIZE_MAX;
        assert_int_equal(frame_head_write(head, FRAME_DATA, 0, payloads, 8), frame_head_size(8));
        payloads[8].iov_len = 1;
        assert_error(frame_head_write(head, FRAME_DATA, 0, payloads, 9), EMSGSIZE);
}

static void check_sequence(FrameDecoder *decoder, const uint8_t *data, size_t size, size_t *n) {
        Frame frame;
        int r;

        while ((r = frame_decoder_next(decoder, &data, &size, &frame)) > 0) {
                int64_t number;

                assert_ok(json_get_int64(frame.json, "n", 0, 100, &number));
                assert_int_equal(number, *n % 3);
                assert_int_equal(frame.type, FRAME_DATA);
                if (*n % 3 == 0)
                        assert_int_equal(frame.n_payloads, 0);
                else {
                        assert_int_equal(frame.n_payloads, 3);
                        assert_int_equal(frame.payloads[0].iov_len, 5);
                        assert_memory_equal(frame.payloads[0].iov_base, "first", 5);
                        assert_int_equal(frame.payloads[1].iov_len, 0);
                        assert_int_equal(frame.payloads[2].iov_len, 1000);
                        for (size_t i = 0; i < 1000; i++)
                                assert_int_equal(((uint8_t *) frame.payloads[2].iov_base)[i], i % 251);
                }
                (*n)++;
        }
        assert_int_equal(r, 0);
        assert_int_equal(size, 0);
}

static size_t build_sequence(uint8_t *out) {
        static uint8_t large[1000];
        struct iovec payloads[3] = { { (char *) "first", 5 }, { NULL, 0 }, { large, sizeof(large) } };
        size_t size = 0;

        for (size_t i = 0; i < sizeof(large); i++)
                large[i] = (uint8_t) (i % 251);
        size += build(out + size, FRAME_DATA, "{\"n\":0}", NULL, 0);
        size += build(out + size, FRAME_DATA, "{\"n\":1}", payloads, 3);
        size += build(out + size, FRAME_DATA, "{\"n\":2}", payloads, 3);
        return size;
}

/* The same frames, cut at every place, and byte by byte. */
static void test_cuts(void **state) {
        static uint8_t wire[4096];
        size_t size = build_sequence(wire);

        for (size_t cut = 0; cut <= size; cut++) {
                FrameDecoder decoder;
                size_t n = 0;

                frame_decoder_init(&decoder, &FRAME_LIMITS);
                /* Copies of the exact size, so that the sanitizer sees every read behind the end. */
                for (int part = 0; part < 2; part++) {
                        size_t from = part == 0 ? 0 : cut, length = part == 0 ? cut : size - cut;
                        uint8_t *copy = memdup(wire + from, length);

                        check_sequence(&decoder, copy, length, &n);
                        frame_decoder_release(&decoder);
                        free(copy);
                }
                assert_int_equal(n, 3);
                assert_false(frame_decoder_is_partial(&decoder));
                assert_null(decoder.buffer);
                frame_decoder_done(&decoder);
        }
        {
                FrameDecoder decoder;
                size_t n = 0;

                frame_decoder_init(&decoder, &FRAME_LIMITS);
                for (int round = 0; round < 2; round++)
                        for (size_t i = 0; i < size; i++)
                                check_sequence(&decoder, wire + i, 1, &n);
                assert_int_equal(n, 6);
                frame_decoder_done(&decoder);
        }
}

/* Reading straight into the decoder's room. */
static void test_room(void **state) {
        static uint8_t wire[4096];
        size_t size = build_sequence(wire), n = 0, at = 0;
        FrameDecoder decoder;
        void *room;

        frame_decoder_init(&decoder, &FRAME_LIMITS);
        assert_int_equal(frame_decoder_room(&decoder, &room), 0);
        while (at < size) {
                size_t step = MIN(frame_decoder_room(&decoder, &room), MIN((size_t) 100, size - at));

                if (step > 0) {
                        memcpy(room, wire + at, step);
                        frame_decoder_filled(&decoder, step);
                        check_sequence(&decoder, wire, 0, &n);
                } else {
                        step = MIN((size_t) 7, size - at);
                        check_sequence(&decoder, wire + at, step, &n);
                }
                at += step;
        }
        assert_int_equal(n, 3);
        frame_decoder_done(&decoder);
}

static void decode_error(const uint8_t *wire, size_t size, int error) {
        FrameDecoder decoder;
        Frame frame;

        frame_decoder_init(&decoder, &FRAME_LIMITS);
        assert_int_equal(frame_decoder_next(&decoder, &wire, &size, &frame), -error);
        assert_int_equal(frame_decoder_next(&decoder, &wire, &size, &frame), -error);
        assert_null(decoder.buffer);
        frame_decoder_done(&decoder);
}

static void test_errors(void **state) {
        uint8_t wire[256];
        struct iovec payloads[2] = { { (char *) "abc", 3 }, { (char *) "de", 2 } };
        size_t size;

        size = build(wire, FRAME_DATA, "[]", NULL, 0);
        decode_error(wire, size, EBADMSG);
        size = build(wire, FRAME_DATA, "{\"a\":", NULL, 0);
        decode_error(wire, size, EBADMSG);
        size = build(wire, FRAME_DATA, "{}", payloads, 2);
        wire[16] = 6;
        decode_error(wire, size, EBADMSG);
        size = build(wire, FRAME_DATA, "{}", payloads, 2);
        wire[26] = 5; /* the first payload: 0x50003 bytes */
        decode_error(wire, size, EMSGSIZE);
        /* Sizes are refused as soon as they are there, before anything of what they announce. */
        decode_error(wire, frame_head_size(2), EMSGSIZE);
        decode_error((const uint8_t *) "GET / HTTP/1.1\r\n", 16, EBADMSG);
        /* No JSON at all is fine. */
        {
                FrameDecoder decoder;
                Frame frame;
                const uint8_t *p = wire;

                size = build(wire, FRAME_GOODBYE, NULL, NULL, 0);
                frame_decoder_init(&decoder, &FRAME_LIMITS_HELLO);
                assert_int_equal(frame_decoder_next(&decoder, &p, &size, &frame), 1);
                assert_null(frame.json);
                assert_int_equal(frame.size, FRAME_HEADER_SIZE);
                frame_decoder_done(&decoder);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_header), cmocka_unit_test(test_write_bounds),
                cmocka_unit_test(test_cuts),   cmocka_unit_test(test_room),
                cmocka_unit_test(test_errors),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
