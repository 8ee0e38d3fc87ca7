/* SPDX-License-Identifier: Apache-2.0 */
#include "client-link.h"

#include <errno.h>

#include "detached.h"
#include "environment-job.h"
#include "environments.h"
#include "history.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "peer.h"
#include "query.h"
#include "recovery.h"
#include "session.h"
#include "task.h"
#include "time-util.h"
#include "why.h"

enum {
        ENTRIES_MAX = 20000,
        RETRIES_DEFAULT = 3,
        FOLLOWS_MAX = 64, /* per connection */
        FOLLOW_PIECE = 64 << 10,
};

/* What a task printed last reaches the master at most so long after its end. */
#define LAST_WORDS_USEC (1 * USEC_PER_SEC)

/* What one connection's queries may take before others get their turn. */
#define QUERIES_USEC_MAX (100 * USEC_PER_MSEC)

/* A `logs` query that goes on. */
struct Follow {
        Peer *peer;
        uint64_t query;
        Owner *owner; /* a reference */
        Id task;
        uint64_t offset;
        sd_event_source *end; /* the task has ended; its last words may still come */
};

Follow *follow_free(Follow *follow) {
        if (!follow)
                return NULL;
        (void) hashmap_remove_u64(follow->peer->follows, follow->query);
        sd_event_source_disable_unref(follow->end);
        owner_unref(follow->owner);
        return mfree(follow);
}

/* Jobs */

static bool digest_is_valid(const char *hex) {
        return strlen(hex) == DIGEST_HEX_SIZE - 1 && strspn(hex, "0123456789abcdef") == DIGEST_HEX_SIZE - 1;
}

static int check_policy(Manager *m, Job *job) {
        static const char *const isolations[] = { "task", "job" }, *const networks[] = { "none", "host",
                                                                                         "cluster" };

        job->refused_reason = "unknown";
        if (!strv_contains(m->config->policies, job->policy))
                job->refused = strformat("there is no policy '%s' on this cluster", job->policy);
        else if (name_table_find(isolations, ELEMENTSOF(isolations), job->isolation) < 0)
                job->refused =
                        strformat("there is no isolation '%s': it is \"task\" or \"job\"", job->isolation);
        else if (name_table_find(networks, ELEMENTSOF(networks), job->network) < 0)
                job->refused = strformat("there is no network '%s': it is \"none\", \"host\" or \"cluster\"",
                                         job->network);
        else
                return 0;
        return job->refused ? 0 : -ENOMEM;
}

static int check_environment(Manager *m, Job *job) {
        job->refused_reason = "unknown";
        if (job->environments_full) {
                job->refused_reason = "quota";
                job->refused =
                        strformat("too many different sets of packages are in use already, by %s or in "
                                  "all: wait until calls with others have ended",
                                  job->session->user);
        } else if (job->python[0] != '\0' && pythons_are_known(m) && !python_is_known(m, job->python))
                job->refused = strformat("no node of this cluster has Python %s", job->python);
        else
                return 0;
        return job->refused ? 0 : -ENOMEM;
}

static int check_rights(Job *job) {
        unsigned max_retries = job->session->manager->config->max_retries;
        const AccessLimits *limits = &job->session->owner->limits;
        const char *user = job->session->user;

        job->refused_reason = "not-allowed";
        if (!(limits->rights & ACCESS_RUN))
                job->refused = strformat("%s may not run calls on this cluster", user);
        else if (limits->policies && !strv_contains((char **) limits->policies, job->policy))
                job->refused = strformat("%s may not use the policy '%s'", user, job->policy);
        else if (job->priority > limits->priority)
                job->refused = strformat("%s may ask for a priority of at most %d, not %d", user,
                                         limits->priority, job->priority);
        else if (job->retries > max_retries)
                job->refused = strformat("a call may ask for at most %u retries (max_retries), not %u",
                                         max_retries, job->retries);
        else
                return 0;
        return job->refused ? 0 : -ENOMEM;
}

/* What would wait for ever. */
static int check_quota(Job *job) {
        const AccessLimits *limits = &job->session->owner->limits;
        const char *user = job->session->user;

        job->refused_reason = "quota";
        if (limits->mcpus > 0 && job->mcpus > limits->mcpus)
                job->refused = strformat("%s may use %g CPUs at one time, and this call alone asks for %g",
                                         user, (double) limits->mcpus / 1000.0, job->mcpus / 1000.0);
        else if (limits->memory > 0 && job->memory > limits->memory)
                job->refused =
                        strformat("%s may use %s of memory at one time, and this call alone asks for %s",
                                  user, FORMAT_BYTES(limits->memory), FORMAT_BYTES(job->memory));
        else
                return 0;
        return job->refused ? 0 : -ENOMEM;
}

