/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory-util.h"
#include "parse-util.h"
#include "server-resources.h"

/* clupy.server.yaml: what a node is told. The agent reads it, and clupy-policyc takes out of it what the
 * launcher, which reads no YAML, has to know. */

#define SERVER_CONFIG_NAME "clupy.server.yaml"

enum {
        SERVER_WARM_MAX = 64,     /* waiting pairs of one key: the launcher's bound */
        SERVER_ZYGOTES_MAX = 256, /* at once */
        SERVER_LABELS_MAX = 32,
        SERVER_BUILDS_MAX = 16, /* at once */
};

typedef struct ServerConfig {
        Address *masters; /* in the order in which they are tried, at least one */
        size_t n_masters;
        char *name; /* of the node, node_name_is_valid() */
        double cpus;
        uint64_t memory; /* bytes that tasks may be promised in all */

        /* User ids of tasks: uid_count of them, from uid_start on. */
        uint32_t uid_start, uid_count;

        unsigned warm;           /* pairs that wait for each key in use */
        unsigned zygotes;        /* at most so many */
        uint64_t orphan_timeout; /* µs; frozen longer than this: killed */
        uint64_t cache_code;     /* bytes of functions' code kept */

        /* For a call that does not say. */
        uint64_t task_memory;
        double task_cpus;
        uint64_t task_tasks_max;
        uint64_t task_tmp; /* bytes of /tmp, and again of /dev/shm */

        /* Environments, and what one build of them may take. */
        struct {
                uint64_t size;      /* bytes of all that are kept */
                unsigned builds;    /* at once */
                double cpus;        /* of a build */
                uint64_t memory;    /* bytes */
                uint64_t disk;      /* bytes that it writes */
                uint64_t files;     /* and files and folders */
                uint64_t processes; /* and threads */
                uint64_t timeout;   /* µs */
        } environments;

        char **labels; /* "name=value" */
        ServerResource *resources;
        size_t n_resources;

        bool insecure; /* the master is spoken to in plaintext */
        char *tls_certificate, *tls_key, *tls_authority, *tls_revoked; /* paths */

        /* Not from the file: */
        char **files; /* that were read */
} ServerConfig;

typedef struct ServerConfigSources {
        const char *directory;     /* NULL: /etc/clupy */
        const char *explicit_path; /* --config, or NULL */
        const char *subuid;        /* NULL: /etc/subuid */
} ServerConfigSources;

/* Defaults of this machine, then the files in their order (see config_load()), then what must hold between
 * the keys and against the machine: uid_range must not overlap a range of /etc/subuid. sources NULL: all
 * defaults. Returns 0; -ENOENT for an explicit file that is not there, another negative errno otherwise;
 * ret_message, to be freed, then has one line for the user (NULL without memory). */
int server_config_load(const ServerConfigSources *sources, ServerConfig *ret, char **ret_message);

/* Frees what is inside. */
void server_config_done(ServerConfig *config);
