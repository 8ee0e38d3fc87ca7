/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>

/* What holds for every profile, whatever it says. Names are libseccomp's. */

/* System calls that no profile may allow, with or without conditions. */
bool floor_forbids(const char *name);

/* System calls that a task cannot start without: a profile has to allow them. NULL at the end of the list.
 */
extern const char *const floor_needed[];

/* What a zygote may do beside its profile, to make a task and to let it drop its privileges. A profile may
 * refuse them to tasks but cannot have them watched: the zygote shares the filter that watches. */
bool floor_is_zygotes(const char *name);
extern const char *const floor_zygote_calls[];
