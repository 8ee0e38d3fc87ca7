/* SPDX-License-Identifier: Apache-2.0 */
#include "zygote.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "attempt.h"
#include "fd-util.h"
#include "log.h"
#include "pair.h"
#include "reason.h"
#include "settings.h"
#include "time-util.h"
#include "verify.h"
#include "zygote-protocol.h"
#include "zygote-start.h"

static const char *const zygote_state_table[_ZYGOTE_STATE_MAX] = {
        [ZYGOTE_STARTING] = "starting",
        [ZYGOTE_WARM] = "ready",
        [ZYGOTE_DRAINING] = "draining",
        [ZYGOTE_DEAD] = "dead",
};
static const char *const process_names[_ZYGOTE_PROCESS_MAX] = { "stage", "anchor", "builder", "zygote" };

const char *zygote_state_to_string(ZygoteState state) {
        return (size_t) state < _ZYGOTE_STATE_MAX ? zygote_state_table[state] : "?";
}

static bool key_equal(const LauncherKey *left, const LauncherKey *right) {
        return memcmp(left, right, sizeof(*left)) == 0; /* padded with NULs, checked */
}

static void discard_ready(Zygote *zygote) {
        Pair *pair;

        while ((pair = LIST_FIRST(Pair, ready, &zygote->ready)))
                pair_discard(pair, NULL, 0);
}

static void end_processes(Zygote *zygote) {
        /* The anchor is PID 1 of all the others; before it there is only the stage. */
        for (int i = 0; i < _ZYGOTE_PROCESS_MAX; i++)
                if (zygote->pidfds[i] >= 0)
                        (void) pidfd_send_signal(zygote->pidfds[i], SIGKILL, NULL, 0);
        zygote->on_stage = sd_event_source_disable_unref(zygote->on_stage);
        zygote->on_zygote = sd_event_source_disable_unref(zygote->on_zygote);
        zygote->on_builder = sd_event_source_disable_unref(zygote->on_builder);
}

void zygote_set_state(Zygote *zygote, ZygoteState state) {
        if (zygote->state == state)
                return;
        log_info("Zygote %s of %s (%s, %s): %s → %s%s%s", zygote->token, zygote->key.owner,
                 zygote->key.environment, zygote->key.policy, zygote_state_to_string(zygote->state),
                 zygote_state_to_string(state), zygote->why[0] ? ": " : "", zygote->why);
        zygote->state = state;
        zygote->start_timer = sd_event_source_disable_unref(zygote->start_timer);
        switch (state) {
        case ZYGOTE_WARM:
                manager_kick(zygote->manager);
                break;
        case ZYGOTE_DRAINING:
                discard_ready(zygote);
                attempts_zygote_dead(zygote);
                if (zygote->n_pairs == 0)
                        zygote_set_state(zygote, ZYGOTE_DEAD);
                break;
        case ZYGOTE_DEAD:
                attempts_zygote_dead(zygote);
                end_processes(zygote);
                for (unsigned i = 0; i < PAIRS_MAX; i++)
                        if (zygote->manager->pairs[i] && zygote->manager->pairs[i]->zygote == zygote)
                                pair_zygote_gone(zygote->manager->pairs[i], true, true);
                break; /* freed by zygotes_collect(): whoever called may still use it */
        default:
                break;
        }
        manager_status(zygote->manager);
}

void zygote_fail(Zygote *zygote, const char *why) {
        if (zygote->state == ZYGOTE_DEAD)
                return;
        log_warning("Zygote %s of %s failed: %s", zygote->token, zygote->key.owner, why);
        (void) snprintf(zygote->why, sizeof(zygote->why), "%s", why);
        zygote_set_state(zygote, ZYGOTE_DEAD);
}

void zygote_end(Zygote *zygote, const char *why) {
        if (zygote->state >= ZYGOTE_DRAINING)
                return;
        (void) snprintf(zygote->why, sizeof(zygote->why), "%s", why);
        zygote->pool_target = 0;
        zygote_set_state(zygote, ZYGOTE_DRAINING);
}

