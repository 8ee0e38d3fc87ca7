/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "detached-internal.h"
#include "environment-job.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "outcome-json.h"
#include "parse-util.h"
#include "recovery.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

enum { KEY_SIZE = 128 };

static void record_key(const Task *task, char key[static KEY_SIZE]) {
        snprintf(key, KEY_SIZE, "detached/%s/%s", task->session->user, ID_HEX(task->id));
}

int detached_record_write(const Task *task) {
        _cleanup_(json_putp) json_object *j = NULL;
        const Manager *m = task->manager;
        const Job *job = task->job;
        const char *text;
        char key[KEY_SIZE];
        size_t size;

        if (!m->store)
                return 0;
        if (json_new_object(&j) < 0 || json_add_id(j, "job", job->id) < 0 ||
            json_add_string(j, "name", job->name) < 0 || json_add_string(j, "code", job->code) < 0 ||
            json_add_uint64(j, "code_size", job->code_size) < 0 ||
            json_add_uint64(j, "mcpus", job->mcpus) < 0 || json_add_uint64(j, "memory", job->memory) < 0 ||
            json_add_uint64(j, "tasks_max", job->tasks_max) < 0 ||
            json_add_uint64(j, "timeout_ms", job->timeout_ms) < 0 ||
            json_add_int64(j, "priority", job->priority) < 0 ||
            json_add_uint64(j, "retries", job->retries) < 0 ||
            json_add_uint64(j, "server_count", job->server_count) < 0 ||
            json_add_string(j, "isolation", job->isolation) < 0 ||
            json_add_string(j, "policy", job->policy) < 0 ||
            json_add_string(j, "network", job->network) < 0 || json_add_uint64(j, "size", task->size) < 0 ||
            json_add_uint64(j, "attempts", task->attempt) < 0 ||
            json_add_uint64(j, "queued_at", task->queued_at) < 0 || environment_job_write(job, j) < 0)
                return -ENOMEM;
        if (task->deadline != USEC_INFINITY) {
                (void) json_add_uint64(j, "deadline_limit_ms", task->deadline_limit_ms);
                (void) json_add_uint64(j, "deadline_at",
                                       now_usec(CLOCK_REALTIME) + usec_sub(task->deadline, manager_now(m)));
        }
        if (task->state >= TASK_ENDED) {
                (void) json_add_string(j, "outcome", task->outcome);
                (void) json_add_string(j, "receipt", task->receipt);
                (void) json_add_uint64(j, "result_size", task->result_size);
                (void) json_add_uint64(j, "ended_at", task->ended_at);
                (void) json_add_string(j, "node", task->node_name);
                (void) json_add_string(j, "unit", task->unit);
        }
        text = json_text(j, &size);
        if (!text)
                return -ENOMEM;
        record_key(task, key);
        return state_store_set(m->store, key, text, size);
}

void detached_record_remove(const Task *task) {
        char key[KEY_SIZE];

        if (!task->manager->store)
                return;
        record_key(task, key);
        (void) state_store_remove(task->manager->store, key, 0);
}

/* After a start */

static int read_job(Session *session, json_object *j, Job **ret) {
        _cleanup_(job_freep) Job *job = NULL;
        const char *name, *code, *isolation, *policy, *network;
        uint64_t mcpus, tasks_max, retries, servers;
        int64_t priority;
        Id id;
        int r;

        if (json_get_id(j, "job", &id) < 0)
                return -EBADMSG;
        *ret = hashmap_get(session->jobs, &id);
        if (*ret)
                return 0;
        r = job_new(session, id, &job);
        if (r < 0)
                return r;
        if (json_get_string(j, "name", JOB_NAME_MAX, &name) < 0 ||
            json_get_string(j, "code", DIGEST_HEX_SIZE - 1, &code) < 0 ||
            json_get_uint64(j, "code_size", UINT64_MAX / 4, &job->code_size) < 0 ||
            json_get_uint64(j, "mcpus", UINT32_MAX, &mcpus) < 0 ||
            json_get_uint64(j, "memory", UINT64_MAX / 4, &job->memory) < 0 ||
            json_get_uint64(j, "tasks_max", UINT32_MAX, &tasks_max) < 0 ||
            json_get_uint64(j, "timeout_ms", UINT64_MAX / 2000, &job->timeout_ms) < 0 ||
            json_get_int64(j, "priority", -JOB_PRIORITY_MAX, JOB_PRIORITY_MAX, &priority) < 0 ||
            json_get_uint64(j, "retries", UINT32_MAX, &retries) < 0 ||
            json_get_uint64(j, "server_count", JOB_SERVERS_MAX, &servers) < 0 ||
            json_get_string(j, "isolation", 32, &isolation) < 0 ||
            json_get_string(j, "policy", 32, &policy) < 0 || json_get_string(j, "network", 32, &network) < 0)
                return -EBADMSG;
        snprintf(job->code, sizeof(job->code), "%s", code);
        job->mcpus = (uint32_t) mcpus;
        job->tasks_max = (uint32_t) tasks_max;
        job->priority = (int) priority;
        job->retries = (unsigned) retries;
        job->server_count = (unsigned) servers;
        job->detach = true;
        r = job_set_texts(job, name, isolation, policy, network);
        if (r >= 0)
                r = environment_job_restore(job, j);
        if (r < 0)
                return r;
        r = hashmap_put(session->jobs, &job->id, job);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(job);
        return 0;
}

