/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <sys/types.h>

#include "manager.h"

/* One warm, hostile Python per key, with the three trusted processes around it. */

typedef enum ZygoteState {
        ZYGOTE_STARTING, /* until its imports are done */
        ZYGOTE_WARM,     /* takes orders */
        ZYGOTE_DRAINING, /* makes no more pairs; those that run go on */
        ZYGOTE_DEAD,     /* told to end; what is left is being reaped */
        _ZYGOTE_STATE_MAX,
} ZygoteState;

const char *zygote_state_to_string(ZygoteState state);

typedef enum ZygoteProcess {
        ZYGOTE_PROCESS_STAGE,
        ZYGOTE_PROCESS_ANCHOR,
        ZYGOTE_PROCESS_BUILDER,
        ZYGOTE_PROCESS_ZYGOTE,
        _ZYGOTE_PROCESS_MAX,
} ZygoteProcess;

struct Zygote {
        Manager *manager;
        ListLink zygotes;
        LauncherKey key;
        ZygoteState state;
        unsigned slot;
        uint32_t uid_start, uid_count; /* on the node; the last one is the builder's */
        char token[17];
        char why[128]; /* it is dead */
        bool environment_broken;
        char words[128]; /* of what is broken in its environment */

        Scope scope;
        pid_t pids[_ZYGOTE_PROCESS_MAX];
        int pidfds[_ZYGOTE_PROCESS_MAX];
        sd_event_source *on_exit[_ZYGOTE_PROCESS_MAX];
        int stage_socket, builder_socket, zygote_socket, listener;
        int child_fds[3]; /* builder's and zygote's ends, journal: until the stage has them */
        sd_event_source *on_stage, *on_builder, *on_zygote, *on_listener, *start_timer;
        int outer, final; /* filters */

        uint64_t *uids; /* bitmap of those in use */
        unsigned n_pairs;
        ListLink ready; /* pairs that wait warm */
        unsigned n_ready, n_refilling, n_starting, pool_target;
        uint64_t used_at_usec, refill_after_usec; /* CLOCK_MONOTONIC */
};

/* The one for this key, begun if need be. Returns 0, -EAGAIN when the node has no room for another, -ENOENT
 * when there is no such policy, -EPERM when its file is not trusted, -errno. */
int zygote_get(Manager *manager, const LauncherKey *key, Zygote **ret);

/* For an upgrade. Returns 0, -errno. */
typedef struct ZygoteRecord ZygoteRecord;
void zygote_save(const Zygote *zygote, ZygoteRecord *record);
int zygote_restore(Manager *manager, const ZygoteRecord *record);

/* The one for this key that has not begun to end, or NULL. */
Zygote *zygote_find(Manager *manager, const LauncherKey *key);

/* It is warm, and only waits for work. */
bool zygote_is_idle(const Zygote *zygote);

void zygote_stage_made(Zygote *zygote, int error, int pidfd);

/* Makes or gives back waiting pairs until there are as many as wanted. */
void zygote_refill(Zygote *zygote);

/* A uid of its range, inside; -EAGAIN when all are in use. */
int zygote_uid_take(Zygote *zygote);
void zygote_uid_give_back(Zygote *zygote, uint32_t uid);

/* Frees what is dead and wholly reaped. */
void zygotes_collect(Manager *manager);

/* Whether another pair of it may be begun now. */
bool zygote_has_start_left(const Zygote *zygote);
void zygote_start_begun(Zygote *zygote);
void zygote_start_over(Zygote *zygote);

/* A pair of it is gone: the caller's last use of the zygote. */
void zygote_pair_gone(Zygote *zygote);

/* Its time is over: what waits is given back, what runs goes on. */
void zygote_end(Zygote *zygote, const char *why);

/* It does not do as it was asked, and nothing more is asked of it: its process is killed. What runs goes on.
 */
void zygote_distrust(Zygote *zygote, const char *why);

/* It did what it must not: all that is left of it ends. */
void zygote_fail(Zygote *zygote, const char *why);

/* Whether its anchor is ending, and the kernel with it all that lives in it. It stays to be seen until the
 * last task is reaped. */
bool zygote_is_collapsing(const Zygote *zygote);

bool zygote_owns_pid(const Zygote *zygote, pid_t pid);
