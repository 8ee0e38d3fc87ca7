/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "gate.h"
#include "time-util.h"

#define START (1000 * USEC_PER_SEC)

static GateOrigin v4(uint32_t address) {
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(address) };

        return gate_origin((struct sockaddr *) &in, 0);
}

static GateOrigin v6(const char *address) {
        struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };

        assert_int_equal(inet_pton(AF_INET6, address, &in6.sin6_addr), 1);
        return gate_origin((struct sockaddr *) &in6, 0);
}

static bool same(GateOrigin left, GateOrigin right) {
        return left.kind == right.kind && left.value == right.value;
}

static void test_origins(void **state) {
        const struct sockaddr local = { .sa_family = AF_UNIX };

        assert_true(same(v6("2001:db8:1:2::1"), v6("2001:db8:1:2:ffff:ffff:ffff:ffff")));
        assert_false(same(v6("2001:db8:1:2::1"), v6("2001:db8:1:3::1")));
        assert_true(same(v6("::ffff:10.0.0.1"), v4(0x0a000001)));
        assert_false(same(v4(1), v4(2)));
        assert_true(same(gate_origin(&local, 1000), gate_origin(&local, 1000)));
        assert_false(same(gate_origin(&local, 1000), gate_origin(&local, 1001)));
        /* A user is not an address that happens to have the same number. */
        assert_false(same(gate_origin(&local, htonl(0x0a000001)), v4(0x0a000001)));
}

static void test_bounds(void **state) {
        const GateLimits limits = { .unproven = 5, .unproven_per_origin = 3 };
        GateOrigin one = v4(1), two = v4(2);
        size_t tickets[5], spare;
        Gate *gate;

        assert_ok(gate_new(&limits, &gate));
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(gate_enter(gate, &one, START, tickets + i), GATE_OPEN);
        assert_int_equal(gate_enter(gate, &one, START, &spare), GATE_PER_ORIGIN);
        for (size_t i = 3; i < 5; i++)
                assert_int_equal(gate_enter(gate, &two, START, tickets + i), GATE_OPEN);
        assert_int_equal(gate_enter(gate, &two, START, &spare), GATE_UNPROVEN);
        assert_int_equal(gate_unproven(gate), 5);
        gate_leave(gate, tickets[0]);
        assert_int_equal(gate_enter(gate, &two, START, tickets), GATE_OPEN);
        assert_int_equal(gate_enter(gate, &one, START, &spare), GATE_UNPROVEN);
        for (size_t i = 0; i < 5; i++)
                gate_leave(gate, tickets[i]);
        assert_int_equal(gate_unproven(gate), 0);
        assert_int_equal(gate_refused(gate, GATE_PER_ORIGIN), 1);
        assert_int_equal(gate_refused(gate, GATE_UNPROVEN), 2);
        assert_int_equal(gate_refused(gate, GATE_RATE), 0);
        gate_count(gate, GATE_HELLO);
        assert_int_equal(gate_refused(gate, GATE_HELLO), 1);
        gate_unref(gate);
}

typedef struct Somebody {
        Gate *gate;
        bool leaves;
        size_t ticket;
        unsigned asked;
} Somebody;

static bool leave(void *userdata) {
        Somebody *somebody = userdata;

        somebody->asked++;
        if (somebody->leaves)
                gate_leave(somebody->gate, somebody->ticket);
        return somebody->leaves;
}

/* Nobody is put out for one who is not let in anyway. */
static void test_instead(void **state) {
        const GateLimits limits = { .unproven = 2, .unproven_per_origin = 1, .rate = 1, .burst = 2 };
        GateOrigin one = v4(1), two = v4(2), three = v4(3);
        Somebody first = { 0 };
        size_t ticket;

        assert_ok(gate_new(&limits, &first.gate));
        assert_int_equal(gate_enter_instead(first.gate, &one, START, leave, &first, &first.ticket),
                         GATE_OPEN);
        assert_int_equal(gate_enter_instead(first.gate, &two, START, leave, &first, &ticket), GATE_OPEN);
        assert_int_equal(gate_enter_instead(first.gate, &two, START, leave, &first, &ticket),
                         GATE_PER_ORIGIN);
        assert_int_equal(gate_enter_instead(first.gate, &two, START, leave, &first, &ticket), GATE_RATE);
        assert_int_equal(first.asked, 0);
        assert_int_equal(gate_enter_instead(first.gate, &three, START, leave, &first, &ticket),
                         GATE_UNPROVEN);
        first.leaves = true;
        assert_int_equal(gate_enter_instead(first.gate, &three, START, leave, &first, &ticket), GATE_OPEN);
        assert_int_equal(first.asked, 2);
        assert_int_equal(gate_unproven(first.gate), 2);
        assert_int_equal(gate_refused(first.gate, GATE_UNPROVEN), 1);
        gate_unref(first.gate);
}

