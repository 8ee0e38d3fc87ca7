/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What agent and launcher say to each other: AF_UNIX SOCK_SEQPACKET at LAUNCHER_SOCKET, one fixed-size
 * message a packet, file descriptors beside it. The launcher listens (socket 0660 root:clupy), checks
 * SO_PEERCRED (uid of user "clupy", or root), serves one agent at a time: a newer connection replaces the
 * older. Strings are NUL-terminated and NUL-padded; a message with any field out of its bounds is answered
 * with LAUNCHER_REFUSED and changes nothing. Both ends are the same build's, on the same machine: native
 * byte order. */

#include <stdint.h>

#include "outcome.h"

#define LAUNCHER_SOCKET "/run/clupy/launcher.sock"
/* Written by clupy-policyc, see LauncherSettings. */
#define LAUNCHER_SETTINGS "/run/clupy/launcher.settings"
#define LAUNCHER_PROTOCOL_VERSION 1

#define OWNER_NAME_MAX 64
#define POLICY_NAME_MAX 32
#define ENVIRONMENT_NAME_MAX 64
#define TASK_NAME_MAX 64
#define UNIT_NAME_MAX 64
#define NODE_NAME_MAX 64
#define NOTE_MAX 128
#define PYTHON_NAME_MAX 16 /* "3.11" */
#define DEVICE_PATH_MAX 64

enum {
        DEVICES_MAX = 128,        /* of one node */
        DEVICES_OF_TASK_MAX = 32, /* of one attempt */
        VARIABLES_MAX = 256,
};

typedef enum LauncherOp {
        /* agent → launcher */
        LAUNCHER_HELLO = 1, /* version → WELCOME */
        LAUNCHER_LIST, /* → STARTED or ENDED (flag REPLAYED) for each attempt of the table, then LIST_END */
        LAUNCHER_START, /* .start; fds: code memfd, argument memfd, both sealed (all four seals) → STARTED,
                         * later ENDED. The same (task, attempt) again: its state is told again, nothing runs
                         * twice */
        LAUNCHER_STOP,  /* .stop: SIGTERM, after grace_usec SIGKILL; grace 0: at once. Frozen ones die too */
        LAUNCHER_RELEASE, /* the result of an ended attempt is delivered: forget it */
        LAUNCHER_LEASE,   /* .lease: until when tasks may run unattended; one ahead thaws frozen ones */
        LAUNCHER_POOL,    /* .pool: how many pairs wait warm for this key; the launcher refills by itself */
        LAUNCHER_BUILD,   /* .build; fd: the sealed order for the builder in the sandbox → BUILD_STARTED,
                           * BUILD_ENDED. A build ends with the connection it was ordered over */
        LAUNCHER_BUILD_STOP,         /* .environment: ends that build → BUILD_ENDED */
        LAUNCHER_ENVIRONMENTS,       /* → ENVIRONMENT for each one there is, then ENVIRONMENTS_END */
        LAUNCHER_ENVIRONMENT_REMOVE, /* .environment → ENVIRONMENT_REMOVED, or REFUSED: -EBUSY in use,
                                        -ENOENT */

        /* launcher → agent */
        LAUNCHER_WELCOME = 64, /* .welcome */
        LAUNCHER_LIST_END,
        LAUNCHER_STARTED,  /* the function is about to run, in its scope */
        LAUNCHER_PROGRESS, /* .progress: at most 10 a second and attempt */
        LAUNCHER_FROZEN,   /* state changes of a lease's end */
        LAUNCHER_THAWED,
        LAUNCHER_ENDED,   /* .ended; one fd: the result's sealed memfd, when result_size > 0 */
        LAUNCHER_REFUSED, /* a request was not taken: error and text; of START: it is not in the table; of
                           * the requests about environments: .refused.environment says which */
        LAUNCHER_BUILD_STARTED, /* .environment; with BUILD_FLAG_INDEX one fd: a listening TCP socket of the
                                 * build's own network, for its requests to the index */
        LAUNCHER_BUILD_ENDED,   /* .build_ended; fds: what the installer said, then what the builder reports;
                                 * both sealed, the second one only if it reports something */
        LAUNCHER_ENVIRONMENT,   /* .environment */
        LAUNCHER_ENVIRONMENTS_END,
        LAUNCHER_ENVIRONMENT_REMOVED,
        LAUNCHER_DEVICE, /* .device: behind WELCOME, one for each device node that the node's configuration
                          * names */
} LauncherOp;

