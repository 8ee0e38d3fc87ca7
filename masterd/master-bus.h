/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "memory-util.h"
#include "types.h"

/* org.clupy.Master1 on the system bus. Returns 0, -errno when there is no bus. */
int master_bus_new(Manager *m, MasterBus **ret);
MasterBus *master_bus_free(MasterBus *bus);
DEFINE_CLEANUP(MasterBus, master_bus_free);

/* The task has another state: for those who watch. Takes NULL, as the next one does. */
void master_bus_task_changed(MasterBus *bus, const Task *task);
/* The counts of the manager's properties may be others; call it once a second at most. */
void master_bus_counts_changed(MasterBus *bus);
