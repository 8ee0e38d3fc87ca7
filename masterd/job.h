/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "environment-node.h"
#include "id.h"
#include "list.h"
#include "memory-util.h"
#include "types.h"

enum {
        JOB_NAME_MAX = 256,
        JOB_PRIORITY_MAX = 1000,
        JOB_SERVERS_MAX = 100000,
        JOB_CODE_MAX = 64 << 20, /* bytes */

};

/* A node that holds, or has held, unfinished calls of a job with a server_count. */
typedef struct JobPlace {
        Node *node;
        unsigned n_unfinished;
} JobPlace;

/* What calls have in common: code and options. */
struct Job {
        Session *session; /* borrowed: jobs die with their session */
        Id id;
        char *name;
        char code[DIGEST_HEX_SIZE];
        uint64_t code_size;
        uint32_t mcpus;  /* thousandths of a CPU; 0: the node's default */
        uint64_t memory; /* bytes; 0: the node's default */
        uint32_t tasks_max;
        uint64_t timeout_ms; /* 0: none */
        int priority;
        unsigned retries;
        unsigned server_count; /* 0: no bound */
        bool detach;
        char *isolation, *policy, *network;
        char python[PYTHON_SERIES_SIZE]; /* "": any */
        Environment *environment;        /* a reference; NULL: the master's default for its Python */
        bool environment_unread;         /* it was refused before its environment was looked at */
        bool environments_full;          /* there was no room in the table for the one that it asks for */
        char **labels;                   /* "zone=a" that its nodes have */
        Resources requires;
        char *refused;              /* why the cluster does not take its tasks, NULL: it does */
        const char *refused_reason; /* a word for programs */
        uint64_t checked;           /* Manager.config_generation of when that was found out */

        unsigned n_tasks;  /* all that point here */
        unsigned n_queued; /* in `queue` */
        ListLink queue;    /* of Task.in_queue, by sequence */
        size_t runnable_index;

        JobPlace *places; /* with a server_count only */
        size_t n_places, places_capacity;

        uint64_t blocked_since;    /* BOOTTIME; first pass in which nothing of it fitted since it last got a
                                      place */
        bool told;                 /* its client, that it fits no node */
        bool waited_environment;   /* its first call had to */
        uint64_t told_environment; /* a hash of what its client knows of its environment, 0: nothing */
        bool bypassed;             /* smaller tasks have been placed meanwhile */
        Node *reserved;            /* kept free for its next task */
        uint64_t used_at;          /* BOOTTIME of its last task's submission */
};

int job_new(Session *session, Id id, Job **ret);
/* The texts, copied. Returns 0, -ENOMEM. */
int job_set_texts(Job *job, const char *name, const char *isolation, const char *policy,
                  const char *network);
Job *job_free(Job *job);
DEFINE_CLEANUP(Job, job_free);

/* For the session's queue: higher priority first, then the one that has waited longest. */
int job_compare(const void *left, const void *right);

/* What one of its tasks takes on that node. */
uint32_t job_mcpus(const Job *job, const Node *node);
uint64_t job_memory(const Job *job, const Node *node);

/* server_count: a task goes to (has left) a node. Without effect on a job without one. */
int job_place_add(Job *job, Node *node);
void job_place_remove(Job *job, Node *node);
void job_place_forget(Job *job, Node *node); /* the node is gone for good */
JobPlace *job_place_find(Job *job, const Node *node);
unsigned job_places_held(const Job *job); /* distinct nodes with unfinished calls */
