/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include "heartbeat.h"
#include "time-util.h"

static sd_event *event;
static uint64_t last_seq, last_sent_usec, lease_until;
static unsigned n_sent, n_leases, n_silent;

static void on_send(uint64_t seq, void *userdata) {
        last_seq = seq;
        last_sent_usec = now_usec(CLOCK_BOOTTIME);
        n_sent++;
}

static void on_lease(uint64_t until_usec, void *userdata) {
        lease_until = until_usec;
        n_leases++;
}

static void on_silent(void *userdata) {
        n_silent++;
}

static const HeartbeatHandlers handlers = { .send = on_send, .lease = on_lease, .silent = on_silent };

static int setup(void **state) {
        Heartbeat *h;

        n_sent = n_leases = n_silent = 0;
        lease_until = 0;
        assert_ok(sd_event_new(&event));
        assert_ok(heartbeat_new(event, &handlers, NULL, &h));
        *state = h;
        return 0;
}

static int teardown(void **state) {
        heartbeat_free(*state);
        event = sd_event_unref(event);
        return 0;
}

static void run_until_sent(unsigned n) {
        while (n_sent < n)
                assert_true(sd_event_run(event, 5 * USEC_PER_SEC) > 0);
}

static void test_lease_counts_from_sending(void **state) {
        Heartbeat *h = *state;
        uint64_t sent;

        assert_ok(heartbeat_start(h, 20 * USEC_PER_MSEC, 15 * USEC_PER_SEC));
        heartbeat_renew(h);
        sent = last_sent_usec;
        run_until_sent(4);
        assert_true(last_sent_usec > sent + 20 * USEC_PER_MSEC);
        heartbeat_answered(h, 2); /* the one that renew has sent */
        assert_int_equal(n_leases, 1);
        assert_true(lease_until >= sent - 5 * USEC_PER_MSEC + 15 * USEC_PER_SEC);
        assert_true(lease_until <= sent + 15 * USEC_PER_SEC);
}

static void test_nothing_before_reconciling(void **state) {
        Heartbeat *h = *state;

        assert_ok(heartbeat_start(h, 20 * USEC_PER_MSEC, 15 * USEC_PER_SEC));
        run_until_sent(3);
        heartbeat_answered(h, 1);
        heartbeat_renew(h);
        heartbeat_answered(h, last_seq - 1); /* sent before */
        assert_int_equal(n_leases, 0);
        heartbeat_answered(h, last_seq);
        assert_int_equal(n_leases, 1);
}

static void test_foolish_answers(void **state) {
        Heartbeat *h = *state;

        heartbeat_answered(h, 0);
        heartbeat_answered(h, 1);
        assert_ok(heartbeat_start(h, 20 * USEC_PER_MSEC, 15 * USEC_PER_SEC));
        heartbeat_renew(h);
        heartbeat_answered(h, last_seq + 1);
        heartbeat_answered(h, UINT64_MAX);
        heartbeat_answered(h, 0);
        assert_int_equal(n_leases, 0);
        heartbeat_answered(h, last_seq);
        heartbeat_answered(h, last_seq);
        assert_int_equal(n_leases, 1);
}

static void test_former_connection(void **state) {
        Heartbeat *h = *state;
        uint64_t former;

        assert_ok(heartbeat_start(h, 20 * USEC_PER_MSEC, 15 * USEC_PER_SEC));
        heartbeat_renew(h);
        former = last_seq;
        heartbeat_stop(h);
        heartbeat_answered(h, former);
        assert_ok(heartbeat_start(h, 20 * USEC_PER_MSEC, 15 * USEC_PER_SEC));
        heartbeat_renew(h);
        heartbeat_answered(h, former);
        assert_int_equal(n_leases, 0);
}

static void test_silence(void **state) {
        Heartbeat *h = *state;
        uint64_t begun = now_usec(CLOCK_MONOTONIC);

        assert_ok(heartbeat_start(h, 200 * USEC_PER_MSEC, 1 * USEC_PER_SEC));
        while (n_silent == 0)
                assert_true(sd_event_run(event, 5 * USEC_PER_SEC) > 0);
        assert_true(now_usec(CLOCK_MONOTONIC) - begun >= 3 * USEC_PER_SEC);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_lease_counts_from_sending, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nothing_before_reconciling, setup, teardown),
                cmocka_unit_test_setup_teardown(test_foolish_answers, setup, teardown),
                cmocka_unit_test_setup_teardown(test_former_connection, setup, teardown),
                cmocka_unit_test_setup_teardown(test_silence, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
