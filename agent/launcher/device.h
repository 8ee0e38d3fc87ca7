/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

#include "manager.h"

/* Device nodes of the machine that tasks may be given: those that the settings name, and no others. */

/* The paths of a set, in the order of the settings. They are the settings'. Returns how many. */
size_t device_paths(const LauncherSettings *settings, const LauncherDevices *set,
                    const char *ret[static DEVICES_OF_TASK_MAX]);

/* Whether a task can have it now, as it is in the machine's /dev. Returns 0, -ENOENT, -ENODEV (no character
 * device), -EACCES (not for every user: tasks' users are in no group), -errno. */
int device_check(const char *path);

/* All of them are the settings' and there. Returns 0, -EINVAL, -ENODEV, with a sentence. */
int devices_check(const LauncherSettings *settings, const LauncherDevices *set, const char **ret_why);

/* Tells the agent of each. */
void devices_tell(Manager *manager);
