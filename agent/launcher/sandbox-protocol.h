/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the launcher says to clupy-sandbox, the program of its trusted helpers. SOCK_SEQPACKET pairs,
 * fixed-size messages, fds beside them.
 *
 * The *spawner* is made once, before the launcher takes its own seccomp filter, which would be inherited.
 * For each zygote it makes a *stage* (a fresh exec, real root), which the launcher puts into the zygote's
 * scope before it tells it to go on. The stage makes the view, then anchor, builder and zygote, all as
 * children of the launcher (CLONE_PARENT), and ends. */

#include <stdint.h>

#define STATE_FOLDER "/var/lib/clupy"
#define BUILDING_FOLDER STATE_FOLDER "/building" /* beside ENVIRONMENT_FOLDER, in the same file system */

#define SANDBOX_CONTROL_FD 3 /* of spawner and stage */

/* In place of a slot, and without a socket: the spawner is to execute its program again, which may be a
 * newer one. There is no reply. */
#define SPAWN_AGAIN UINT32_MAX

typedef struct SpawnRequest { /* fd: the stage's socket */
        uint32_t slot;
        uint32_t reserved;
} SpawnRequest;

typedef struct SpawnReply { /* fd: the stage's pidfd */
        uint32_t slot;
        int32_t error; /* negative errno */
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
