/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "bpf-list.h"
#include "cgroup.h"
#include "launcher-protocol.h"
#include "memory-util.h"
#include "scope.h"
#include "verify.h"

/* What a launcher hands to the next version of itself: records of a fixed size in a sealed memory file, one
 * of the manager, then one for each zygote, pair, attempt. They are checked as any input is: what is taken
 * can be used without another look, but for what the file descriptors in it are. To be changed whenever a
 * record, or what launcher, builder, zygote and task say to each other, changes its meaning: */
#define UPGRADE_VERSION 3
#define UPGRADE_MAGIC 0x55504c43u /* "CLPU" */

enum { UPGRADE_NONE = -1 }; /* in place of a file descriptor or a slot */

typedef struct ManagerRecord {
        uint32_t magic, version;
        uint32_t manager_size, zygote_size, pair_size, attempt_size;
        uint32_t n_zygotes, n_pairs, n_attempts;

        uint32_t frozen;           /* 0 or 1 */
        uint32_t protocol_version; /* that the agent speaks */
        uint8_t instance[16];
        int32_t network_empty, network_host;
        int32_t spawner_pid, spawner_pidfd, spawner_socket;
        int32_t listener, connection; /* connection: or none */
        uint32_t filter_size;         /* instructions of the launcher's own filter */
        uint64_t base_filters;
        uint64_t lease_until_usec, frozen_at_usec; /* CLOCK_BOOTTIME */
        uint64_t begun_usec;                       /* CLOCK_MONOTONIC */
        uint64_t programs;                         /* what tells the programs from other versions of them */
        LauncherSettings settings;
        struct sock_filter filter[BPF_LIST_MAX + BPF_LIST_SPARE];
} ManagerRecord;

enum { /* event sources that there were */
       ZYGOTE_WATCHES_STAGE = 1 << 0,
       ZYGOTE_WATCHES_BUILDER = 1 << 1,
       ZYGOTE_WATCHES_ZYGOTE = 1 << 2,
       ZYGOTE_WATCHES_LISTENER = 1 << 3,
       ZYGOTE_IS_BROKEN = 1 << 4, /* its environment */
       _ZYGOTE_FLAGS_END = 1 << 5,
};

typedef struct ZygoteRecord {
        LauncherKey key;
        uint32_t state, slot, flags, scope_state;
        uint32_t uid_start, uid_count, pool_target;
        int32_t pids[4], pidfds[4];
        int32_t stage_socket, builder_socket, zygote_socket, listener;
        int32_t child_fds[3], outer, final;
        uint64_t start_until_usec, used_at_usec, refill_after_usec; /* CLOCK_MONOTONIC; the first: or none */
        char token[CGROUP_TOKEN_SIZE];
        char why[128], reserved[7];
} ZygoteRecord;

enum {
        PAIR_WATCHES_INIT_EXIT = 1 << 0,
        PAIR_WATCHES_INIT_SOCKET = 1 << 1,
        PAIR_WATCHES_TASK_EXIT = 1 << 2,
        PAIR_WATCHES_TASK_SOCKET = 1 << 3,
        PAIR_HAS_FAILED = 1 << 4,
        PAIR_IS_REFILL = 1 << 5,
        PAIR_INIT_ORDERED = 1 << 6,
        PAIR_TASK_ORDERED = 1 << 7,
        PAIR_FIELDS_WRITTEN = 1 << 8,
        PAIR_SANDBOX_BROKE = 1 << 9,
        PAIR_IS_FROZEN = 1 << 10,
        PAIR_LINE_ENDED = 1 << 11,
        PAIR_INIT_READY = 1 << 12,
        PAIR_TASK_READY = 1 << 13,
        PAIR_TASK_REAPED = 1 << 14,
        PAIR_OWN_CPUACCT = 1 << 15,
        PAIR_OWN_FREEZER = 1 << 16,
        PAIR_BYTES_BEFORE_KNOWN = 1 << 17,
        PAIR_BYTES_KNOWN = 1 << 18,
        PAIR_IS_LEAVING = 1 << 19,
        _PAIR_FLAGS_END = 1 << 20,
};

