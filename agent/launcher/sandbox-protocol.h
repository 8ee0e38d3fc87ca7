/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the launcher says to clupy-sandbox, the program of its trusted helpers. SOCK_SEQPACKET pairs,
 * fixed-size messages, fds beside them.
 *
 * The *spawner* is made once, before the launcher takes its own seccomp filter, which would be inherited.
 * For each zygote it makes a *stage* (a fresh exec, real root), which the launcher puts into the zygote's
 * scope before it tells it to go on. The stage makes the view, then anchor, builder and zygote, all as
 * children of the launcher (CLONE_PARENT), and ends.
 *
 * For each build it makes a *build stage*, which lives as long as the build: see BuildRequest. For what
 * builds and environments leave it makes a *remover*. */

#include <stdint.h>

#include "launcher-protocol.h"

#define STATE_FOLDER "/var/lib/clupy"
#define BUILDING_FOLDER STATE_FOLDER "/building" /* beside ENVIRONMENT_FOLDER, in the same file system */

#define SANDBOX_CONTROL_FD 3 /* of spawner and stage */

/* In place of a slot, and without a socket: the spawner is to execute its program again, which may be a
 * newer one. There is no reply. */
#define SPAWN_AGAIN UINT32_MAX

typedef enum SpawnKind {
        SPAWN_ZYGOTE, /* a stage */
        SPAWN_BUILD,
        SPAWN_REMOVER,
        _SPAWN_KIND_MAX,
        SPAWN_DEVICES = _SPAWN_KIND_MAX, /* none of the launcher's children, and without a reply: the spawner
                                          * has a child of its own hand devices to an init, of whose socket
                                          * the fd is the launcher's end */
} SpawnKind;

typedef struct SpawnRequest { /* fd: the other end of its socket */
        uint32_t slot;        /* of the launcher's, comes back */
        uint32_t kind;        /* SpawnKind */
        uint32_t n_devices;
        uint32_t reserved;
        char devices[DEVICES_OF_TASK_MAX][DEVICE_PATH_MAX]; /* "/dev/…", of the machine's /dev */
} SpawnRequest;

/* To the init of a sandbox with devices. fds: a mount of each device node, belonging nowhere yet. */
typedef struct DevicesMessage {
        int32_t error; /* negative errno: there are none, and the init ends */
        uint32_t n_devices;
        char devices[DEVICES_OF_TASK_MAX][DEVICE_PATH_MAX];
} DevicesMessage;

typedef struct SpawnReply { /* fd: its pidfd */
        uint32_t slot;
        uint32_t kind;
        int32_t error; /* negative errno */
        uint32_t reserved;
} SpawnReply;

enum {
        STAGE_FLAG_HOST_NETWORK = 1 << 0,
};

typedef enum StageFd {
        STAGE_FD_BUILDER, /* sockets for builder and zygote */
        STAGE_FD_ZYGOTE,
        STAGE_FD_OUTER, /* filters: memfds with BPF instructions */
        STAGE_FD_FINAL,
        STAGE_FD_JOURNAL, /* the zygote's output */
        STAGE_FD_NETWORK, /* namespace that everything is born in */
        _STAGE_FD_MAX,
} StageFd;

typedef struct StageRequest {
        uint32_t uid_start; /* of the range outside … */
        uint32_t uid_count; /* … of which the last one is the builder's and the others are mapped, from 0 */
        uint32_t flags;
        uint32_t reserved;
        char environment[64];
        char python[16]; /* series */
} StageRequest;

typedef enum StageOp {
        STAGE_LISTENER = 1, /* fd: the seccomp listener; from the zygote before its exec */
        STAGE_DONE,         /* fds: pidfds of anchor, builder, zygote */
        STAGE_FAILED,       /* error, what */
} StageOp;

typedef struct StageReply {
        uint32_t op;
        int32_t error; /* negative errno */
        char what[56];
} StageReply;

/* ---- builds */

enum { BUILD_FOLDER_MAX = 96 };

typedef enum BuildFd {
        BUILD_FD_ORDER, /* sealed, for the builder */
        BUILD_FD_OUTER, /* filters: memfds with BPF instructions */
        BUILD_FD_FINAL,
        BUILD_FD_JOURNAL, /* what it says goes there, too */
        _BUILD_FD_MAX,
} BuildFd;

/* launcher → build stage, once it is in its scope. A single byte after it: the build is to end now, and what
 * it has said so far is wanted. The end of the socket: nothing is wanted any more. */
typedef struct BuildRequest {
        char environment[ENVIRONMENT_NAME_MAX];
        char owner[OWNER_NAME_MAX];
        char python[PYTHON_NAME_MAX];
        char folder[BUILD_FOLDER_MAX]; /* below BUILDING_FOLDER, not there yet; it stays */
        uint32_t flags;                /* BUILD_FLAG_* */
        uint32_t init_uid, build_uid;  /* on the node */
        uint32_t reserved;
        uint64_t disk_max, files_max;
} BuildRequest;

typedef enum BuildStageOp {
        BUILD_STAGE_RUNS = 1, /* with BUILD_FLAG_INDEX one fd: the listening socket */
        BUILD_STAGE_ENDED, /* fds: what was said, and what is reported if anything is; it waits for the end
                            * of its socket, and its scope with it */
} BuildStageOp;

typedef struct BuildStageReply {
        uint32_t op;
        uint32_t outcome; /* OutcomeKind, of ENDED */
        int32_t status;
        uint32_t reserved;
        uint64_t limit, bytes, files, cpu_usec;
        char detail[NOTE_MAX];
} BuildStageReply;

/* launcher → remover, which ends with it. */
typedef struct RemoveRequest {
        char folder[BUILD_FOLDER_MAX]; /* below BUILDING_FOLDER */
} RemoveRequest;