enum {
        LAUNCHER_FLAG_REPLAYED = 1 << 0, /* answer to LIST */
        LAUNCHER_FLAG_FROZEN = 1 << 1,   /* on STARTED: is frozen at the moment */
        LAUNCHER_FLAG_WARM = 1 << 2,     /* on STARTED and ENDED: a waiting pair took it */
        LAUNCHER_FLAG_RETRY = 1 << 3,    /* on ENDED, exception or DISK: its type is one to run again for */
};

/* What a zygote is for. Two attempts share one only if all of this is equal. */
typedef struct LauncherKey {
        char owner[OWNER_NAME_MAX];
        char environment[ENVIRONMENT_NAME_MAX]; /* "default" */
        char policy[POLICY_NAME_MAX];           /* [a-z0-9-]{1,31} */
        uint32_t host_network;                  /* 0 or 1 */
        uint32_t reserved;
} LauncherKey;

/* A set of the node's devices: bit i of all is the i-th of LauncherSettings.devices, as LAUNCHER_DEVICE has
 * told. */
typedef struct LauncherDevices {
        uint64_t bits[DEVICES_MAX / 64];
} LauncherDevices;

typedef struct LauncherStart {
        LauncherKey key;
        uint8_t job[16], session[16]; /* not interpreted: told again in LIST */
        char name[TASK_NAME_MAX];     /* for the unit's description */
        uint64_t epoch;               /* not interpreted */
        uint64_t memory_max;          /* bytes, 16 MiB … */
        uint64_t cpu_quota_usec;    /* of CPU time a second of wall time: 1,000,000 is one CPU; ≥ 10,000 */
        uint64_t cpu_time_max_usec; /* of the whole attempt; 0: none */
        uint64_t timeout_usec;      /* running time; 0: none */
        uint64_t deadline_usec;     /* CLOCK_BOOTTIME; 0: none */
        uint64_t tmp_max;           /* bytes of /tmp, and again of /dev/shm; 0: the default */
        uint32_t tasks_max;         /* 1 … 32768; the sandbox's init is one of them */
        uint32_t cpus;              /* threads that numeric libraries may use, ≥ 1 */
        LauncherDevices devices; /* at most DEVICES_OF_TASK_MAX. With any, it has a sandbox of its own made,
                                  * whose /dev has these beside what everybody's has */
        char variables[VARIABLES_MAX]; /* of its environment: lines "NAME=0,2\n", values of digits and commas
                                        */
} LauncherStart;

typedef struct LauncherStop {
        uint32_t why; /* OutcomeKind: OUTCOME_CANCELLED, OUTCOME_DEADLINE or OUTCOME_SUPERSEDED */
        uint32_t reserved;
        uint64_t grace_usec;
        char by[OWNER_NAME_MAX];
} LauncherStop;

enum {
        BUILD_FLAG_RESOLVE = 1 << 0, /* nothing stays: only the report counts */
        BUILD_FLAG_INDEX = 1 << 1,   /* its network has a way to the index at 127.0.0.1:BUILD_INDEX_PORT */
        BUILD_INDEX_PORT = 7879,
        BUILD_ORDER_MAX = 2 << 20, /* bytes */
        BUILD_REPORT_MAX = 2 << 20,
        BUILD_LOG_MAX = 256 << 10, /* the last bytes of it */
};

