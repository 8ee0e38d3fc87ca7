/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "time-util.h"
#include "upgrade.h"
#include "zygote-start.h"
#include "zygote.h"

/* A zygote handed over: it lives on, whatever state it is in; what it and its builder say meanwhile waits in
 * their sockets. */

static int save_fd(int fd) {
        return fd >= 0 ? fd : UPGRADE_NONE;
}

void zygote_save(const Zygote *zygote, ZygoteRecord *record) {
        *record = (ZygoteRecord){
                .key = zygote->key,
                .state = zygote->state,
                .slot = zygote->slot,
                .scope_state = zygote->scope.state,
                .flags = (zygote->on_stage ? ZYGOTE_WATCHES_STAGE : 0) |
                         (zygote->on_builder ? ZYGOTE_WATCHES_BUILDER : 0) |
                         (zygote->on_zygote ? ZYGOTE_WATCHES_ZYGOTE : 0) |
                         (zygote->on_listener ? ZYGOTE_WATCHES_LISTENER : 0) |
                         (zygote->environment_broken ? ZYGOTE_IS_BROKEN : 0),
                .uid_start = zygote->uid_start,
                .uid_count = zygote->uid_count,
                .pool_target = zygote->pool_target,
                .stage_socket = save_fd(zygote->stage_socket),
                .builder_socket = save_fd(zygote->builder_socket),
                .zygote_socket = save_fd(zygote->zygote_socket),
                .listener = save_fd(zygote->listener),
                .outer = save_fd(zygote->outer),
                .final = save_fd(zygote->final),
                .start_until_usec = upgrade_timer_save(zygote->start_timer),
                .used_at_usec = zygote->used_at_usec,
                .refill_after_usec = zygote->refill_after_usec,
        };
        for (size_t i = 0; i < ELEMENTSOF(record->pids); i++) {
                record->pids[i] = zygote->pids[i];
                record->pidfds[i] = save_fd(zygote->pidfds[i]);
        }
        for (size_t i = 0; i < ELEMENTSOF(record->child_fds); i++)
                record->child_fds[i] = save_fd(zygote->child_fds[i]);
        (void) snprintf(record->token, sizeof(record->token), "%s", zygote->token);
        (void) snprintf(record->why, sizeof(record->why), "%s", zygote->why);
}

int zygote_restore(Manager *manager, const ZygoteRecord *record) {
        Zygote *zygote = new0(Zygote);
        int r = 0;

        if (!zygote)
                return -ENOMEM;
        *zygote = (Zygote){
                .manager = manager,
                .key = record->key,
                .state = (ZygoteState) record->state,
                .slot = record->slot,
                .uid_start = record->uid_start,
                .uid_count = record->uid_count,
                .environment_broken = record->flags & ZYGOTE_IS_BROKEN,
                .pool_target = record->pool_target,
                .stage_socket = record->stage_socket,
                .builder_socket = record->builder_socket,
                .zygote_socket = record->zygote_socket,
                .listener = record->listener,
                .outer = record->outer,
                .final = record->final,
                .used_at_usec = record->used_at_usec,
                .refill_after_usec = record->refill_after_usec,
        };
        COPY_TEXT(zygote->token, record->token);
        COPY_TEXT(zygote->why, record->why);
        memcpy(zygote->child_fds, record->child_fds, sizeof(zygote->child_fds));
        for (size_t i = 0; i < ELEMENTSOF(record->pidfds); i++)
                zygote->pidfds[i] = -EBADF;
        list_init(&zygote->ready);
        list_append(&manager->zygotes, &zygote->zygotes);
        manager->zygote_slots[zygote->slot] = zygote;
        zygote->uids = newn0(uint64_t, zygote->uid_count / 64 + 1);
        if (!zygote->uids)
                return -ENOMEM;
        for (size_t i = 0; i < ELEMENTSOF(record->pidfds) && r >= 0; i++)
                if (record->pidfds[i] >= 0)
                        r = zygote_watch(zygote, (ZygoteProcess) i, record->pidfds[i]);
        return r < 0 ? r : zygote_start_resume(zygote, record);
}
