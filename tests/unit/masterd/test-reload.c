/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <unistd.h>

#include "fixture.h"
#include "json-util.h"
#include "owner.h"
#include "reload.h"

static int reload(Manager *m, const char *text) {
        char path[] = "/tmp/test-reload-XXXXXX";
        int fd = mkstemp(path), r;

        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t) strlen(text));
        close(fd);
        /* What it says is not what is tested. */
        log_set_level(LOG_CRIT);
        r = manager_reload(m, path);
        unlink(path);
        return r;
}

static void assert_status(Manager *m, const char *says) {
        _cleanup_(json_putp) json_object *status = NULL;
        json_object *warnings;
        const char *text;

        OK(json_new_object(&status));
        OK(json_add_new_array(status, "warnings", &warnings));
        OK(reload_add(&m->reload, status, warnings));
        text = json_text(status, NULL);
        if (!text || !strstr(text, says))
                fail_msg("'%s' does not say '%s'", strempty(text), says);
}

static Manager *started(void) {
        Manager *m = fixture_new();
        char *message;

        OK(master_config_finish(m->config, &message));
        return m;
}

static void test_takes_effect(void **state) {
        _cleanup_(manager_freep) Manager *m = started();
        Owner *owner = fixture_session(m, "alice")->owner;
        uint64_t generation = m->config_generation;

        assert_status(m, "\"reload\":null");
        OK(reload(m,
                  "access: {users: {alice: {running: 5, policies: [gpu]}}}\n"
                  "task_window: 5\nlog_tail: 1K\nmax_retries: 7\nlog_level: error\ndetached: {keep: 1h}\n"));
        assert_int_equal(owner->limits.running, 5);
        assert_string_equal(owner->limits.policies[0], "gpu");
        assert_int_equal(m->config->max_retries, 7);
        assert_int_equal(m->logs.tail_max, KIB(1));
        assert_int_equal(log_get_level(), LOG_ERR);
        assert_true(m->config->detached_keep == USEC_PER_HOUR);
        assert_int_equal(m->config_generation, generation + 1);
        /* Clients that have been told of a larger window may still use it. */
        assert_int_equal(m->config->task_window, 5);
        assert_int_equal(m->task_window, 20000);
        assert_status(m, "\"error\":null,\"restart_needed\":[]");
        assert_status(m, "\"warnings\":[]");
        /* And the other way round. */
        OK(reload(m, ""));
        assert_int_equal(owner->limits.running, 0);
        assert_null(owner->limits.policies);
}

static void test_a_mistake_changes_nothing(void **state) {
        _cleanup_(manager_freep) Manager *m = started();
        Owner *owner = fixture_session(m, "alice")->owner;

        OK(reload(m, "access: {users: {alice: {running: 5}}}\nmax_retries: 7\n"));
        assert_true(reload(m, "max_retries: 8\naccess: {users: {alice: {running: six}}}\n") < 0);
        assert_int_equal(m->config->max_retries, 7);
        assert_int_equal(owner->limits.running, 5);
        assert_status(m, "expected a number of calls");
        assert_status(m, "\"warnings\":[\"the configuration on disk is not in use");
        OK(reload(m, "max_retries: 8\n"));
        assert_status(m, "\"warnings\":[]");
}

static void test_what_waits_is_named(void **state) {
        _cleanup_(manager_freep) Manager *m = started();

        OK(reload(m, "lease: 20s\nstate_directory: /elsewhere\nmax_retries: 9\n"));
        assert_true(m->config->lease == 15 * USEC_PER_SEC);
        assert_int_equal(m->config->max_retries, 9);
        assert_status(m, "\"restart_needed\":[\"state_directory\",\"lease\"]");
        assert_status(m, "takes effect with a restart only: state_directory, lease");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_takes_effect),
                cmocka_unit_test(test_a_mistake_changes_nothing),
                cmocka_unit_test(test_what_waits_is_named),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