/* Whether the cluster takes calls of this job, by the configuration of now. */
static int check_job(Session *session, Job *job) {
        Manager *m = session->manager;
        int r;

        job->refused = mfree(job->refused);
        job->checked = m->config_generation;
        r = check_environment(m, job);
        if (r >= 0 && !job->refused)
                r = check_policy(m, job);
        if (r >= 0 && !job->refused)
                r = check_rights(job);
        if (r >= 0 && !job->refused)
                r = check_quota(job);
        /* What it asked for was left out: without it its calls would run with other packages. */
        if (r >= 0 && !job->refused && job->environment_unread) {
                job->refused_reason = "not-allowed";
                job->refused =
                        strformat("%s may run calls only since a moment ago: call again", session->user);
                r = job->refused ? 0 : -ENOMEM;
        }
        if (r >= 0 && job->refused) {
                _cleanup_(freep) char *what =
                        strformat("job %s (%s): %s", ID_HEX(job->id), job->name, job->refused);

                session_log_refusal(session, job->refused_reason, strempty(what));
        }
        return r;
}

static int read_job(Session *session, json_object *j) {
        Manager *m = session->manager;
        _cleanup_(job_freep) Job *job = NULL;
        _cleanup_(freep) char *printable = NULL;
        const char *name, *code, *isolation, *policy, *network;
        uint64_t tasks_max, servers, retries;
        int64_t priority;
        double cpus;
        Job *known;
        Id id;
        int r;

        if (!json_object_is_type(j, json_type_object) || json_get_id(j, "id", &id) < 0)
                return -EBADMSG;
        known = hashmap_get(session->jobs, &id);
        if (known) {
                known->used_at = manager_now(m);
                return 0;
        }
        r = session_trim_jobs(session);
        if (r < 0)
                return r;
        r = job_new(session, id, &job);
        if (r < 0)
                return r;
        if (json_get_string_optional(j, "name", JOB_NAME_MAX, "call", &name) < 0 ||
            json_get_string(j, "code", DIGEST_HEX_SIZE - 1, &code) < 0 || !digest_is_valid(code) ||
            json_get_uint64(j, "code_size", JOB_CODE_MAX, &job->code_size) < 0 ||
            json_get_double_optional(j, "cpus", 0.001, 1e6, 0, &cpus) < 0 ||
            json_get_uint64_optional(j, "memory", UINT64_MAX / 4, 0, &job->memory) < 0 ||
            json_get_uint64_optional(j, "tasks_max", 1 << 22, 0, &tasks_max) < 0 ||
            json_get_uint64_optional(j, "timeout_ms", UINT64_MAX / 2000, 0, &job->timeout_ms) < 0 ||
            json_get_int64_optional(j, "priority", -JOB_PRIORITY_MAX, JOB_PRIORITY_MAX, 0, &priority) < 0 ||
            json_get_uint64_optional(j, "retries", UINT32_MAX,
                                     MIN((unsigned) RETRIES_DEFAULT, m->config->max_retries),
                                     &retries) < 0 ||
            json_get_uint64_optional(j, "server_count", JOB_SERVERS_MAX, 0, &servers) < 0 ||
            json_get_string_optional(j, "isolation", 32, "task", &isolation) < 0 ||
            json_get_string_optional(j, "policy", 32, "default", &policy) < 0 ||
            json_get_string_optional(j, "network", 32, "none", &network) < 0 ||
            json_get_bool_optional(j, "detach", false, &job->detach) < 0)
                return -EBADMSG;
        memcpy(job->code, code, DIGEST_HEX_SIZE);
        job->mcpus = (uint32_t) (cpus * 1000 + 0.5);
        job->tasks_max = (uint32_t) tasks_max;
        job->priority = (int) priority;
        job->retries = (unsigned) retries;
        job->server_count = (unsigned) servers;
        job->used_at = manager_now(m);
        printable = text_for_message(name, JOB_NAME_MAX);
        if (!printable)
                return -ENOMEM;
        r = job_set_texts(job, printable, isolation, policy, network);
        if (r >= 0)
                r = environment_job_read(session, job, j);
        if (r < 0)
                return r;
        r = check_job(session, job);
        /* Rights first: to find packages out, nodes run code, and wheels are fetched. */
        if (r >= 0)
                r = environment_job_request(session, job, j);
        if (r >= 0 && job->environments_full)
                r = check_job(session, job);
        if (r < 0)
                return r;
        r = hashmap_put(session->jobs, &job->id, job);
        if (r < 0)
                return r;
        TAKE_PTR(job);
        return 0;
}

