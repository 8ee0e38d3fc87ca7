/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "manager.h"

/* The environments of this node: those that come with its Pythons, and the folders of ENVIRONMENT_FOLDER,
 * each of which is whole, root's and never changes. All reads are of small files. */

typedef struct Python Python;
typedef struct EnvironmentStamp EnvironmentStamp;

/* Makes the folders that environments are in and are built in. Returns 0, -EPERM when they are not root's
 * alone, -errno. */
int environments_prepare(void);

/* The Python of an environment that this owner may use. Returns 0, -ENOENT, -EACCES: it is another owner's.
 */
int environment_find(const char *name, const char *owner, const Python **ret_python);

/* The same with a sentence. */
int environment_check(const LauncherKey *key, const char **ret_why);

/* What is written in a built one. Returns 0, -ENOENT, -EBADMSG, -EPERM, -errno. */
int environment_stamp_read(const char *name, EnvironmentStamp *ret);

/* Tells the agent of all of them. */
void environments_tell(Manager *manager);

/* Removes a built one, and tells the agent. Returns 0, -ENOENT, -EBUSY while a task has it, -errno, with a
 * sentence. */
int environment_remove(Manager *manager, const char *name, const char **ret_why);

/* Remembers that it is used now. */
void environment_touch(const char *name);
