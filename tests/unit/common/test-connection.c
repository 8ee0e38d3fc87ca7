/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "connection-internal.h"
#include "fd-util.h"
#include "json-util.h"
#include "memory-util.h"
#include "time-util.h"

/* One end under test, with what happened to it. */
typedef struct End {
        Connection *c;
        unsigned frames, closed, drained, connected;
        uint64_t payload_bytes;
        int error;
        char why[128];
        FrameType last;
        int64_t last_n;
        int frame_result;
        bool pause_each, close_each, echo, order_lost;
} End;

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        End *end = userdata;
        int64_t n = -1;

        assert_int_equal(end->closed, 0);
        end->frames++;
        end->last = frame->type;
        if (frame->json)
                assert_ok(json_get_int64_optional(frame->json, "n", 0, INT64_MAX, -1, &n));
        if (n >= 0 && n != end->last_n + 1)
                end->order_lost = true;
        if (n >= 0)
                end->last_n = n;
        for (size_t i = 0; i < frame->n_payloads; i++) {
                const uint8_t *p = frame->payloads[i].iov_base;

                end->payload_bytes += frame->payloads[i].iov_len;
                if (frame->payloads[i].iov_len > 0)
                        assert_int_equal(p[0], p[frame->payloads[i].iov_len - 1]);
        }
        if (end->echo)
                assert_ok(connection_send(c, frame->type, frame->json, frame->payloads, frame->n_payloads));
        if (end->pause_each)
                connection_pause(c, true);
        if (end->close_each)
                connection_close(c, -ECANCELED, "enough");
        return end->frame_result;
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        End *end = userdata;

        end->closed++;
        end->error = error;
        snprintf(end->why, sizeof(end->why), "%s", why);
        end->c = connection_unref(end->c);
}

static void on_connected(Connection *c, void *userdata) {
        ((End *) userdata)->connected++;
}

static void on_drained(Connection *c, void *userdata) {
        ((End *) userdata)->drained++;
}

static const ConnectionHandlers handlers = {
        .frame = on_frame,
        .closed = on_closed,
        .connected = on_connected,
        .drained = on_drained,
};

static sd_event *event;

/* Runs the loop until the condition holds, for 10 s at most. */
#define RUN_UNTIL(condition)                                                                                \
        for (uint64_t _end = now_usec(CLOCK_MONOTONIC) + 10 * USEC_PER_SEC; !(condition);) {                \
                if (now_usec(CLOCK_MONOTONIC) > _end)                                                       \
                        fail_msg("not within 10 s: %s", #condition);                                        \
                assert_ok(sd_event_run(event, 100 * USEC_PER_MSEC));                                        \
        }

/* Until there is nothing more to do. */
static void run_idle(void) {
        int r;

        while ((r = sd_event_run(event, 20 * USEC_PER_MSEC)) > 0)
                ;
        assert_ok(r);
}

static int setup(void **state) {
        assert_ok(sd_event_new(&event));
        return 0;
}

static int teardown(void **state) {
        event = sd_event_unref(event);
        return 0;
}

static void end_init(End *end) {
        *end = (End){ .last_n = -1 };
}

/* One end and the raw socket of its peer. */
static int end_with_socket(End *end) {
        int pair[2];

        end_init(end);
        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
        assert_ok(connection_new_accepted(event, pair[0], &handlers, end, &end->c));
        return pair[1];
}

static void end_pair(End *a, End *b) {
        int fd = end_with_socket(a);

        end_init(b);
        assert_ok(connection_new_accepted(event, fd, &handlers, b, &b->c));
        connection_established(a->c);
        connection_established(b->c);
}

static void end_done(End *end) {
        end->c = connection_unref(end->c);
}

static int send_n(Connection *c, int64_t n, const struct iovec *payloads, size_t n_payloads) {
        _cleanup_(json_putp) json_object *json = NULL;

        assert_ok(json_new_object(&json));
        assert_ok(json_add_int64(json, "n", n));
        return connection_send(c, FRAME_DATA, json, payloads, n_payloads);
}

static void test_exchange(void **state) {
        uint8_t data[3000];
        struct iovec payloads[] = { { data, 1 }, { data, 0 }, { data, sizeof(data) } };
        End a, b;

        memset(data, 7, sizeof(data));
        end_pair(&a, &b);
        b.echo = true;
        for (int64_t i = 0; i < 500; i++)
                assert_ok(send_n(a.c, i, payloads, 3));
        RUN_UNTIL(a.frames == 500);
        assert_int_equal(b.frames, 500);
        assert_false(a.order_lost || b.order_lost);
        assert_int_equal(a.payload_bytes, 500 * 3001);
        assert_int_equal(connection_queued(a.c), 0);
        assert_int_equal(connection_statistics(a.c)->frames_in, 500);
        assert_int_equal(connection_statistics(a.c)->bytes_in, connection_statistics(b.c)->bytes_out);
        assert_string_equal(connection_peer(a.c), "unix");

        /* An end between frames is no error, and is told once. */
        connection_close(a.c, 0, NULL);
        connection_close(a.c, -EIO, "later");
        assert_int_equal(a.closed, 0);
        assert_error(send_n(a.c, 0, NULL, 0), ENOTCONN);
        RUN_UNTIL(a.closed == 1 && b.closed == 1);
        assert_int_equal(a.error, 0);
        assert_string_equal(a.why, "Closed");
        assert_int_equal(b.error, 0);
        run_idle();
        assert_int_equal(a.closed, 1);
        assert_int_equal(b.closed, 1);
}

/* The first frame of a handler is on the wire when connection_send() returns, the rest goes in one piece. */
static void test_at_once(void **state) {
        uint8_t buffer[4096];
        End a;
        int fd;

        fd = end_with_socket(&a);
        assert_ok(send_n(a.c, 0, NULL, 0));
        assert_int_equal(recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT), FRAME_HEADER_SIZE + 7);
        for (int64_t i = 1; i < 9; i++)
                assert_ok(send_n(a.c, i, NULL, 0));
        assert_int_equal(recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT), -1);
        assert_int_equal(connection_queued(a.c), 8 * (FRAME_HEADER_SIZE + 7));
        run_idle();
        assert_int_equal(connection_queued(a.c), 0);
        assert_int_equal(recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT), 8 * (FRAME_HEADER_SIZE + 7));
        close_fd(fd);
        end_done(&a);
}

