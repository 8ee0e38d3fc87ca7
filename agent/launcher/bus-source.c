/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-source.h"

#include <errno.h>
#include <sys/epoll.h>

#include "time-util.h"

enum { MESSAGES_PER_EVENT = 64 };

struct BusSource {
        sd_bus *bus;
        sd_event_source *io, *timer;
};

static int process(BusSource *source) {
        _cleanup_(sd_bus_unrefp) sd_bus *bus = sd_bus_ref(source->bus); /* a callback may drop it */
        int r = 1;

        for (unsigned i = 0; i < MESSAGES_PER_EVENT && r > 0; i++)
                r = sd_bus_process(bus, NULL);
        if (r < 0) /* broken; that it is has been told as the signal "Disconnected" */
                bus_source_stop(source);
        return 0;
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata) {
        return process(userdata);
}

static int on_time(sd_event_source *s, uint64_t usec, void *userdata) {
        return process(userdata);
}

/* Before the loop sleeps: what the bus waits for now. */
static int on_prepare(sd_event_source *s, void *userdata) {
        BusSource *source = userdata;
        uint64_t until = UINT64_MAX;
        int events = sd_bus_get_events(source->bus);

        if (events < 0 || sd_bus_get_timeout(source->bus, &until) < 0) {
                bus_source_stop(source);
                return 0;
        }
        (void) sd_event_source_set_io_events(source->io, (uint32_t) events);
        if (until == UINT64_MAX)
                return sd_event_source_set_enabled(source->timer, SD_EVENT_OFF);
        (void) sd_event_source_set_time(source->timer, until);
        return sd_event_source_set_enabled(source->timer, SD_EVENT_ONESHOT);
}

int bus_source_new(sd_event *event, sd_bus *bus, BusSource **ret) {
        _cleanup_(bus_source_freep) BusSource *source = new0(BusSource);
        int r, fd = sd_bus_get_fd(bus);

        if (!source)
                return -ENOMEM;
        if (fd < 0)
                return fd;
        source->bus = sd_bus_ref(bus);
        r = sd_event_add_io(event, &source->io, fd, EPOLLIN, on_io, source);
        if (r >= 0)
                r = sd_event_source_set_prepare(source->io, on_prepare);
        if (r >= 0)
                r = sd_event_add_time(event, &source->timer, CLOCK_MONOTONIC, 0, USEC_PER_MSEC, on_time,
                                      source);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(source);
        return 0;
}

void bus_source_stop(BusSource *source) {
        (void) sd_event_source_set_prepare(source->io, NULL);
        (void) sd_event_source_set_enabled(source->io, SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(source->timer, SD_EVENT_OFF);
}

BusSource *bus_source_free(BusSource *source) {
        if (!source)
                return NULL;
        sd_event_source_disable_unref(source->io);
        sd_event_source_disable_unref(source->timer);
        sd_bus_unref(source->bus);
        free(source);
        return NULL;
}
