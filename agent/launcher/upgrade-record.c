/* SPDX-License-Identifier: Apache-2.0 */
#include "upgrade-record.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attempt.h"
#include "device-set.h"
#include "manager.h"
#include "pair.h"
#include "request-check.h"
#include "settings.h"
#include "time-util.h"
#include "zygote.h"

enum { FD_MAX = 1 << 24 };

/* They lie one behind the other. */
static_assert(sizeof(ManagerRecord) % 8 == 0 && sizeof(ZygoteRecord) % 8 == 0 &&
                      sizeof(PairRecord) % 8 == 0 && sizeof(AttemptRecord) % 8 == 0,
              "each record is aligned");
static_assert(ELEMENTSOF(((ZygoteRecord *) 0)->pids) == _ZYGOTE_PROCESS_MAX, "a pid for each");

/* ---- layout */

static size_t total(size_t n_zygotes, size_t n_pairs, size_t n_attempts) {
        return sizeof(ManagerRecord) + n_zygotes * sizeof(ZygoteRecord) + n_pairs * sizeof(PairRecord) +
               n_attempts * sizeof(AttemptRecord);
}

static void lay_out(UpgradeState *state, size_t n_zygotes, size_t n_pairs) {
        char *p = state->buffer;

        state->manager = (ManagerRecord *) p;
        p += sizeof(ManagerRecord);
        state->zygotes = (ZygoteRecord *) p;
        p += n_zygotes * sizeof(ZygoteRecord);
        state->pairs = (PairRecord *) p;
        p += n_pairs * sizeof(PairRecord);
        state->attempts = (AttemptRecord *) p;
}

int upgrade_state_new(size_t n_zygotes, size_t n_pairs, size_t n_attempts, UpgradeState **ret) {
        _cleanup_(upgrade_state_freep) UpgradeState *state = new0(UpgradeState);

        if (!state)
                return -ENOMEM;
        state->size = total(n_zygotes, n_pairs, n_attempts);
        state->buffer = calloc(1, state->size);
        if (!state->buffer)
                return -ENOMEM;
        lay_out(state, n_zygotes, n_pairs);
        *state->manager = (ManagerRecord){
                .magic = UPGRADE_MAGIC,
                .version = UPGRADE_VERSION,
                .manager_size = sizeof(ManagerRecord),
                .zygote_size = sizeof(ZygoteRecord),
                .pair_size = sizeof(PairRecord),
                .attempt_size = sizeof(AttemptRecord),
                .n_zygotes = (uint32_t) n_zygotes,
                .n_pairs = (uint32_t) n_pairs,
                .n_attempts = (uint32_t) n_attempts,
        };
        *ret = TAKE_PTR(state);
        return 0;
}

UpgradeState *upgrade_state_free(UpgradeState *state) {
        if (!state)
                return NULL;
        free(state->buffer);
        free(state);
        return NULL;
}

/* ---- fields */

/* Ended by a NUL, and nothing but NULs behind it. */
static bool text_is_good(const char *text, size_t size) {
        const char *end = memchr(text, 0, size);

        for (; end && end < text + size; end++)
                if (*end != '\0')
                        return false;
        return end != NULL;
}
#define TEXT_IS_GOOD(array) text_is_good(array, sizeof(array))

static bool token_is_good(const char token[static CGROUP_TOKEN_SIZE]) {
        return text_is_good(token, CGROUP_TOKEN_SIZE) &&
               strspn(token, "0123456789abcdef") == CGROUP_TOKEN_SIZE - 1;
}

static bool fd_is_good(int32_t fd) {
        return fd == UPGRADE_NONE || (fd > 2 && fd < FD_MAX);
}

/* The longest that can be asked for, from whenever. */
static bool time_is_good(uint64_t usec) {
        return usec == USEC_INFINITY || usec <= 2 * REQUEST_DURATION_MAX;
}

static bool key_is_good(const LauncherKey *key) {
        LauncherRequest request = { .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_POOL };
        const char *why;

        request.pool.key = *key;
        return request_check(&request, sizeof(request), 0, &why) == 0;
}

static bool start_is_good(const LauncherStart *start) {
        const LauncherRequest request = { .version = LAUNCHER_PROTOCOL_VERSION,
                                          .op = LAUNCHER_START,
                                          .start = *start };
        const char *why;

        return request_check(&request, sizeof(request), 2, &why) == 0;
}

