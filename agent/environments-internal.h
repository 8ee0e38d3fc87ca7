/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "environments.h"

/* Between environment.c, environments.c, environments-build.c and environments-tell.c. */

struct Environments {
        sd_event *event;
        sd_event_source *work;  /* deferred: something has changed */
        sd_event_source *timer; /* something can be tried again */
        uint64_t timer_usec;    /* CLOCK_MONOTONIC; UINT64_MAX: not set */
        uint64_t list_usec;     /* CLOCK_MONOTONIC: when the launcher is asked what there is */
        const ServerConfig *config;
        char *const *pythons;
        const EnvironmentsHandlers *handlers;
        void *userdata;

        Hashmap *all; /* by name */
        unsigned counts[_ENVIRONMENT_STATE_MAX];
        ListLink waiting, news;
        IndexRate index_rate;
        uint64_t turn;                   /* the highest of those that were begun */
        char last_owner[OWNER_NAME_MAX]; /* whose was begun last, everybody's aside */
        char **keep, **former_keep;      /* the master's default ones, and those before */
        bool keep_known;                 /* it has said */

        bool launcher_up;
        bool listed;  /* the launcher's list has been read since it is up */
        bool listing; /* it is on its way */
        bool master_up;
        bool told; /* the master has been told all that there is */
        EnvironmentsStatistics statistics;
};

/* Has the loop do what follows. */
void environments_changed(Environments *t);
/* Has the launcher asked what there is, at that time at the latest, CLOCK_MONOTONIC µs. */
void environments_list_at(Environments *t, uint64_t usec);
/* Has the loop look again at that time at the latest, CLOCK_MONOTONIC µs. */
void environments_look_at(Environments *t, uint64_t usec);
int environments_ask(Environments *t, LauncherRequest *request, const int *fds, size_t n_fds);

/* Another list while there is more than there may be. */
#define LIST_CROWDED_USEC (10 * USEC_PER_SEC)

/* Removes what may go until the rest is within its bounds. */
void environments_trim(Environments *t);
/* Whether what is needed leaves room for what a build may write. The master's default ones are built in any
 * case. */
bool environments_have_room(const Environments *t, const EnvironmentOrder *order);

/* READY, built just now. */
void environment_ready(Environment *e);
/* Asks the launcher to remove one that is READY: REMOVING. Returns whether it
 * could be asked. */
bool environment_remove(Environment *e);

/* Puts it at the end of what waits, its turn behind what its owner has ordered already. */
void environments_queue(Environment *e);
unsigned environments_waiting_of(const Environments *t, const char *owner);
/* Asks the launcher for the builds whose turn it is. */
void environments_start_builds(Environments *t);
void environments_build_started(Environments *t, const LauncherEvent *event, int *fds, size_t n_fds);
void environments_build_ended(Environments *t, const LauncherEvent *event, const int *fds, size_t n_fds);
/* A request about it was not taken. */
void environments_build_refused(Environment *e, int error, const char *text);
/* Its build has come to nothing, for a reason that is not its own: once more, or it fails. */
void environment_try_again(Environment *e, uint64_t pause_usec, const char *why);

/* Tells the master what it has not heard. */
void environments_tell(Environments *t);