/* Tasks */

static int keep_argument(Task *task, const struct iovec *payload) {
        Manager *m = task->manager;

        if (!payload || payload->iov_len == 0 || m->inline_memory + payload->iov_len > MANAGER_INLINE_MEMORY)
                return 0; /* fetched when it is needed */
        task->argument = memdup(payload->iov_base, payload->iov_len);
        if (!task->argument)
                return -ENOMEM;
        m->inline_memory += payload->iov_len;
        return 0;
}

/* The user has a task with this id already. */
static int submitted_again(Session *session, Task *task) {
        if (task->session == session) {
                /* It goes on; if it has ended its result is on its way. That it is kept may have been said
                 * on the connection that broke. */
                if (task->detached && task->state < TASK_ENDED)
                        session_status_due(session, task);
                return 0;
        }
        /* It was this client's before the master was started again, or its session was given up. */
        if (task->detached && task->session->permanent)
                return detached_attach(task, session);
        if (detached_is_watched(task, session))
                return 0;
        log_warning("Client %s submitted task %s, which another client of the same user has: ignored",
                    session->user, ID_HEX(task->id));
        return 0;
}

static void detached_cannot(Task *task, int error, bool resubmitted) {
        _cleanup_(freep) char *message = NULL;

        if (!resubmitted) {
                detached_refuse(task, error);
                return;
        }
        message = detached_refusal(task, error);
        log_warning("Task %s of %s: %s", ID_HEX(task->id), task->session->user, strempty(message));
}

static int read_task(Session *session, json_object *t, const Frame *frame) {
        Manager *m = session->manager;
        const struct iovec *payload = NULL;
        uint64_t size, index, deadline, attempts;
        bool resubmitted;
        Id id, job_id;
        Task *task;
        Job *job;
        int r;

        if (!json_object_is_type(t, json_type_object) || json_get_id(t, "id", &id) < 0 ||
            json_get_id(t, "job", &job_id) < 0 ||
            json_get_uint64_optional(t, "size", UINT64_MAX / 4, 0, &size) < 0 ||
            json_get_uint64_optional(t, "attempts", UINT32_MAX / 2, 0, &attempts) < 0 ||
            json_get_bool_optional(t, "resubmitted", false, &resubmitted) < 0)
                return -EBADMSG;
        r = json_get_uint64(t, "payload", FRAME_PAYLOAD_COUNT_MAX, &index);
        if (r >= 0) {
                if (index >= frame->n_payloads || frame->payloads[index].iov_len != size ||
                    size > TASK_INLINE_MAX)
                        return -EBADMSG;
                payload = frame->payloads + index;
        } else if (r != -ENOENT)
                return -EBADMSG;
        r = json_get_uint64(t, "deadline_ms", UINT64_MAX / 2000, &deadline);
        if (r < 0 && r != -ENOENT)
                return -EBADMSG;
        if (r == -ENOENT)
                deadline = UINT64_MAX;

        task = owner_task(session->owner, id);
        if (task)
                return submitted_again(session, task);
        job = hashmap_get(session->jobs, &job_id);
        if (!job)
                return -EBADMSG;
        if (session->n_unfinished >= m->task_window || session->n_tasks >= 2 * m->task_window ||
            m->n_tasks >= MANAGER_TASKS_MAX)
                return -EDQUOT;
        r = task_new(session, job, id, &task);
        if (r < 0)
                return r;
        job->used_at = manager_now(m);
        task->size = size;
        if (job->checked != m->config_generation) {
                r = check_job(session, job);
                if (r < 0)
                        return r;
        }
        if (job->refused) {
                task_refuse(task, job->refused_reason, job->refused);
                return 0;
        }
        environments_want(m, job);
        r = keep_argument(task, payload);
        if (r < 0)
                return r;
        if (deadline != UINT64_MAX)
                task_set_deadline(task, deadline);
        if (job->detach) {
                r = detached_task_new(task, !resubmitted);
                if (r < 0)
                        detached_cannot(task, r, resubmitted);
                if (!resubmitted)
                        return 0;
        }
        if (resubmitted)
                recovery_resubmitted(task, (uint32_t) attempts);
        else
                task_queue(task);
        environments_task_comes(m, job);
        return 0;
}

