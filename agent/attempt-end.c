/* SPDX-License-Identifier: Apache-2.0 */
#include "attempt-end.h"

#include <errno.h>
#include <stdio.h>

#include "json-util.h"
#include "parse-util.h"
#include "time-util.h"

static int attempt_end_allocate(OutcomeKind kind, const char *detail, AttemptEnd **ret) {
        /* Names in it come from a task or a stranger; the master's JSON takes UTF-8 only. */
        _cleanup_(freep) char *text = text_for_message(strempty(detail), 512);
        AttemptEnd *end;
        size_t size;

        if (!text)
                return -ENOMEM;
        size = strlen(text) + 1;
        end = calloc(1, sizeof(AttemptEnd) + size);
        if (!end)
                return -ENOMEM;
        end->kind = kind;
        memcpy(end->detail, text, size);
        *ret = end;
        return 0;
}

int attempt_end_new(const LauncherEvent *event, AttemptEnd **ret) {
        AttemptEnd *end;
        int r;

        if (event->info.outcome == OUTCOME_NONE || event->info.outcome >= _OUTCOME_MAX)
                return -EINVAL;
        r = attempt_end_allocate((OutcomeKind) event->info.outcome, event->info.detail, &end);
        if (r < 0)
                return r;
        end->status = event->info.status;
        end->limit = event->info.limit;
        end->peak = event->info.peak;
        end->tmp = event->info.tmp;
        end->shm = event->info.shm;
        end->retry = event->flags & LAUNCHER_FLAG_RETRY;
        end->receipt = event->info.receipt;
        end->ran = true;
        *ret = end;
        return 0;
}

int attempt_end_new_local(OutcomeKind kind, const char *detail, AttemptEnd **ret) {
        return attempt_end_allocate(kind, detail, ret);
}

/* The detail names the place. */
static int disk_to_json(const AttemptEnd *end, json_object *object) {
        const LauncherDisk *disk = streq(end->detail, "/dev/shm") ? &end->shm : &end->tmp;
        int r;

        r = json_add_string(object, "place", end->detail);
        if (r >= 0)
                r = json_add_uint64(object, "limit", disk->limit);
        if (r >= 0)
                r = json_add_uint64(object, "used", disk->used);
        if (r >= 0)
                r = json_add_uint64(object, "files_limit", disk->files_limit);
        if (r >= 0)
                r = json_add_uint64(object, "files_used", disk->files_used);
        return r < 0 ? r : json_add_bool(object, "retry", end->retry);
}

int attempt_end_to_json(const AttemptEnd *end, json_object **ret) {
        _cleanup_(json_putp) json_object *object = NULL;
        int r;

        r = json_new_object(&object);
        if (r >= 0)
                r = json_add_string(object, "kind", outcome_kind_to_string(end->kind));
        if (r < 0)
                return r;
        switch (end->kind) {
        case OUTCOME_EXCEPTION:
                r = json_add_bool(object, "retry", end->retry);
                if (r >= 0 && end->limit > 0)
                        r = json_add_uint64(object, "tasks_max", end->limit);
                break;
        case OUTCOME_EXIT:
                r = json_add_int64(object, "status", end->status);
                break;
        case OUTCOME_MEMORY:
                r = json_add_uint64(object, "limit", end->limit);
                if (r >= 0)
                        r = json_add_uint64(object, "peak", end->peak);
                if (r >= 0 && end->tmp.limit > 0)
                        r = json_add_uint64(object, "tmp", end->tmp.used);
                if (r >= 0 && end->shm.limit > 0)
                        r = json_add_uint64(object, "shm", end->shm.used);
                break;
        case OUTCOME_CPU_TIME:
        case OUTCOME_TIMEOUT:
        case OUTCOME_DEADLINE:
                r = json_add_uint64(object, "limit_ms", end->limit / USEC_PER_MSEC);
                break;
        case OUTCOME_DISK:
                r = disk_to_json(end, object);
                break;
        case OUTCOME_SYSCALL:
        case OUTCOME_SIGNAL:
                r = json_add_string(object, "name", end->detail);
                break;
        case OUTCOME_CANCELLED:
                r = json_add_string(object, "by", end->detail);
                break;
        case OUTCOME_ENVIRONMENT:
                r = json_add_string(object, "log", end->detail);
                break;
        case OUTCOME_RESULT_PICKLING:
                r = json_add_string(object, "name", end->detail);
                if (r >= 0)
                        r = json_add_string(object, "message", "a value of this type cannot be pickled");
                break;
        case OUTCOME_REFUSED:
        case OUTCOME_INFRASTRUCTURE:
                r = json_add_string(object, "message", end->detail);
                break;
        case OUTCOME_NONE:
        case OUTCOME_VALUE:
        case OUTCOME_NODE_LOST:
        case OUTCOME_SUPERSEDED:
        case _OUTCOME_MAX:
                break;
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(object);
        return 0;
}
