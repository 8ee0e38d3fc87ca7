/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <systemd/sd-event.h>

#include "launcher/launcher-protocol.h"
#include "memory-util.h"

/* How many sandboxes wait, ready, for each kind of task: so many once the first task of a kind has come,
 * none again when there was none for ten minutes. Only kinds seen since the start are known. */
typedef struct WarmPool WarmPool;

typedef void (*WarmPoolAsk)(const LauncherKey *key, unsigned count, void *userdata);

int warm_pool_new(sd_event *event, unsigned count, WarmPoolAsk ask, void *userdata, WarmPool **ret);
WarmPool *warm_pool_free(WarmPool *p);
DEFINE_CLEANUP(WarmPool, warm_pool_free);

/* A task with that key starts. */
void warm_pool_use(WarmPool *p, const LauncherKey *key);
/* Tasks of one environment will have another one from now on: all that is warm for the former becomes so for
 * the next, too; the former's goes when it has not been used for its time. */
void warm_pool_follow(WarmPool *p, const char *former, const char *next);
/* That environment goes: nothing waits for it any more. */
void warm_pool_forget(WarmPool *p, const char *environment);
/* Asks for all again: the launcher is another one. */
void warm_pool_renew(WarmPool *p);
