/* SPDX-License-Identifier: Apache-2.0 */
#include "warm-pool.h"

#include <errno.h>
#include <stdbool.h>

#include "list.h"
#include "time-util.h"

#define IDLE_USEC (10 * USEC_PER_MINUTE)
#define IDLE_SLACK_USEC (30 * USEC_PER_SEC)

enum { KEYS_MAX = 256 };

typedef struct WarmKey {
        LauncherKey key;
        uint64_t used_usec; /* CLOCK_MONOTONIC */
        ListLink age;
} WarmKey;

struct WarmPool {
        sd_event_source *timer;
        bool timer_set;
        unsigned count;
        WarmPoolAsk ask;
        void *userdata;
        ListLink by_age; /* the least recently used first */
        unsigned n_keys;
};

static void warm_pool_drop(WarmPool *p, WarmKey *k) {
        list_remove(&k->age);
        p->n_keys--;
        free(k);
}

static void warm_pool_arm(WarmPool *p) {
        WarmKey *oldest = LIST_FIRST(WarmKey, age, &p->by_age);

        p->timer_set = oldest;
        if (oldest)
                (void) sd_event_source_set_time(p->timer, oldest->used_usec + IDLE_USEC);
        (void) sd_event_source_set_enabled(p->timer, oldest ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        WarmPool *p = userdata;
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        LIST_FOREACH(WarmKey, k, age, &p->by_age) {
                if (usec_sub(now, k->used_usec) < IDLE_USEC)
                        break;
                p->ask(&k->key, 0, p->userdata);
                warm_pool_drop(p, k);
        }
        warm_pool_arm(p);
        return 0;
}

int warm_pool_new(sd_event *event, unsigned count, WarmPoolAsk ask, void *userdata, WarmPool **ret) {
        _cleanup_(warm_pool_freep) WarmPool *p = NULL;
        int r;

        p = new0(WarmPool);
        if (!p)
                return -ENOMEM;
        list_init(&p->by_age);
        p->count = count;
        p->ask = ask;
        p->userdata = userdata;
        r = sd_event_add_time(event, &p->timer, CLOCK_MONOTONIC, UINT64_MAX, IDLE_SLACK_USEC, on_timer, p);
        if (r >= 0)
                r = sd_event_source_set_enabled(p->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

WarmPool *warm_pool_free(WarmPool *p) {
        if (!p)
                return NULL;
        LIST_FOREACH(WarmKey, k, age, &p->by_age)
                warm_pool_drop(p, k);
        sd_event_source_disable_unref(p->timer);
        return mfree(p);
}

void warm_pool_use(WarmPool *p, const LauncherKey *key) {
        WarmKey *found = NULL;

        if (p->count == 0)
                return;
        LIST_FOREACH(WarmKey, k, age, &p->by_age)
                if (memcmp(&k->key, key, sizeof(*key)) == 0) {
                        found = k;
                        break;
                }
        if (!found) {
                WarmKey *oldest = LIST_FIRST(WarmKey, age, &p->by_age);

                if (oldest && p->n_keys >= KEYS_MAX)
                        warm_pool_drop(p, oldest);
                found = new0(WarmKey);
                if (!found)
                        return; /* only slower */
                found->key = *key;
                p->n_keys++;
                p->ask(key, p->count, p->userdata);
        }
        found->used_usec = now_usec(CLOCK_MONOTONIC);
        list_remove(&found->age);
        list_append(&p->by_age, &found->age);
        /* The timer may come too early for a key used since: it then looks again. */
        if (!p->timer_set)
                warm_pool_arm(p);
}

void warm_pool_follow(WarmPool *p, const char *former, const char *next) {
        LauncherKey keys[KEYS_MAX];
        size_t n = 0;

        /* Using them changes the list. */
        LIST_FOREACH(WarmKey, k, age, &p->by_age)
                if (streq(k->key.environment, former) && n < ELEMENTSOF(keys))
                        keys[n++] = k->key;
        for (size_t i = 0; i < n; i++) {
                memset(keys[i].environment, 0, sizeof(keys[i].environment));
                memcpy(keys[i].environment, next, strnlen(next, sizeof(keys[i].environment) - 1));
                warm_pool_use(p, keys + i);
        }
}

void warm_pool_forget(WarmPool *p, const char *environment) {
        LIST_FOREACH(WarmKey, k, age, &p->by_age)
                if (streq(k->key.environment, environment)) {
                        p->ask(&k->key, 0, p->userdata);
                        warm_pool_drop(p, k);
                }
}

void warm_pool_renew(WarmPool *p) {
        LIST_FOREACH(WarmKey, k, age, &p->by_age)
                p->ask(&k->key, p->count, p->userdata);
}
