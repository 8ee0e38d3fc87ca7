/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "attempt.h"
#include "pair.h"
#include "request-check.h"
#include "settings.h"
#include "time-util.h"
#include "upgrade-record.h"
#include "zygote.h"

enum { N_ZYGOTES = 2, N_PAIRS = 3, N_ATTEMPTS = 4 };

static int next_fd;

static void make_zygote(ZygoteRecord *z, const LauncherSettings *settings, uint32_t slot) {
        *z = (ZygoteRecord){
                .state = ZYGOTE_WARM,
                .slot = slot,
                .flags = ZYGOTE_WATCHES_BUILDER | ZYGOTE_WATCHES_ZYGOTE | ZYGOTE_WATCHES_LISTENER,
                .scope_state = SCOPE_ACTIVE,
                .uid_count = settings_zygote_uids(settings),
                .pool_target = 3,
                .pids = { 0, 101, 102, 103 },
                .pidfds = { UPGRADE_NONE, next_fd, next_fd + 1, next_fd + 2 },
                .stage_socket = UPGRADE_NONE,
                .builder_socket = next_fd + 3,
                .zygote_socket = next_fd + 4,
                .listener = next_fd + 5,
                .child_fds = { UPGRADE_NONE, UPGRADE_NONE, UPGRADE_NONE },
                .outer = UPGRADE_NONE,
                .final = UPGRADE_NONE,
                .start_until_usec = USEC_INFINITY,
                .token = "0123456789abcdef",
                .key = { .owner = "alice", .environment = "default", .policy = "default" },
        };
        next_fd += 6;
        z->uid_start = settings->uid_start + slot * z->uid_count;
}

static void make_pair(PairRecord *p, const ZygoteRecord *z, uint32_t slot, PairState state) {
        *p = (PairRecord){
                .slot = slot,
                .zygote_slot = z->slot,
                .state = state,
                .flags = PAIR_WATCHES_INIT_EXIT | PAIR_WATCHES_TASK_EXIT,
                .scope_state = SCOPE_ACTIVE,
                .uid = slot + 1,
                .expected_uid = z->uid_start + slot + 1,
                .init_pid = 200,
                .task_pid = 201,
                .init_pidfd = next_fd,
                .task_pidfd = next_fd + 1,
                .init_socket = next_fd + 2,
                .task_socket = next_fd + 3,
                .journal = next_fd + 4,
                .limits = { MIB(64), USEC_PER_SEC, 64 },
                .tmp_max = MIB(64),
                .timer_usec = USEC_INFINITY,
                .token = "00112233445566aa",
                .cgroup_path = "/clupy.slice/x",
        };
        next_fd += 5;
}

static void make_attempt(AttemptRecord *a, uint32_t number, AttemptState state, int32_t pair_slot) {
        *a = (AttemptRecord){
                .number = number,
                .state = state,
                .flags = state == ATTEMPT_WAITING && pair_slot == UPGRADE_NONE ? ATTEMPT_IN_QUEUE : 0,
                .pair_slot = pair_slot,
                .zygote_slot = UPGRADE_NONE,
                .fds = { next_fd, next_fd + 1 },
                .result_fd = UPGRADE_NONE,
                .timeout_at_usec = USEC_INFINITY,
                .grace_until_usec = USEC_INFINITY,
                .result_until_usec = USEC_INFINITY,
                .start = { .key = { .owner = "alice", .environment = "default", .policy = "default" },
                           .name = "test",
                           .memory_max = MIB(64),
                           .cpu_quota_usec = USEC_PER_SEC,
                           .tasks_max = 64,
                           .cpus = 1 },
        };
        next_fd += 2;
        if (state == ATTEMPT_ENDED)
                a->ended = (LauncherEvent){ .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_ENDED };
}