static void test_large(void **state) {
        _cleanup_(freep) uint8_t *data = malloc(FRAME_PAYLOAD_SIZE_MAX);
        struct iovec payloads[8];
        End a, b;

        for (int i = 0; i < 8; i++)
                payloads[i] = (struct iovec){ data, FRAME_PAYLOAD_SIZE_MAX };
        memset(data, 3, FRAME_PAYLOAD_SIZE_MAX);
        end_pair(&a, &b);
        for (int64_t i = 0; i < 20; i++)
                assert_ok(send_n(a.c, i, payloads, 8));
        assert_true(connection_is_congested(a.c));
        assert_error(connection_send(a.c, FRAME_DATA, NULL, payloads, 257), EMSGSIZE);
        RUN_UNTIL(b.frames == 20 && a.drained == 1);
        assert_int_equal(b.payload_bytes, 20 * 8 * FRAME_PAYLOAD_SIZE_MAX);
        assert_false(connection_is_congested(a.c));
        assert_false(b.order_lost);
        end_done(&a);
        end_done(&b);
}

static void test_bound(void **state) {
        _cleanup_(freep) uint8_t *data = calloc(1, FRAME_PAYLOAD_SIZE_MAX);
        struct iovec payloads[8];
        End a, b;
        int r = 0;

        for (int i = 0; i < 8; i++)
                payloads[i] = (struct iovec){ data, FRAME_PAYLOAD_SIZE_MAX };
        end_pair(&a, &b);
        connection_pause(b.c, true);
        for (int64_t i = 0; i < 40 && r == 0; i++)
                r = send_n(a.c, i, payloads, 8);
        assert_error(r, ENOBUFS);
        assert_true(connection_queued(a.c) <= CONNECTION_QUEUE_MAX);
        run_idle();
        assert_int_equal(b.frames, 0);
        connection_pause(b.c, false);
        RUN_UNTIL(connection_queued(a.c) == 0);
        run_idle();
        assert_true(b.frames >= 31);
        assert_false(b.order_lost);
        end_done(&a);
        end_done(&b);
}

