/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "fd-util.h"
#include "gate.h"
#include "listener.h"
#include "resolver.h"
#include "time-util.h"

enum { CALLERS = 16 };

static sd_event *event;
static Connection *taken[CALLERS];
static size_t n_taken;
static int accept_result;

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        return 0;
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        for (size_t i = 0; i < n_taken; i++)
                if (taken[i] == c) {
                        taken[i] = connection_unref(c);
                        taken[i] = taken[--n_taken];
                        return;
                }
        fail();
}

static const ConnectionHandlers handlers = { .frame = on_frame, .closed = on_closed };

static int on_accept(Listener *l, Connection *c, void *userdata) {
        if (accept_result < 0)
                return accept_result;
        assert_true(n_taken < CALLERS);
        taken[n_taken++] = connection_ref(c);
        return 0;
}

static void run_idle(void) {
        int r;

        while ((r = sd_event_run(event, 50 * USEC_PER_MSEC)) > 0)
                ;
        assert_ok(r);
}

static int call(const Listener *l) {
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                       .sin_port = htons(listener_port(l)) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_ok(fd);
        assert_ok(connect(fd, (struct sockaddr *) &address, sizeof(address)));
        return fd;
}

/* Whether the other side has closed. */
static bool is_turned_away(int fd) {
        char c;

        return recv(fd, &c, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET;
}

static Listener *start(const ListenerOptions *options) {
        struct sockaddr_storage address;
        Listener *l;
        socklen_t size;

        assert_ok(sd_event_new(&event));
        assert_ok(sockaddr_from_numeric("127.0.0.1", 0, &address, &size));
        assert_ok(listener_new(event, (struct sockaddr *) &address, size, options, on_accept, NULL, &l));
        assert_memory_equal(listener_address(l), "127.0.0.1:", 10);
        assert_error(listener_new(event, (struct sockaddr *) &address, 3, options, on_accept, NULL, &l),
                     EINVAL);
        return l;
}

static void stop(Listener *l) {
        listener_free(l);
        run_idle();
        while (n_taken > 0)
                taken[n_taken - 1] = connection_unref(taken[n_taken - 1]), n_taken--;
        event = sd_event_unref(event);
}

static void test_limits(void **state) {
        const GateLimits limits = { .unproven_per_origin = 3, .unproven = 100, .rate = 1000, .burst = 1000 };
        ListenerOptions options = { .handlers = &handlers, .connections_max = 4 };
        const ListenerStatistics *statistics;
        Listener *l;
        int fds[6];

        assert_ok(gate_new(&limits, &options.gate));
        l = start(&options);
        statistics = listener_statistics(l);

        for (size_t i = 0; i < 4; i++)
                fds[i] = call(l);
        run_idle();
        assert_int_equal(n_taken, 3);
        assert_true(is_turned_away(fds[3]));
        assert_false(is_turned_away(fds[0]));
        assert_int_equal(statistics->refused, 1);
        assert_int_equal(gate_unproven(options.gate), 3);

        /* Those who have shown who they are do not count against their address, only in all. */
        connection_established(taken[0]);
        connection_established(taken[1]);
        fds[4] = call(l);
        fds[5] = call(l);
        run_idle();
        assert_int_equal(n_taken, 4);
        assert_true(is_turned_away(fds[5]));
        assert_int_equal(statistics->open, 4);
        assert_int_equal(gate_unproven(options.gate), 2);

        /* Who leaves makes room, established or not. */
        for (size_t i = 0; i < 3; i++)
                close_fd(fds[i]);
        run_idle();
        assert_int_equal(statistics->open, 1);
        assert_int_equal(gate_unproven(options.gate), 1);
        fds[0] = call(l);
        run_idle();
        assert_int_equal(statistics->open, 2);

        accept_result = -EPERM;
        fds[1] = call(l);
        run_idle();
        assert_true(is_turned_away(fds[1]));
        assert_int_equal(statistics->open, 2);
        accept_result = 0;
        assert_int_equal(gate_refused(options.gate, GATE_PER_ORIGIN), 1);
        assert_int_equal(gate_refused(options.gate, GATE_RESOURCES), 1);
        assert_int_equal(gate_refused(options.gate, GATE_HELLO),
                         2); /* one left early, one was not accepted */
        stop(l);
        gate_unref(options.gate);
        close_fd(fds[0]);
        close_fd(fds[1]);
        for (size_t i = 3; i < 6; i++)
                close_fd(fds[i]);
}

/* The oldest go, but not one whose request is being worked on, nor one who was let in. */
static void test_put_out(void **state) {
        const GateLimits limits = { .unproven = 3 };
        ListenerOptions options = { .handlers = &handlers };
        Listener *l;
        int fds[6];

        assert_ok(gate_new(&limits, &options.gate));
        l = start(&options);
        for (size_t i = 0; i < 4; i++) {
                fds[i] = call(l);
                run_idle();
                if (i == 0)
                        connection_established(taken[0]);
                if (i == 1)
                        connection_pause(taken[1], true);
        }
        for (size_t i = 0; i < 4; i++)
                assert_false(is_turned_away(fds[i]));
        fds[4] = call(l);
        run_idle();
        assert_true(is_turned_away(fds[2]));
        fds[5] = call(l);
        run_idle();
        assert_true(is_turned_away(fds[3]));
        for (size_t i = 0; i < 6; i++)
                if (i != 2 && i != 3)
                        assert_false(is_turned_away(fds[i]));
        assert_int_equal(gate_unproven(options.gate), 3);
        assert_int_equal(listener_statistics(l)->open, 4);
        assert_int_equal(gate_refused(options.gate, GATE_HELLO), 2);
        assert_int_equal(gate_refused(options.gate, GATE_UNPROVEN), 0);
        stop(l);
        gate_unref(options.gate);
        for (size_t i = 0; i < 6; i++)
                close_fd(fds[i]);
}

/* Strangers at one address keep nobody from another one that has the same gate. */
static void test_put_out_elsewhere(void **state) {
        const GateLimits limits = { .unproven = 2 };
        ListenerOptions options = { .handlers = &handlers };
        struct sockaddr_storage address;
        Listener *l, *other;
        socklen_t size;
        int fds[3];

        assert_ok(gate_new(&limits, &options.gate));
        l = start(&options);
        assert_ok(sockaddr_from_numeric("127.0.0.1", 0, &address, &size));
        assert_ok(
                listener_new(event, (struct sockaddr *) &address, size, &options, on_accept, NULL, &other));
        for (size_t i = 0; i < 3; i++) {
                fds[i] = call(i < 2 ? l : other);
                run_idle();
        }
        assert_true(is_turned_away(fds[0]));
        assert_false(is_turned_away(fds[1]));
        assert_false(is_turned_away(fds[2]));
        assert_int_equal(gate_unproven(options.gate), 2);
        listener_free(other);
        stop(l);
        gate_unref(options.gate);
        for (size_t i = 0; i < 3; i++)
                close_fd(fds[i]);
}

/* Without file descriptors the caller is turned away, the loop does not spin, and others are served
 * afterwards. */
static void test_out_of_fds(void **state) {
        const ListenerOptions options = { .handlers = &handlers };
        Listener *l = start(&options);
        struct rlimit before, limit;
        int caller, later, probe;
        unsigned turns = 0;

        run_idle();
        caller = call(l);
        later = call(l);
        assert_ok(getrlimit(RLIMIT_NOFILE, &before));
        assert_ok(probe = open("/dev/null", O_RDONLY | O_CLOEXEC));
        close_fd(probe);
        limit = before;
        limit.rlim_cur = (rlim_t) probe;
        assert_ok(setrlimit(RLIMIT_NOFILE, &limit));
        while (sd_event_run(event, 50 * USEC_PER_MSEC) > 0 && turns < 1000)
                turns++;
        assert_ok(setrlimit(RLIMIT_NOFILE, &before));
        assert_true(turns < 10);
        assert_true(is_turned_away(caller));
        assert_true(is_turned_away(later));
        close_fd(caller);
        close_fd(later);
        caller = call(l);
        run_idle();
        assert_int_equal(n_taken, 1);
        assert_false(is_turned_away(caller));
        stop(l);
        close_fd(caller);
}

/* Who comes too fast is hung up on before anything is spent on it; a second later it may come again. */
static void test_rate(void **state) {
        const GateLimits limits = { .rate = 10, .burst = 2 };
        ListenerOptions options = { .handlers = &handlers };
        Listener *l;
        int fds[4];

        assert_ok(gate_new(&limits, &options.gate));
        l = start(&options);
        for (size_t i = 0; i < 4; i++)
                fds[i] = call(l);
        run_idle();
        assert_int_equal(n_taken, 2);
        assert_true(is_turned_away(fds[3]));
        assert_int_equal(listener_statistics(l)->accepted, 2);
        while (n_taken < 3) {
                close_fd(fds[3]);
                fds[3] = call(l);
                run_idle();
        }
        stop(l);
        assert_int_equal(gate_unproven(options.gate), 0);
        gate_unref(options.gate);
        for (size_t i = 0; i < 4; i++)
                close_fd(fds[i]);
}

/* Silence, and talk without end, before the hello. */
static void test_hello_limits(void **state) {
        const GateLimits limits = { .unproven = 10 };
        ListenerOptions options = { .handlers = &handlers, .hello_timeout = 50 * USEC_PER_MSEC };
        char talk[64 << 10] = { 0 };
        Listener *l;
        int fd;

        assert_ok(gate_new(&limits, &options.gate));
        l = start(&options);
        fd = call(l);
        for (unsigned i = 0; i < 100 && gate_refused(options.gate, GATE_HELLO) == 0; i++)
                assert_ok(sd_event_run(event, 50 * USEC_PER_MSEC));
        run_idle();
        assert_true(is_turned_away(fd));
        assert_int_equal(n_taken, 0);
        close_fd(fd);
        stop(l);

        options.hello_timeout = 0;
        options.hello_bytes = 4096;
        l = start(&options);
        fd = call(l);
        /* A frame that has begun, so that it is the number of bytes that counts. */
        memcpy(talk, "CLPY\x01\x01\x00\x00\x00\x40\x00\x00", 12);
        assert_true(send(fd, talk, sizeof(talk), MSG_NOSIGNAL) > 4096);
        run_idle();
        assert_int_equal(n_taken, 0);
        assert_int_equal(gate_refused(options.gate, GATE_HELLO), 2);
        close_fd(fd);

        /* Who has been accepted may say more. */
        fd = call(l);
        run_idle();
        assert_int_equal(n_taken, 1);
        connection_established(taken[0]);
        assert_true(send(fd, talk, sizeof(talk), MSG_NOSIGNAL) > 4096);
        run_idle();
        assert_int_equal(gate_refused(options.gate, GATE_HELLO), 2);
        stop(l);
        gate_unref(options.gate);
        close_fd(fd);
}

/* A UNIX socket says who calls. */
static void test_unix(void **state) {
        const GateLimits limits = { .unproven_per_origin = 1 };
        ListenerOptions options = { .handlers = &handlers };
        char *directory = test_directory();
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        uid_t uid = 1;
        Listener *l;
        int fds[2];

        snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", directory);
        assert_ok(sd_event_new(&event));
        assert_ok(gate_new(&limits, &options.gate));
        assert_ok(listener_new(event, (struct sockaddr *) &address, sizeof(address), &options, on_accept,
                               NULL, &l));
        assert_memory_equal(listener_address(l), "unix:/", 6);
        for (size_t i = 0; i < 2; i++) {
                fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                assert_ok(connect(fds[i], (struct sockaddr *) &address, sizeof(address)));
                run_idle();
        }
        assert_int_equal(n_taken, 1);
        assert_ok(listener_peer_uid(taken[0], &uid));
        assert_int_equal(uid, getuid());
        assert_int_equal(gate_refused(options.gate, GATE_PER_ORIGIN), 1);
        stop(l);
        gate_unref(options.gate);
        close_fd(fds[0]);
        close_fd(fds[1]);
        test_directory_remove(directory);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_limits),
                cmocka_unit_test(test_put_out),
                cmocka_unit_test(test_put_out_elsewhere),
                cmocka_unit_test(test_out_of_fds),
                cmocka_unit_test(test_rate),
                cmocka_unit_test(test_hello_limits),
                cmocka_unit_test(test_unix),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
