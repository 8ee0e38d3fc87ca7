/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "environment.h"
#include "types.h"

/* What outlives the master: each environment whose packages are known, or that a detached call needs.
 * Records "environments/ID" in the state store; locks are files STATE_DIRECTORY/.locks/SHA256, since they
 * are long and many have the same. */

/* Logs what fails: without it the packages are looked up again after a restart. */
void environment_record_write(Environment *e);
void environment_record_remove(Environment *e);
/* All of them, into the table. Records that are broken are left out with a line in the journal. Returns 0,
 * -ENOMEM, -errno. */
int environment_records_load(Manager *m);