static int on_submit(Peer *peer, const Frame *frame) {
        Session *session = peer->session;
        json_object *jobs = NULL, *tasks = NULL;
        bool synced;
        int r;

        if (json_get_array_optional(frame->json, "jobs", ENTRIES_MAX, &jobs) < 0 ||
            json_get_array_optional(frame->json, "tasks", ENTRIES_MAX, &tasks) < 0 ||
            json_get_bool_optional(frame->json, "synced", false, &synced) < 0)
                return -EBADMSG;
        session->n_environments_read = session->n_packages_read = 0;
        for (size_t i = 0; jobs && i < json_object_array_length(jobs); i++) {
                r = read_job(session, json_object_array_get_idx(jobs, i));
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; tasks && i < json_object_array_length(tasks); i++) {
                r = read_task(session, json_object_array_get_idx(tasks, i), frame);
                if (r < 0)
                        return r;
        }
        if (synced)
                recovery_session_synced(peer->manager, session);
        return 0;
}

/* Calls back for each task of this session that the frame names; with watching also for those that another
 * client has attached to after it. */
static int for_each_task(Peer *peer, json_object *json, bool watching, void (*callback)(Task *task)) {
        json_object *ids;

        if (json_get_array(json, "tasks", ENTRIES_MAX, &ids) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(ids); i++) {
                json_object *entry = json_object_array_get_idx(ids, i);
                Task *task;
                Id id;

                if (!json_object_is_type(entry, json_type_string) ||
                    id_from_hex(json_object_get_string(entry), &id) < 0)
                        return -EBADMSG;
                task = owner_task(peer->session->owner, id);
                if (task && (task->session == peer->session ||
                             (watching && detached_is_watched(task, peer->session))))
                        callback(task);
        }
        return 0;
}

static void on_task_ack(Task *task) {
        if (task->state != TASK_ENDED)
                return;
        client_link_log(task->session->owner, task->id, task->log, true);
        if (!task->detached || !detached_acknowledged(task))
                task_deliver(task);
}

static void on_task_cancel(Task *task) {
        task_cancel(task, task->session->user);
}

/* Queries */

static void send_failure(Peer *peer, uint64_t id, const char *code, const char *message);

static void send_answer(Peer *peer, uint64_t id, json_object *result, bool more) {
        _cleanup_(json_putp) json_object *json = NULL;

        if (json_new_object(&json) < 0)
                return;
        (void) json_add_uint64(json, "id", id);
        (void) json_add_bool(json, "ok", true);
        (void) json_add(json, "result", json_object_get(result));
        if (more)
                (void) json_add_bool(json, "more", true);
        if (connection_send(peer->connection, FRAME_ANSWER, json, NULL, 0) == -EMSGSIZE)
                send_failure(peer, id, "failed", "The answer is too long for one frame: ask for less");
}

static void send_failure(Peer *peer, uint64_t id, const char *code, const char *message) {
        _cleanup_(json_putp) json_object *json = NULL;

        if (json_new_object(&json) < 0)
                return;
        (void) json_add_uint64(json, "id", id);
        (void) json_add_bool(json, "ok", false);
        (void) json_add_string(json, "error", code);
        (void) json_add_string(json, "message", message);
        (void) connection_send(peer->connection, FRAME_ANSWER, json, NULL, 0);
}

/* What was printed since; `ended` ends it. */
static void follow_send(Follow *follow, const LogTail *tail, bool ended) {
        _cleanup_(json_putp) json_object *result = NULL;
        const char *data;
        uint64_t end;
        size_t size;

        if (connection_queued(follow->peer->connection) > CONNECTION_HIGH_WATER && !ended)
                return; /* the tail holds it; sent with the next piece */
        size = log_tail_read(tail, follow->offset, &data, &end);
        if (size == 0 && !ended)
                return;
        if (json_new_object(&result) < 0 || query_add_text(result, "text", data, size) < 0)
                return;
        (void) json_add_uint64(result, "offset", end);
        (void) json_add_bool(result, "ended", ended);
        follow->offset = end;
        send_answer(follow->peer, follow->query, result, !ended);
        if (ended)
                follow_free(follow);
}