/* A build: a sandbox of its own in clupy-build-NAME.scope. What it makes is at
 * ENVIRONMENT_FOLDER/NAME, root's and read-only, once it is whole. */
typedef struct LauncherBuild {
        char environment[ENVIRONMENT_NAME_MAX];
        char owner[OWNER_NAME_MAX];   /* "": it is everybody's */
        char python[PYTHON_NAME_MAX]; /* one of the node's */
        uint32_t flags;
        uint32_t tasks_max;
        uint64_t memory_max;     /* bytes */
        uint64_t cpu_quota_usec; /* of a second */
        uint64_t timeout_usec;
        uint64_t disk_max;  /* bytes, of all that it writes */
        uint64_t files_max; /* files and folders */
} LauncherBuild;
#define ENVIRONMENT_FOLDER "/var/lib/clupy/environments"

typedef struct LauncherRequest {
        uint32_t version; /* LAUNCHER_PROTOCOL_VERSION */
        uint32_t op;
        uint8_t task[16]; /* START, STOP, RELEASE */
        uint32_t attempt;
        uint32_t reserved;
        union {
                LauncherStart start;
                LauncherStop stop;
                struct {
                        uint64_t until_usec; /* CLOCK_BOOTTIME */
                } lease;
                struct {
                        LauncherKey key;
                        uint32_t count; /* 0 … 64 */
                } pool;
                LauncherBuild build;
                struct {
                        char environment[ENVIRONMENT_NAME_MAX];
                } environment; /* BUILD_STOP, ENVIRONMENT_REMOVE */
        };
} LauncherRequest;

/* Figures of an attempt that ended. Bit i of `known` says that the i-th field is measured; otherwise the
 * layout of this node cannot give it, which is not the same as 0. */
typedef struct LauncherReceipt {
        uint32_t known;
        uint32_t reserved;
        uint64_t cpu_usec;
        uint64_t memory_peak;
        uint64_t read_chars;
        uint64_t write_chars;
        uint64_t read_bytes;
        uint64_t write_bytes;
        uint64_t pressure_usec;
        uint64_t start_usec; /* from the request to the start of the function; always known */
        uint64_t run_usec;   /* from there to the end; always known */
        uint64_t started_at; /* CLOCK_REALTIME, µs */
        uint64_t ended_at;
} LauncherReceipt;
enum {
        RECEIPT_CPU = 1 << 0,
        RECEIPT_MEMORY_PEAK = 1 << 1,
        RECEIPT_READ_CHARS = 1 << 2,
        RECEIPT_WRITE_CHARS = 1 << 3,
        RECEIPT_READ_BYTES = 1 << 4,
        RECEIPT_WRITE_BYTES = 1 << 5,
        RECEIPT_PRESSURE = 1 << 6,
};

/* One of the two file systems that are a sandbox's own. */
typedef struct LauncherDisk {
        uint64_t limit, used; /* bytes; limit 0: not known */
        uint64_t files_limit, files_used;
} LauncherDisk;

