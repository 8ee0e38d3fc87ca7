/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "connection.h"
#include "fd-util.h"
#include "index-link.h"
#include "json-util.h"
#include "listener.h"
#include "resolver.h"
#include "time-util.h"

/* The port between builds and a master that are this test. */

/* BIG: bytes, more than the buffers of all sockets on the way may grow to: those of the build's end stay
 * small. */
enum { CONNECTIONS_MAX = 8, BIG = 32 << 20, SMALL = 64 << 10 };

static sd_event *event;
static Listener *listener;
static IndexPort *port;
static IndexRate rate;
static uint16_t build_port;
static bool no_master;

static struct {
        Connection *connection;
        json_object *hello;
        size_t received;
        char begin[64]; /* of what was received */
        bool ended, refuse;
} links[CONNECTIONS_MAX];
static size_t n_links;
static bool refuse, hold_reading;

static size_t link_of(Connection *c) {
        for (size_t i = 0; i < n_links; i++)
                if (links[i].connection == c)
                        return i;
        fail();
        return 0;
}

static void master_send(size_t i, FrameType type, const char *text, const void *payload, size_t size) {
        struct iovec iov = { .iov_base = (void *) payload, .iov_len = size };

        assert_ok(connection_send_text(links[i].connection, type, text, text ? strlen(text) : 0, &iov,
                                       payload ? 1 : 0));
}

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        size_t i = link_of(c), n;

        switch (frame->type) {
        case FRAME_HELLO:
                links[i].hello = json_object_get(frame->json);
                connection_established(c);
                if (refuse)
                        master_send(i, FRAME_REFUSED, "{\"error\":\"busy\",\"message\":\"no index here\"}",
                                    NULL, 0);
                else
                        master_send(i, FRAME_WELCOME, "{}", NULL, 0);
                if (hold_reading)
                        connection_pause(c, true);
                return 0;
        case FRAME_INDEX:
                assert_null(frame->json);
                assert_int_equal(frame->n_payloads, 1);
                n = frame->payloads[0].iov_len;
                assert_true(n > 0);
                if (links[i].received + n < sizeof(links[i].begin))
                        memcpy(links[i].begin + links[i].received, frame->payloads[0].iov_base, n);
                links[i].received += n;
                return 0;
        case FRAME_END:
                assert_null(frame->json);
                links[i].ended = true;
                return 0;
        default:
                fail();
                return 0;
        }
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        links[link_of(c)].connection = NULL;
        connection_unref(c);
}

static const ConnectionHandlers master_handlers = { .frame = on_frame, .closed = on_closed };

static int on_accept(Listener *l, Connection *c, void *userdata) {
        assert_true(n_links < CONNECTIONS_MAX);
        links[n_links++].connection = connection_ref(c);
        connection_set_handlers(c, &master_handlers, NULL);
        return 0;
}

static int on_dial(const ConnectionHandlers *handlers, void *handlers_userdata, Connection **ret,
                   void *userdata) {
        struct sockaddr_storage address;
        socklen_t size;

        if (no_master)
                return -ENOTCONN;
        assert_ok(sockaddr_from_numeric("127.0.0.1", listener_port(listener), &address, &size));
        return connection_new_outgoing(event, (struct sockaddr *) &address, size, handlers,
                                       handlers_userdata, ret);
}

static int setup(void **state) {
        static const ListenerOptions options = { .handlers = &master_handlers };
        struct sockaddr_storage address;
        struct sockaddr_in bound;
        socklen_t size;
        int fd;

        assert_ok(sd_event_new(&event));
        memset(links, 0, sizeof(links));
        n_links = 0;
        rate = (IndexRate){};
        no_master = refuse = hold_reading = false;
        assert_ok(sockaddr_from_numeric("127.0.0.1", 0, &address, &size));
        assert_ok(listener_new(event, (struct sockaddr *) &address, size, &options, on_accept, NULL,
                               &listener));
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_ok(fd);
        assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ SMALL }, sizeof(int)));
        assert_ok(bind(fd, (struct sockaddr *) &address, size));
        assert_ok(listen(fd, 16));
        size = sizeof(bound);
        assert_ok(getsockname(fd, (struct sockaddr *) &bound, &size));
        build_port = ntohs(bound.sin_port);
        assert_ok(index_port_new(event, fd, "node1", "abc", 2, &rate, on_dial, NULL, &port));
        return 0;
}