static int on_follow_end(sd_event_source *source, uint64_t usec, void *userdata) {
        Follow *follow = userdata;
        TaskView view;

        follow_send(follow, task_find_id(follow->owner, follow->task, &view) < 0 ? NULL : view.log, true);
        return 0;
}

/* Ends a while after the end of its task, ended_ago µs ago. */
static void follow_end(Follow *follow, const LogTail *tail, uint64_t ended_ago) {
        int r = -EALREADY;

        if (follow->end)
                return;
        if (ended_ago < LAST_WORDS_USEC)
                r = sd_event_add_time_relative(follow->peer->manager->event, &follow->end, CLOCK_BOOTTIME,
                                               LAST_WORDS_USEC - ended_ago, 0, on_follow_end, follow);
        follow_send(follow, tail, r < 0);
}

void client_link_log(Owner *owner, Id id, LogTail *tail, bool ended) {
        LIST_FOREACH(Peer, peer, link, &owner->manager->peers) {
                Follow *follow;

                if (hashmap_size(peer->follows) == 0)
                        continue;
                HASHMAP_FOREACH(follow, peer->follows)
                        if (follow->owner == owner && id_equal(follow->task, id)) {
                                if (ended)
                                        follow_end(follow, tail, 0);
                                else
                                        follow_send(follow, tail, false);
                        }
        }
}

static int start_follow(Peer *peer, const QueryAsker *asker, uint64_t query, json_object *args) {
        Manager *m = peer->manager;
        TaskView view;
        Follow *follow;

        /* What must be refused is refused by the query itself. */
        if (query_find_log(m, asker, args, &view) != QUERY_OK)
                return -ENOENT;
        if (hashmap_size(peer->follows) >= FOLLOWS_MAX || hashmap_get_u64(peer->follows, query))
                return -EBUSY;
        follow = new0(Follow);
        if (!follow)
                return -ENOMEM;
        *follow = (Follow){ .peer = peer, .query = query, .task = view.id };
        if (hashmap_put_u64(peer->follows, query, follow) < 0) {
                free(follow);
                return -ENOMEM;
        }
        follow->owner = owner_ref(view.task ? view.task->session->owner : view.entry->owner);
        if (view.task && view.task->state != TASK_ENDED)
                follow_send(follow, view.log, false);
        else
                follow_end(follow, view.log, usec_sub(now_usec(CLOCK_REALTIME), view.ended_at));
        return 0;
}

static int run_query(Peer *peer, json_object *json) {
        _cleanup_(json_putp) json_object *result = NULL, *none = NULL;
        _cleanup_(freep) char *message = NULL;
        json_object *args = NULL;
        const char *verb;
        QueryAsker asker = { .user = peer->user,
                             .session = peer->session,
                             .privileged = peer->admin,
                             .claimed = !peer_has_proof(peer),
                             .from = connection_peer(peer->connection) };
        bool follow = false;
        uint64_t id;
        QueryError error;

        if (json_get_uint64(json, "id", UINT64_MAX / 2, &id) < 0 ||
            json_get_string(json, "verb", 32, &verb) < 0 ||
            json_get_object_optional(json, "args", &args) < 0)
                return -EBADMSG;
        if (!args) {
                if (json_new_object(&none) < 0)
                        return -ENOMEM;
                args = none;
        }
        if (streq(verb, "stop")) {
                uint64_t followed;

                if (json_get_uint64(args, "id", UINT64_MAX / 2, &followed) >= 0)
                        follow_free(hashmap_get_u64(peer->follows, followed));
                if (json_new_object(&result) >= 0)
                        send_answer(peer, id, result, false);
                return 0;
        }
        if (streq(verb, "logs") && json_get_bool_optional(args, "follow", false, &follow) >= 0 && follow) {
                int r = start_follow(peer, &asker, id, args);

                if (r == 0)
                        return 0;
                if (r != -ENOENT) {
                        send_failure(peer, id, "busy", "Too many logs are followed on this connection");
                        return 0;
                }
        }
        error = query_run(peer->manager, &asker, verb, args, &result, &message);
        if (error == QUERY_NOT_ALLOWED)
                query_log_refusal(&asker, verb, message);
        else if (error == QUERY_NOT_FOUND)
                query_log_not_found(peer->manager, &asker, verb, args);
        if (error == QUERY_OK)
                send_answer(peer, id, result, false);
        else
                send_failure(peer, id, query_error_to_string(error), strempty(message));
        return 0;
}