/* One that is as it should be. */
static UpgradeState *make_state(void) {
        UpgradeState *state;

        assert_int_equal(upgrade_state_new(N_ZYGOTES, N_PAIRS, N_ATTEMPTS, &state), 0);
        ManagerRecord *m = state->manager;
        settings_default(&m->settings);
        m->protocol_version = LAUNCHER_PROTOCOL_VERSION;
        m->network_empty = 3;
        m->network_host = 4;
        m->spawner_pid = 100;
        m->spawner_pidfd = 5;
        m->spawner_socket = 6;
        m->listener = 7;
        m->connection = UPGRADE_NONE;
        next_fd = 8;
        for (uint32_t i = 0; i < N_ZYGOTES; i++)
                make_zygote(state->zygotes + i, &m->settings, i * 3);
        make_pair(state->pairs, state->zygotes, 0, PAIR_RUNNING);
        make_pair(state->pairs + 1, state->zygotes + 1, 7, PAIR_READY);
        make_pair(state->pairs + 2, state->zygotes + 1, 9, PAIR_BUILDING);
        make_attempt(state->attempts, 1, ATTEMPT_RUNNING, 0);
        make_attempt(state->attempts + 1, 2, ATTEMPT_ENDED, UPGRADE_NONE);
        make_attempt(state->attempts + 2, 3, ATTEMPT_WAITING, 9);
        make_attempt(state->attempts + 3, 4, ATTEMPT_WAITING, UPGRADE_NONE);
        return state;
}

/* What the next version makes of a copy of it, in a buffer of its exact size. */
static int parse(const UpgradeState *state, size_t size) {
        UpgradeState *parsed = NULL;
        const char *why = NULL;
        void *copy = malloc(size);

        assert_non_null(copy);
        memcpy(copy, state->buffer, MIN(size, state->size));
        int r = upgrade_state_parse(copy, size, &parsed, &why);
        if (r < 0) {
                assert_non_null(why);
                assert_null(parsed);
        } else {
                assert_int_equal(parsed->size, state->size);
                assert_memory_equal(parsed->buffer, state->buffer, state->size);
        }
        upgrade_state_free(parsed);
        return r;
}

static void what_is_possible_is_taken(void **unused) {
        _cleanup_(upgrade_state_freep) UpgradeState *state = make_state(), *empty = NULL;
        _cleanup_(freep) int *fds = NULL;

        assert_int_equal(parse(state, state->size), 0);
        ssize_t n = upgrade_state_fds(state, &fds);
        assert_int_equal(n, next_fd - 3);
        for (ssize_t i = 0; i < n; i++)
                assert_in_range(fds[i], 3, next_fd - 1);
        assert_int_equal(upgrade_state_new(0, 0, 0, &empty), 0);
        *empty->manager = *state->manager;
        empty->manager->n_zygotes = empty->manager->n_pairs = empty->manager->n_attempts = 0;
        assert_int_equal(parse(empty, empty->size), 0);
}

static void sizes_and_versions_are_looked_at_first(void **unused) {
        _cleanup_(upgrade_state_freep) UpgradeState *state = make_state();

        for (size_t size = 0; size < state->size; size += size < 64 ? 1 : 97)
                assert_true(parse(state, size) < 0);
        assert_int_equal(parse(state, 4), -EBADMSG);
        assert_int_equal(parse(state, state->size - 8), -EINVAL);
        state->manager->version++;
        assert_int_equal(parse(state, state->size), -EPROTONOSUPPORT);
        state->manager->version--;
        state->manager->pair_size += 8;
        assert_int_equal(parse(state, state->size), -EINVAL);
        state->manager->pair_size -= 8;
        state->manager->n_attempts = UINT32_MAX;
        assert_int_equal(parse(state, state->size), -EINVAL);
        state->manager->n_attempts = N_ATTEMPTS;
        state->manager->magic ^= 1;
        assert_int_equal(parse(state, state->size), -EBADMSG);
}

