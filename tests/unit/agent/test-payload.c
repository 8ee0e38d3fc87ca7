/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <sys/mman.h>

#include "fd-util.h"
#include "json-util.h"
#include "payload.h"
#include "time-util.h"

enum { SENT_MAX = 4096 };

/* What was sent, without the data itself. */
static struct {
        FrameType type;
        uint64_t stream, bytes;
        char error[32];
} sent[SENT_MAX];
static size_t n_sent;
static uint8_t *data; /* of DATA of stream `data_stream`, one after the other */
static size_t data_size;
static bool congested;
static sd_event *event;
static PayloadStreams *streams;

static int on_send(FrameType type, json_object *json, const struct iovec *payloads, size_t n_payloads,
                   void *userdata) {
        const char *error;

        assert_true(n_sent < SENT_MAX);
        sent[n_sent].type = type;
        assert_ok(json_get_uint64(json, "stream", UINT64_MAX, &sent[n_sent].stream));
        assert_ok(json_get_string_optional(json, "error", 31, "", &error));
        strcpy(sent[n_sent].error, error);
        assert_ok(json_get_uint64_optional(json, "bytes", UINT64_MAX, 0, &sent[n_sent].bytes));
        if (type == FRAME_DATA) {
                assert_int_equal(n_payloads, 1);
                assert_true(payloads->iov_len <= PAYLOAD_CHUNK);
                sent[n_sent].bytes = payloads->iov_len;
                data = realloc(data, data_size + payloads->iov_len);
                memcpy(data + data_size, payloads->iov_base, payloads->iov_len);
                data_size += payloads->iov_len;
        }
        n_sent++;
        return 0;
}

static bool on_congested(void *userdata) {
        return congested;
}

static const PayloadWire wire = { .send = on_send, .congested = on_congested };

static int setup(void **state) {
        n_sent = 0;
        data_size = 0;
        congested = false;
        assert_ok(sd_event_new(&event));
        assert_ok(payload_streams_new(event, &wire, NULL, &streams));
        return 0;
}

static int teardown(void **state) {
        streams = payload_streams_free(streams);
        event = sd_event_unref(event);
        data = mfree(data);
        return 0;
}

static void settle(void) {
        while (sd_event_run(event, 0) > 0)
                ;
}

static int receive(FrameType type, uint64_t stream, uint64_t bytes, const char *error, void *payload,
                   size_t payload_size) {
        struct iovec iov = { .iov_base = payload, .iov_len = payload_size };
        Frame frame = { .type = type, .payloads = &iov, .n_payloads = payload ? 1 : 0 };
        int r;

        assert_ok(json_new_object(&frame.json));
        assert_ok(json_add_uint64(frame.json, "stream", stream));
        if (bytes > 0)
                assert_ok(json_add_uint64(frame.json, "bytes", bytes));
        assert_ok(json_add_string(frame.json, "error", error));
        r = payload_streams_frame(streams, &frame);
        json_object_put(frame.json);
        settle();
        return r;
}

static uint64_t sum_of(FrameType type, uint64_t stream) {
        uint64_t sum = 0;

        for (size_t i = 0; i < n_sent; i++)
                if (sent[i].type == type && sent[i].stream == stream)
                        sum += sent[i].bytes;
        return sum;
}

static size_t count_of(FrameType type) {
        size_t n = 0;

        for (size_t i = 0; i < n_sent; i++)
                n += sent[i].type == type;
        return n;
}

static int make_memfd(size_t size) {
        uint8_t *content = malloc(size);
        int fd;

        for (size_t i = 0; i < size; i++)
                content[i] = (uint8_t) (i * 7 + i / 251);
        fd = memfd_new_sealed("result", content, size);
        free(content);
        assert_ok(fd);
        return fd;
}

/* Outgoing. */

static void test_out_keeps_to_the_window(void **state) {
        _cleanup_(close_fdp) int fd = make_memfd(MIB(2));
        void *content = mmap(NULL, MIB(2), PROT_READ, MAP_SHARED, fd, 0);

        assert_ok(payload_out_start(streams, 2, fd, MIB(2), 300000));
        settle();
        assert_int_equal(sum_of(FRAME_DATA, 2), 300000);
        assert_int_equal(count_of(FRAME_END), 0);
        assert_ok(receive(FRAME_CREDIT, 2, 1, NULL, NULL, 0));
        assert_int_equal(sum_of(FRAME_DATA, 2), 300001);
        assert_ok(receive(FRAME_CREDIT, 2, MIB(4), NULL, NULL, 0));
        assert_int_equal(sum_of(FRAME_DATA, 2), MIB(2));
        assert_int_equal(sent[n_sent - 1].type, FRAME_END);
        assert_string_equal(sent[n_sent - 1].error, "");
        assert_memory_equal(data, content, MIB(2));
        assert_int_equal(payload_streams_count(streams), 0);
        munmap(content, MIB(2));
}