/* A megabyte of queries may come at once, and some look at all tasks: they must not keep the heartbeats
 * waiting. */
static int on_query(Peer *peer, json_object *json) {
        uint64_t iteration = 0, begun = now_usec(CLOCK_MONOTONIC), id;
        int r;

        (void) sd_event_get_iteration(peer->manager->event, &iteration);
        if (iteration != peer->query_iteration) {
                peer->query_iteration = iteration;
                peer->query_usec = 0;
        }
        if (peer->query_usec > QUERIES_USEC_MAX) {
                if (json_get_uint64(json, "id", UINT64_MAX / 2, &id) < 0)
                        return -EBADMSG;
                send_failure(peer, id, "busy", "Too many queries at once: wait for the answers to some");
                return 0;
        }
        r = run_query(peer, json);
        peer->query_usec += usec_sub(now_usec(CLOCK_MONOTONIC), begun);
        return r;
}

static int on_goodbye(Peer *peer) {
        Session *session = TAKE_PTR(peer->session);

        if (session)
                session_end(session, "the end of its client");
        connection_finish(peer->connection, 0, "It said goodbye");
        return 0;
}

int client_link_frame(Peer *peer, const Frame *frame) {
        switch (frame->type) {
        case FRAME_QUERY:
                return on_query(peer, frame->json);
        case FRAME_GOODBYE:
                return on_goodbye(peer);
        case FRAME_HEARTBEAT:
                return 0;
        default:
                break;
        }
        if (!peer->session)
                return -EPROTO;
        switch (frame->type) {
        case FRAME_SUBMIT:
                return on_submit(peer, frame);
        case FRAME_CANCEL:
                return for_each_task(peer, frame->json, true, on_task_cancel);
        case FRAME_ACK:
                return for_each_task(peer, frame->json, false, on_task_ack);
        default:
                return -EPROTO;
        }
}

/* What is sent */

int client_link_result(Session *session, Task *task, const struct iovec *payload) {
        _cleanup_(json_putp) json_object *e = NULL;
        size_t room = 512 + strlen(strempty(task->outcome)) + strlen(strempty(task->receipt));
        int r;

        if (json_new_object(&e) < 0 || json_add_id(e, "id", task->id) < 0 ||
            json_add_uint64(e, "attempt", task->attempt) < 0 ||
            json_add_uint64(e, "attempts", task->attempt) < 0 ||
            json_add_string(e, "node", task->node_name) < 0 || json_add_string(e, "unit", task->unit) < 0 ||
            json_add_raw(e, "outcome", task->outcome) < 0 || json_add_raw(e, "receipt", task->receipt) < 0 ||
            json_add_uint64(e, "size", task->result_size) < 0)
                return -ENOMEM;
        if (!batch_has_room(&session->results, room, payload ? payload->iov_len : 0))
                client_link_send(session);
        r = batch_add(&session->results, TAKE_PTR(e), room, payload, false);
        session->flush_due = true;
        return r;
}

void client_link_send(Session *session) {
        (void) batch_send(&session->results, session->peer ? session->peer->connection : NULL);
}

void client_link_status(Session *session, Task *task, Batch *batch) {
        _cleanup_(json_putp) json_object *e = NULL;
        size_t room = 1024 + strlen(strempty(task->progress));

        if (json_new_object(&e) < 0 || json_add_id(e, "id", task->id) < 0 ||
            json_add_string(e, "state", task_state_to_string(task->state)) < 0)
                return;
        if (task->attempt > 0)
                (void) json_add_uint64(e, "attempt", task->attempt);
        (void) json_add_string(e, "node", task->node_name);
        (void) json_add_string(e, "unit", task->unit);
        if (task->progress)
                (void) json_add_raw(e, "progress", task->progress);
        if (task->state == TASK_QUEUED && (task->job->told || task->job->told_environment)) {
                _cleanup_(freep) char *why = why_waiting(session->manager, task);
                (void) json_add_string(e, "why", why);
        }
        if (!batch_has_room(batch, room, 0))
                (void) batch_send(batch, session->peer->connection);
        (void) batch_add(batch, TAKE_PTR(e), room, NULL, false);
}
