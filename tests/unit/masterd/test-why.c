/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"
#include "why.h"

static void assert_says(char *sentence, const char *part) {
        assert_non_null(sentence);
        if (!strstr(sentence, part))
                fail_msg("'%s' does not say '%s'", sentence, part);
        free(sentence);
}

/* The last sentence says what to do. */
static void assert_ends(char *sentence, const char *part) {
        const char *last = strrchr(sentence, '.');

        assert_non_null(last);
        assert_string_equal(last, ".");
        last = strstr(sentence, "u.scope. ");
        assert_non_null(last);
        if (!strstr(last, part))
                fail_msg("'%s' does not end with '%s'", sentence, part);
        free(sentence);
}

static void test_waiting(void **state) {
        _cleanup_(manager_freep) Manager *m = fixture_new();
        Session *session = fixture_session(m, "alice");
        Task *huge = fixture_task(fixture_job(session, 64, MIB(1))),
             *fat = fixture_task(fixture_job(session, 1, GIB(4))),
             *task = fixture_task(fixture_job(session, 1, MIB(1)));
        Node *node;

        assert_says(why_waiting(m, task), "no node has ever connected");
        node = fixture_node(m, "agent2", 2, MIB(100));
        assert_says(why_waiting(m, huge), "no node has 64 CPUs: the largest, agent2, has 2");
        assert_says(why_waiting(m, fat), "no node has 4.0G of memory: the largest, agent2, has 100.0M");
        node->state = NODE_SUSPECT;
        assert_says(why_waiting(m, task), "no node is ready (1 suspect");
        node->state = NODE_LOST;
        assert_says(why_waiting(m, task), "all 1 known nodes are lost");
        node->state = NODE_READY;
        node->mcpus_used = 2000;
        assert_says(why_waiting(m, task), "go first");
        node->mcpus_used = 0;
        node->unreleased = MIB(100);
        assert_says(why_waiting(m, task), "memory");
        task_wait(task);
        node->lost = false;
        assert_says(why_waiting(m, task), "the master restarted");
}

typedef struct Sentence {
        OutcomeKind kind;
        const char *outcome, *says, *next;
} Sentence;

static void test_ended(void **state) {
        static const Sentence sentences[] = {
                { OUTCOME_MEMORY, "{\"limit\":67108864,\"peak\":68157440}",
                  "memory limit of 64.0M (peak 65.0M)", "memory=" },
                { OUTCOME_TIMEOUT, "{\"limit_ms\":1500}", "timeout of 1.5", "timeout=" },
                { OUTCOME_DEADLINE, "{\"limit_ms\":60000}", "deadline of 1min", "deadline=" },
                { OUTCOME_CPU_TIME, "{\"limit_ms\":2000}", "CPU time of 2.0s", "smaller calls" },
                { OUTCOME_MEMORY, "{\"limit\":67108864,\"peak\":68157440,\"tmp\":4096,\"shm\":62914560}",
                  "peak 65.0M, 60.0M of it for files in /dev/shm)", "memory=" },
                { OUTCOME_DISK, "{\"place\":\"/tmp\",\"limit\":1048576,\"used\":1048576,\"files_limit\":9}",
                  "out of room in its /tmp of 1.0M (1.0M in use", "Have it" },
                { OUTCOME_DISK,
                  "{\"place\":\"/dev/"
                  "shm\",\"limit\":1048576,\"used\":4096,\"files_limit\":9,\"files_used\":9}",
                  "used up the 9 files that its /dev/shm may have", "Have it make fewer" },
                { OUTCOME_EXIT, "{\"status\":3}", "status 3", "clupyctl logs" },
                { OUTCOME_SIGNAL, "{\"name\":\"SIGSEGV\"}", "SIGSEGV: a crash", "clupyctl logs" },
                { OUTCOME_SYSCALL, "{\"name\":\"bpf\"}", "system call bpf", "policy=" },
                { OUTCOME_CANCELLED, "{\"by\":\"bob\"}", "cancelled by bob", "Call it again" },
                { OUTCOME_ENVIRONMENT, "{\"log\":\"a\\nno such package\"}", "no such package", "packages" },
                { OUTCOME_RESULT_PICKLING, "{\"name\":\"lock\",\"message\":\"m\"}", "lock (m)",
                  "plain data" },
                { OUTCOME_NODE_LOST, "{\"message\":\"m\"}", "2 attempts", "retries=" },
                { OUTCOME_REFUSED, "{\"message\":\"no policy\"}", "refused: no policy", "clupyctl status" },
                { OUTCOME_REFUSED, "{\"message\":\"m\",\"reason\":\"quota\"}", "refused: m",
                  "Ask for less" },
                { OUTCOME_REFUSED, "{\"message\":\"m\",\"reason\":\"not-allowed\"}", "refused: m",
                  "have an administrator allow it" },
                { OUTCOME_REFUSED, "{\"message\":\"m\",\"reason\":\"unknown\"}", "refused: m",
                  "`policies`" },
                { OUTCOME_INFRASTRUCTURE, "{\"message\":\"m\"}", "ended: infrastructure", "journals" },
                { OUTCOME_EXCEPTION, "{\"tasks_max\":40}", "limit of 40 processes and threads",
                  "tasks_max=80" },
                { OUTCOME_EXCEPTION, "{}", "raised an exception", "failure of its future" },
        };
        _cleanup_(manager_freep) Manager *m = fixture_new();

        for (size_t i = 0; i < ELEMENTSOF(sentences); i++) {
                TaskView view = { .name = "f",
                                  .owner = "alice",
                                  .state = "ended",
                                  .node = "n1",
                                  .unit = "u.scope",
                                  .attempt = 2,
                                  .kind = sentences[i].kind,
                                  .outcome = sentences[i].outcome };

                assert_says(why_sentence(m, &view), sentences[i].says);
                assert_says(why_sentence(m, &view), "It ran on n1 in u.scope. ");
                assert_ends(why_sentence(m, &view), sentences[i].next);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_waiting), cmocka_unit_test(test_ended) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
