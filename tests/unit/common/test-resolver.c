/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <netinet/in.h>
#include <sys/wait.h>

#include "resolver.h"
#include "time-util.h"

typedef struct Outcome {
        unsigned calls;
        int error;
        size_t n;
        char first[SOCKADDR_STRING_SIZE];
        bool free_in_callback;
} Outcome;

static void on_resolved(Resolver *r, int error, const ResolvedAddress *addresses, size_t n, void *userdata) {
        Outcome *outcome = userdata;

        outcome->calls++;
        outcome->error = error;
        outcome->n = n;
        if (n > 0)
                sockaddr_to_string((const struct sockaddr *) &addresses[0].address, addresses[0].size, true,
                                   outcome->first);
        if (outcome->free_in_callback)
                resolver_free(r);
}

static Outcome resolve(const char *host) {
        Outcome outcome = { .free_in_callback = true };
        sd_event *event;
        Resolver *r;

        assert_ok(sd_event_new(&event));
        assert_ok(resolver_start(event, host, 7878, on_resolved, &outcome, &r));
        assert_int_equal(outcome.calls, 0);
        for (uint64_t end = now_usec(CLOCK_MONOTONIC) + 20 * USEC_PER_SEC; outcome.calls == 0;) {
                assert_true(now_usec(CLOCK_MONOTONIC) < end);
                assert_ok(sd_event_run(event, USEC_PER_SEC));
        }
        sd_event_unref(event);
        /* No zombie, no child. */
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
        return outcome;
}

static void test_resolve(void **state) {
        Outcome outcome;

        outcome = resolve("10.1.2.3");
        assert_int_equal(outcome.error, 0);
        assert_string_equal(outcome.first, "10.1.2.3:7878");
        outcome = resolve("::1");
        assert_string_equal(outcome.first, "[::1]:7878");
        outcome = resolve("localhost");
        assert_int_equal(outcome.error, 0);
        assert_true(outcome.n >= 1);
        assert_true(strcmp(outcome.first, "127.0.0.1:7878") == 0 ||
                    strcmp(outcome.first, "[::1]:7878") == 0);
        outcome = resolve("no-such-host.invalid");
        assert_true(outcome.error == -ENOENT || outcome.error == -EAGAIN || outcome.error == -ETIMEDOUT);
        assert_int_equal(outcome.n, 0);
}

static void test_cancel(void **state) {
        Outcome outcome = { 0 };
        sd_event *event;
        Resolver *r;

        assert_ok(sd_event_new(&event));
        assert_error(resolver_start(event, "", 1, on_resolved, &outcome, &r), EINVAL);
        assert_ok(resolver_start(event, "no-such-host.invalid", 1, on_resolved, &outcome, &r));
        resolver_free(r);
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
        assert_ok(sd_event_run(event, 0));
        assert_int_equal(outcome.calls, 0);
        sd_event_unref(event);
}

static void test_text(void **state) {
        struct sockaddr_storage address;
        char text[SOCKADDR_STRING_SIZE];
        socklen_t size;

        assert_ok(sockaddr_from_numeric("::ffff:10.0.0.1", 5, &address, &size));
        assert_string_equal(sockaddr_to_string((struct sockaddr *) &address, size, true, text),
                            "10.0.0.1:5");
        assert_false(sockaddr_is_loopback((struct sockaddr *) &address));
        assert_ok(sockaddr_from_numeric("::ffff:127.0.0.1", 5, &address, &size));
        assert_true(sockaddr_is_loopback((struct sockaddr *) &address));
        assert_ok(sockaddr_from_numeric("127.9.0.1", 5, &address, &size));
        assert_true(sockaddr_is_loopback((struct sockaddr *) &address));
        assert_ok(sockaddr_from_numeric("::1", 5, &address, &size));
        assert_true(sockaddr_is_loopback((struct sockaddr *) &address));
        assert_string_equal(sockaddr_to_string((struct sockaddr *) &address, size, false, text), "::1");
        assert_ok(sockaddr_from_numeric("*", 5, &address, &size));
        assert_false(sockaddr_is_loopback((struct sockaddr *) &address));
        assert_error(sockaddr_from_numeric("localhost", 5, &address, &size), EINVAL);
        assert_error(sockaddr_from_numeric("1.2.3", 5, &address, &size), EINVAL);
        assert_error(sockaddr_from_numeric("fe80::1%nosuchinterface", 5, &address, &size), EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_resolve),
                cmocka_unit_test(test_cancel),
                cmocka_unit_test(test_text),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