static void test_out_waits_for_the_connection(void **state) {
        _cleanup_(close_fdp) int fd = make_memfd(MIB(1));

        congested = true;
        assert_ok(payload_out_start(streams, 2, fd, MIB(1), MIB(8)));
        settle();
        assert_int_equal(n_sent, 0);
        congested = false;
        payload_streams_writable(streams);
        settle();
        assert_int_equal(sum_of(FRAME_DATA, 2), MIB(1));
}

static void test_out_takes_turns(void **state) {
        _cleanup_(close_fdp) int fd = make_memfd(MIB(4));
        uint64_t first[4];

        for (uint64_t stream = 2; stream <= 8; stream += 2)
                assert_ok(payload_out_start(streams, stream, fd, MIB(4), MIB(8)));
        settle();
        for (size_t i = 0; i < 4; i++)
                first[i] = sent[i].stream;
        for (size_t i = 0; i < 4; i++)
                for (size_t j = 0; j < i; j++)
                        assert_int_not_equal(first[i], first[j]);
}

static void test_out_ends(void **state) {
        _cleanup_(close_fdp) int fd = make_memfd(1000), empty = memfd_new_sealed("empty", "", 0);

        assert_ok(payload_out_start(streams, 2, fd, 1000, 10));
        assert_error(payload_out_start(streams, 2, fd, 1000, 10), EEXIST);
        settle();
        assert_ok(receive(FRAME_END, 2, 0, "cancelled", NULL, 0));
        assert_int_equal(payload_streams_count(streams), 0);
        assert_ok(receive(FRAME_CREDIT, 2, 1000, NULL, NULL, 0)); /* too late: nothing */
        assert_int_equal(sum_of(FRAME_DATA, 2), 10);

        assert_ok(payload_out_start(streams, 4, empty, 0, 10));
        settle();
        assert_int_equal(sent[n_sent - 1].type, FRAME_END);

        /* More was announced than is there. */
        assert_ok(payload_out_start(streams, 6, fd, 2000, 10000));
        settle();
        assert_string_equal(sent[n_sent - 1].error, "gone");
}

static void test_out_is_bounded(void **state) {
        _cleanup_(close_fdp) int fd = make_memfd(1000);

        for (uint64_t i = 0; i < PAYLOAD_OUT_MAX; i++)
                assert_ok(payload_out_start(streams, 2 + 2 * i, fd, 1000, 0));
        assert_error(payload_out_start(streams, 100000, fd, 1000, 0), EBUSY);
        payload_streams_reset(streams);
        assert_int_equal(payload_streams_count(streams), 0);
}

/* Incoming. */

static int done_error, done_fd;
static unsigned n_done;

static void on_done(PayloadIn *in, int error, int fd, const char *message, void *userdata) {
        n_done++;
        done_error = error;
        done_fd = fd;
        if (error < 0)
                assert_non_null(message);
        if (userdata)
                *(PayloadIn **) userdata = NULL;
}

static PayloadIn *ask(uint64_t size, const Digest *code) {
        PayloadRequest request = { .attempt = 1, .size = size, .code = code };
        PayloadIn *in;

        n_done = 0;
        done_fd = -EBADF;
        assert_ok(payload_in_start(streams, &request, on_done, NULL, &in));
        settle();
        return in;
}

static void test_in_completes_sealed(void **state) {
        uint8_t content[1000];
        uint64_t size;
        char back[1000];

        memset(content, 'x', sizeof(content));
        ask(sizeof(content), NULL);
        assert_int_equal(sent[0].type, FRAME_FETCH);
        assert_int_equal(sent[0].stream % 2, 1);
        assert_ok(receive(FRAME_DATA, sent[0].stream, 0, NULL, content, 400));
        assert_ok(receive(FRAME_DATA, sent[0].stream, 0, NULL, content, 600));
        assert_int_equal(n_done, 0);
        assert_ok(receive(FRAME_END, sent[0].stream, 0, NULL, NULL, 0));
        assert_int_equal(n_done, 1);
        assert_int_equal(done_error, 0);
        assert_ok(memfd_check_sealed(done_fd, &size));
        assert_int_equal(size, sizeof(content));
        assert_int_equal(pread(done_fd, back, sizeof(back), 0), sizeof(back));
        assert_memory_equal(back, content, sizeof(back));
        close_fd(done_fd);
        assert_int_equal(payload_streams_count(streams), 0);
}

static void test_in_gives_credit(void **state) {
        _cleanup_(freep) uint8_t *chunk = malloc(PAYLOAD_CHUNK);
        uint64_t left = MIB(8), window = PAYLOAD_WINDOW, credits = 0;

        memset(chunk, 'y', PAYLOAD_CHUNK);
        ask(left, NULL);
        while (left > 0) {
                uint64_t credit;

                assert_true(window >= PAYLOAD_CHUNK);
                assert_ok(receive(FRAME_DATA, sent[0].stream, 0, NULL, chunk, PAYLOAD_CHUNK));
                left -= PAYLOAD_CHUNK;
                credit = sum_of(FRAME_CREDIT, sent[0].stream) - credits;
                credits += credit;
                window = window - PAYLOAD_CHUNK + credit;
                assert_true(window <= PAYLOAD_WINDOW);
        }
        assert_ok(receive(FRAME_END, sent[0].stream, 0, NULL, NULL, 0));
        assert_int_equal(done_error, 0);
        close_fd(done_fd);
}

