/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the launcher says to builder, zygote and task: SOCK_SEQPACKET pairs, fixed-size messages, fds beside
 * them. The launcher believes nothing that comes back. */

#include <stdint.h>

#define ZYGOTE_CONTROL_FD 3 /* the zygote's socket to the launcher */
#define ZYGOTE_FILTER_FD 4  /* its final filter: BPF instructions, read-only memfd */
#define TASK_CONTROL_FD 3   /* the task's socket to the launcher */

/* Exit status of a zygote whose environment cannot be used: an import failed. */
#define ZYGOTE_EXIT_ENVIRONMENT 65

typedef enum ZygoteOp {
        ZYGOTE_MAKE = 1,  /* launcher → builder (fd: init's socket), → zygote (fds: pid, mnt, ipc, net
                             namespaces, task's socket, journal stream) */
        ZYGOTE_MADE,      /* ← with a pidfd, or error */
        ZYGOTE_READY,     /* ← zygote: imports are done; init: mounted; task: sandboxed and rehearsed */
        ZYGOTE_GO,        /* launcher → task: ZygoteGo; fds: code, arguments */
        TASK_RESULT,      /* ← task: fd: sealed memfd with the value */
        TASK_EXCEPTION,   /* ← task: fd: sealed memfd with the exception */
        TASK_UNPICKLABLE, /* ← task: detail says what could not be pickled */
        TASK_PROGRESS,    /* ← task */
        TASK_DISK, /* ← task: as TASK_EXCEPTION, of one that /tmp or /dev/shm had no room for; detail: which
                    */
        ZYGOTE_BROKEN, /* ← zygote, before it ends with ZYGOTE_EXIT_ENVIRONMENT; fd: why, in words */
} ZygoteOp;

enum {
        ZYGOTE_FLAG_HOST_NETWORK = 1 << 0, /* the task stays in the zygote's network namespace */
        ZYGOTE_FLAG_DEVICES = 1 << 1,      /* builder: the init gets devices through its socket */
};

typedef struct ZygoteRequest {
        uint32_t op;
        uint32_t slot;    /* the launcher's number for the pair; comes back in ZygoteReply */
        uint32_t uid;     /* inside the user namespace */
        uint32_t flags;   /* ZYGOTE_FLAG_* */
        uint64_t tmp_max; /* builder: bytes of /tmp and of /dev/shm */
        uint64_t nofile;  /* RLIMIT_NOFILE */
} ZygoteRequest;

typedef struct ZygoteReply {
        uint32_t op;
        uint32_t slot;
        int32_t error; /* negative errno */
        uint32_t reserved;
} ZygoteReply;

typedef struct ZygoteGo {
        uint32_t op;
        uint32_t attempt;
        uint32_t cpus; /* threads for numeric libraries */
        uint32_t reserved;
        char task[40], job[40]; /* 32 hexadecimal digits */
        char owner[64], node[64], unit[64];
        char variables[256]; /* lines "NAME=value\n", for its environment */
} ZygoteGo;

typedef struct TaskMessage {
        uint32_t op;
        uint32_t retry; /* TASK_EXCEPTION, TASK_DISK: its type is in retry_on */
        double done, total;
        char detail[128]; /* TASK_PROGRESS: the note; TASK_UNPICKLABLE: type name; TASK_DISK: the place */
} TaskMessage;