static unsigned come(Gate *gate, const GateOrigin *origin, uint64_t now, unsigned n) {
        unsigned in = 0;
        size_t ticket;

        while (n-- > 0)
                if (gate_enter(gate, origin, now, &ticket) == GATE_OPEN) {
                        gate_leave(gate, ticket);
                        in++;
                }
        return in;
}

static void test_rate(void **state) {
        const GateLimits limits = { .rate = 100, .burst = 200 };
        GateOrigin one = v4(1), two = v4(2);
        uint64_t now = START;
        Gate *gate;

        assert_ok(gate_new(&limits, &gate));
        assert_int_equal(come(gate, &one, now, 1000), 200);
        assert_int_equal(come(gate, &two, now, 10), 10); /* another's bucket is its own */
        assert_int_equal(come(gate, &one, now + 9 * USEC_PER_MSEC, 10), 0);
        assert_int_equal(come(gate, &one, now += 10 * USEC_PER_MSEC, 10), 1);
        assert_int_equal(come(gate, &one, now += USEC_PER_SEC, 1000), 100);
        /* Knocking without end does not make it wait longer. */
        for (unsigned i = 0; i < 1000; i++)
                assert_true(come(gate, &one, now += USEC_PER_MSEC, 1) <= 1);
        assert_true(come(gate, &one, now += USEC_PER_SEC, 1000) >= 100);
        assert_int_equal(come(gate, &one, now += USEC_PER_DAY, 1000), 200);
        assert_true(gate_refused(gate, GATE_RATE) > 1000);
        gate_unref(gate);
}

/* Who has a hundred thousand addresses gets no memory for each, and the sum that they may do is bounded;
 * someone who comes calmly gets in all the same. */
static void test_many_origins(void **state) {
        const GateLimits limits = { .rate = 1, .burst = 2 };
        uint64_t now = START;
        unsigned in = 0, calm = 0;
        Gate *gate;

        assert_ok(gate_new(&limits, &gate));
        for (uint32_t i = 0; i < 100000; i++) {
                GateOrigin origin = v4(i);

                in += come(gate, &origin, now, 3);
        }
        assert_true(in >= 2 * 4096 * 9 / 10);
        assert_true(in <= 2 * 4096);
        for (unsigned i = 0; i < 100; i++) {
                GateOrigin origin = v6("2001:db8::1");

                now += 2 * USEC_PER_SEC;
                calm += come(gate, &origin, now, 1);
        }
        assert_int_equal(calm, 100);
        gate_unref(gate);
}

/* A place whose owner still has connections here is not given away; the newcomer is counted with it. */
static void test_full_table_keeps_count(void **state) {
        const GateLimits limits = { .unproven_per_origin = 1 };
        size_t *tickets = calloc(20000, sizeof(*tickets)), n = 0;
        Gate *gate;

        assert_non_null(tickets);
        assert_ok(gate_new(&limits, &gate));
        for (uint32_t i = 0; i < 20000; i++) {
                GateOrigin origin = v4(i);

                if (gate_enter(gate, &origin, START, tickets + n) == GATE_OPEN)
                        n++;
        }
        assert_true(n <= 4096);
        assert_int_equal(gate_unproven(gate), n);
        while (n > 0)
                gate_leave(gate, tickets[--n]);
        assert_int_equal(gate_unproven(gate), 0);
        gate_unref(gate);
        free(tickets);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_origins),      cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_instead),      cmocka_unit_test(test_rate),
                cmocka_unit_test(test_many_origins), cmocka_unit_test(test_full_table_keeps_count),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
