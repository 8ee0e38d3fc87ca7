/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "macros.h"
#include "sandbox-protocol.h"

/* What the build stage and the init of its sandbox say to each other, over a SEQPACKET pair. */

typedef enum BuildInitOp {
        BUILD_INIT_UNSHARED =
                1, /* init → stage: its user namespace waits for its ids; stage → init: it has them */
        BUILD_INIT_RUNS,   /* the builder runs; with BUILD_FLAG_INDEX one fd: the listening socket */
        BUILD_INIT_ENDED,  /* the builder has ended: code, status; all else ends with the init, now */
        BUILD_INIT_FAILED, /* error, what */
} BuildInitOp;

typedef struct BuildInitMessage {
        uint32_t op;
        int32_t error;        /* negative errno */
        int32_t code, status; /* as in siginfo_t */
        char what[48];
} BuildInitMessage;

enum { BUILD_USER_INSIDE = 1000 }; /* uid and gid of the builder, in its user namespace */

/* What the init is born with. */
typedef struct BuildSandbox {
        const BuildRequest *request;
        int socket;
        int order, outer, final; /* see BuildFd */
        int log, report;         /* its output; its descriptor 4 */
} BuildSandbox;

/* PID 1 of the build's sandbox: in a PID and a mount namespace of its own, still root. */
_noreturn_ void build_init_main(const BuildSandbox *sandbox);
