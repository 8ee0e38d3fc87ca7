/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "connection.h"

/* For the listener, which counts: told once when the connection is established and once when it is closed or
 * freed. */
typedef void (*ConnectionWatcher)(Connection *c, bool established, void *userdata);
void connection_set_watcher(Connection *c, ConnectionWatcher watcher, void *userdata);

/* For tests, which cannot wait for the real ones. µs; before anything has been received. */
void connection_set_timeouts(Connection *c, uint64_t hello_usec, uint64_t frame_usec);