/* No scope is being made while a launcher hands over. */
static bool scope_is_good(uint32_t state) {
        return state < _SCOPE_STATE_MAX && state != SCOPE_STARTING;
}

static bool limits_are_good(const Limits *limits) {
        return limits->memory_max >= REQUEST_MEMORY_MIN && limits->memory_max <= REQUEST_BYTES_MAX &&
               limits->cpu_quota_usec >= REQUEST_CPU_QUOTA_MIN &&
               limits->cpu_quota_usec <= REQUEST_CPU_QUOTA_MAX && limits->tasks_max >= 1 &&
               limits->tasks_max <= REQUEST_TASKS_MAX;
}

/* ---- records */

static bool manager_is_good(const ManagerRecord *m) {
        return m->frozen <= 1 && m->network_empty > 2 && fd_is_good(m->network_empty) &&
               m->network_host > 2 && fd_is_good(m->network_host) && m->spawner_pid > 1 &&
               m->spawner_pidfd > 2 && fd_is_good(m->spawner_pidfd) && m->spawner_socket > 2 &&
               fd_is_good(m->spawner_socket) && m->listener > 2 && fd_is_good(m->listener) &&
               fd_is_good(m->connection) && m->filter_size <= ELEMENTSOF(m->filter) &&
               m->base_filters <= 1024 && m->lease_until_usec <= REQUEST_DURATION_MAX &&
               m->frozen_at_usec <= REQUEST_DURATION_MAX && settings_check(&m->settings) == 0;
}

static bool zygote_is_good(const ZygoteRecord *z, const LauncherSettings *settings) {
        const uint32_t count = settings_zygote_uids(settings);

        if (!key_is_good(&z->key) || z->state >= _ZYGOTE_STATE_MAX || z->slot >= settings->zygotes_max ||
            z->flags >= _ZYGOTE_FLAGS_END || !scope_is_good(z->scope_state) || z->uid_count != count ||
            z->uid_start != settings->uid_start + z->slot * count || z->pool_target > REQUEST_POOL_MAX ||
            !time_is_good(z->start_until_usec) || !time_is_good(z->used_at_usec) ||
            !time_is_good(z->refill_after_usec) || !token_is_good(z->token) || !TEXT_IS_GOOD(z->why))
                return false;
        for (size_t i = 0; i < ELEMENTSOF(z->pids); i++)
                if (!fd_is_good(z->pidfds[i]) || (z->pidfds[i] >= 0 && z->pids[i] <= 1))
                        return false;
        for (size_t i = 0; i < ELEMENTSOF(z->child_fds); i++)
                if (!fd_is_good(z->child_fds[i]))
                        return false;
        if (!fd_is_good(z->stage_socket) || !fd_is_good(z->builder_socket) ||
            !fd_is_good(z->zygote_socket) || !fd_is_good(z->listener) || !fd_is_good(z->outer) ||
            !fd_is_good(z->final))
                return false;
        /* What is watched must be there; what takes orders must have its processes. */
        if ((z->flags & ZYGOTE_WATCHES_STAGE && z->stage_socket < 0) ||
            (z->flags & ZYGOTE_WATCHES_BUILDER && z->builder_socket < 0) ||
            (z->flags & ZYGOTE_WATCHES_ZYGOTE && z->zygote_socket < 0) ||
            (z->flags & ZYGOTE_WATCHES_LISTENER && z->listener < 0))
                return false;
        return z->state != ZYGOTE_WARM || (z->builder_socket >= 0 && z->zygote_socket >= 0);
}

