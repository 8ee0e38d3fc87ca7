/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "config.h"

/* `resources:` of clupy.server.yaml: things of a node that are counted, and the device nodes that some of
 * them are. */

enum {
        RESOURCE_NAME_MAX = 32,    /* bytes of a name, [a-z0-9-] */
        RESOURCES_MAX = 32,        /* of one node */
        RESOURCE_DEVICES_MAX = 64, /* of one resource */
        RESOURCE_COUNT_MAX = 1 << 20,
};

typedef struct ServerResource {
        char name[RESOURCE_NAME_MAX + 1];
        uint64_t count; /* how many of them there are, ≥ 1 */
        char **devices; /* device nodes below /dev, `count` of them: one for each; NULL: it is only counted
                         */
        char **shared;  /* device nodes that each task with at least one of them has as well */
        char *variable; /* the environment variable that tells a task the numbers of its own, or NULL */
} ServerResource;

/* A ConfigParse for a CONFIG_TREE, and what it expects at a path of the tree. The field is the first of
 * `ServerResource *resources; size_t n_resources`. */
int server_resources_parse(const ConfigItem *item, const char *path, const char *value, void *field);
const char *server_resources_explain(const char *path);

/* What must hold of the whole: each has devices or a count. Returns 0, -EINVAL with a sentence about the
 * first one that is wrong (NULL without memory). */
int server_resources_check(ServerResource *resources, size_t n, char **ret_message);

/* Returns NULL. */
ServerResource *server_resources_free(ServerResource *resources, size_t n);
