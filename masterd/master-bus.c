/* SPDX-License-Identifier: Apache-2.0 */
#include "master-bus.h"

#include <errno.h>
#include <stddef.h>

int master_bus_new(Manager *m, MasterBus **ret) {
        return -EOPNOTSUPP;
}
MasterBus *master_bus_free(MasterBus *bus) {
        return NULL;
}
