/* SPDX-License-Identifier: Apache-2.0 */
#include "session.h"

#include <errno.h>

#include "client-link.h"
#include "detached.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "peer.h"
#include "recovery.h"
#include "task.h"
#include "time-util.h"
#include "wheel-store.h"

char *session_index(const char *user, Id key) {
        return strformat("%s/%s", user, ID_HEX(key));
}

Session *session_find(Manager *manager, const char *user, Id key) {
        _cleanup_(freep) char *index = session_index(user, key);

        return index ? hashmap_get(manager->sessions, index) : NULL;
}

int session_compare(const void *left, const void *right) {
        const Session *l = left, *r = right;

        if (l->mcpus_running != r->mcpus_running)
                return l->mcpus_running < r->mcpus_running ? -1 : 1;
        return l->served < r->served ? -1 : l->served > r->served;
}

int session_new(Manager *manager, const char *user, Id key, Session **ret) {
        _cleanup_(session_freep) Session *session = new0(Session);
        int r;

        if (!session)
                return -ENOMEM;
        session->manager = manager;
        session->key = key;
        session->runnable_index = PRIOQ_NONE;
        list_init(&session->tasks);
        list_init(&session->status_due);
        list_init(&session->results_due);
        list_init(&session->watches);
        session->results = BATCH_INIT(FRAME_RESULT, "results");
        r = owner_get(manager, user, &session->owner);
        if (r < 0)
                return r;
        session->owner->n_sessions++;
        session->user = session->owner->name;
        session->index = session_index(user, key);
        if (!session->index)
                return -ENOMEM;
        r = hashmap_new(HASHMAP_ID, &session->jobs);
        if (r < 0)
                return r;
        r = prioq_new(job_compare, offsetof(Job, runnable_index), &session->runnable);
        if (r < 0)
                return r;
        r = hashmap_put(manager->sessions, session->index, session);
        if (r < 0) {
                session->index = mfree(session->index);
                return r;
        }
        *ret = TAKE_PTR(session);
        return 0;
}

Session *session_free(Session *session) {
        Job *job;

        if (!session)
                return NULL;
        LIST_FOREACH(Task, task, in_session, &session->tasks)
                task_free(task);
        detached_session_gone(session);
        if (session->owner)
                owner_session_gone(session->owner, session);
        HASHMAP_FOREACH(job, session->jobs)
                job_free(job);
        hashmap_free(session->jobs);
        prioq_free(session->runnable);
        batch_done(&session->results);
        sd_event_source_disable_unref(session->timer);
        if (session->index)
                (void) hashmap_remove(session->manager->sessions, session->index);
        free(session->index);
        free(session->host);
        if (session->owner)
                session->owner->n_sessions--;
        owner_unref(session->owner);
        return mfree(session);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        Session *session = userdata;

        if (session->n_tasks > 0)
                log_info("Client %s did not come back within %s: its %u calls are cancelled", session->user,
                         FORMAT_DURATION(session->manager->config->client_timeout), session->n_tasks);
        session_end(session, "the loss of its client");
        return 0;
}

void session_connected(Session *session, Peer *peer) {
        session->peer = peer;
        session->synced = false;
        manager_timer(session->manager, &session->timer, USEC_INFINITY, on_timeout, session);
        LIST_FOREACH(Task, task, in_session, &session->tasks)
                if (task->state == TASK_ENDED)
                        session_result(session, task, NULL);
                else
                        session_status_due(session, task);
        streams_session_connected(&session->manager->streams, session);
}

