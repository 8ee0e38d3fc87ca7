/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "environment.h"
#include "frame.h"
#include "hashmap.h"
#include "index-link.h"
#include "launcher/launcher-protocol.h"
#include "memory-util.h"
#include "server-config.h"

/* The environments of this node: what the master orders, what the launcher builds, what is there, and what
 * has to go to make room. */

typedef struct EnvironmentsHandlers {
        /* A request to the launcher. Returns as launcher_link_send(). */
        int (*ask)(LauncherRequest *request, const int *fds, size_t n_fds, void *userdata);
        /* An ENVIRONMENT_STATE to the master. Returns as master_link_send(). */
        int (*tell)(json_object *json, const struct iovec *payloads, size_t n_payloads, void *userdata);
        /* Another connection to the master, for a build. Returns as connection_new_outgoing_tls(). */
        IndexDial dial;
        /* Whether a task that is about to start needs it. */
        bool (*is_wanted)(const char *name, void *userdata);
        /* It has been removed, and what waited warm for it with it. */
        void (*cool)(const char *name, void *userdata);
        /* One of the master's default environments is there; tasks had `former` in its place until now. */
        void (*follow)(const char *former, const char *name, void *userdata);
} EnvironmentsHandlers;

typedef struct EnvironmentsStatistics {
        uint64_t builds, failures; /* environments built; what could not be built or resolved */
        uint64_t hits;             /* tasks that found the environment they need built */
        uint64_t build_usec;       /* that builds took */
        uint64_t build_bytes;      /* that they made */
} EnvironmentsStatistics;

/* pythons: of the node, the main one first. config and pythons must outlive it. Returns 0, -ENOMEM, -errno.
 */
int environments_new(sd_event *event, const ServerConfig *config, char *const *pythons,
                     const EnvironmentsHandlers *handlers, void *userdata, Environments **ret);
Environments *environments_free(Environments *t);
DEFINE_CLEANUP(Environments, environments_free);

/* The launcher is there (again): asks it which environments there are. */
void environments_launcher_up(Environments *t);
void environments_launcher_down(Environments *t);
/* One of its events about environments: BUILD_STARTED, BUILD_ENDED, ENVIRONMENT, ENVIRONMENTS_END,
 * ENVIRONMENT_REMOVED, or REFUSED with the name of one. fds it keeps are replaced by -EBADF. */
void environments_launcher_event(Environments *t, const LauncherEvent *event, int *fds, size_t n_fds);

/* The master has had the REPORT: it is told all that there is, as soon as that is known. */
void environments_master_up(Environments *t);
void environments_master_down(Environments *t);
/* Its ENVIRONMENT. Returns 0, -EBADMSG, -ENOMEM. */
int environments_master_frame(Environments *t, const Frame *frame);

enum { ENVIRONMENTS_WHY_SIZE = 192 };

/* A task needs that environment. Returns 0, or -ENOENT with a sentence when it is not there. */
int environments_use(Environments *t, const char *name, char why[static ENVIRONMENTS_WHY_SIZE]);

/* Bytes of those that are there. */
uint64_t environments_bytes(const Environments *t);
/* By name; the values are Environment. */
const Hashmap *environments_all(const Environments *t);
const EnvironmentsStatistics *environments_statistics(const Environments *t);
/* One that is being made now, or NULL. */
const Environment *environments_current(const Environments *t);