static bool pair_is_good(const PairRecord *p, const ZygoteRecord *z) {
        if (p->state >= _PAIR_STATE_MAX || p->flags >= _PAIR_FLAGS_END || !scope_is_good(p->scope_state) ||
            p->uid < 1 || p->uid >= z->uid_count - 1 || p->expected_uid != z->uid_start + p->uid ||
            (p->flags & PAIR_IS_REFILL && p->state > PAIR_JOINING) || !limits_are_good(&p->limits) ||
            device_set_count(&p->devices) > DEVICES_OF_TASK_MAX || p->tmp_max < KIB(64) ||
            p->tmp_max > REQUEST_BYTES_MAX || !time_is_good(p->timer_usec) || !token_is_good(p->token) ||
            !TEXT_IS_GOOD(p->description) || !TEXT_IS_GOOD(p->cgroup_path) ||
            !TEXT_IS_GOOD(p->cgroup_cpuacct))
                return false;
        if ((p->cgroup_path[0] && p->cgroup_path[0] != '/') || strstr(p->cgroup_path, "..") ||
            (p->cgroup_cpuacct[0] && p->cgroup_cpuacct[0] != '/') || strstr(p->cgroup_cpuacct, ".."))
                return false;
        if (!fd_is_good(p->init_pidfd) || !fd_is_good(p->task_pidfd) || !fd_is_good(p->init_socket) ||
            !fd_is_good(p->task_socket) || p->journal == UPGRADE_NONE || !fd_is_good(p->journal))
                return false;
        if ((p->init_pidfd >= 0 && p->init_pid <= 1) || (p->task_pidfd >= 0 && p->task_pid <= 1))
                return false;
        if ((p->flags & PAIR_WATCHES_INIT_EXIT && p->init_pidfd < 0) ||
            (p->flags & PAIR_WATCHES_INIT_SOCKET && p->init_socket < 0) ||
            (p->flags & PAIR_WATCHES_TASK_EXIT && p->task_pidfd < 0) ||
            (p->flags & PAIR_WATCHES_TASK_SOCKET && p->task_socket < 0))
                return false;
        switch ((PairState) p->state) {
        case PAIR_READY:
        case PAIR_RUNNING: /* its init may have been killed */
                return p->task_pidfd >= 0 && p->task_socket >= 0 &&
                       (p->state == PAIR_RUNNING || p->init_pidfd >= 0);
        case PAIR_JOINING:
                return p->task_pidfd >= 0 && p->task_socket >= 0 && p->init_pidfd >= 0;
        case PAIR_LINGERING:
                return p->init_pidfd < 0;
        default:
                return true;
        }
}

/* What it says of its pair must be so. */
static bool attempt_fits(const AttemptRecord *a, const PairRecord *pair) {
        switch ((AttemptState) a->state) {
        case ATTEMPT_WAITING: /* for a pair of its own that is being made, if any */
                return !pair || (pair->state < PAIR_READY && !(pair->flags & PAIR_IS_REFILL));
        case ATTEMPT_HELD:
                return pair && pair->state == PAIR_READY;
        case ATTEMPT_RUNNING:
        case ATTEMPT_FROZEN:
                return pair && pair->state == PAIR_RUNNING;
        case ATTEMPT_ENDING:
                return pair && pair->state == PAIR_ENDING;
        case ATTEMPT_ENDED:
                return !pair && a->ended.op == LAUNCHER_ENDED;
        default: /* LIMITING is not handed over */
                return false;
        }
}

static bool ended_is_good(const LauncherEvent *event) {
        return event->version == LAUNCHER_PROTOCOL_VERSION && event->info.outcome < _OUTCOME_MAX &&
               memchr(event->info.unit, 0, sizeof(event->info.unit)) &&
               memchr(event->info.owner, 0, sizeof(event->info.owner)) &&
               memchr(event->info.name, 0, sizeof(event->info.name)) &&
               memchr(event->info.detail, 0, sizeof(event->info.detail));
}

static bool attempt_is_good(const AttemptRecord *a) {
        return a->flags < _ATTEMPT_FLAGS_END && fd_is_good(a->fds[0]) && fd_is_good(a->fds[1]) &&
               fd_is_good(a->result_fd) && a->ordered < _OUTCOME_MAX && a->result < _OUTCOME_MAX &&
               time_is_good(a->timeout_at_usec) && time_is_good(a->grace_until_usec) &&
               time_is_good(a->result_until_usec) && TEXT_IS_GOOD(a->unit) && TEXT_IS_GOOD(a->by) &&
               TEXT_IS_GOOD(a->result_detail) && start_is_good(&a->start) &&
               (a->state != ATTEMPT_ENDED || ended_is_good(&a->ended)) &&
               /* it waits in the queue, or has begun, or has ended */
               (a->flags & ATTEMPT_IN_QUEUE ? a->state == ATTEMPT_WAITING && a->pair_slot == UPGRADE_NONE
                                            : a->state != ATTEMPT_WAITING || a->pair_slot != UPGRADE_NONE) &&
               /* what has not begun has its function still */
               ((a->state != ATTEMPT_WAITING && a->state != ATTEMPT_HELD) ||
                (a->fds[0] >= 0 && a->fds[1] >= 0));
}

/* ---- all of them */