/* Each of these alone makes it impossible. */
static void spoil(UpgradeState *state, unsigned how) {
        switch (how) {
        case 0:
                state->manager->listener = 2;
                break;
        case 1:
                state->manager->frozen = 2;
                break;
        case 2:
                state->manager->settings.zygotes_max = 0;
                break;
        case 3:
                state->zygotes[1].slot = state->zygotes[0].slot;
                break;
        case 4:
                state->zygotes[0].uid_start++;
                break;
        case 5:
                state->zygotes[0].state = _ZYGOTE_STATE_MAX;
                break;
        case 6:
                state->zygotes[0].key.owner[0] = '/';
                break;
        case 7:
                state->zygotes[0].token[3] = '/';
                break;
        case 8:
                state->zygotes[0].scope_state = SCOPE_STARTING;
                break;
        case 9:
                state->zygotes[0].listener = UPGRADE_NONE;
                break;
        case 10:
                state->pairs[1].slot = 0;
                break;
        case 11:
                state->pairs[0].zygote_slot = 1;
                break;
        case 12:
                state->pairs[0].uid = 0;
                break;
        case 13:
                state->pairs[0].task_socket = UPGRADE_NONE;
                break;
        case 14:
                state->pairs[0].journal = UPGRADE_NONE;
                break;
        case 15:
                state->pairs[0].state = _PAIR_STATE_MAX;
                break;
        case 16:
                state->pairs[0].flags |= _PAIR_FLAGS_END;
                break;
        case 17:
                strcpy(state->pairs[0].cgroup_path, "/../../etc");
                break;
        case 18:
                state->pairs[0].limits.memory_max = 0;
                break;
        case 19:
                state->pairs[0].task_pidfd = state->pairs[0].init_pidfd;
                break;
        case 20:
                memset(state->pairs[0].description, 'x', sizeof(state->pairs[0].description));
                break;
        case 21:
                state->attempts[0].pair_slot = 1;
                break;
        case 22:
                state->attempts[0].pair_slot = PAIRS_MAX;
                break;
        case 23:
                state->attempts[0].pair_slot = UPGRADE_NONE;
                break;
        case 24:
                state->attempts[1].pair_slot = 0;
                break;
        case 25:
                state->attempts[0].state = ATTEMPT_LIMITING;
                break;
        case 26:
                state->attempts[3].number = state->attempts[2].number;
                break;
        case 27:
                state->attempts[3].fds[0] = UPGRADE_NONE;
                break;
        case 28:
                state->attempts[3].zygote_slot = 1;
                break;
        case 29:
                state->attempts[1].ended.op = LAUNCHER_STARTED;
                break;
        case 30:
                memset(state->attempts[1].ended.info.detail, 'x', NOTE_MAX);
                break;
        case 31:
                state->attempts[0].start.memory_max = 1;
                break;
        case 32:
                state->attempts[0].ordered = _OUTCOME_MAX;
                break;
        case 33:
                state->attempts[2].flags |= ATTEMPT_IN_QUEUE;
                break;
        case 34:
                state->attempts[3].flags &= ~(uint32_t) ATTEMPT_IN_QUEUE;
                break;
        case 35:
                state->attempts[0].fds[0] = state->manager->spawner_socket;
                break;
        case 36:
                state->zygotes[0].pool_target = REQUEST_POOL_MAX + 1;
                break;
        case 37:
                state->pairs[1].flags |= PAIR_IS_REFILL;
                break;
        default:
                fail();
        }
}

static void what_is_not_possible_is_not_taken(void **unused) {
        for (unsigned how = 0; how <= 37; how++) {
                _cleanup_(upgrade_state_freep) UpgradeState *state = make_state();
                spoil(state, how);
                int r = parse(state, state->size);
                if (r != -EINVAL)
                        print_message("how %u: %d\n", how, r);
                assert_int_equal(r, -EINVAL);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_is_possible_is_taken),
                cmocka_unit_test(sizes_and_versions_are_looked_at_first),
                cmocka_unit_test(what_is_not_possible_is_not_taken),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
