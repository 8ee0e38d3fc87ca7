/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <string.h>

#include "attempt.h"
#include "manager.h"
#include "pair.h"
#include "settings.h"
#include "upgrade-record.h"
#include "zygote.h"

/* 0xff, how many of each, and then only what stands behind the manager's own record: so that inputs need not
 * guess sizes, and stay good when these change. */
static int parse_records(const uint8_t *data, size_t size, UpgradeState **ret, const char **ret_why) {
        const uint8_t counts = size > 1 ? data[1] : 0;
        UpgradeState *state;

        CHECK(upgrade_state_new(counts & 3, counts >> 2 & 3, counts >> 4 & 7, &state) >= 0);
        ManagerRecord *m = state->manager;
        settings_default(&m->settings);
        m->network_empty = 3;
        m->network_host = 4;
        m->spawner_pid = 100;
        m->spawner_pidfd = 5;
        m->spawner_socket = 6;
        m->listener = 7;
        m->connection = UPGRADE_NONE;
        if (size > 2)
                memcpy(m + 1, data + 2, MIN(size - 2, state->size - sizeof(*m)));
        void *buffer = memdup(state->buffer, state->size);
        CHECK(buffer);
        int r = upgrade_state_parse(buffer, state->size, ret, ret_why);
        upgrade_state_free(state);
        return r;
}

static int parse_all(const uint8_t *data, size_t size, UpgradeState **ret, const char **ret_why) {
        void *buffer = malloc(size);

        CHECK(buffer || size == 0);
        if (size > 0)
                memcpy(buffer, data, size);
        return upgrade_state_parse(buffer, size, ret, ret_why);
}

/* What a launcher takes over from the former one, in a buffer of its exact size. What is taken must be safe
 * to use without another look: every slot, state and length is in its table. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        UpgradeState *state = NULL;
        const char *why = NULL;
        int *fds = NULL;
        int r = size > 0 && data[0] == 0xff ? parse_records(data, size, &state, &why)
                                            : parse_all(data, size, &state, &why);

        CHECK(r < 0 ? why && !state : state != NULL);
        if (r < 0)
                return 0;
        const ManagerRecord *m = state->manager;
        for (uint32_t i = 0; i < m->n_zygotes; i++)
                CHECK(state->zygotes[i].slot < m->settings.zygotes_max &&
                      state->zygotes[i].state < _ZYGOTE_STATE_MAX &&
                      strnlen(state->zygotes[i].token, CGROUP_TOKEN_SIZE) == CGROUP_TOKEN_SIZE - 1);
        for (uint32_t i = 0; i < m->n_pairs; i++)
                CHECK(state->pairs[i].slot < PAIRS_MAX && state->pairs[i].state < _PAIR_STATE_MAX &&
                      state->pairs[i].uid > 0 &&
                      strnlen(state->pairs[i].cgroup_path, CGROUP_PATH_SIZE) < CGROUP_PATH_SIZE);
        for (uint32_t i = 0; i < m->n_attempts; i++) {
                const AttemptRecord *a = state->attempts + i;
                CHECK(a->pair_slot < PAIRS_MAX && a->state < _ATTEMPT_STATE_MAX &&
                      a->zygote_slot < (int32_t) m->settings.zygotes_max);
                CHECK(strnlen(a->unit, sizeof(a->unit)) < sizeof(a->unit));
        }
        ssize_t n = upgrade_state_fds(state, &fds);
        for (ssize_t i = 0; i < n; i++)
                CHECK(fds[i] > 2);
        free(fds);
        upgrade_state_free(state);
        return 0;
}