void zygote_distrust(Zygote *zygote, const char *why) {
        int pidfd = zygote->pidfds[ZYGOTE_PROCESS_ZYGOTE];

        if (zygote->state == ZYGOTE_DEAD || pidfd < 0)
                return;
        log_warning("Killing the process of zygote %s of %s: %s", zygote->token, zygote->key.owner, why);
        (void) pidfd_send_signal(pidfd, SIGKILL, NULL, 0); /* its end tells its pairs */
        if (zygote->state == ZYGOTE_WARM)
                zygote_end(zygote, why); /* what waits for it goes to another one now */
}

static void zygote_free(Zygote *zygote) {
        Manager *manager = zygote->manager;

        list_remove(&zygote->zygotes);
        if (manager->zygote_slots[zygote->slot] == zygote)
                manager->zygote_slots[zygote->slot] = NULL;
        if (zygote->scope.state == SCOPE_ACTIVE || zygote->scope.state == SCOPE_STARTING)
                scope_stop(manager->bus, zygote->scope.name);
        scope_release(&zygote->scope);
        sd_event_source_disable_unref(zygote->on_stage);
        sd_event_source_disable_unref(zygote->on_builder);
        sd_event_source_disable_unref(zygote->on_zygote);
        sd_event_source_disable_unref(zygote->on_listener);
        sd_event_source_disable_unref(zygote->start_timer);
        for (int i = 0; i < _ZYGOTE_PROCESS_MAX; i++) {
                sd_event_source_disable_unref(zygote->on_exit[i]);
                close_fd(zygote->pidfds[i]);
        }
        manager_kick(manager);
        close_fd(zygote->stage_socket);
        close_fd(zygote->builder_socket);
        close_fd(zygote->zygote_socket);
        close_fd(zygote->listener);
        close_fd(zygote->outer);
        close_fd(zygote->final);
        close_many(zygote->child_fds, ELEMENTSOF(zygote->child_fds));
        free(zygote->uids);
        free(zygote);
}

void zygote_maybe_free(Zygote *zygote) {
        if (zygote->state != ZYGOTE_DEAD || zygote->n_pairs > 0)
                return;
        for (int i = 0; i < _ZYGOTE_PROCESS_MAX; i++)
                if (zygote->pidfds[i] >= 0)
                        return;
        zygote_free(zygote);
}

void zygotes_collect(Manager *manager) {
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                zygote_maybe_free(zygote);
}

