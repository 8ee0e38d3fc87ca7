/* SPDX-License-Identifier: Apache-2.0 */
#include "heartbeat.h"

#include <errno.h>
#include <stdbool.h>
#include <time.h>

#include "time-util.h"

enum { SENT_MAX = 64 }; /* heartbeats on their way that are remembered */

#define SILENCE_LEAST_USEC (3 * USEC_PER_SEC)

struct Heartbeat {
        sd_event *event;
        sd_event_source *timer;
        const HeartbeatHandlers *handlers;
        void *userdata;
        bool running;
        uint64_t interval, lease;
        uint64_t seq;              /* of the last one sent */
        uint64_t answered;         /* highest */
        uint64_t renewing_from;    /* first that renews; 0: none does */
        uint64_t last_answer_usec; /* CLOCK_BOOTTIME */
        uint64_t sent[SENT_MAX];   /* CLOCK_BOOTTIME, by seq */
};

static void heartbeat_send(Heartbeat *h) {
        h->seq++;
        h->sent[h->seq % SENT_MAX] = now_usec(CLOCK_BOOTTIME);
        h->handlers->send(h->seq, h->userdata);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Heartbeat *h = userdata;
        uint64_t silence = usec_sub(now_usec(CLOCK_BOOTTIME), h->last_answer_usec);

        (void) sd_event_source_set_time_relative(source, h->interval);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        if (silence > MAX(h->lease / 2, SILENCE_LEAST_USEC))
                h->handlers->silent(h->userdata);
        else
                heartbeat_send(h);
        return 0;
}

int heartbeat_new(sd_event *event, const HeartbeatHandlers *handlers, void *userdata, Heartbeat **ret) {
        Heartbeat *h;

        h = new0(Heartbeat);
        if (!h)
                return -ENOMEM;
        h->event = sd_event_ref(event);
        h->handlers = handlers;
        h->userdata = userdata;
        *ret = h;
        return 0;
}

Heartbeat *heartbeat_free(Heartbeat *h) {
        if (!h)
                return NULL;
        sd_event_source_disable_unref(h->timer);
        sd_event_unref(h->event);
        return mfree(h);
}

int heartbeat_start(Heartbeat *h, uint64_t interval_usec, uint64_t lease_usec) {
        int r;

        heartbeat_stop(h);
        h->interval = interval_usec;
        h->lease = lease_usec;
        h->last_answer_usec = now_usec(CLOCK_BOOTTIME);
        r = sd_event_add_time_relative(h->event, &h->timer, CLOCK_MONOTONIC, interval_usec,
                                       interval_usec / 20, on_timer, h);
        if (r < 0)
                return r;
        /* The heartbeat comes before whatever else there is to do. */
        r = sd_event_source_set_priority(h->timer, SD_EVENT_PRIORITY_NORMAL - 10);
        if (r < 0)
                return r;
        h->running = true;
        heartbeat_send(h);
        return 0;
}

void heartbeat_stop(Heartbeat *h) {
        h->running = false;
        h->timer = sd_event_source_disable_unref(h->timer);
        h->renewing_from = 0;
        h->answered = h->seq;
}

void heartbeat_renew(Heartbeat *h) {
        if (!h->running)
                return;
        h->renewing_from = h->seq + 1;
        heartbeat_send(h);
}

void heartbeat_answered(Heartbeat *h, uint64_t seq) {
        if (!h->running || seq > h->seq || seq <= h->answered || h->seq - seq >= SENT_MAX)
                return;
        h->answered = seq;
        h->last_answer_usec = now_usec(CLOCK_BOOTTIME);
        if (h->renewing_from > 0 && seq >= h->renewing_from)
                h->handlers->lease(usec_add(h->sent[seq % SENT_MAX], h->lease), h->userdata);
}