static void test_in_refuses_more_than_the_window(void **state) {
        _cleanup_(freep) uint8_t *chunk = calloc(1, PAYLOAD_WINDOW + 1);

        ask(MIB(8), NULL);
        assert_error(receive(FRAME_DATA, sent[0].stream, 0, NULL, chunk, PAYLOAD_WINDOW + 1), EBADMSG);
        assert_error(receive(FRAME_DATA, sent[0].stream, 0, NULL, NULL, 0), EBADMSG);
        payload_streams_reset(streams);
        assert_int_equal(done_error, -ECONNRESET);
}

static void test_in_wrong_size(void **state) {
        uint8_t content[100] = { 0 };

        ask(50, NULL);
        assert_ok(receive(FRAME_DATA, sent[0].stream, 0, NULL, content, 51));
        assert_int_equal(done_error, -EBADMSG);
        assert_int_equal(sent[n_sent - 1].type, FRAME_END); /* to stop it */

        n_sent = 0;
        ask(50, NULL);
        assert_ok(receive(FRAME_DATA, sent[0].stream, 0, NULL, content, 49));
        assert_ok(receive(FRAME_END, sent[0].stream, 0, NULL, NULL, 0));
        assert_int_equal(done_error, -EBADMSG);

        n_sent = 0;
        ask(50, NULL);
        assert_ok(receive(FRAME_END, sent[0].stream, 0, "gone", NULL, 0));
        assert_int_equal(done_error, -ENODATA);
}

static void test_in_checks_code(void **state) {
        char code[] = "def f(): pass";
        Digest digest;

        assert_ok(digest_sha256(code, sizeof(code), &digest));
        ask(sizeof(code), &digest);
        assert_ok(receive(FRAME_DATA, sent[0].stream, 0, NULL, code, sizeof(code)));
        assert_ok(receive(FRAME_END, sent[0].stream, 0, NULL, NULL, 0));
        assert_int_equal(done_error, 0);
        close_fd(done_fd);

        n_sent = 0;
        ask(sizeof(code), &digest);
        code[0] = 'x';
        assert_ok(receive(FRAME_DATA, sent[0].stream, 0, NULL, code, sizeof(code)));
        assert_ok(receive(FRAME_END, sent[0].stream, 0, NULL, NULL, 0));
        assert_int_equal(done_error, -EBADMSG);
}

static void test_in_group_waits(void **state) {
        PayloadRequest mine = { .attempt = 1, .size = 10, .group = { { 1 } } };
        PayloadRequest other = { .attempt = 1, .size = 10, .group = { { 2 } } };
        PayloadIn *in[PAYLOAD_IN_GROUP + 2], *first;

        for (size_t i = 0; i < ELEMENTSOF(in); i++)
                assert_ok(payload_in_start(streams, &mine, on_done, &in[i], &in[i]));
        assert_ok(payload_in_start(streams, &other, on_done, &first, &first));
        settle();
        assert_int_equal(count_of(FRAME_FETCH), PAYLOAD_IN_GROUP + 1);
        in[0] = payload_in_cancel(in[0]);
        settle();
        assert_int_equal(count_of(FRAME_FETCH), PAYLOAD_IN_GROUP + 2);
        assert_ok(receive(FRAME_END, sent[1].stream, 0, "gone", NULL, 0));
        assert_null(in[1]);
        assert_int_equal(count_of(FRAME_FETCH), PAYLOAD_IN_GROUP + 3);
        payload_streams_reset(streams);
        for (size_t i = 0; i < ELEMENTSOF(in); i++)
                assert_null(in[i]);
}

static void test_garbage(void **state) {
        Frame frame = { .type = FRAME_DATA };

        assert_error(payload_streams_frame(streams, &frame), EBADMSG);
        assert_ok(receive(FRAME_DATA, 77, 0, NULL, (char[]){ 'x' }, 1)); /* of a stream that is over */
        assert_ok(receive(FRAME_END, 77, 0, NULL, NULL, 0));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_out_keeps_to_the_window, setup, teardown),
                cmocka_unit_test_setup_teardown(test_out_waits_for_the_connection, setup, teardown),
                cmocka_unit_test_setup_teardown(test_out_takes_turns, setup, teardown),
                cmocka_unit_test_setup_teardown(test_out_ends, setup, teardown),
                cmocka_unit_test_setup_teardown(test_out_is_bounded, setup, teardown),
                cmocka_unit_test_setup_teardown(test_in_completes_sealed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_in_gives_credit, setup, teardown),
                cmocka_unit_test_setup_teardown(test_in_refuses_more_than_the_window, setup, teardown),
                cmocka_unit_test_setup_teardown(test_in_wrong_size, setup, teardown),
                cmocka_unit_test_setup_teardown(test_in_checks_code, setup, teardown),
                cmocka_unit_test_setup_teardown(test_in_group_waits, setup, teardown),
                cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
