/* SPDX-License-Identifier: Apache-2.0 */
#include "attempt-end.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent-link.h"
#include "disk.h"
#include "fd-util.h"
#include "log.h"
#include "pair.h"
#include "reason.h"
#include "seccomp-notify.h"
#include "time-util.h"

static void event_fill(const Attempt *attempt, LauncherEvent *event, uint32_t op, uint32_t flags) {
        const LauncherStart *start = &attempt->start;

        *event = (LauncherEvent){
                .version = LAUNCHER_PROTOCOL_VERSION,
                .op = op,
                .attempt = attempt->number,
                .flags = flags | (attempt->warm ? LAUNCHER_FLAG_WARM : 0),
        };
        memcpy(event->task, attempt->task, sizeof(event->task));
        COPY_TEXT(event->info.unit, attempt->unit);
        event->info.pid = attempt->pid;
        event->info.uid = attempt->uid;
        event->info.started_at = attempt->started_at;
        COPY_TEXT(event->info.owner, start->key.owner);
        COPY_TEXT(event->info.name, start->name);
        memcpy(event->info.job, start->job, sizeof(start->job));
        memcpy(event->info.session, start->session, sizeof(start->session));
        event->info.epoch = start->epoch;
        event->info.memory_max = start->memory_max;
        event->info.cpu_quota_usec = start->cpu_quota_usec;
        if (op != LAUNCHER_ENDED)
                event->info.devices = start->devices;
}

void attempt_tell_as(Attempt *attempt, uint32_t op, uint32_t flags) {
        LauncherEvent event;

        event_fill(attempt, &event, op, flags);
        agent_link_send(attempt->manager->link, &event, -EBADF);
}

void attempt_tell(Attempt *attempt, uint32_t flags) {
        if (attempt->state == ATTEMPT_ENDED) {
                LauncherEvent event = attempt->ended;
                event.flags |= flags;
                agent_link_send(attempt->manager->link, &event, attempt->result_fd);
                return;
        }
        if (attempt->state == ATTEMPT_FROZEN)
                flags |= LAUNCHER_FLAG_FROZEN;
        attempt_tell_as(attempt, LAUNCHER_STARTED, flags);
}

/* One sentence or name beside the kind. */
static void detail_fill(const Attempt *attempt, const EndFacts *facts, LauncherEvent *event) {
        const LauncherStart *start = &attempt->start;
        char *detail = event->info.detail;
        const size_t size = sizeof(event->info.detail);

        switch (event->info.outcome) {
        case OUTCOME_EXIT:
                event->info.status = facts->status;
                (void) snprintf(detail, size,
                                "The process ended by itself with status %d and without a result.",
                                facts->status);
                break;
        case OUTCOME_SIGNAL:
                event->info.status = facts->status;
                (void) signal_to_name(facts->status, detail, size);
                break;
        case OUTCOME_SYSCALL:
                event->info.status = attempt->refused ? attempt->refused_number : -1;
                if (attempt->refused)
                        (void) seccomp_call_name(attempt->refused_number, attempt->refused_architecture,
                                                 detail, size);
                else
                        (void) snprintf(detail, size, "another architecture's system call");
                break;
        case OUTCOME_MEMORY:
                event->info.limit = start->memory_max;
                event->info.peak = event->info.receipt.memory_peak;
                event->info.tmp = attempt->tmp;
                event->info.shm = attempt->shm;
                break;
        case OUTCOME_EXCEPTION:
                if (attempt->processes_refused > 0)
                        event->info.limit = start->tasks_max;
                break;
        case OUTCOME_DISK:
                event->info.tmp = attempt->tmp;
                event->info.shm = attempt->shm;
                (void) snprintf(detail, size, "%s", attempt->result_detail);
                break;
        case OUTCOME_CPU_TIME:
                event->info.limit = start->cpu_time_max_usec;
                break;
        case OUTCOME_TIMEOUT:
                event->info.limit = start->timeout_usec;
                break;
        case OUTCOME_DEADLINE:
                event->info.limit = start->deadline_usec;
                (void) snprintf(detail, size, "%.*s", (int) sizeof(attempt->by), attempt->by);
                break;
        case OUTCOME_CANCELLED:
        case OUTCOME_SUPERSEDED:
                (void) snprintf(detail, size, "%.*s", (int) sizeof(attempt->by), attempt->by);
                break;
        case OUTCOME_INFRASTRUCTURE:
                (void) snprintf(detail, size, "The sandbox broke while the task was running.");
                break;
        default:
                (void) snprintf(detail, size, "%s", attempt->result_detail);
                break;
        }
}