typedef struct LauncherEvent {
        uint32_t version;
        uint32_t op;
        uint8_t task[16];
        uint32_t attempt;
        int32_t error; /* REFUSED: negative errno */
        uint32_t flags;
        uint32_t reserved;
        union {
                struct {
                        uint8_t instance[16];  /* random, new at each start (kept by an upgrade) */
                        uint32_t cgroup_v2;    /* 0 or 1 */
                        uint32_t memory_known; /* which RECEIPT_* figures this node can give */
                } welcome;
                struct {
                        char unit[UNIT_NAME_MAX];
                        uint32_t pid; /* on the node */
                        uint32_t uid;
                        uint64_t started_at;
                        /* told again so that a new agent needs no memory of its own: */
                        char owner[OWNER_NAME_MAX];
                        char name[TASK_NAME_MAX];
                        uint8_t job[16], session[16];
                        uint64_t epoch, memory_max, cpu_quota_usec;
                        LauncherDevices devices; /* that it has; none in ENDED */

                        /* ENDED only: */
                        uint32_t outcome; /* OutcomeKind */
                        int32_t status;   /* EXIT: exit status; SIGNAL: its number; SYSCALL: its number */
                        uint64_t limit;   /* MEMORY: bytes; CPU_TIME, TIMEOUT, DEADLINE: µs; EXCEPTION: of
                                           * processes and threads, if it met it, else 0 */
                        uint64_t peak;    /* MEMORY: bytes */
                        char detail[NOTE_MAX]; /* name of call or signal; by whom; where; a sentence */
                        uint64_t result_size;  /* bytes of the memfd beside this message */
                        LauncherDisk tmp, shm; /* MEMORY, DISK: as its init saw them then */
                        LauncherReceipt receipt;
                } info; /* STARTED, FROZEN, THAWED, ENDED */
                struct {
                        double done, total; /* total 0: not known */
                        char note[NOTE_MAX];
                } progress;
                struct {
                        char text[256]; /* one sentence */
                        char environment[ENVIRONMENT_NAME_MAX];
                } refused;
                struct {
                        char environment[ENVIRONMENT_NAME_MAX];
                        char owner[OWNER_NAME_MAX]; /* "": everybody's */
                        char python[PYTHON_NAME_MAX];
                        char unit[UNIT_NAME_MAX]; /* BUILD_STARTED only */
                        uint64_t bytes, files;    /* that it takes on the disk */
                        uint64_t built_at,
                                used_at; /* CLOCK_REALTIME, µs; the second: by a zygote, 0: never */
                        uint32_t in_use; /* zygotes that have it now, and work to do */
                        uint32_t reserved;
                } environment; /* BUILD_STARTED, ENVIRONMENT, ENVIRONMENT_REMOVED */
                struct {
                        char environment[ENVIRONMENT_NAME_MAX];
                        uint32_t outcome; /* OutcomeKind: VALUE when it is there (or is resolved), EXIT when
                                           * the installer failed, MEMORY, TIMEOUT, DISK, SIGNAL, CANCELLED,
                                           * INFRASTRUCTURE */
                        int32_t status;   /* EXIT: exit status; SIGNAL: its number */
                        uint64_t limit;   /* MEMORY, DISK: bytes, DISK: 0 when it is the node's disk that is
                                           * full; TIMEOUT: µs */
                        uint64_t bytes, files;
                        uint64_t run_usec, cpu_usec;
                        char detail[NOTE_MAX]; /* a sentence */
                } build_ended;
                struct {
                        uint32_t index;
                        uint32_t reserved;
                        char path[DEVICE_PATH_MAX]; /* .error of the event: 0, or why no task can have it:
                                                     * -ENOENT; -ENODEV, it is no character device; -EACCES,
                                                     * its mode lets no task open it */
                } device;
        };
} LauncherEvent;

/* What clupy-policyc takes out of clupy.server.yaml for the launcher, which reads no YAML. */
typedef struct LauncherSettings {
        uint32_t magic; /* LAUNCHER_SETTINGS_MAGIC */
        uint32_t version;
        uint32_t uid_start, uid_count;
        uint64_t orphan_timeout_usec; /* frozen longer than this: killed */
        uint64_t default_memory_max;  /* limits that waiting pairs are made with */
        uint64_t default_cpu_quota_usec;
        uint64_t default_tmp_max;
        uint32_t default_tasks_max;
        uint32_t zygotes_max;
        char node[NODE_NAME_MAX];
        uint32_t n_devices;
        uint32_t reserved;
        char devices[DEVICES_MAX][DEVICE_PATH_MAX]; /* "/dev/…": those that tasks may be given, each once */
} LauncherSettings;
#define LAUNCHER_SETTINGS_MAGIC 0x534c5043u /* "CPLS" */