static int load_ended(Task *task, json_object *j, const char *outcome) {
        const char *receipt, *node, *unit;
        bool retry;

        if (outcome_parse(outcome, &task->outcome_kind, &retry) < 0 ||
            json_get_string_optional(j, "receipt", TASK_OUTCOME_MAX, NULL, &receipt) < 0 ||
            json_get_string_optional(j, "node", 64, NULL, &node) < 0 ||
            json_get_string_optional(j, "unit", 255, NULL, &unit) < 0 ||
            json_get_uint64_optional(j, "ended_at", UINT64_MAX / 2, 0, &task->ended_at) < 0 ||
            json_get_uint64_optional(j, "result_size", UINT64_MAX / 4, 0, &task->result_size) < 0)
                return -EBADMSG;
        if (task->result_size > 0 && !task->detached->ready[PART_RESULT])
                return -ENODATA;
        if (free_and_strdup(&task->outcome, outcome) < 0 || free_and_strdup(&task->receipt, receipt) < 0 ||
            free_and_strdup(&task->node_name, node) < 0 || free_and_strdup(&task->unit, unit) < 0)
                return -ENOMEM;
        task_set_state(task, TASK_ENDED);
        return 0;
}

/* "detached/OWNER/ID" */
static int parse_key(const char *key, char owner[static 65], Id *ret_id) {
        const char *name = key + strlen("detached/"), *hex = strrchr(name, '/');

        if (!hex || (size_t) (hex - name) > 64 || id_from_hex(hex + 1, ret_id) < 0)
                return -EBADMSG;
        memcpy(owner, name, (size_t) (hex - name));
        owner[hex - name] = '\0';
        return owner_name_is_valid(owner) ? 0 : -EBADMSG;
}

static int load_task(Task *task, json_object *j) {
        Detached *d = task->detached;
        uint64_t attempts, deadline_at, limit;
        const char *outcome;
        int r;

        if (json_get_uint64_optional(j, "size", UINT64_MAX / 4, 0, &task->size) < 0 ||
            json_get_uint64_optional(j, "attempts", UINT32_MAX, 0, &attempts) < 0 ||
            json_get_uint64_optional(j, "queued_at", UINT64_MAX / 2, 0, &task->queued_at) < 0 ||
            json_get_string_optional(j, "outcome", TASK_OUTCOME_MAX, NULL, &outcome) < 0)
                return -EBADMSG;
        task->attempt = (uint32_t) attempts;
        if (outcome) {
                r = load_ended(task, j, outcome);
                if (r < 0)
                        return r;
                detached_part_remove(d, PART_ARGS);
                detached_code_leave(d);
                return 0;
        }
        if (!d->ready[PART_ARGS] || !detached_code_ready(d))
                return -ENODATA;
        if (json_get_uint64(j, "deadline_at", UINT64_MAX / 2, &deadline_at) >= 0 &&
            json_get_uint64(j, "deadline_limit_ms", UINT64_MAX / 2000, &limit) >= 0) {
                task_set_deadline(task, usec_sub(deadline_at, now_usec(CLOCK_REALTIME)) / USEC_PER_MSEC);
                task->deadline_limit_ms = limit;
        }
        recovery_resubmitted(task, (uint32_t) attempts);
        return 0;
}

static int load_one(Manager *m, const char *key) {
        _cleanup_(json_putp) json_object *j = NULL;
        _cleanup_(freep) char *value = NULL;
        Session *session;
        char owner[65];
        Detached *d;
        size_t size;
        Task *task;
        Job *job;
        Id id;
        int r;

        r = parse_key(key, owner, &id);
        if (r >= 0)
                r = state_store_get(m->store, key, (void **) &value, &size, NULL);
        if (r >= 0)
                r = json_parse_strict_object(value, size, JSON_DEPTH_MAX, &j);
        if (r >= 0)
                r = detached_permanent_session(m, owner, &session);
        if (r >= 0)
                r = read_job(session, j, &job);
        if (r >= 0)
                r = task_new(session, job, id, &task);
        if (r < 0)
                return r;
        r = detached_new(task, &d);
        if (r >= 0) {
                d->recorded = true;
                detached_parts_find(d);
                r = load_task(task, j);
        }
        if (r < 0)
                task_free(task);
        return r;
}

int detached_load(Manager *m) {
        _cleanup_(strv_freep) char **keys = NULL;
        bool complete = true;
        int r;

        r = state_store_list(m->store, "detached", &keys);
        if (r < 0)
                return log_error_errno(r, "Cannot list the detached tasks");
        for (char **key = keys; key && *key; key++) {
                r = load_one(m, *key);
                if (r < 0) {
                        log_warning_errno(r, "Cannot go on with detached task %s", *key);
                        complete = false;
                }
        }
        /* What could not be read may be of use to somebody yet. */
        if (complete)
                detached_files_sweep(m);
        return 0;
}
