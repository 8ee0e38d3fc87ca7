/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "memory-util.h"
#include "scope-limits.h"

/* Transient scopes, through PID 1's own socket. All calls are asynchronous. */

typedef struct Scope Scope;
typedef struct ScopeBus ScopeBus;

typedef enum ScopeState {
        SCOPE_NONE,
        SCOPE_STARTING, /* asked for */
        SCOPE_ACTIVE,   /* the processes are in it */
        SCOPE_FAILED,   /* was not made */
        SCOPE_GONE,     /* was there and is not any more */
        _SCOPE_STATE_MAX,
} ScopeState;

const char *scope_state_to_string(ScopeState state);

/* why: a sentence, for FAILED. */
typedef void (*ScopeChanged)(Scope *scope, const char *why, void *userdata);
/* error: 0 or negative errno. */
typedef void (*ScopeLimitsSet)(Scope *scope, int error, void *userdata);

enum { SCOPE_NAME_SIZE = 64, SCOPE_PIDS_MAX = 4 };

struct Scope {
        ScopeBus *bus;
        ScopeState state;
        char name[SCOPE_NAME_SIZE];
        ScopeChanged changed;
        ScopeLimitsSet limits_set;
        void *userdata;
        sd_bus_slot *call, *limits_call;
};

typedef struct ScopeSpec {
        const char *name, *slice, *description;
        Limits limits;
        const pid_t *pids;
        size_t n_pids;
        /* "/dev/…": its processes can open these, beside null, zero and their like, and no others. NULL,
         * with n_devices 0: they can open what they see. */
        const char *const *devices;
        size_t n_devices;
} ScopeSpec;

/* Connects; made again by itself after PID 1 has re-executed, which is then told by connected(). wait: tries
 * for some seconds, since PID 1 may be at that just now. Returns 0, -errno. */
int scope_bus_new(sd_event *event, bool wait, void (*connected)(void *userdata), void *userdata,
                  ScopeBus **ret);
ScopeBus *scope_bus_free(ScopeBus *bus);
DEFINE_CLEANUP(ScopeBus, scope_bus_free);
bool scope_bus_is_connected(const ScopeBus *bus);

/* Asks for the scope. Its changes are told to changed(), never from within this call. Returns 0, -EEXIST,
 * -ENOTCONN, -errno. */
int scope_start(ScopeBus *bus, Scope *scope, const ScopeSpec *spec, ScopeChanged changed, void *userdata);

/* Limits that differ from the former ones, and description unless NULL, for an active scope. limits, former
 * and done may be NULL. Returns 0, -errno. */
int scope_set(Scope *scope, const Limits *limits, const Limits *former, const char *description,
              ScopeLimitsSet done);

/* Has systemd kill what is in the unit and stop it; the answer is not waited for. */
void scope_stop(ScopeBus *bus, const char *name);

/* Nothing is asked of systemd, and nothing is on the way to it. */
bool scope_bus_is_quiet(const ScopeBus *bus);

/* Takes up a scope that a former version of this program has made; not one that is STARTING. Returns 0,
 * -EINVAL, -errno. */
int scope_restore(ScopeBus *bus, Scope *scope, const char *name, ScopeState state, ScopeChanged changed,
                  void *userdata);

/* Forgets the scope: no call comes any more. The unit itself lives on. */
void scope_release(Scope *scope);

/* The names of loaded units that match the pattern. Waits: only for the start. Returns 0, -errno. */
int scope_list(ScopeBus *bus, const char *pattern, char ***ret_names);