static int compare_fds(const void *left, const void *right) {
        int a = *(const int *) left, b = *(const int *) right;

        return (a > b) - (a < b);
}

static int compare_attempts(const void *left, const void *right) {
        const AttemptRecord *a = *(const AttemptRecord *const *) left,
                            *b = *(const AttemptRecord *const *) right;
        int r = memcmp(a->task, b->task, sizeof(a->task));

        return r ?: (a->number > b->number) - (a->number < b->number);
}

static void collect(int *fds, size_t *n, const int32_t *more, size_t n_more) {
        for (size_t i = 0; i < n_more; i++)
                if (more[i] >= 0)
                        fds[(*n)++] = more[i];
}

ssize_t upgrade_state_fds(const UpgradeState *state, int **ret) {
        enum { MANAGER_FDS = 6, ZYGOTE_FDS = 13, PAIR_FDS = 5, ATTEMPT_FDS = 3 };
        const ManagerRecord *m = state->manager;
        int *fds = newn0(int, MANAGER_FDS + (size_t) m->n_zygotes * ZYGOTE_FDS +
                                      (size_t) m->n_pairs * PAIR_FDS + (size_t) m->n_attempts * ATTEMPT_FDS);
        size_t n = 0;

        if (!fds)
                return -ENOMEM;
        const int32_t own[MANAGER_FDS] = { m->network_empty,  m->network_host, m->spawner_pidfd,
                                           m->spawner_socket, m->listener,     m->connection };
        collect(fds, &n, own, MANAGER_FDS);
        for (size_t i = 0; i < m->n_zygotes; i++) {
                const ZygoteRecord *z = state->zygotes + i;
                const int32_t its[] = { z->stage_socket, z->builder_socket, z->zygote_socket,
                                        z->listener,     z->outer,          z->final };
                collect(fds, &n, its, ELEMENTSOF(its));
                collect(fds, &n, z->pidfds, ELEMENTSOF(z->pidfds));
                collect(fds, &n, z->child_fds, ELEMENTSOF(z->child_fds));
        }
        for (size_t i = 0; i < m->n_pairs; i++) {
                const PairRecord *p = state->pairs + i;
                const int32_t its[PAIR_FDS] = { p->init_pidfd, p->task_pidfd, p->init_socket, p->task_socket,
                                                p->journal };
                collect(fds, &n, its, PAIR_FDS);
        }
        for (size_t i = 0; i < m->n_attempts; i++) {
                collect(fds, &n, state->attempts[i].fds, 2);
                collect(fds, &n, &state->attempts[i].result_fd, 1);
        }
        *ret = fds;
        return (ssize_t) n;
}

/* No file descriptor belongs to two. Returns 0, -EINVAL, -ENOMEM. */
static int fds_check(const UpgradeState *state) {
        _cleanup_(freep) int *fds = NULL;
        ssize_t n = upgrade_state_fds(state, &fds);

        if (n < 0)
                return (int) n;
        qsort(fds, (size_t) n, sizeof(*fds), compare_fds);
        for (ssize_t i = 1; i < n; i++)
                if (fds[i] == fds[i - 1])
                        return -EINVAL;
        return 0;
}

/* No attempt is there twice. Returns 0, -EINVAL, -ENOMEM. */
static int attempts_check(const UpgradeState *state) {
        const size_t n = state->manager->n_attempts;
        _cleanup_(freep) const AttemptRecord **sorted = newn0(const AttemptRecord *, n + 1);

        if (!sorted)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                sorted[i] = state->attempts + i;
        qsort(sorted, n, sizeof(const AttemptRecord *), compare_attempts);
        for (size_t i = 1; i < n; i++)
                if (compare_attempts(&sorted[i], &sorted[i - 1]) == 0)
                        return -EINVAL;
        return 0;
}

typedef struct Index {
        const ZygoteRecord **zygotes; /* by slot */
        const PairRecord *pairs[PAIRS_MAX];
        bool taken[PAIRS_MAX]; /* the pair is some attempt's */
} Index;

static const ZygoteRecord *find_zygote(const Index *index, const LauncherSettings *settings, uint32_t slot) {
        return slot < settings->zygotes_max ? index->zygotes[slot] : NULL;
}

/* No two pairs of a zygote have the same uid. */
static bool uid_is_unique(const UpgradeState *state, size_t pair) {
        for (size_t i = 0; i < pair; i++)
                if (state->pairs[i].zygote_slot == state->pairs[pair].zygote_slot &&
                    state->pairs[i].uid == state->pairs[pair].uid)
                        return false;
        return true;
}

