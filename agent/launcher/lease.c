/* SPDX-License-Identifier: Apache-2.0 */
#include "lease.h"

#include <errno.h>
#include <inttypes.h>

#include "attempt.h"
#include "log.h"
#include "pair.h"
#include "parse-util.h"
#include "time-util.h"

/* Nobody has come back for them: they are not wanted any more. */
static int on_orphaned(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *manager = userdata;
        Attempt *attempt;

        log_warning("Tasks were frozen for %s without a new lease; ending them",
                    FORMAT_DURATION(manager->settings.orphan_timeout_usec));
        HASHMAP_FOREACH(attempt, manager->attempts)
                if (attempt->state < ATTEMPT_ENDING)
                        attempt_stop(attempt, OUTCOME_SUPERSEDED, 0, "orphan timeout");
        return 0;
}

static int wait_for_orphans(Manager *manager) {
        return sd_event_add_time(manager->event, &manager->orphan_timer, CLOCK_BOOTTIME,
                                 usec_add(manager->frozen_at_usec, manager->settings.orphan_timeout_usec), 0,
                                 on_orphaned, manager);
}

static int on_lease_over(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *manager = userdata;
        Attempt *attempt;
        unsigned n = 0;
        int r;

        manager->frozen = true;
        manager->frozen_at_usec = now_usec(CLOCK_BOOTTIME);
        HASHMAP_FOREACH(attempt, manager->attempts)
                if (attempt->state == ATTEMPT_RUNNING) {
                        attempt_freeze(attempt);
                        n++;
                }
        log_warning("The lease has ended; froze %u tasks", n);
        r = wait_for_orphans(manager);
        if (r < 0)
                log_error_errno(r, "Cannot wait for orphaned tasks");
        manager_status(manager);
        return 0;
}

static void thaw(Manager *manager) {
        _cleanup_(freep) Attempt **concerned = newn0(Attempt *, hashmap_size(manager->attempts) + 1);
        Attempt *attempt;
        size_t n = 0;

        if (!concerned) {
                (void) log_oom();
                return;
        }
        manager->frozen = false;
        manager->orphan_timer = sd_event_source_disable_unref(manager->orphan_timer);
        HASHMAP_FOREACH(attempt, manager->attempts)
                if (attempt->state == ATTEMPT_FROZEN || attempt->state == ATTEMPT_HELD)
                        concerned[n++] = attempt;
        for (size_t i = 0; i < n; i++)
                attempt_thaw(concerned[i]);
        log_info("A new lease; thawed %zu tasks", n);
        manager_status(manager);
}

void lease_set(Manager *manager, uint64_t until_usec) {
        int r;

        manager->lease_until_usec = until_usec;
        if (manager->frozen && until_usec > now_usec(CLOCK_BOOTTIME))
                thaw(manager);
        if (manager->frozen)
                return;
        if (manager->lease_timer) {
                r = sd_event_source_set_time(manager->lease_timer, until_usec);
                if (r >= 0)
                        r = sd_event_source_set_enabled(manager->lease_timer, SD_EVENT_ONESHOT);
        } else
                r = sd_event_add_time(manager->event, &manager->lease_timer, CLOCK_BOOTTIME, until_usec,
                                      10 * USEC_PER_MSEC, on_lease_over, manager);
        if (r < 0)
                log_error_errno(r, "Cannot watch the lease");
}

int lease_restore(Manager *manager, uint64_t until_usec, bool frozen, uint64_t frozen_at_usec) {
        manager->lease_until_usec = until_usec;
        manager->frozen = frozen;
        manager->frozen_at_usec = frozen_at_usec;
        if (frozen)
                return wait_for_orphans(manager);
        if (until_usec == 0)
                return 0;
        return sd_event_add_time(manager->event, &manager->lease_timer, CLOCK_BOOTTIME, until_usec,
                                 10 * USEC_PER_MSEC, on_lease_over, manager);
}
