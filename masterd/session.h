/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "batch.h"
#include "environment-name.h"
#include "hashmap.h"
#include "id.h"
#include "list.h"
#include "memory-util.h"
#include "prioq.h"
#include "types.h"

/* A client, by user and session key; outlives its connections by client_timeout. */
struct Session {
        Manager *manager;
        Owner *owner; /* a reference */
        Id key;
        const char *user; /* the owner's name */
        char *index;      /* user/key */
        char *host;
        char python[PYTHON_SERIES_SIZE]; /* "": not known */
        int64_t pid;
        Peer *peer;     /* NULL: lost */
        bool synced;    /* all outstanding tasks were named on this connection */
        bool ended;     /* being torn down */
        bool permanent; /* holds detached tasks whose clients may have gone */
        size_t n_environments_read, n_packages_read; /* of jobs of the present frame */
        Hashmap *jobs;
        ListLink tasks; /* of Task.in_session */
        unsigned n_tasks, n_unfinished;
        uint64_t mcpus_running;
        Prioq *runnable; /* jobs with queued tasks */
        size_t runnable_index;
        uint64_t served; /* when it last got a place */
        ListLink status_due, results_due;
        ListLink watches; /* of DetachedWatch: calls of which another client hears first */
        Batch results;
        bool flush_due;
        sd_event_source *timer;
};

int session_new(Manager *manager, const char *user, Id key, Session **ret);
Session *session_free(Session *session);
DEFINE_CLEANUP(Session, session_free);

/* "user/key" of a session, from malloc. */
char *session_index(const char *user, Id key);
Session *session_find(Manager *manager, const char *user, Id key);

int session_compare(const void *left, const void *right);

void session_connected(Session *session, Peer *peer);
/* Its connection broke. It is kept for client_timeout. */
void session_disconnected(Session *session);
/* It is over: what is outstanding is cancelled, results are released. Frees it. by: for the history. */
void session_end(Session *session, const char *by);

/* Has a job to place, or none any more. */
void session_job_changed(Session *session, Job *job);

/* As access_log_refusal(), of its user at where it is connected from. */
void session_log_refusal(const Session *session, const char *reason, const char *what);

/* STATUS for this task soon. */
void session_status_due(Session *session, Task *task);
/* RESULT for an ended task: now with the payload if the connection has room, else later without. */
void session_result(Session *session, Task *task, const struct iovec *payload);
/* Sends what is due as far as the connection takes it. */
void session_flush_results(Session *session);
void session_flush_status(Session *session);

/* The least recently used job without tasks goes when there are too many. Returns 0, -ENOSPC. */
int session_trim_jobs(Session *session);
enum { SESSION_JOBS_MAX = 10000 };
