/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdint.h>

#include "types.h"

/* What came of reading the configuration again. All zero: it has not been. */
typedef struct Reload {
        uint64_t at;    /* realtime µs */
        char *error;    /* why everything stayed as it was, NULL: nothing did */
        char **waiting; /* keys that have changed and need a restart, NULL: none */
} Reload;

void reload_done(Reload *reload);

/* Reads clupy.master.yaml as at the start. Only if all of it is good, what may change takes effect: the
 * access table, limits, what is kept, the log's level; what cannot is named. Logs either. Returns 0, -errno.
 */
int manager_reload(Manager *m, const char *explicit_path);

/* For `status`: {"at":ms,"error":…,"restart_needed":[key…]}, null when it has not been read again; and a
 * warning for people when there is something to do. */
int reload_add(const Reload *reload, json_object *status, json_object *warnings);
