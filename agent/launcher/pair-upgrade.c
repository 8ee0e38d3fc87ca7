/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pair.h"
#include "time-util.h"
#include "upgrade.h"
#include "zygote.h"

/* A pair handed over, in whatever state it is: what its processes say meanwhile waits in their sockets. */

static int save_fd(int fd) {
        return fd >= 0 ? fd : UPGRADE_NONE;
}

static uint32_t flags_of(const Pair *pair) {
        const struct {
                bool set;
                uint32_t flag;
        } flags[] = {
                { pair->on_init_exit, PAIR_WATCHES_INIT_EXIT },
                { pair->on_init_socket, PAIR_WATCHES_INIT_SOCKET },
                { pair->on_task_exit, PAIR_WATCHES_TASK_EXIT },
                { pair->on_task_socket, PAIR_WATCHES_TASK_SOCKET },
                { pair->failed, PAIR_HAS_FAILED },
                { pair->refill, PAIR_IS_REFILL },
                { pair->init_ordered, PAIR_INIT_ORDERED },
                { pair->task_ordered, PAIR_TASK_ORDERED },
                { pair->fields_written, PAIR_FIELDS_WRITTEN },
                { pair->sandbox_broke, PAIR_SANDBOX_BROKE },
                { pair->frozen, PAIR_IS_FROZEN },
                { pair->leaving, PAIR_IS_LEAVING },
                { pair->line_ended, PAIR_LINE_ENDED },
                { pair->init_ready, PAIR_INIT_READY },
                { pair->task_ready, PAIR_TASK_READY },
                { pair->task_reaped, PAIR_TASK_REAPED },
                { pair->cgroup.own_cpuacct, PAIR_OWN_CPUACCT },
                { pair->cgroup.own_freezer, PAIR_OWN_FREEZER },
                { pair->bytes_before.known, PAIR_BYTES_BEFORE_KNOWN },
                { pair->bytes.known, PAIR_BYTES_KNOWN },
        };
        uint32_t all = 0;

        for (size_t i = 0; i < ELEMENTSOF(flags); i++)
                all |= flags[i].set ? flags[i].flag : 0;
        return all;
}

static void bytes_save(const ProcessBytes *bytes, uint64_t record[static 4]) {
        record[0] = bytes->read_chars;
        record[1] = bytes->write_chars;
        record[2] = bytes->read_bytes;
        record[3] = bytes->write_bytes;
}

static ProcessBytes bytes_restore(const uint64_t record[static 4], bool known) {
        return (ProcessBytes){ known, record[0], record[1], record[2], record[3] };
}

void pair_save(const Pair *pair, PairRecord *record) {
        *record = (PairRecord){
                .slot = pair->slot,
                .zygote_slot = pair->zygote->slot,
                .state = pair->state,
                .flags = flags_of(pair),
                .scope_state = pair->scope.state,
                .uid = pair->uid,
                .expected_uid = pair->expected.uid,
                .init_pid = pair->init_pid,
                .task_pid = pair->task_pid,
                .init_pidfd = save_fd(pair->init_pidfd),
                .task_pidfd = save_fd(pair->task_pidfd),
                .init_socket = save_fd(pair->init_socket),
                .task_socket = save_fd(pair->task_socket),
                .journal = save_fd(pair->journal),
                .drained_times = pair->drained_times,
                .linger_ticks = pair->linger_ticks,
                .limits = pair->limits,
                .tmp_max = pair->tmp_max,
                .devices = pair->devices,
                .filters = pair->expected.filters,
                .timer_usec = upgrade_timer_save(pair->timer),
                .figures_before = pair->figures_before,
                .figures = pair->figures,
                .cpu_before_usec = pair->cpu_before_usec,
                .cpu_usec = pair->cpu_usec,
        };
        for (size_t i = 0; i < VERIFY_NAMESPACES; i++)
                record->namespaces[i] = pair->expected.namespaces[i];
        bytes_save(&pair->bytes_before, record->bytes_before);
        bytes_save(&pair->bytes, record->bytes);
        (void) snprintf(record->token, sizeof(record->token), "%s", pair->token);
        (void) snprintf(record->description, sizeof(record->description), "%s", pair->description);
        (void) snprintf(record->cgroup_path, sizeof(record->cgroup_path), "%s", pair->cgroup.path);
        (void) snprintf(record->cgroup_cpuacct, sizeof(record->cgroup_cpuacct), "%s", pair->cgroup.cpuacct);
}

int pair_restore(Manager *manager, const PairRecord *record) {
        Zygote *zygote = manager->zygote_slots[record->zygote_slot];
        const uint32_t flags = record->flags;
        Pair *pair = new0(Pair);

        if (!pair)
                return -ENOMEM;
        *pair = (Pair){
                .manager = manager,
                .zygote = zygote,
                .state = (PairState) record->state,
                .failed = flags & PAIR_HAS_FAILED,
                .refill = flags & PAIR_IS_REFILL,
                .init_ordered = flags & PAIR_INIT_ORDERED,
                .task_ordered = flags & PAIR_TASK_ORDERED,
                .fields_written = flags & PAIR_FIELDS_WRITTEN,
                .sandbox_broke = flags & PAIR_SANDBOX_BROKE,
                .frozen = flags & PAIR_IS_FROZEN,
                .leaving = flags & PAIR_IS_LEAVING,
                .line_ended = flags & PAIR_LINE_ENDED,
                .slot = record->slot,
                .uid = record->uid,
                .limits = record->limits,
                .tmp_max = record->tmp_max,
                .devices = record->devices,
                .expected = { .uid = record->expected_uid, .filters = record->filters },
                .init_pid = record->init_pid,
                .task_pid = record->task_pid,
                .init_pidfd = record->init_pidfd,
                .task_pidfd = record->task_pidfd,
                .init_socket = record->init_socket,
                .task_socket = record->task_socket,
                .journal = record->journal,
                .init_ready = flags & PAIR_INIT_READY,
                .task_ready = flags & PAIR_TASK_READY,
                .task_reaped = flags & PAIR_TASK_REAPED,
                .figures_before = record->figures_before,
                .figures = record->figures,
                .bytes_before = bytes_restore(record->bytes_before, flags & PAIR_BYTES_BEFORE_KNOWN),
                .bytes = bytes_restore(record->bytes, flags & PAIR_BYTES_KNOWN),
                .cpu_before_usec = record->cpu_before_usec,
                .cpu_usec = record->cpu_usec,
                .drained_times = record->drained_times,
                .linger_ticks = record->linger_ticks,
        };
        for (size_t i = 0; i < VERIFY_NAMESPACES; i++)
                pair->expected.namespaces[i] = (ino_t) record->namespaces[i];
        COPY_TEXT(pair->token, record->token);
        COPY_TEXT(pair->description, record->description);
        COPY_TEXT(pair->cgroup.path, record->cgroup_path);
        COPY_TEXT(pair->cgroup.cpuacct, record->cgroup_cpuacct);
        if (pair->cgroup.path[0]) {
                COPY_TEXT(pair->cgroup.token, record->token);
                pair->cgroup.init = record->init_pid;
                pair->cgroup.task = record->task_pid;
        }
        pair->cgroup.own_cpuacct = flags & PAIR_OWN_CPUACCT;
        pair->cgroup.own_freezer = flags & PAIR_OWN_FREEZER;

        manager->pairs[pair->slot] = pair;
        manager->n_pairs++;
        zygote->n_pairs++;
        zygote->n_refilling += pair->refill;
        zygote->uids[pair->uid / 64] |= UINT64_C(1) << pair->uid % 64;
        return 0;
}
