/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "memory-util.h"

/* A bus on an event loop, in place of sd_bus_attach_event(): that goes round the loop once for each message,
 * and PID 1 tells about each unit in a dozen. */
typedef struct BusSource BusSource;

/* Returns 0, -errno. */
int bus_source_new(sd_event *event, sd_bus *bus, BusSource **ret);
/* Not from within a callback of its bus; there, bus_source_stop(). */
BusSource *bus_source_free(BusSource *source);
DEFINE_CLEANUP(BusSource, bus_source_free);

/* It looks at its bus no more. */
void bus_source_stop(BusSource *source);
