/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "ctl.h"

/* An environment as the master tells it (docs/protocol.md, "Queries"). */

/* "numpy>=2, pandas" from an array of strings; a copy, NULL without memory. */
char *env_strings_join(json_object *object, const char *key);
/* The same of its requirements and wheels; "a lock" when that is all there is. */
char *env_packages(json_object *environment);
/* "alice", "everybody" or "default". Never NULL. */
const char *env_owner(json_object *environment);
/* All that is known of one, for people. Returns the exit status. */
int env_print(Ctl *ctl, json_object *environment);
