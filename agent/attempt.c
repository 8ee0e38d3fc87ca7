/* SPDX-License-Identifier: Apache-2.0 */
#include "attempt.h"

#include <errno.h>

#include "agent-dispatch.h"
#include "agent.h"
#include "fd-util.h"
#include "log.h"
#include "report.h"

static const char *const attempt_state_table[_ATTEMPT_STATE_MAX] = {
        [ATTEMPT_PREPARING] = "preparing", [ATTEMPT_STARTING] = "starting", [ATTEMPT_RUNNING] = "running",
        [ATTEMPT_FROZEN] = "frozen",       [ATTEMPT_ENDED] = "ended",
};

const char *attempt_state_to_string(AttemptState state) {
        return (unsigned) state < _ATTEMPT_STATE_MAX ? attempt_state_table[state] : "?";
}

const char *attempt_state_to_wire(AttemptState state) {
        return attempt_state_to_string(state == ATTEMPT_PREPARING ? ATTEMPT_STARTING : state);
}

char *attempt_key(Id task, uint32_t attempt, char buffer[static ATTEMPT_KEY_SIZE]) {
        hex_encode(task.bytes, sizeof(task.bytes), buffer);
        hex_encode(&attempt, sizeof(attempt), buffer + 2 * sizeof(task.bytes));
        return buffer;
}

int attempt_new(Agent *agent, Id task, uint32_t attempt, const char *owner, const char *name,
                Attempt **ret) {
        _cleanup_(attempt_freep) Attempt *a = NULL;
        int r;

        a = new0(Attempt);
        if (!a)
                return -ENOMEM;
        a->agent = agent;
        a->task = task;
        a->attempt = attempt;
        a->arguments_fd = a->result_fd = -EBADF;
        agent->counts[ATTEMPT_PREPARING]++;
        a->owner = strdup(owner);
        a->name = strdup(name);
        if (!a->owner || !a->name)
                return -ENOMEM;
        r = hashmap_put(agent->attempts, attempt_key(task, attempt, a->key), a);
        if (r < 0) {
                a->key[0] = '\0'; /* the entry of that key is another's */
                return r;
        }
        *ret = TAKE_PTR(a);
        return 0;
}

void attempt_drop_start(Attempt *a) {
        a->start = mfree(a->start);
        a->code = code_entry_drop(a->code);
        code_fetch_leave(a);
        a->arguments_in = payload_in_cancel(a->arguments_in);
        a->arguments_fd = close_fd(a->arguments_fd);
        a->agent->arguments_bytes -= a->arguments_size;
        a->arguments_size = 0;
}

Attempt *attempt_free(Attempt *a) {
        if (!a)
                return NULL;
        if (a->key[0])
                (void) hashmap_remove(a->agent->attempts, a->key);
        attempt_drop_start(a);
        devices_give_back(a->agent->devices, &a->held);
        list_remove(&a->news_queue);
        a->agent->counts[a->state]--;
        a->agent->unreleased -= a->result_size;
        close_fd(a->result_fd);
        free(a->owner);
        free(a->name);
        free(a->unit);
        free(a->stop_by);
        free(a->progress);
        free(a->end);
        return mfree(a);
}

void attempt_set_state(Attempt *a, AttemptState state) {
        if (a->state == state)
                return;
        log_debug("Task %s, attempt %u: %s → %s", ID_HEX(a->task), a->attempt,
                  attempt_state_to_string(a->state), attempt_state_to_string(state));
        a->agent->counts[a->state]--;
        a->state = state;
        a->agent->counts[state]++;

        switch (state) {
        case ATTEMPT_RUNNING:
        case ATTEMPT_FROZEN:
                attempt_drop_start(a);
                attempt_news(a, ATTEMPT_NEWS_STARTED);
                break;
        case ATTEMPT_ENDED:
                attempt_drop_start(a);
                devices_give_back(a->agent->devices, &a->held);
                a->progress = mfree(a->progress);
                attempt_news(a, ATTEMPT_NEWS_ENDED);
                break;
        case ATTEMPT_PREPARING:
        case ATTEMPT_STARTING:
        case _ATTEMPT_STATE_MAX:
                break;
        }
        agent_attempts_changed(a->agent);
}

void attempt_finish(Attempt *a, AttemptEnd *end, int result_fd, uint64_t result_size) {
        free(a->end);
        a->end = end;
        a->agent->unreleased += result_size - a->result_size;
        close_fd(a->result_fd);
        a->result_fd = result_fd;
        a->result_size = result_size;
        attempt_set_state(a, ATTEMPT_ENDED);
}

void attempt_finish_local(Attempt *a, OutcomeKind kind, const char *detail) {
        AttemptEnd *end;

        if (attempt_end_new_local(kind, detail, &end) < 0) {
                log_oom();
                attempt_free(a);
                return;
        }
        if (kind == OUTCOME_INFRASTRUCTURE || kind == OUTCOME_REFUSED)
                log_warning("Task %s, attempt %u of '%s' cannot run: %s", ID_HEX(a->task), a->attempt,
                            a->owner, detail);
        attempt_finish(a, end, -EBADF, 0);
}