typedef struct PairRecord {
        uint32_t slot, zygote_slot, state, flags, scope_state;
        uint32_t uid, expected_uid;
        int32_t init_pid, task_pid;
        int32_t init_pidfd, task_pidfd, init_socket, task_socket, journal;
        uint32_t drained_times, linger_ticks;
        Limits limits;
        uint64_t tmp_max;
        LauncherDevices devices;
        uint64_t namespaces[VERIFY_NAMESPACES], filters;
        uint64_t timer_usec; /* CLOCK_MONOTONIC, or none */
        CgroupFigures figures_before, figures;
        uint64_t bytes_before[4], bytes[4]; /* read_chars, write_chars, read_bytes, write_bytes */
        uint64_t cpu_before_usec, cpu_usec;
        char token[CGROUP_TOKEN_SIZE];
        char description[192], reserved[7];
        char cgroup_path[CGROUP_PATH_SIZE], cgroup_cpuacct[CGROUP_PATH_SIZE];
} PairRecord;

enum {
        ATTEMPT_IS_WARM = 1 << 0,
        ATTEMPT_IS_DESCRIBED = 1 << 1,
        ATTEMPT_IS_ANNOUNCED = 1 << 2,
        ATTEMPT_IS_REFUSED = 1 << 3,
        ATTEMPT_IS_RETRY = 1 << 4,
        ATTEMPT_IN_QUEUE = 1 << 5, /* for a pair */
        _ATTEMPT_FLAGS_END = 1 << 6,
};

typedef struct AttemptRecord {
        uint8_t task[16];
        uint32_t number, state, flags, tries;
        int32_t pair_slot, zygote_slot; /* or none */
        int32_t fds[2], result_fd;
        uint32_t pid, uid;
        uint32_t ordered, result;
        int32_t refused_number;
        uint32_t refused_architecture;
        int32_t exit_code, exit_status;
        uint32_t reserved;
        uint64_t requested_usec, started_usec, ended_usec; /* CLOCK_BOOTTIME */
        uint64_t started_at, ended_at;                     /* CLOCK_REALTIME */
        uint64_t timeout_at_usec, frozen_at_usec;          /* CLOCK_BOOTTIME */
        uint64_t grace_until_usec, result_until_usec;      /* CLOCK_MONOTONIC, or none */
        uint64_t result_size, progress_usec;
        char unit[UNIT_NAME_MAX], by[OWNER_NAME_MAX], result_detail[NOTE_MAX];
        LauncherStart start;
        LauncherEvent ended;
        LauncherDisk tmp, shm;
} AttemptRecord;

/* All records, one behind the other in one piece of memory. */
typedef struct UpgradeState {
        void *buffer;
        size_t size;
        ManagerRecord *manager;
        ZygoteRecord *zygotes;
        PairRecord *pairs;
        AttemptRecord *attempts;
} UpgradeState;

/* Room for that many records, all zeros but for the manager's first fields. Returns 0, -ENOMEM. */
int upgrade_state_new(size_t n_zygotes, size_t n_pairs, size_t n_attempts, UpgradeState **ret);
UpgradeState *upgrade_state_free(UpgradeState *state);
DEFINE_CLEANUP(UpgradeState, upgrade_state_free);

/* Takes records apart. buffer, from malloc(), is the state's in any case. Returns 0, -EBADMSG (no record of
 * this kind), -EPROTONOSUPPORT (another version), -EINVAL (nonsense), each with a sentence, -ENOMEM. */
int upgrade_state_parse(void *buffer, size_t size, UpgradeState **ret, const char **ret_why);

/* All file descriptors in it, which are ≥ 3. ret: from malloc(). Returns how many, -ENOMEM. */
ssize_t upgrade_state_fds(const UpgradeState *state, int **ret);