static void receipt_fill(const Attempt *attempt, const Pair *pair, LauncherReceipt *receipt) {
        *receipt = (LauncherReceipt){
                .known = pair->figures.known,
                .cpu_usec = usec_sub(pair->figures.cpu_usec, pair->figures_before.cpu_usec),
                .memory_peak = pair->figures.memory_peak,
                .pressure_usec = usec_sub(pair->figures.pressure_usec, pair->figures_before.pressure_usec),
                .start_usec = usec_sub(attempt->started_usec, attempt->requested_usec),
                .run_usec = usec_sub(attempt->ended_usec, attempt->started_usec),
                .started_at = attempt->started_at,
                .ended_at = attempt->ended_at,
        };
        if (pair->bytes.known) {
                receipt->known |=
                        RECEIPT_READ_CHARS | RECEIPT_WRITE_CHARS | RECEIPT_READ_BYTES | RECEIPT_WRITE_BYTES;
                receipt->read_chars = usec_sub(pair->bytes.read_chars, pair->bytes_before.read_chars);
                receipt->write_chars = usec_sub(pair->bytes.write_chars, pair->bytes_before.write_chars);
                receipt->read_bytes = usec_sub(pair->bytes.read_bytes, pair->bytes_before.read_bytes);
                receipt->write_bytes = usec_sub(pair->bytes.write_bytes, pair->bytes_before.write_bytes);
        }
}

/* A result that is not delivered is not kept either. */
static void result_settle(Attempt *attempt) {
        uint32_t outcome = attempt->ended.info.outcome;

        if (outcome != OUTCOME_VALUE && outcome != OUTCOME_EXCEPTION && outcome != OUTCOME_DISK &&
            outcome != OUTCOME_RESULT_PICKLING) {
                attempt->result_fd = close_fd(attempt->result_fd);
                attempt->result_size = 0;
        }
        if (attempt->result_size == 0)
                attempt->result_fd = close_fd(attempt->result_fd);
        attempt->ended.info.result_size = attempt->result_size;
        if ((outcome == OUTCOME_EXCEPTION || outcome == OUTCOME_DISK) && attempt->retry)
                attempt->ended.flags |= LAUNCHER_FLAG_RETRY;
}

void attempt_task_exited(Attempt *attempt, const siginfo_t *information) {
        const Pair *pair = attempt->pair;

        attempt->exit = *information;
        /* Before the init goes, and its files with it. */
        if (pair->figures.oom_kills > pair->figures_before.oom_kills && pair->init_pidfd >= 0)
                disk_read_all(pair->init_pid, &attempt->tmp, &attempt->shm);
        if (attempt->result == OUTCOME_NONE) {
                attempt->ended_usec = now_usec(CLOCK_BOOTTIME);
                attempt->ended_at = now_usec(CLOCK_REALTIME);
        }
        attempt_set_state(attempt, ATTEMPT_ENDING);
}

/* All of its processes are reaped, or can do nothing more: what it used is final. */
void attempt_pair_ended(Attempt *attempt, const Pair *pair) {
        const EndFacts facts = {
                .ordered = (OutcomeKind) attempt->ordered,
                .refused = attempt->refused,
                .result = (OutcomeKind) attempt->result,
                .oom_kills = usec_sub(pair->figures.oom_kills, pair->figures_before.oom_kills),
                .sandbox_broke = pair->sandbox_broke,
                .code = attempt->exit.si_code,
                .status = attempt->exit.si_status,
        };

        event_fill(attempt, &attempt->ended, LAUNCHER_ENDED, 0);
        attempt->ended.info.outcome = end_decide(&facts);
        receipt_fill(attempt, pair, &attempt->ended.info.receipt);
        detail_fill(attempt, &facts, &attempt->ended);
        result_settle(attempt);
        attempt->pair = NULL;
        attempt_set_state(attempt, ATTEMPT_ENDED);
}

void attempt_end_unstarted(Attempt *attempt, uint32_t outcome, const char *detail) {
        uint64_t now = now_usec(CLOCK_REALTIME);

        event_fill(attempt, &attempt->ended, LAUNCHER_ENDED, 0);
        attempt->ended.info.outcome = outcome;
        (void) snprintf(attempt->ended.info.detail, sizeof(attempt->ended.info.detail), "%s", detail);
        attempt->ended.info.receipt = (LauncherReceipt){
                .start_usec = usec_sub(now_usec(CLOCK_BOOTTIME), attempt->requested_usec),
                .started_at = now,
                .ended_at = now,
        };
        attempt_set_state(attempt, ATTEMPT_ENDED);
}
