/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "manager.h"
#include "sandbox-protocol.h"

/* clupy-sandbox as the maker of stages. It is started before the launcher's own filter. Returns 0, -errno.
 */
int spawner_new(Manager *manager, Spawner **ret);
Spawner *spawner_free(Spawner *spawner);
/* For an upgrade. Returns 0, -errno. */
typedef struct ManagerRecord ManagerRecord;
void spawner_save(const Spawner *spawner, ManagerRecord *record);
int spawner_restore(Manager *manager, const ManagerRecord *record, Spawner **ret);

/* Has the init at the other end of the socket given devices; what goes wrong is said there. Returns 0,
 * -errno. */
int spawner_order_devices(Spawner *spawner, const LauncherDevices *devices, int socket);

/* Has it execute its program again, which may be a newer one. */
void spawner_renew(Spawner *spawner);

pid_t spawner_pid(const Spawner *spawner);
/* Its death ends the launcher: no zygote could be made any more. */
int spawner_attach(Spawner *spawner);

/* Orders a process of that kind, of which socket is one end; zygote_stage_made() or builds_process_made() is
 * called with the slot when it is there. Returns 0, -errno. */
int spawner_order(Spawner *spawner, SpawnKind kind, unsigned slot, int socket);