static int teardown(void **state) {
        port = index_port_free(port);
        for (size_t i = 0; i < n_links; i++) {
                connection_unref(links[i].connection);
                json_object_put(links[i].hello);
        }
        listener = listener_free(listener);
        event = sd_event_unref(event);
        return 0;
}

#define wait_for(condition)                                                                                 \
        do {                                                                                                \
                uint64_t _until = now_usec(CLOCK_MONOTONIC) + 30 * USEC_PER_SEC;                            \
                while (!(condition)) {                                                                      \
                        assert_ok(sd_event_run(event, 20 * USEC_PER_MSEC));                                 \
                        if (now_usec(CLOCK_MONOTONIC) > _until)                                             \
                                fail_msg("never: %s", #condition);                                          \
                }                                                                                           \
        } while (0)

/* A connection of the build. */
static int build_connect(void) {
        struct sockaddr_storage address;
        socklen_t size;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_ok(fd);
        assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ SMALL }, sizeof(int)));
        assert_ok(sockaddr_from_numeric("127.0.0.1", build_port, &address, &size));
        assert_ok(connect(fd, (struct sockaddr *) &address, size));
        assert_ok(fd_set_nonblock(fd, true));
        return fd;
}

static void build_write(int fd, const char *text) {
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* What there is to read: bytes, 0 at the end, -EAGAIN. */
static ssize_t build_read(int fd, void *buffer, size_t size) {
        ssize_t n = read(fd, buffer, size);

        return n < 0 ? -errno : n;
}

static void test_both_ways(void **state) {
        char buffer[64] = "";
        const char *text;
        int fd = build_connect();

        build_write(fd, "GET");
        wait_for(n_links == 1 && links[0].received == 3);
        assert_string_equal(links[0].begin, "GET");
        assert_ok(json_get_string(links[0].hello, "role", 64, &text));
        assert_string_equal(text, "index");
        assert_ok(json_get_string(links[0].hello, "name", 64, &text));
        assert_string_equal(text, "node1");
        assert_ok(json_get_string(links[0].hello, "build", 64, &text));
        assert_string_equal(text, "abc");
        master_send(0, FRAME_INDEX, NULL, "200", 3);
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 3);
        assert_string_equal(buffer, "200");
        build_write(fd, " AGAIN");
        wait_for(links[0].received == 9);
        close(fd);
        wait_for(links[0].ended && !links[0].connection && index_port_links(port) == 0);
        assert_null(index_port_failure(port));
}

static void test_index_ends(void **state) {
        char buffer[64] = "";
        int fd = build_connect();

        wait_for(n_links == 1 && links[0].hello);
        master_send(0, FRAME_INDEX, NULL, "all", 3);
        master_send(0, FRAME_END, NULL, NULL, 0);
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 3);
        assert_string_equal(buffer, "all");
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 0);
        wait_for(index_port_links(port) == 0);
        assert_null(index_port_failure(port));
        close(fd);
}

/* A build that does not read: what the master sends stays with the master. */
static void test_build_is_slow(void **state) {
        static char buffer[FRAME_PAYLOAD_SIZE_MAX];
        size_t got = 0, queued = 0, rounds = 0;
        int fd = build_connect();

        wait_for(n_links == 1 && links[0].hello);
        for (size_t sent = 0; sent < BIG; sent += sizeof(buffer))
                master_send(0, FRAME_INDEX, NULL, buffer, sizeof(buffer));
        master_send(0, FRAME_END, NULL, NULL, 0);
        /* Until nothing moves any more. */
        while (rounds < 10) {
                size_t now;

                assert_ok(sd_event_run(event, 20 * USEC_PER_MSEC));
                now = connection_queued(links[0].connection);
                rounds = now == queued ? rounds + 1 : 0;
                queued = now;
        }
        assert_true(queued > 0);
        wait_for(({
                ssize_t n = build_read(fd, buffer, sizeof(buffer));

                got += n > 0 ? (size_t) n : 0;
                n == 0;
        }));
        assert_int_equal(got, BIG);
        wait_for(index_port_links(port) == 0);
        close(fd);
}

