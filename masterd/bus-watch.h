/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "memory-util.h"
#include "types.h"

/* Tells on D-Bus what becomes of single tasks, while somebody watches and to those alone. What nobody
 * watches costs nothing. At most BUS_WATCH_RATE tasks a second are told of: of a task that changes more
 * often only the latest state; what is beyond is counted, and the watchers are told how many they have
 * missed. */
typedef struct BusWatch BusWatch;

enum {
        BUS_WATCH_RATE = 1000,    /* tasks told of per second */
        BUS_WATCH_PENDING = 2000, /* of which waits at most */
        BUS_WATCHERS_MAX = 32,    /* connections */
        BUS_WATCH_INTERVAL_MS = 100,
        BUS_WATCH_QUEUE_MAX = 4096, /* messages that the bus has not taken yet: none are added */
};

/* Sends the signals TaskChanged and ChangesLost of that object. Returns 0, -ENOMEM, -errno. */
int bus_watch_new(Manager *m, sd_bus *bus, const char *path, const char *interface, BusWatch **ret);
BusWatch *bus_watch_free(BusWatch *watch);
DEFINE_CLEANUP(BusWatch, bus_watch_free);

/* name: unique name of a connection, which is forgotten when it leaves the bus. owner: whose tasks it may
 * see, NULL: everybody's. Watching again replaces what was said before. Returns 0, -ENOSPC when there are
 * too many, -ENOMEM, -errno. */
int bus_watch_add(BusWatch *watch, const char *name, const char *owner);
/* Returns 0, -ENOENT. */
int bus_watch_remove(BusWatch *watch, const char *name);
unsigned bus_watch_count(const BusWatch *watch);

/* The task has another state. Takes NULL for watch. */
void bus_watch_task(BusWatch *watch, const Task *task);
