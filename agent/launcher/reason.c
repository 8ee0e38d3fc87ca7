/* SPDX-License-Identifier: Apache-2.0 */
#include "reason.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

OutcomeKind end_decide(const EndFacts *facts) {
        bool by_signal = facts->code == CLD_KILLED || facts->code == CLD_DUMPED;

        if (facts->ordered == OUTCOME_SUPERSEDED)
                return OUTCOME_SUPERSEDED;
        /* SIGSYS without a notification: the floor filter's answer to another architecture's system call
         * table. */
        if (facts->refused || (by_signal && facts->status == SIGSYS && facts->result == OUTCOME_NONE &&
                               facts->ordered == OUTCOME_NONE))
                return OUTCOME_SYSCALL;
        if (facts->ordered == OUTCOME_CANCELLED || facts->ordered == OUTCOME_DEADLINE ||
            facts->ordered == OUTCOME_TIMEOUT)
                return facts->ordered;
        if (facts->result != OUTCOME_NONE)
                return facts->result;
        if (facts->sandbox_broke)
                return OUTCOME_INFRASTRUCTURE;
        if (facts->oom_kills > 0)
                return OUTCOME_MEMORY;
        if (facts->ordered == OUTCOME_CPU_TIME || (by_signal && facts->status == SIGXCPU))
                return OUTCOME_CPU_TIME;
        return by_signal ? OUTCOME_SIGNAL : OUTCOME_EXIT;
}

char *signal_to_name(int number, char *buffer, size_t size) {
        const char *name = sigabbrev_np(number);

        if (name)
                (void) snprintf(buffer, size, "SIG%s", name);
        else if (number >= SIGRTMIN && number <= SIGRTMAX)
                (void) snprintf(buffer, size, "SIGRTMIN+%d", number - SIGRTMIN);
        else
                (void) snprintf(buffer, size, "signal %d", number);
        return buffer;
}
