/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "environments.h"
#include "memory-util.h"
#include "types.h"

/* Wheels that clients sent along: files STATE_DIRECTORY/wheels/DIGEST/NAME, which the package index hands
 * out to builds. Whoever names one has to have sent it (and so to have it), also when another did before: a
 * digest is no right to see a file. Bounds: `wheels.size` for a user, `wheels.total` for all; what nobody
 * uses goes first. */
typedef struct WheelStore WheelStore;

/* Who names wheels and does not send them keeps nobody else waiting. */
enum {
        WHEELS_FLOWING_MAX = 16,      /* that are fetched at the same time; others wait */
        WHEELS_FLOWING_OWNER_MAX = 4, /* likewise of one user */
        WHEEL_STALL_S = 60,           /* one that moves too little in that time ends if others wait */
};

int wheel_store_new(Manager *m, WheelStore **ret);
WheelStore *wheel_store_free(WheelStore *store);
/* What is on its way is given up. */
void wheel_store_stop(WheelStore *store);

/* What waits to be fetched from it is given up; before its streams are. */
void wheel_store_session_gone(WheelStore *store, Session *session);
/* By the clock. For tests; else a timer does. */
void wheel_store_end_stalled(WheelStore *store);

/* At the start: what an environment that is remembered needs. Returns 0, -ENOENT when it is not there. */
int wheel_store_remember(Manager *m, const char *owner, const char *wheel);
/* Files that nothing needs go. */
void wheel_store_sweep(Manager *m);

/* Fetches from this client what is not there of the wheels that it names. The environment is `fetching`
 * meanwhile and fails when one cannot be had. Returns 0, -ENOMEM. */
int wheel_store_fetch(Environment *e, Session *session, const EnvironmentRequest *request);

uint64_t wheel_store_bytes(const WheelStore *store);
