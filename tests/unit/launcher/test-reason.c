/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "macros.h"
#include "reason.h"

static void one_reason_out_of_many(void **state) {
        static const struct {
                EndFacts facts;
                OutcomeKind expected;
        } cases[] = {
                { { .result = OUTCOME_VALUE, .code = CLD_EXITED }, OUTCOME_VALUE },
                { { .result = OUTCOME_EXCEPTION, .code = CLD_EXITED }, OUTCOME_EXCEPTION },
                { { .result = OUTCOME_RESULT_PICKLING, .code = CLD_EXITED }, OUTCOME_RESULT_PICKLING },
                { { .code = CLD_EXITED, .status = 0 }, OUTCOME_EXIT },
                { { .code = CLD_EXITED, .status = 3 }, OUTCOME_EXIT },
                { { .code = CLD_KILLED, .status = SIGTERM }, OUTCOME_SIGNAL },
                { { .code = CLD_DUMPED, .status = SIGABRT }, OUTCOME_SIGNAL },
                { { .code = CLD_KILLED, .status = SIGKILL, .oom_kills = 1 }, OUTCOME_MEMORY },
                { { .code = CLD_EXITED, .status = 1, .oom_kills = 1 },
                  OUTCOME_MEMORY }, /* a worker of it was killed */
                { { .result = OUTCOME_VALUE, .code = CLD_EXITED, .oom_kills = 1 },
                  OUTCOME_VALUE }, /* and it coped */
                { { .code = CLD_KILLED, .status = SIGXCPU }, OUTCOME_CPU_TIME },
                { { .code = CLD_KILLED, .status = SIGKILL, .ordered = OUTCOME_CPU_TIME }, OUTCOME_CPU_TIME },
                { { .code = CLD_KILLED, .status = SIGKILL, .ordered = OUTCOME_CPU_TIME, .oom_kills = 1 },
                  OUTCOME_MEMORY },
                { { .code = CLD_KILLED, .status = SIGKILL, .ordered = OUTCOME_TIMEOUT }, OUTCOME_TIMEOUT },
                { { .code = CLD_KILLED, .status = SIGKILL, .ordered = OUTCOME_DEADLINE }, OUTCOME_DEADLINE },
                { { .code = CLD_KILLED, .status = SIGTERM, .ordered = OUTCOME_CANCELLED },
                  OUTCOME_CANCELLED },
                /* A value that came after the order: the order was first. */
                { { .result = OUTCOME_VALUE, .code = CLD_EXITED, .ordered = OUTCOME_CANCELLED },
                  OUTCOME_CANCELLED },
                { { .result = OUTCOME_VALUE, .code = CLD_EXITED, .ordered = OUTCOME_SUPERSEDED },
                  OUTCOME_SUPERSEDED },
                { { .refused = true, .code = CLD_KILLED, .status = SIGKILL }, OUTCOME_SYSCALL },
                { { .refused = true, .ordered = OUTCOME_CANCELLED, .code = CLD_KILLED, .status = SIGKILL },
                  OUTCOME_SYSCALL },
                { { .refused = true, .ordered = OUTCOME_SUPERSEDED }, OUTCOME_SUPERSEDED },
                { { .code = CLD_KILLED, .status = SIGSYS }, OUTCOME_SYSCALL },
                { { .code = CLD_KILLED, .status = SIGSYS, .ordered = OUTCOME_TIMEOUT }, OUTCOME_TIMEOUT },
                { { .code = CLD_EXITED, .status = SIGSYS }, OUTCOME_EXIT },
                { { .sandbox_broke = true, .code = CLD_KILLED, .status = SIGKILL }, OUTCOME_INFRASTRUCTURE },
                { { .sandbox_broke = true, .result = OUTCOME_VALUE }, OUTCOME_VALUE },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                if (end_decide(&cases[i].facts) != cases[i].expected)
                        fail_msg("case %zu: %s instead of %s", i,
                                 outcome_kind_to_string(end_decide(&cases[i].facts)),
                                 outcome_kind_to_string(cases[i].expected));
}

static void signals_have_names(void **state) {
        char buffer[32];

        assert_string_equal(signal_to_name(SIGTERM, buffer, sizeof(buffer)), "SIGTERM");
        assert_string_equal(signal_to_name(SIGRTMIN + 2, buffer, sizeof(buffer)), "SIGRTMIN+2");
        assert_string_equal(signal_to_name(999, buffer, sizeof(buffer)), "signal 999");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(one_reason_out_of_many),
                cmocka_unit_test(signals_have_names),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
