/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>

#include "id.h"
#include "memory-util.h"

/* Follows what tasks print, in this node's journal, and passes it on within a second. The journal is open
 * only while tasks run and a little beyond, and is read only while somebody listens. Lines count only where
 * the journal itself vouches that a task's scope has written them. */
typedef struct TaskLog TaskLog;

typedef struct TaskLogHandlers {
        /* A LOG frame (docs/protocol.md). */
        void (*send)(json_object *json, const struct iovec *payloads, size_t n_payloads, void *userdata);
        /* No more now: task_log_writable() will be called. */
        bool (*congested)(void *userdata);
        /* Which attempt has this unit: for journals that do not say. Returns 0, -ENOENT. */
        int (*find_unit)(const char *unit, Id *ret_task, uint32_t *ret_attempt, void *userdata);
} TaskLogHandlers;

enum {
        TASK_LOG_TASK_MAX = 64 << 10,  /* bytes kept of one attempt between two frames: the last ones */
        TASK_LOG_FRAME_MAX = 1 << 20,  /* bytes passed on every 200 ms */
        TASK_LOG_MEMORY_MAX = 4 << 20, /* bytes kept in all: reading waits */
};

int task_log_new(sd_event *event, const TaskLogHandlers *handlers, void *userdata, TaskLog **ret);
TaskLog *task_log_free(TaskLog *l);
DEFINE_CLEANUP(TaskLog, task_log_free);

/* Whether any task runs. All of these take NULL. */
void task_log_active(TaskLog *l, bool active);
/* Whether somebody listens. */
void task_log_connected(TaskLog *l, bool connected);
void task_log_writable(TaskLog *l);

/* One line of an attempt, without its end. For tests too. Returns 0, -ENOMEM. */
int task_log_add(TaskLog *l, Id task, uint32_t attempt, const void *line, size_t size);
