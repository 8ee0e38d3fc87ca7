/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <systemd/sd-bus.h>

#include "bus-auth.h"
#include "types.h"

/* The objects of tasks on D-Bus, below prefix. Each caller sees its own, root and whom the access table
 * allows it, all; who it is has to be asked, so they are answered here and not out of a vtable, whose
 * functions could only wait for the answer. What the slot needs is borrowed and has to outlive it. Returns
 * 0, -errno. */
int bus_task_add(Manager *m, sd_bus *bus, BusAuth *auth, const char *prefix, const char *interface);

enum { BUS_TASKS_LISTED_MAX = 1000 };
