/* SPDX-License-Identifier: Apache-2.0 */
#include "detached.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"
#include "fd-util.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "outcome-json.h"
#include "parse-util.h"
#include "recovery.h"
#include "session.h"
#include "stream.h"
#include "task.h"
#include "time-util.h"

enum {
        EXPIRE_INTERVAL_S = 3600,
        SYNC_MAX = 1 << 20, /* flushed at once up to here; the rest is left to the kernel, not to block the
                               loop */
        PATH_SIZE = 4200,
        TRANSFERS_MAX = 512, /* at one time: each has a file open */
};

/* Writing down waits for the disk, and a client may detach thousands of tasks at once: so much, and then the
 * loop looks after all else. */
#define WORK_USEC (20 * USEC_PER_MSEC)

typedef enum Part {
        PART_ARGS,
        PART_CODE,
        PART_RESULT,
        _PART_MAX,
} Part;

static const char *const part_names[_PART_MAX] = { "args", "code", "result" };

/* A part on its way to disk. */
typedef struct Transfer {
        Detached *d;
        Part part;
        Stream *stream;
        int fd;
        uint64_t size;
} Transfer;

struct Detached {
        Task *task;
        ListLink link, due;
        bool ready[_PART_MAX];
        Transfer *transfers[_PART_MAX];
};

/* Files */

static void directory_path(const Manager *m, char path[static PATH_SIZE]) {
        snprintf(path, PATH_SIZE, "%s/.detached", m->config->state_directory);
}

/* Code is shared by the tasks that run it: it is held against its hash before it is used. */
static void part_path(const Task *task, Part part, bool unfinished, char path[static PATH_SIZE]) {
        const char *directory = task->manager->config->state_directory;

        if (part == PART_CODE && !unfinished)
                snprintf(path, PATH_SIZE, "%s/.detached/code-%s", directory, task->job->code);
        else
                snprintf(path, PATH_SIZE, "%s/.detached/%s.%s%s", directory, ID_HEX(task->id),
                         part_names[part], unfinished ? ".new" : "");
}

static void part_remove(const Task *task, Part part) {
        char path[PATH_SIZE];

        part_path(task, part, true, path);
        (void) unlink(path);
        part_path(task, part, false, path);
        (void) unlink(path);
}

static void work_wake(Manager *m);

static Transfer *transfer_free(Transfer *t) {
        Manager *m;

        if (!t)
                return NULL;
        m = t->d->task->manager;
        m->n_transfers--;
        work_wake(m);
        t->d->transfers[t->part] = NULL;
        close_fd(t->fd);
        return mfree(t);
}
DEFINE_CLEANUP(Transfer, transfer_free);

/* NULL with errno set. */
static Transfer *transfer_new(Detached *d, Part part) {
        Transfer *t;
        char path[PATH_SIZE];

        directory_path(d->task->manager, path);
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return NULL;
        t = new0(Transfer);
        if (!t)
                return NULL;
        *t = (Transfer){ .d = d, .part = part };
        part_path(d->task, part, true, path);
        t->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (t->fd < 0) {
                int saved = errno;

                free(t);
                errno = saved;
                return NULL;
        }
        d->transfers[part] = t;
        d->task->manager->n_transfers++;
        return t;
}