/* A master that does not read: the build has to wait. */
static void test_master_is_slow(void **state) {
        static char buffer[64 << 10];
        size_t sent = 0, rounds = 0;
        int fd = build_connect();

        hold_reading = true;
        wait_for(n_links == 1 && links[0].hello);
        while (sent < BIG && rounds < 10) {
                ssize_t n = send(fd, buffer, sizeof(buffer), MSG_NOSIGNAL);

                rounds = n > 0 ? 0 : rounds + 1;
                sent += n > 0 ? (size_t) n : 0;
                assert_ok(sd_event_run(event, n > 0 ? 0 : 20 * USEC_PER_MSEC));
        }
        assert_true(sent < BIG);
        connection_pause(links[0].connection, false);
        wait_for(links[0].received == sent);
        close(fd);
        wait_for(links[0].ended);
}

static void test_not_too_many(void **state) {
        int fds[3];

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = build_connect();
        wait_for(n_links == 2 && links[0].hello && links[1].hello);
        for (unsigned i = 0; i < 5; i++)
                assert_ok(sd_event_run(event, 20 * USEC_PER_MSEC));
        assert_int_equal(n_links, 2);
        close(fds[0]);
        wait_for(n_links == 3 && links[2].hello);
        close(fds[1]);
        close(fds[2]);
        wait_for(index_port_links(port) == 0);
}

static void test_refused(void **state) {
        char buffer[64];
        int fd = build_connect();

        refuse = true;
        wait_for(n_links == 1 && links[0].hello);
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 0);
        wait_for(index_port_links(port) == 0);
        assert_non_null(strstr(index_port_failure(port), "no index here"));
        close(fd);
}

static void test_no_master(void **state) {
        char buffer[64];
        int fd = build_connect();

        no_master = true;
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 0);
        assert_non_null(strstr(index_port_failure(port), "no connection to the master"));
        close(fd);
}

static void test_breaks_off(void **state) {
        char buffer[64] = "";
        int fd = build_connect();

        wait_for(n_links == 1 && links[0].hello);
        master_send(0, FRAME_INDEX, NULL, "half", 4);
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 4);
        connection_close(links[0].connection, 0, "test");
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 0);
        assert_non_null(index_port_failure(port));
        close(fd);
}

/* What failed before does not count where a later request gets through: the installer asks again. */
static void test_gets_through_again(void **state) {
        char buffer[64] = "";
        int fd = build_connect();

        wait_for(n_links == 1 && links[0].hello);
        connection_close(links[0].connection, 0, "test");
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 0);
        assert_non_null(index_port_failure(port));
        close(fd);
        fd = build_connect();
        wait_for(n_links == 2 && links[1].hello);
        master_send(1, FRAME_INDEX, NULL, "all", 3);
        master_send(1, FRAME_END, NULL, NULL, 0);
        wait_for(build_read(fd, buffer, sizeof(buffer)) == 3);
        wait_for(index_port_links(port) == 0);
        assert_null(index_port_failure(port));
        close(fd);
}

/* A build that connects and connects: most of it waits in its own socket's queue, and none of it fails. */
static void test_flood_stays_here(void **state) {
        uint64_t begun;
        int fds[3];

        /* All but two of a burst have been used up just now. */
        begun = now_usec(CLOCK_MONOTONIC);
        rate.used_until = begun + (INDEX_BURST_MAX - 2) * (USEC_PER_SEC / INDEX_RATE) + USEC_PER_SEC;
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                fds[i] = build_connect();
                close(fds[i]);
        }
        wait_for(n_links == 3);
        /* The third had to wait for as long as it takes until there is room for it, not less. */
        assert_true(now_usec(CLOCK_MONOTONIC) - begun >= USEC_PER_SEC);
        wait_for(index_port_links(port) == 0);
        assert_null(index_port_failure(port));
        /* An empty bucket fills up. */
        assert_true(rate.used_until > now_usec(CLOCK_MONOTONIC));
}

static void test_ends_with_the_build(void **state) {
        int fd = build_connect();

        wait_for(n_links == 1 && links[0].hello);
        port = index_port_free(port);
        wait_for(!links[0].connection);
        close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_both_ways),        TEST(test_index_ends),          TEST(test_build_is_slow),
                TEST(test_master_is_slow),   TEST(test_not_too_many),        TEST(test_refused),
                TEST(test_no_master),        TEST(test_breaks_off),          TEST(test_gets_through_again),
                TEST(test_flood_stays_here), TEST(test_ends_with_the_build),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