void session_disconnected(Session *session) {
        Manager *m = session->manager;

        session->peer = NULL;
        session->synced = false;
        batch_done(&session->results);
        LIST_FOREACH(Task, task, in_status, &session->status_due)
                list_remove(&task->in_status);
        LIST_FOREACH(Task, task, in_result, &session->results_due)
                list_remove(&task->in_result);
        LIST_FOREACH(Task, task, in_session, &session->tasks) {
                if (!task->payload_sent)
                        continue;
                task->payload_sent = false;
                if (task->state == TASK_ENDED && !task->current && task->result_size > 0 &&
                    !detached_has_result(task))
                        /* Its node went, and nobody knows whether the client has the result. */
                        task_retry(task, true, "its node was lost");
        }
        if (!session->permanent)
                manager_timer(m, &session->timer, manager_now(m) + m->config->client_timeout, on_timeout,
                              session);
}

void session_end(Session *session, const char *by) {
        Manager *m = session->manager;

        session->ended = true;
        session->peer = NULL;
        detached_session_gone(session);
        LIST_FOREACH(Task, task, in_session, &session->tasks)
                if (!task->detached || !detached_keep(task))
                        task_discard(task, by);
        recovery_session_gone(m, session);
        wheel_store_session_gone(m->environments->wheels, session);
        streams_session_gone(&m->streams, session);
        session_free(session);
        manager_notify(m);
}

void session_job_changed(Session *session, Job *job) {
        Manager *m = session->manager;

        if (job->n_queued == 0) {
                prioq_remove(session->runnable, job);
                job->blocked_since = 0;
                job->bypassed = false;
                if (job->reserved) {
                        job->reserved->reserved = NULL;
                        job->reserved = NULL;
                        manager_schedule(m);
                }
        } else if (job->runnable_index == PRIOQ_NONE)
                (void) prioq_put(session->runnable, job);
        else
                prioq_reshuffle(session->runnable, job);

        owner_session_changed(session->owner, session);
}

void session_log_refusal(const Session *session, const char *reason, const char *what) {
        access_log_refusal(session->user, session->peer ? connection_peer(session->peer->connection) : NULL,
                           reason, what);
}

void session_status_due(Session *session, Task *task) {
        if (!session->peer || list_is_linked(&task->in_status))
                return;
        list_append(&session->status_due, &task->in_status);
        manager_status_soon(session->manager);
}

void session_result(Session *session, Task *task, const struct iovec *payload) {
        if (!session->peer || list_is_linked(&task->in_result))
                return;
        list_append(&session->results_due, &task->in_result);
        /* A payload passes through now or is fetched by the client later; it is never kept here. Those that
         * wait already go first, so that order is kept. */
        if (payload && payload->iov_len > 0 && payload->iov_len <= TASK_INLINE_MAX &&
            !connection_is_congested(session->peer->connection)) {
                list_remove(&task->in_result);
                session_flush_results(session);
                if (client_link_result(session, task, payload) >= 0)
                        task->payload_sent = true;
        }
        session->flush_due = true;
        manager_flush(session->manager);
}

void session_flush_results(Session *session) {
        if (!session->peer)
                return;
        LIST_FOREACH(Task, task, in_result, &session->results_due) {
                if (connection_is_congested(session->peer->connection))
                        break;
                list_remove(&task->in_result);
                (void) client_link_result(session, task, NULL);
        }
}

void session_flush_status(Session *session) {
        Batch batch = BATCH_INIT(FRAME_STATUS, "tasks");

        if (!session->peer)
                return;
        LIST_FOREACH(Task, task, in_status, &session->status_due) {
                if (connection_is_congested(session->peer->connection))
                        break;
                list_remove(&task->in_status);
                client_link_status(session, task, &batch);
        }
        (void) batch_send(&batch, session->peer->connection);
}

int session_trim_jobs(Session *session) {
        Job *job, *oldest = NULL;

        if (hashmap_size(session->jobs) < SESSION_JOBS_MAX)
                return 0;
        HASHMAP_FOREACH(job, session->jobs)
                if (job->n_tasks == 0 && (!oldest || job->used_at < oldest->used_at))
                        oldest = job;
        if (!oldest)
                return -ENOSPC;
        (void) hashmap_remove(session->jobs, &oldest->id);
        job_free(oldest);
        return 0;
}