static int transfer_write(Transfer *t, const void *data, size_t size) {
        const char *p = data;

        if (t->size + size > t->d->task->manager->config->detached_memory)
                return -EFBIG;
        while (size > 0) {
                ssize_t n = write(t->fd, p, size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                p += n;
                size -= (size_t) n;
                t->size += (uint64_t) n;
        }
        return 0;
}

static int check_code(Transfer *t) {
        char hex[DIGEST_HEX_SIZE];
        Digest digest;
        int r;

        r = digest_sha256_fd(t->fd, &digest);
        if (r < 0)
                return r;
        return streq(digest_to_hex(&digest, hex), t->d->task->job->code) ? 0 : -EBADMSG;
}

/* All of it is there: it gets its name. */
static int transfer_finish(Transfer *t) {
        char from[PATH_SIZE], to[PATH_SIZE];
        int r;

        if (t->part == PART_CODE) {
                r = check_code(t);
                if (r < 0)
                        return r;
        }
        if (t->size <= SYNC_MAX && fsync(t->fd) < 0)
                return -errno;
        part_path(t->d->task, t->part, true, from);
        part_path(t->d->task, t->part, false, to);
        if (rename(from, to) < 0)
                return -errno;
        t->d->ready[t->part] = true;
        return 0;
}

static void detached_settle(Detached *d);

static int on_data(const void *data, size_t size, void *userdata) {
        return transfer_write(userdata, data, size);
}

static void on_done(int error, void *userdata) {
        _cleanup_(transfer_freep) Transfer *t = userdata;
        Detached *d = t->d;
        Part part = t->part;

        t->stream = NULL;
        if (error >= 0)
                error = transfer_finish(t);
        if (error < 0) {
                log_warning_errno(error, "Cannot keep the %s of detached task %s", part_names[part],
                                  ID_HEX(d->task->id));
                part_remove(d->task, part == PART_CODE ? PART_ARGS : part);
                return;
        }
        if (part == PART_RESULT)
                detached_settle(d);
}

static int part_fetch(Detached *d, Part part) {
        static const StreamSink sink = { on_data, on_done };
        Transfer *t;
        int r;

        if (d->transfers[part] || d->ready[part])
                return 0;
        t = transfer_new(d, part);
        if (!t)
                return -errno;
        r = stream_fetch_own(&d->task->manager->streams, d->task, part_names[part], &sink, t, &t->stream);
        if (r < 0)
                transfer_free(t);
        return r;
}

static int argument_keep(Detached *d) {
        _cleanup_(transfer_freep) Transfer *t = NULL;
        int r = 0;

        if (d->ready[PART_ARGS])
                return 0;
        if (d->task->size > 0 && !d->task->argument)
                return part_fetch(d, PART_ARGS);
        t = transfer_new(d, PART_ARGS);
        if (!t)
                return -errno;
        if (d->task->size > 0)
                r = transfer_write(t, d->task->argument, d->task->size);
        return r < 0 ? r : transfer_finish(t);
}

int detached_open(const Task *task, const char *what, uint64_t offset) {
        int part = name_table_find(part_names, _PART_MAX, what);
        char path[PATH_SIZE];
        int fd;

        if (!task->detached || part < 0 || !task->detached->ready[part])
                return -ENOENT;
        part_path(task, (Part) part, false, path);
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        if (lseek(fd, (off_t) offset, SEEK_SET) < 0) {
                int r = -errno;

                close(fd);
                return r;
        }
        return fd;
}

/* The record */

static void record_key(const Task *task, char key[static 64]) {
        snprintf(key, 64, "detached/%s", ID_HEX(task->id));
}

static int record_write(const Task *task) {
        _cleanup_(json_putp) json_object *j = NULL;
        const Manager *m = task->manager;
        const Job *job = task->job;
        const char *text;
        char key[64];
        size_t size;

        if (!m->store)
                return 0;
        if (json_new_object(&j) < 0 || json_add_string(j, "owner", task->session->user) < 0 ||
            json_add_id(j, "job", job->id) < 0 || json_add_string(j, "name", job->name) < 0 ||
            json_add_string(j, "code", job->code) < 0 ||
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
            json_add_uint64(j, "queued_at", task->queued_at) < 0)
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

/* The task's life */

static void work_later(Detached *d);

static int on_expire(sd_event_source *source, uint64_t usec, void *userdata);

static void arm_expiry(Manager *m) {
        manager_timer(m, &m->detached_timer, manager_now(m) + EXPIRE_INTERVAL_S * USEC_PER_SEC, on_expire,
                      m);
}

static int detached_new(Task *task, Detached **ret) {
        Detached *d = new0(Detached);

        if (!d)
                return -ENOMEM;
        d->task = task;
        task->detached = d;
        list_append(&task->manager->detached, &d->link);
        arm_expiry(task->manager);
        *ret = d;
        return 0;
}

Detached *detached_free(Detached *d) {
        if (!d)
                return NULL;
        for (Part part = 0; part < _PART_MAX; part++)
                if (d->transfers[part]) {
                        if (d->transfers[part]->stream)
                                stream_cancel(d->transfers[part]->stream);
                        transfer_free(d->transfers[part]);
                }
        list_remove(&d->link);
        list_remove(&d->due);
        return mfree(d);
}

/* Removes what is on disk. The task itself goes on as an ordinary one, or ends. */
static void detached_forget(Task *task) {
        Manager *m = task->manager;
        Detached *d = task->detached;
        bool shared = false;
        char key[64];

        if (m->store) {
                record_key(task, key);
                (void) state_store_remove(m->store, key, 0);
        }
        LIST_FOREACH(Detached, other, link, &m->detached) {
                if (other != d && streq(other->task->job->code, task->job->code))
                        shared = true;
        }
        part_remove(task, PART_ARGS);
        part_remove(task, PART_RESULT);
        if (!shared)
                part_remove(task, PART_CODE);
        task->detached = detached_free(d);
}

/* Keeps argument and code, and the record that it is there. */
static int work_begin(Detached *d) {
        Task *task = d->task;
        char path[PATH_SIZE];
        int r;

        part_path(task, PART_CODE, false, path);
        d->ready[PART_CODE] = access(path, F_OK) == 0;
        r = argument_keep(d);
        if (r >= 0)
                r = part_fetch(d, PART_CODE);
        return r < 0 ? r : record_write(task);
}

int detached_task_new(Task *task) {
        Detached *d;
        int r;

        if (task->size > task->manager->config->detached_memory)
                return -EFBIG;
        r = detached_new(task, &d);
        if (r >= 0)
                work_later(d);
        return r;
}

void detached_started(Task *task) {
        if (task->job->retries == 0)
                (void) record_write(task);
}

bool detached_has_result(const Task *task) {
        return task->detached && (task->result_size == 0 || task->detached->ready[PART_RESULT]);
}

/* The result is on disk (or there is none): the node may forget it. */
static void detached_settle(Detached *d) {
        Task *task = d->task;
        Attempt *attempt = task->current;
        int r;

        r = record_write(task);
        if (r < 0) {
                log_warning_errno(r, "Cannot write down how detached task %s ended", ID_HEX(task->id));
                return;
        }
        if (attempt && attempt->state == ATTEMPT_ENDED) {
                node_release(attempt->node, attempt->id, attempt->number);
                attempt_free(attempt);
        }
}

static void work_ended(Detached *d) {
        const Task *task = d->task;
        int r = 0;

        if (task->result_size == 0)
                detached_settle(d);
        else if (task->result_size <= task->manager->config->detached_memory)
                r = part_fetch(d, PART_RESULT);
        else
                r = -EFBIG;
        if (r < 0)
                log_warning_errno(r, "The result of detached task %s stays on its node", ID_HEX(task->id));
}

void detached_ended(Task *task) {
        work_later(task->detached);
}

void detached_retried(Task *task) {
        Transfer *t = task->detached->transfers[PART_RESULT];

        /* From a node that has it no more. */
        if (t && t->stream)
                stream_cancel(t->stream);
        transfer_free(t);
        task->detached->ready[PART_RESULT] = false;
}

static void work_on(Detached *d) {
        Task *task = d->task;
        int r;

        if (task->state >= TASK_ENDED) {
                work_ended(d);
                return;
        }
        r = work_begin(d);
        if (r >= 0)
                return;
        log_warning_errno(r, "Task %s cannot be detached", ID_HEX(task->id));
        detached_forget(task);
}

/* Whether there is time left in this turn of the loop, and a file to be had. */
static bool work_may_go_on(Manager *m) {
        uint64_t iteration = 0;

        (void) sd_event_get_iteration(m->event, &iteration);
        if (iteration != m->detached_iteration) {
                m->detached_iteration = iteration;
                m->detached_usec = 0;
        }
        return m->n_transfers < TRANSFERS_MAX && m->detached_usec < WORK_USEC;
}

static void work_timed(Detached *d) {
        Manager *m = d->task->manager;
        uint64_t begun = now_usec(CLOCK_MONOTONIC);

        work_on(d);
        m->detached_usec += usec_sub(now_usec(CLOCK_MONOTONIC), begun);
}

static int on_work(sd_event_source *source, void *userdata) {
        Manager *m = userdata;
        Detached *d;

        while (work_may_go_on(m) && (d = LIST_FIRST(Detached, due, &m->detached_due))) {
                list_remove(&d->due);
                work_timed(d);
        }
        work_wake(m);
        return 0;
}

/* Soon, if there is anything to do that can be done. */
static void work_wake(Manager *m) {
        int r = 0;

        if (m->stopping || list_is_empty(&m->detached_due) || m->n_transfers >= TRANSFERS_MAX)
                return;
        if (!m->detached_work) {
                r = sd_event_add_defer(m->event, &m->detached_work, on_work, m);
                if (r >= 0)
                        r = sd_event_source_set_priority(m->detached_work, SD_EVENT_PRIORITY_NORMAL + 10);
        }
        if (r >= 0)
                r = sd_event_source_set_enabled(m->detached_work, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Cannot defer work");
}

/* Now, or as soon as there is time. May free it. */
static void work_later(Detached *d) {
        Manager *m = d->task->manager;

        if (list_is_empty(&m->detached_due) && work_may_go_on(m)) {
                work_timed(d);
                return;
        }
        if (!list_is_linked(&d->due))
                list_append(&m->detached_due, &d->due);
        work_wake(m);
}

static int job_in_session(const Job *job, Session *session, Job **ret) {
        _cleanup_(job_freep) Job *copy = NULL;
        int r;

        *ret = hashmap_get(session->jobs, &job->id);
        if (*ret)
                return 0;
        r = job_new(session, job->id, &copy);
        if (r < 0)
                return r;
        memcpy(copy->code, job->code, sizeof(copy->code));
        copy->code_size = job->code_size;
        copy->mcpus = job->mcpus;
        copy->memory = job->memory;
        copy->tasks_max = job->tasks_max;
        copy->timeout_ms = job->timeout_ms;
        copy->priority = job->priority;
        copy->retries = job->retries;
        copy->server_count = job->server_count;
        copy->detach = true;
        r = job_set_texts(copy, job->name, job->isolation, job->policy, job->network);
        if (r < 0)
                return r;
        r = hashmap_put(session->jobs, &copy->id, copy);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(copy);
        return 0;
}

static int move(Task *task, Session *session) {
        Job *job;
        int r;

        if (task->session == session)
                return 0;
        r = job_in_session(task->job, session, &job);
        if (r < 0)
                return r;
        task_rehome(task, session, job);
        return 0;
}

/* The session of this user's that holds tasks without a client. */
static int permanent_session(Manager *m, const char *user, Session **ret) {
        int r;

        *ret = session_find(m, user, ID_NULL);
        if (*ret)
                return 0;
        r = session_new(m, user, ID_NULL, ret);
        if (r >= 0)
                (*ret)->permanent = true;
        return r;
}

bool detached_keep(Task *task) {
        Detached *d = task->detached;
        Session *session;

        if (task->state < TASK_ENDED && (!d->ready[PART_ARGS] || !d->ready[PART_CODE])) {
                log_warning("Detached task %s ends with its client: its argument or code had not arrived",
                            ID_HEX(task->id));
                detached_forget(task);
                return false;
        }
        if (permanent_session(task->manager, task->session->user, &session) < 0 || move(task, session) < 0) {
                log_oom();
                return false;
        }
        return true;
}

void detached_acknowledged(Task *task) {
        detached_forget(task);
}

int detached_attach(Task *task, Session *session) {
        int r;

        r = move(task, session);
        if (r < 0)
                return r;
        if (task->state == TASK_ENDED)
                session_result(session, task, NULL);
        else
                session_status_due(session, task);
        return 0;
}

static int on_expire(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        uint64_t now = now_usec(CLOCK_REALTIME);

        LIST_FOREACH(Detached, d, link, &m->detached) {
                Task *task = d->task;

                if (task->state != TASK_ENDED || task->ended_at + m->config->detached_keep > now)
                        continue;
                detached_forget(task);
                task_deliver(task);
        }
        if (!list_is_empty(&m->detached))
                arm_expiry(m);
        return 0;
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
        if (r < 0)
                return r;
        r = hashmap_put(session->jobs, &job->id, job);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(job);
        return 0;
}

static void check_parts(Detached *d) {
        for (Part part = 0; part < _PART_MAX; part++) {
                char path[PATH_SIZE];

                part_path(d->task, part, false, path);
                d->ready[part] = access(path, R_OK) == 0;
        }
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

static int load_one(Manager *m, const char *key) {
        _cleanup_(json_putp) json_object *j = NULL;
        _cleanup_(freep) char *value = NULL;
        const char *owner, *outcome;
        uint64_t attempts, deadline_at, limit;
        Session *session;
        Detached *d;
        size_t size;
        Task *task;
        Job *job;
        Id id;
        int r;

        r = state_store_get(m->store, key, (void **) &value, &size, NULL);
        if (r >= 0)
                r = json_parse_strict_object(value, size, JSON_DEPTH_MAX, &j);
        if (r < 0)
                return r;
        if (id_from_hex(key + strlen("detached/"), &id) < 0 || json_get_string(j, "owner", 64, &owner) < 0 ||
            !owner_name_is_valid(owner))
                return -EBADMSG;
        r = permanent_session(m, owner, &session);
        if (r >= 0)
                r = read_job(session, j, &job);
        if (r >= 0)
                r = task_new(session, job, id, &task);
        if (r >= 0)
                r = detached_new(task, &d);
        if (r < 0)
                return r;
        check_parts(d);
        if (json_get_uint64_optional(j, "size", UINT64_MAX / 4, 0, &task->size) < 0 ||
            json_get_uint64_optional(j, "attempts", UINT32_MAX, 0, &attempts) < 0 ||
            json_get_uint64_optional(j, "queued_at", UINT64_MAX / 2, 0, &task->queued_at) < 0 ||
            json_get_string_optional(j, "outcome", TASK_OUTCOME_MAX, NULL, &outcome) < 0)
                return -EBADMSG;
        task->attempt = (uint32_t) attempts;
        if (outcome)
                return load_ended(task, j, outcome);
        if (!d->ready[PART_ARGS] || !d->ready[PART_CODE]) {
                /* Its client may still be there, and send it again as its own. */
                detached_forget(task);
                task_free(task);
                return 0;
        }
        if (json_get_uint64(j, "deadline_at", UINT64_MAX / 2, &deadline_at) >= 0 &&
            json_get_uint64(j, "deadline_limit_ms", UINT64_MAX / 2000, &limit) >= 0) {
                task_set_deadline(task, usec_sub(deadline_at, now_usec(CLOCK_REALTIME)) / USEC_PER_MSEC);
                task->deadline_limit_ms = limit;
        }
        recovery_resubmitted(task, (uint32_t) attempts);
        return 0;
}

int detached_load(Manager *m) {
        _cleanup_(strv_freep) char **keys = NULL;
        int r;

        r = state_store_list(m->store, "detached", &keys);
        if (r < 0)
                return log_error_errno(r, "Cannot list the detached tasks");
        for (char **key = keys; key && *key; key++) {
                r = load_one(m, *key);
                if (r < 0)
                        log_warning_errno(r, "Cannot go on with detached task %s", *key);
        }
        return 0;
}
