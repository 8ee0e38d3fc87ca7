/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "environments-internal.h"
#include "log.h"
#include "time-util.h"

enum {
        KEPT_MAX = 1024,   /* environments on the disk */
        REMOVALS_MAX = 16, /* at once */
};
/* One that was built, or that a task was sent for, just now: its zygote is about to come. */
#define GRACE_USEC (10 * USEC_PER_SEC)

uint64_t environments_bytes(const Environments *t) {
        uint64_t sum = 0;
        Environment *e;

        HASHMAP_FOREACH(e, t->all)
                if (e->state == ENVIRONMENT_READY)
                        sum += e->bytes;
        return sum;
}

static bool is_needed(const Environment *e, uint64_t now) {
        const Environments *t = e->table;

        return e->busy_until > now || strv_contains(t->keep, e->name) ||
               t->handlers->is_wanted(e->name, t->userdata);
}

static bool environment_may_go(const Environment *e) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        bool fresh = e->touched > 0 && usec_sub(now, e->touched) < GRACE_USEC;

        return e->state == ENVIRONMENT_READY && !fresh && !is_needed(e, now);
}

bool environments_have_room(const Environments *t, const EnvironmentOrder *order) {
        const uint64_t size = t->config->environments.size, now = now_usec(CLOCK_MONOTONIC);
        uint64_t sum = MIN(t->config->environments.disk, size / 2);
        const Environment *e;

        if (order->resolve || strv_contains(t->keep, order->name))
                return true;
        HASHMAP_FOREACH(e, t->all)
                if (e->state == ENVIRONMENT_READY && is_needed(e, now))
                        sum += e->bytes;
        return sum <= size;
}

static int compare_owners(const void *left, const void *right) {
        const Environment *const *a = left, *const *b = right;

        return strcmp((*a)->owner, (*b)->owner);
}

/* Of the owner who has the most, among those who have anything that may go: what was used longest ago. So
 * nobody loses an environment to somebody who has more of them. NULL when nothing may go. */
static Environment *pick(Environment **all, size_t n) {
        Environment *found = NULL;
        uint64_t most = 0;

        for (size_t i = 0, end; i < n; i = end) {
                Environment *oldest = NULL;
                uint64_t bytes = 0;

                for (end = i; end < n && streq(all[end]->owner, all[i]->owner); end++) {
                        Environment *e = all[end];

                        if (e->state != ENVIRONMENT_READY)
                                continue;
                        bytes += e->bytes;
                        if (environment_may_go(e) &&
                            (!oldest || environment_last_use(e) < environment_last_use(oldest)))
                                oldest = e;
                }
                if (oldest && (!found || bytes > most)) {
                        found = oldest;
                        most = bytes;
                }
        }
        return found;
}

void environments_trim(Environments *t) {
        _cleanup_(freep) Environment **all = NULL;
        uint64_t bytes = environments_bytes(t);
        Environment *e;
        size_t n = 0;

        while ((bytes > t->config->environments.size || t->counts[ENVIRONMENT_READY] > KEPT_MAX) &&
               t->counts[ENVIRONMENT_REMOVING] < REMOVALS_MAX) {
                if (!all) {
                        all = newn0(Environment *, hashmap_size(t->all));
                        if (!all)
                                return;
                        HASHMAP_FOREACH(e, t->all)
                                all[n++] = e;
                        qsort(all, n, sizeof(*all), compare_owners);
                }
                e = pick(all, n);
                if (!e) {
                        /* Sooner or later one of them is not in use any more. */
                        if (t->listed && !t->listing)
                                environments_list_at(t, now_usec(CLOCK_MONOTONIC) + LIST_CROWDED_USEC);
                        return;
                }
                bytes -= e->bytes;
                log_info("Environment %s is removed to make room: %s are more than environments.size, %s",
                         e->name, FORMAT_BYTES(bytes + e->bytes),
                         FORMAT_BYTES(t->config->environments.size));
                if (!environment_remove(e))
                        return;
        }
}
