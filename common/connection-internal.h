/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "connection.h"

/* For the listener, which counts: told once when the connection is established and once when it is closed or
 * freed. */
typedef void (*ConnectionWatcher)(Connection *c, bool established, void *userdata);
void connection_set_watcher(Connection *c, ConnectionWatcher watcher, void *userdata);
