/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "types.h"

/* org.clupy.Master1 on the system bus. Returns 0, -errno when there is no bus. */
int master_bus_new(Manager *m, MasterBus **ret);
MasterBus *master_bus_free(MasterBus *bus);
