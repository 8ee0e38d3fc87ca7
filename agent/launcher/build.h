/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "manager.h"
#include "outcome.h"
#include "sandbox-protocol.h"

/* Builds of environments, each in a sandbox and a scope of its own, and what is left of them: the folders
 * below BUILDING_FOLDER that nobody needs are removed by a process of their own, one after the other. */

typedef enum BuildState {
        BUILD_STARTING, /* its stage and scope are being made */
        BUILD_RUNNING,
        BUILD_ENDING, /* what came of it is known; its stage ends, and its scope */
        _BUILD_STATE_MAX,
} BuildState;

const char *build_state_to_string(BuildState state);

/* Removes what an earlier launcher has left, too. Returns 0, -ENOMEM. */
int builds_new(Manager *manager, Builds **ret);
Builds *builds_free(Builds *builds);

/* Begins one; fd: its order, taken on success. Its events go to the agent. Returns 0, -EALREADY (that name
 * is being built), -EEXIST, -EAGAIN (too many, or the launcher is about to end), -ENOENT (no such Python),
 * -EPERM (the order is not sealed), -EFBIG, -errno, with a sentence in *ret_why. */
int build_start(Builds *builds, const LauncherBuild *order, int fd, const char **ret_why);

/* Ends one; BUILD_ENDED follows. Returns whether there is one. */
bool build_stop(Builds *builds, const char *name);
void builds_end_all(Builds *builds, OutcomeKind why, const char *detail);
/* Whether no process is left of any. */
bool builds_are_over(const Builds *builds);

/* A stage or a remover that the spawner was asked for; pidfd is taken. */
void builds_process_made(Builds *builds, SpawnKind kind, unsigned slot, int error, int pidfd);

bool builds_own_pid(const Builds *builds, pid_t pid);
bool builds_have_unit(const Builds *builds, const char *unit);

/* Moves an environment's folder away, from when on it is not there any more, and removes it. Returns 0,
 * -ENOENT, -errno. */
int builds_drop_environment(Builds *builds, const char *name);