/* Paused by its own handler: exactly one frame at a time, none lost. */
static void test_pause(void **state) {
        End a, b;

        end_pair(&a, &b);
        b.pause_each = true;
        for (int64_t i = 0; i < 10; i++)
                assert_ok(send_n(a.c, i, NULL, 0));
        for (unsigned i = 1; i <= 10; i++) {
                RUN_UNTIL(b.frames == i);
                run_idle();
                assert_int_equal(b.frames, i);
                if (i == 5)
                        /* What came before the end is still delivered. */
                        connection_close(a.c, 0, NULL);
                connection_pause(b.c, false);
        }
        assert_false(b.order_lost);
        RUN_UNTIL(b.closed == 1);
        assert_int_equal(b.error, 0);
}

static void test_handler_closes(void **state) {
        End a, b;

        end_pair(&a, &b);
        b.close_each = true;
        for (int64_t i = 0; i < 5; i++)
                assert_ok(send_n(a.c, i, NULL, 0));
        RUN_UNTIL(a.closed == 1 && b.closed == 1);
        assert_int_equal(b.frames, 1);
        assert_int_equal(b.error, -ECANCELED);
        assert_string_equal(b.why, "enough");

        end_pair(&a, &b);
        b.frame_result = -EPERM;
        assert_ok(send_n(a.c, 0, NULL, 0));
        RUN_UNTIL(a.closed == 1 && b.closed == 1);
        assert_int_equal(b.error, -EPERM);
        assert_string_equal(b.why, "The frame DATA was not accepted");
}

static void test_strangers(void **state) {
        static const struct {
                const char *bytes;
                size_t size;
                int error;
        } cases[] = {
                { "GET / HTTP/1.1\r\n\r\n", 18, -EBADMSG },
                { "\0", 1, -EBADMSG },
                { "CLPY\x01\x05\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0", 24, -EMSGSIZE },
                { "CLPY\x01\x05\0\0\0\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0", 24, -EMSGSIZE },
                { "CLPY\x01\x05\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0x", 25, -EBADMSG },
                { "CLPY\x01\x05\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0[]", 26, -EBADMSG },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                End a;
                int fd = end_with_socket(&a);

                assert_int_equal(write(fd, cases[i].bytes, cases[i].size), cases[i].size);
                RUN_UNTIL(a.closed == 1);
                assert_int_equal(a.error, cases[i].error);
                assert_int_equal(a.frames, 0);
                close_fd(fd);
        }
        {
                End a;
                int fd = end_with_socket(&a);

                assert_int_equal(write(fd, "CLPY\x01\x05", 6), 6);
                run_idle();
                assert_int_equal(a.closed, 0);
                close_fd(fd);
                RUN_UNTIL(a.closed == 1);
                assert_int_equal(a.error, -ECONNRESET);
        }
}