/* One of the four has ended. */
static int on_process_exit(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Zygote *zygote = userdata;
        siginfo_t information = {};
        char why[128], name[32];
        int which = 0;

        while (which < _ZYGOTE_PROCESS_MAX && zygote->pidfds[which] != fd)
                which++;
        if (which == _ZYGOTE_PROCESS_MAX)
                return 0;
        (void) waitid(P_PIDFD, (id_t) fd, &information, WEXITED | __WALL);
        zygote->on_exit[which] = sd_event_source_disable_unref(zygote->on_exit[which]);
        zygote->pidfds[which] = close_fd(zygote->pidfds[which]);
        zygote->pids[which] = 0;

        bool by_signal = information.si_code != CLD_EXITED;
        if (zygote->state != ZYGOTE_DEAD &&
            (which != ZYGOTE_PROCESS_STAGE || by_signal || information.si_status != 0)) {
                (void) snprintf(why, sizeof(why),
                                by_signal ? "its %s was ended by %s" : "its %s ended with status %s",
                                process_names[which],
                                by_signal
                                        ? signal_to_name(information.si_status, name, sizeof(name))
                                        : (snprintf(name, sizeof(name), "%d", information.si_status), name));
                zygote->environment_broken = which == ZYGOTE_PROCESS_ZYGOTE && !by_signal &&
                                             information.si_status == ZYGOTE_EXIT_ENVIRONMENT;
                if (zygote->environment_broken && zygote->state == ZYGOTE_STARTING) {
                        zygote_hear(zygote);
                        if (zygote->words[0])
                                (void) snprintf(why, sizeof(why), "%s", zygote->words);
                }
                /* Tasks that run need neither the zygote nor the builder. */
                if ((which == ZYGOTE_PROCESS_ZYGOTE || which == ZYGOTE_PROCESS_BUILDER) &&
                    zygote->state != ZYGOTE_STARTING) {
                        (void) snprintf(zygote->why, sizeof(zygote->why), "%s", why);
                        log_warning("Zygote %s of %s: %s", zygote->token, zygote->key.owner, why);
                        /* First, so that no attempt whose pair goes now is tried with this one again. */
                        zygote_set_state(zygote, ZYGOTE_DRAINING);
                        for (unsigned i = 0; i < PAIRS_MAX; i++)
                                if (zygote->manager->pairs[i] && zygote->manager->pairs[i]->zygote == zygote)
                                        pair_zygote_gone(zygote->manager->pairs[i],
                                                         which == ZYGOTE_PROCESS_BUILDER,
                                                         which == ZYGOTE_PROCESS_ZYGOTE);
                } else
                        zygote_fail(zygote, why);
                return 0;
        }
        zygote_maybe_free(zygote);
        return 0;
}

int zygote_watch(Zygote *zygote, ZygoteProcess which, int pidfd) {
        pid_t pid = pidfd_to_pid(pidfd);

        zygote->pidfds[which] = pidfd;
        if (pid < 0)
                return pid;
        zygote->pids[which] = pid;
        return sd_event_add_io(zygote->manager->event, &zygote->on_exit[which], pidfd, EPOLLIN,
                               on_process_exit, zygote);
}

Zygote *zygote_find(Manager *manager, const LauncherKey *key) {
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                if (zygote->state <= ZYGOTE_WARM && key_equal(&zygote->key, key))
                        return zygote;
        return NULL;
}

bool zygote_is_idle(const Zygote *zygote) {
        return zygote->state == ZYGOTE_WARM && zygote->n_pairs == zygote->n_ready;
}

/* The one that has waited longest has to go. Returns whether one goes. */
static bool evict(Manager *manager) {
        Zygote *oldest = NULL;

        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                if (zygote_is_idle(zygote) && (!oldest || zygote->used_at_usec < oldest->used_at_usec))
                        oldest = zygote;
        if (oldest)
                zygote_end(oldest, "another one needs its place");
        return oldest != NULL;
}

static bool one_is_going(Manager *manager) {
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                if (zygote->state == ZYGOTE_DEAD ||
                    (zygote->state == ZYGOTE_DRAINING && zygote->pool_target == 0))
                        return true;
        return false;
}

static int slot_find(Manager *manager) {
        for (unsigned i = 0; i < manager->settings.zygotes_max; i++)
                if (!manager->zygote_slots[i])
                        return (int) i;
        return -EAGAIN;
}