static const char *records_check(const UpgradeState *state, Index *index) {
        const LauncherSettings *settings = &state->manager->settings;
        const ManagerRecord *m = state->manager;

        for (size_t i = 0; i < m->n_zygotes; i++) {
                const ZygoteRecord *z = state->zygotes + i;
                if (!zygote_is_good(z, settings) || index->zygotes[z->slot])
                        return "a zygote is not possible";
                index->zygotes[z->slot] = z;
        }
        for (size_t i = 0; i < m->n_pairs; i++) {
                const PairRecord *p = state->pairs + i;
                const ZygoteRecord *z = find_zygote(index, settings, p->zygote_slot);
                if (!z || p->slot >= PAIRS_MAX || index->pairs[p->slot] || !pair_is_good(p, z) ||
                    !uid_is_unique(state, i))
                        return "a sandbox is not possible";
                index->pairs[p->slot] = p;
        }
        for (size_t i = 0; i < m->n_attempts; i++) {
                const AttemptRecord *a = state->attempts + i;
                const PairRecord *pair = NULL;
                if (a->pair_slot != UPGRADE_NONE) {
                        if (a->pair_slot < 0 || a->pair_slot >= PAIRS_MAX || index->taken[a->pair_slot])
                                return "an attempt's sandbox is not there";
                        pair = index->pairs[a->pair_slot];
                        if (!pair)
                                return "an attempt's sandbox is not there";
                        index->taken[a->pair_slot] = true;
                }
                if ((a->zygote_slot != UPGRADE_NONE &&
                     !find_zygote(index, settings, (uint32_t) a->zygote_slot)) ||
                    !attempt_is_good(a) || !attempt_fits(a, pair))
                        return "an attempt is not possible";
        }
        return NULL;
}

/* Nothing is read before it is known to be there. Returns NULL, or what is wrong. */
static const char *sizes_check(const UpgradeState *state, int *ret_error) {
        const ManagerRecord *m = state->buffer;

        *ret_error = -EBADMSG;
        if (state->size < 2 * sizeof(uint32_t) || m->magic != UPGRADE_MAGIC)
                return "it is no state of a launcher";
        *ret_error = -EPROTONOSUPPORT;
        if (m->version != UPGRADE_VERSION)
                return "it is another version's";
        *ret_error = -EINVAL;
        if (state->size < sizeof(*m) || m->manager_size != sizeof(ManagerRecord) ||
            m->zygote_size != sizeof(ZygoteRecord) || m->pair_size != sizeof(PairRecord) ||
            m->attempt_size != sizeof(AttemptRecord))
                return "its records are of other sizes";
        if (m->n_pairs > PAIRS_MAX || m->n_attempts > ATTEMPTS_MAX || m->n_zygotes > 4096 ||
            state->size != total(m->n_zygotes, m->n_pairs, m->n_attempts))
                return "its size is not that of its records";
        return NULL;
}

int upgrade_state_parse(void *buffer, size_t size, UpgradeState **ret, const char **ret_why) {
        _cleanup_(upgrade_state_freep) UpgradeState *state = new0(UpgradeState);
        _cleanup_(freep) Index *index = NULL;
        _cleanup_(freep) const ZygoteRecord **zygotes = NULL;
        int r;

        *ret_why = "there is no memory";
        if (!state) {
                free(buffer);
                return -ENOMEM;
        }
        state->buffer = buffer;
        state->size = size;
        const char *why = sizes_check(state, &r);
        if (why) {
                *ret_why = why;
                return r;
        }
        const ManagerRecord *m = buffer;
        lay_out(state, m->n_zygotes, m->n_pairs);
        if (!manager_is_good(m)) {
                *ret_why = "the launcher's own part is not possible";
                return -EINVAL;
        }
        index = new0(Index);
        zygotes = newn0(const ZygoteRecord *, m->settings.zygotes_max);
        if (!index || !zygotes)
                return -ENOMEM;
        index->zygotes = zygotes;
        why = records_check(state, index);
        if (why) {
                *ret_why = why;
                return -EINVAL;
        }
        r = fds_check(state);
        if (r >= 0)
                r = attempts_check(state);
        if (r < 0) {
                if (r == -EINVAL)
                        *ret_why = "something is in it twice";
                return r;
        }
        *ret = TAKE_PTR(state);
        return 0;
}
