/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "text-file.h"

/* The cgroup of one pair: figures, freezing, and on v1 the hierarchies in which systemd makes nothing. */

#define CGROUP_ROOT "/sys/fs/cgroup"

enum {
        CGROUP_PATH_SIZE = 320,
        CGROUP_TOKEN_SIZE = 17, /* 64 bits in hexadecimal, and the NUL */
        CGROUP_NAME_SIZE = 128,
        CGROUP_FILES_MAX = 7,
};

typedef struct CgroupFigures {
        uint32_t known; /* RECEIPT_CPU, RECEIPT_MEMORY_PEAK, RECEIPT_PRESSURE */
        uint64_t cpu_usec;
        uint64_t memory_peak;   /* bytes */
        uint64_t oom_kills;     /* 0 when it cannot be read */
        uint64_t pressure_usec; /* time stalled on CPU, memory and I/O, added up */
} CgroupFigures;

typedef struct Cgroup {
        char path[CGROUP_PATH_SIZE]; /* below the root; v1: in the memory hierarchy. Empty: not attached */
        char token[CGROUP_TOKEN_SIZE];
        char cpuacct[CGROUP_PATH_SIZE];   /* v1: where CPU time is counted */
        KeptFile files[CGROUP_FILES_MAX]; /* the layout's */
        pid_t init, task;
        bool own_cpuacct, own_freezer; /* v1: made when they are needed */
} Cgroup;

/* One of the two ways in which a node's cgroups can be laid out. */
typedef struct CgroupLayout {
        const char *name;
        bool unified;
        /* What to do once on start: folders of our own. */
        int (*prepare)(void);
        int (*attach)(Cgroup *cgroup, const char *proc_cgroup);
        int (*count_cpu)(Cgroup *cgroup);
        /* Opens what read_figures() and count_tasks() read. */
        void (*open_files)(Cgroup *cgroup);
        void (*read_figures)(Cgroup *cgroup, CgroupFigures *ret);
        int (*freeze)(Cgroup *cgroup, bool frozen);
        int (*count_tasks)(Cgroup *cgroup);
        uint64_t (*count_refused)(const Cgroup *cgroup);
        void (*remove)(Cgroup *cgroup);
        /* Kills and removes what an earlier launcher left in hierarchies that systemd does not see. Returns
         * how many are still there (their processes are dying). */
        unsigned (*sweep)(bool (*known)(const char *token, void *userdata), void *userdata);
} CgroupLayout;

extern const CgroupLayout cgroup_v1, cgroup_v2;

/* The node's layout. */
const CgroupLayout *cgroup_layout(void);

/* Makes folders that all pairs share. Returns 0, -errno. */
int cgroup_prepare(void);

/* Finds out where systemd has put the two processes, which must be in the scope of that name. Returns 0,
 * -ESTALE when they are elsewhere, -errno. */
int cgroup_attach(Cgroup *cgroup, const char *token, const char *scope, pid_t init, pid_t task);

/* Before the task starts: from now on its CPU time can be read while it runs. Returns 0, -errno. */
int cgroup_count_cpu(Cgroup *cgroup);

/* Whether cgroup_read_figures() tells the CPU time. */
bool cgroup_counts_cpu(const Cgroup *cgroup);

/* Ahead of the moment when somebody waits for cgroup_read_figures() and cgroup_count_tasks(). */
void cgroup_open_files(Cgroup *cgroup);

void cgroup_read_figures(Cgroup *cgroup, CgroupFigures *ret);

/* Freezing is asynchronous. v1: a frozen process does not even die, so thaw after the signal. Returns 0,
 * -errno. */
int cgroup_freeze(Cgroup *cgroup, bool frozen);

/* The threads of all its processes; -errno when it is not told. */
int cgroup_count_tasks(Cgroup *cgroup);

/* When nothing of it is to be read any more, or not soon. */
void cgroup_close_files(Cgroup *cgroup);

/* How often one more process or thread was refused there for the limit of their number; 0 when it is not
 * told. */
uint64_t cgroup_count_refused(const Cgroup *cgroup);

/* After the last process is reaped. */
void cgroup_remove(Cgroup *cgroup);

unsigned cgroup_sweep(bool (*known)(const char *token, void *userdata), void *userdata);

/* "clupy-task-TOKEN.scope" within a path or the text of /proc/PID/cgroup: copies the token. */
bool cgroup_find_token(const char *text, char ret[static CGROUP_TOKEN_SIZE]);
