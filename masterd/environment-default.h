/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "environments.h"

/* The master's own packages: clupy.master.dependency.yaml, and what becomes of it. */

/* Reads the manifest and its lock. On an error everything stays as it was: logged, and kept in
 * Environments.error. No such file is none. Returns 0, -errno. */
int environments_load_config(Manager *m);

/* Reads it again, and resolves anew what is not locked; also when nothing has changed. Returns as above. */
int environments_sync(Manager *m);
/* Reads it again; only what has changed is resolved anew. */
int environments_reload(Manager *m);

/* Looks at each default environment: whether it is what the manifest says. anew: packages that are not
 * locked are looked up again. */
void environment_defaults_refresh(Manager *m, bool anew);
/* Somebody has this Python. */
void environment_default_want(Manager *m, const char *python);
/* What has been on its way is known, or cannot be. */
void environment_default_settle(Manager *m, DefaultEnvironment *d);
void environment_default_free(Environments *all, DefaultEnvironment *d);
int environment_default_get(Environments *all, const char *python, DefaultEnvironment **ret);

/* The manifest's index, into e->index; whether only wheels are taken. Returns 0, -ENOMEM. */
int environment_index(const Environments *all, Environment *e);
/* Works out e->id from what is asked for. salt: 0, or a time that makes it unlike others. Returns 0,
 * -ENOMEM, -EIO. */
int environment_identify(Environment *e, uint64_t salt);

/* Changes of the files are noticed. */
void environments_watch(Environments *all);
void environments_unwatch(Environments *all);
