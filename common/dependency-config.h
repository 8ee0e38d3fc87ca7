/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory-util.h"

/* clupy.master.dependency.yaml: which packages every task has, and where packages come from. Read by the
 * master and by the generator of the index's configuration. man clupy.master.dependency.yaml. */
typedef struct DependencyConfig {
        char *path;      /* of the file, absolute or as it was given */
        char **packages; /* valid requirements; NULL: none */
        char *index; /* a URL without a '/' at its end; NULL: what pip on this machine uses, or see no_index
                      */
        bool no_index;      /* `index: none` */
        char **index_files; /* URLs without a '/' at their end; NULL: found out */
        char **wheels;      /* absolute folders; NULL: none */
        char *lock;         /* absolute path (if `path` is); NULL: none */
        bool only_wheels, system_packages;
        char **preload;    /* modules; NULL: none */
        char **resolve_on; /* nodes that may look up what these packages are; NULL: any */
        uint64_t sync;     /* µs between two resolutions, UINT64_MAX: never */
} DependencyConfig;

#define DEPENDENCY_CONFIG_NAME "clupy.master.dependency.yaml"
#define DEPENDENCY_CONFIG_PATH "/etc/clupy/" DEPENDENCY_CONFIG_NAME

enum {
        DEPENDENCY_PACKAGES_MAX = 1000,
        DEPENDENCY_PRELOAD_MAX = 256,
        DEPENDENCY_FOLDERS_MAX = 64,
        DEPENDENCY_NODES_MAX = 1000
};

DependencyConfig *dependency_config_free(DependencyConfig *config);
DEFINE_CLEANUP(DependencyConfig, dependency_config_free);

/* Returns 0, -ENOENT when there is no such file, another negative errno. With every error but -ENOMEM comes
 * a message of one line with file, line and what was expected; initialise it with NULL. */
int dependency_config_load(const char *path, DependencyConfig **ret, char **ret_message);
/* The same of a text; path is for the messages and for where the lock lies. */
int dependency_config_parse(const char *path, const char *text, size_t size, DependencyConfig **ret,
                            char **ret_message);

/* The text of the lock: every requirement in it is pinned and has a hash. Returns 0, -EINVAL when it is
 * none, -ENOENT, -errno, with a message as above. */
int dependency_config_read_lock(const DependencyConfig *config, char **ret, size_t *ret_size,
                                char **ret_message);