int zygote_get(Manager *manager, const LauncherKey *key, Zygote **ret) {
        const LauncherSettings *settings = &manager->settings;
        Zygote *zygote = zygote_find(manager, key);
        int r;

        if (!zygote) {
                int slot = slot_find(manager);
                if (slot < 0) {
                        return one_is_going(manager) || evict(manager) ? -EINPROGRESS : -EAGAIN;
                }
                zygote = new0(Zygote);
                if (!zygote)
                        return -ENOMEM;
                *zygote = (Zygote){
                        .manager = manager,
                        .key = *key,
                        .slot = (unsigned) slot,
                        .uid_count = settings_zygote_uids(settings),
                        .stage_socket = -EBADF,
                        .builder_socket = -EBADF,
                        .zygote_socket = -EBADF,
                        .listener = -EBADF,
                        .outer = -EBADF,
                        .final = -EBADF,
                        .child_fds = { -EBADF, -EBADF, -EBADF },
                        .pidfds = { -EBADF, -EBADF, -EBADF, -EBADF },
                };
                zygote->uid_start = settings->uid_start + zygote->slot * zygote->uid_count;
                list_init(&zygote->ready);
                list_append(&manager->zygotes, &zygote->zygotes);
                manager->zygote_slots[slot] = zygote;
                zygote->uids = newn0(uint64_t, zygote->uid_count / 64 + 1);
                r = zygote->uids ? token_make(zygote->token) : -ENOMEM;
                if (r >= 0)
                        r = zygote_start(zygote);
                if (r < 0) {
                        zygote_free(zygote);
                        return r;
                }
                log_info("Zygote %s of %s (%s, %s%s): begun", zygote->token, key->owner, key->environment,
                         key->policy, key->host_network ? ", host network" : "");
        }
        zygote->used_at_usec = now_usec(CLOCK_MONOTONIC);
        *ret = zygote;
        return 0;
}

void zygote_refill(Zygote *zygote) {
        Manager *manager = zygote->manager;

        if (zygote->state != ZYGOTE_WARM || manager->stopping || manager->upgrade)
                return;
        if (!scope_bus_is_connected(manager->bus) || now_usec(CLOCK_MONOTONIC) < zygote->refill_after_usec)
                return; /* it is tried again each second */
        while (zygote->n_ready > zygote->pool_target)
                pair_discard(LIST_FIRST(Pair, ready, &zygote->ready), NULL, 0);
        while (zygote->n_ready + zygote->n_refilling < zygote->pool_target && manager->n_warm < POOL_MAX &&
               zygote_has_start_left(zygote)) {
                Pair *pair;
                int r = pair_new(zygote, &manager->default_limits, manager->settings.default_tmp_max,
                                 "CluPy task (waiting for its function)", NULL, &pair);
                if (r < 0)
                        return;
        }
}

int zygote_uid_take(Zygote *zygote) {
        /* 0 is the zygote's, the last one the builder's. */
        for (uint32_t uid = 1; uid < zygote->uid_count - 1; uid++)
                if (!(zygote->uids[uid / 64] & UINT64_C(1) << uid % 64)) {
                        zygote->uids[uid / 64] |= UINT64_C(1) << uid % 64;
                        return (int) uid;
                }
        return -EAGAIN;
}

void zygote_uid_give_back(Zygote *zygote, uint32_t uid) {
        zygote->uids[uid / 64] &= ~(UINT64_C(1) << uid % 64);
}

bool zygote_has_start_left(const Zygote *zygote) {
        unsigned sharers = zygote->manager->n_zygotes_starting + (zygote->n_starting == 0);

        return zygote->n_starting < MAX(PAIRS_STARTING / sharers, (unsigned) PAIRS_STARTING_LEAST);
}

void zygote_start_begun(Zygote *zygote) {
        if (zygote->n_starting++ == 0)
                zygote->manager->n_zygotes_starting++;
}

void zygote_start_over(Zygote *zygote) {
        if (--zygote->n_starting == 0)
                zygote->manager->n_zygotes_starting--;
}

void zygote_pair_gone(Zygote *zygote) {
        zygote->n_pairs--;
        if (zygote->state == ZYGOTE_DRAINING && zygote->n_pairs == 0)
                zygote_set_state(zygote, ZYGOTE_DEAD);
        else
                zygote_maybe_free(zygote);
}

bool zygote_is_collapsing(const Zygote *zygote) {
        pid_t anchor = zygote->pids[ZYGOTE_PROCESS_ANCHOR];

        return anchor > 0 && process_is_exiting(anchor);
}

bool zygote_owns_pid(const Zygote *zygote, pid_t pid) {
        for (int i = 0; i < _ZYGOTE_PROCESS_MAX; i++)
                if (zygote->pids[i] == pid)
                        return true;
        return false;
}
