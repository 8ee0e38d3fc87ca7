/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "manager.h"

/* Until when tasks may run while nobody answers for them. At its end they are frozen, not killed. */

/* A new lease, CLOCK_BOOTTIME µs. Thaws when it lies ahead. */
void lease_set(Manager *manager, uint64_t until_usec);

/* After an upgrade: as it was, and what has ended meanwhile ends. Returns 0, -errno. */
int lease_restore(Manager *manager, uint64_t until_usec, bool frozen, uint64_t frozen_at_usec);
