/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "frame.h"
#include "launcher/launcher-protocol.h"
#include "memory-util.h"

/* One order of an ENVIRONMENT frame (docs/protocol.md, "Environments"), and what the builder in the sandbox
 * is told of it. */

enum {
        ENVIRONMENT_LOCK_MAX = 1 << 20, /* bytes */
        ENVIRONMENT_FOLDERS_MAX = 64,
};

typedef struct EnvironmentOrder {
        bool resolve; /* only find out which files it consists of */
        char name[ENVIRONMENT_NAME_MAX];
        char owner[OWNER_NAME_MAX]; /* "": everybody's */
        char python[PYTHON_NAME_MAX];
        bool index, only_wheels, system_packages;
        unsigned folders;                         /* of wheels, at the master */
        json_object *packages, *preload, *wheels; /* arrays; NULL: none */
        char *lock;                               /* NULL: none */
        size_t lock_size;
        const char *refusal; /* why this node can never make it, or NULL */
} EnvironmentOrder;

/* Copies what the frame lends. Returns 0, -EBADMSG when it breaks the protocol, -ENOMEM. */
int environment_order_new(const Frame *frame, json_object *json, bool resolve, EnvironmentOrder **ret);
EnvironmentOrder *environment_order_free(EnvironmentOrder *o);
DEFINE_CLEANUP(EnvironmentOrder, environment_order_free);

/* Whether anything of it can only be had through the master. */
bool environment_order_needs_index(const EnvironmentOrder *o);

/* The builder's order, in a sealed memfd. Returns its fd, -EMSGSIZE when it is over BUILD_ORDER_MAX,
 * -ENOMEM, -errno. */
int environment_order_to_memfd(const EnvironmentOrder *o);