/* Another version is told so before the end. */
static void test_version(void **state) {
        char buffer[512];
        ssize_t n;
        End a;
        int fd;

        fd = end_with_socket(&a);
        assert_int_equal(write(fd, "CLPY\x02xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 36), 36);
        run_idle();
        n = recv(fd, buffer, sizeof(buffer) - 1, MSG_DONTWAIT);
        assert_true(n > FRAME_HEADER_SIZE);
        buffer[n] = '\0';
        assert_int_equal(buffer[5], FRAME_REFUSED);
        assert_non_null(strstr(buffer + FRAME_HEADER_SIZE, "\"protocol\""));
        assert_int_equal(recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT), 0);
        assert_int_equal(a.closed, 0);
        close_fd(fd);
        RUN_UNTIL(a.closed == 1);
        assert_int_equal(a.error, -EPROTONOSUPPORT);
}

static void test_finish(void **state) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof(address);
        _cleanup_(close_fdp) int listening = -EBADF;
        End a, b;
        int fd;

        /* Over TCP, where a plain close with unread data would destroy what was sent. */
        assert_ok(listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        assert_ok(bind(listening, (struct sockaddr *) &address, sizeof(address)));
        assert_ok(listen(listening, 5));
        assert_ok(getsockname(listening, (struct sockaddr *) &address, &size));
        end_init(&a);
        assert_ok(connection_new_outgoing(event, (struct sockaddr *) &address, size, &handlers, &a, &a.c));
        assert_true(connection_is_open(a.c));
        assert_ok(send_n(a.c, 0, NULL, 0)); /* waits for the link */
        RUN_UNTIL(a.connected == 1);
        assert_ok(fd = accept(listening, NULL, NULL));
        end_init(&b);
        assert_ok(connection_new_accepted(event, fd, &handlers, &b, &b.c));
        assert_memory_equal(connection_peer(b.c), "127.0.0.1:", 10);
        assert_string_equal(connection_peer_host(b.c), "127.0.0.1");
        RUN_UNTIL(b.frames == 1);

        for (int64_t i = 1; i < 100; i++)
                assert_ok(send_n(a.c, i, NULL, 0));
        for (int64_t i = 0; i < 10; i++)
                assert_ok(send_n(b.c, i, NULL, 0));
        connection_finish(b.c, -EPERM, "refused");
        assert_false(connection_is_open(b.c));
        assert_error(send_n(b.c, 10, NULL, 0), ENOTCONN);
        RUN_UNTIL(a.closed == 1 && b.closed == 1);
        assert_int_equal(a.frames, 10);
        assert_int_equal(a.error, 0);
        assert_int_equal(b.error, -EPERM);
        assert_string_equal(b.why, "refused");

        /* Nobody listens any more. */
        listening = close_fd(listening);
        end_init(&a);
        assert_ok(connection_new_outgoing(event, (struct sockaddr *) &address, size, &handlers, &a, &a.c));
        RUN_UNTIL(a.closed == 1);
        assert_int_equal(a.error, -ECONNREFUSED);
        assert_non_null(strstr(a.why, "127.0.0.1:"));
        assert_int_equal(a.connected, 0);
}

static void test_timeouts(void **state) {
        End a;
        int fd;

        fd = end_with_socket(&a);
        connection_set_timeouts(a.c, 50 * USEC_PER_MSEC, USEC_PER_SEC);
        RUN_UNTIL(a.closed == 1);
        assert_int_equal(a.error, -ETIMEDOUT);
        assert_non_null(strstr(a.why, "hello"));
        close_fd(fd);

        /* One byte now and then does not keep a frame alive; whole ones do. */
        fd = end_with_socket(&a);
        connection_established(a.c);
        connection_set_timeouts(a.c, 0, 100 * USEC_PER_MSEC);
        for (int i = 0; i < 20; i++) {
                static const char wire[] = "CLPY\x01\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0CLPY\x01";

                assert_int_equal(write(fd, wire + (i > 0 ? 5 : 0), i > 0 ? 24 : 29), i > 0 ? 24 : 29);
                run_idle();
        }
        assert_int_equal(a.closed, 0);
        assert_int_equal(a.frames, 20);
        for (int i = 0; i < 18 && a.closed == 0; i++) {
                (void) send(fd, "", 1, MSG_NOSIGNAL);
                assert_ok(sd_event_run(event, 100 * USEC_PER_MSEC));
                assert_ok(sd_event_run(event, 100 * USEC_PER_MSEC));
                if (i == 0)
                        assert_int_equal(a.closed, 0);
        }
        RUN_UNTIL(a.closed == 1);
        assert_int_equal(a.error, -ETIMEDOUT);
        close_fd(fd);
}

/* Silent when the owner lets go. */
static void test_unref(void **state) {
        End a, b;

        end_pair(&a, &b);
        assert_ok(send_n(a.c, 0, NULL, 0));
        assert_ok(send_n(a.c, 1, NULL, 0));
        end_done(&a);
        RUN_UNTIL(b.closed == 1);
        assert_int_equal(a.closed, 0);
        /* The first frame was on the wire, the second was not. */
        assert_int_equal(b.frames, 1);
}

/* The peer's last words arrive even when writing to it has failed before they were read. */
static void test_last_words(void **state) {
        static const char wire[] = "CLPY\x01\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        End a;
        int fd;

        fd = end_with_socket(&a);
        assert_int_equal(write(fd, wire, 24), 24);
        close_fd(fd);
        assert_ok(send_n(a.c, 0, NULL, 0));
        assert_false(connection_is_open(a.c));
        RUN_UNTIL(a.closed == 1);
        assert_int_equal(a.frames, 1);
        assert_int_equal(a.last, FRAME_REFUSED);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_exchange), TEST(test_at_once),        TEST(test_large),     TEST(test_bound),
                TEST(test_pause),    TEST(test_handler_closes), TEST(test_strangers), TEST(test_version),
                TEST(test_finish),   TEST(test_timeouts),       TEST(test_unref),     TEST(test_last_words),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
