/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "attempt.h"
#include "pair.h"
#include "time-util.h"
#include "upgrade.h"
#include "zygote.h"

/* An attempt handed over: what runs goes on, what waits keeps its turn, what has ended stays until RELEASE.
 */

static int save_fd(int fd) {
        return fd >= 0 ? fd : UPGRADE_NONE;
}

void attempt_save(const Attempt *attempt, AttemptRecord *record) {
        *record = (AttemptRecord){
                .number = attempt->number,
                .state = attempt->state,
                .flags = (attempt->warm ? ATTEMPT_IS_WARM : 0) |
                         (attempt->described ? ATTEMPT_IS_DESCRIBED : 0) |
                         (attempt->announced ? ATTEMPT_IS_ANNOUNCED : 0) |
                         (attempt->refused ? ATTEMPT_IS_REFUSED : 0) |
                         (attempt->retry ? ATTEMPT_IS_RETRY : 0) |
                         (attempt->is_waiting ? ATTEMPT_IN_QUEUE : 0),
                .tries = attempt->tries,
                .pair_slot = attempt->pair ? (int32_t) attempt->pair->slot : UPGRADE_NONE,
                .zygote_slot = attempt->is_waiting && attempt->zygote ? (int32_t) attempt->zygote->slot
                                                                      : UPGRADE_NONE,
                .fds = { save_fd(attempt->fds[0]), save_fd(attempt->fds[1]) },
                .result_fd = save_fd(attempt->result_fd),
                .pid = attempt->pid,
                .uid = attempt->uid,
                .ordered = attempt->ordered,
                .result = attempt->result,
                .refused_number = attempt->refused_number,
                .refused_architecture = attempt->refused_architecture,
                .exit_code = attempt->exit.si_code,
                .exit_status = attempt->exit.si_status,
                .requested_usec = attempt->requested_usec,
                .started_usec = attempt->started_usec,
                .ended_usec = attempt->ended_usec,
                .started_at = attempt->started_at,
                .ended_at = attempt->ended_at,
                .timeout_at_usec = attempt->timeout_at_usec,
                .frozen_at_usec = attempt->frozen_at_usec,
                .grace_until_usec = upgrade_timer_save(attempt->grace_timer),
                .result_until_usec = upgrade_timer_save(attempt->result_timer),
                .result_size = attempt->result_size,
                .progress_usec = attempt->progress_usec,
                .start = attempt->start,
                .tmp = attempt->tmp,
                .shm = attempt->shm,
        };
        memcpy(record->task, attempt->task, sizeof(record->task));
        (void) snprintf(record->unit, sizeof(record->unit), "%s", attempt->unit);
        (void) snprintf(record->by, sizeof(record->by), "%s", attempt->by);
        (void) snprintf(record->result_detail, sizeof(record->result_detail), "%s", attempt->result_detail);
        if (attempt->state == ATTEMPT_ENDED)
                record->ended = attempt->ended;
}

int attempt_restore(Manager *manager, const AttemptRecord *record) {
        Zygote *zygote =
                record->zygote_slot == UPGRADE_NONE ? NULL : manager->zygote_slots[record->zygote_slot];
        Pair *pair = record->pair_slot == UPGRADE_NONE ? NULL : manager->pairs[record->pair_slot];
        const uint32_t flags = record->flags;
        Attempt *attempt = new0(Attempt);

        if (!attempt)
                return -ENOMEM;
        *attempt = (Attempt){
                .manager = manager,
                .number = record->number,
                .start = record->start,
                .state = (AttemptState) record->state,
                .zygote = zygote,
                .pair = pair,
                .fds = { record->fds[0], record->fds[1] },
                .tries = record->tries,
                .warm = flags & ATTEMPT_IS_WARM,
                .described = flags & ATTEMPT_IS_DESCRIBED,
                .announced = flags & ATTEMPT_IS_ANNOUNCED,
                .pid = record->pid,
                .uid = record->uid,
                .requested_usec = record->requested_usec,
                .started_usec = record->started_usec,
                .ended_usec = record->ended_usec,
                .started_at = record->started_at,
                .ended_at = record->ended_at,
                .timeout_at_usec = record->timeout_at_usec,
                .frozen_at_usec = record->frozen_at_usec,
                .ordered = record->ordered,
                .refused = flags & ATTEMPT_IS_REFUSED,
                .refused_number = record->refused_number,
                .refused_architecture = record->refused_architecture,
                .result = record->result,
                .result_fd = record->result_fd,
                .result_size = record->result_size,
                .progress_usec = record->progress_usec,
                .retry = flags & ATTEMPT_IS_RETRY,
                .ended = record->ended,
                .tmp = record->tmp,
                .shm = record->shm,
        };
        memcpy(attempt->task, record->task, sizeof(attempt->task));
        COPY_TEXT(attempt->unit, record->unit);
        COPY_TEXT(attempt->by, record->by);
        COPY_TEXT(attempt->result_detail, record->result_detail);
        attempt->exit.si_code = record->exit_code;
        attempt->exit.si_status = record->exit_status;
        if (pair)
                pair->attempt = attempt;
        if (flags & ATTEMPT_IN_QUEUE) {
                list_append(&manager->waiting, &attempt->waiting);
                attempt->is_waiting = true;
        }
        return attempt_resume(attempt, record->grace_until_usec, record->result_until_usec);
}
