/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "access.h"
#include "memory-util.h"
#include "types.h"

/* clupy.master.yaml. Durations in µs, sizes in bytes. */
struct MasterConfig {
        char **listen;   /* numeric addresses with ports */
        char **insecure; /* those of them that speak plaintext */
        char *tls_certificate, *tls_key, *tls_authority, *tls_revoked; /* paths */
        char *socket; /* path of the UNIX socket when systemd hands none over; NULL: none */
        char *state_directory;
        char *dependencies; /* path of clupy.master.dependency.yaml */
        char *index_socket; /* path of the package index's UNIX socket */
        uint64_t lease, lease_margin;
        uint64_t client_timeout;
        uint64_t heartbeat_timeout;
        double overcommit_memory;
        uint64_t log_tail, log_memory;
        unsigned task_window;
        unsigned history;
        char **policies;
        unsigned max_retries;
        uint64_t detached_keep;   /* how long the result of a detached task is kept */
        uint64_t detached_memory; /* bytes on disk of one detached task's argument, code or result */
        uint64_t detached_total;  /* bytes on disk that detached tasks may take all together */
        double detached_share;    /* and what part of that those of one owner */
        uint64_t wheels_size, wheels_total; /* bytes on disk of the wheels of one user, of all */
        int log_level;                      /* LOG_ERR …; <0: as the command line says */
        Access *access;                     /* NULL: no table */
        unsigned limit_unproven, limit_per_address, limit_rate, limit_burst; /* see GateLimits */
        uint64_t hello_timeout, hello_size;                                  /* µs, bytes */
        char **warnings; /* what `status` repeats: addresses open to everybody */
};

/* The defaults, without files. Returns 0, -ENOMEM. */
int master_config_new(MasterConfig **ret);
MasterConfig *master_config_free(MasterConfig *config);
DEFINE_CLEANUP(MasterConfig, master_config_free);

/* Reads clupy.master.yaml from /etc/clupy (or the working directory when only that one is there), its .d
 * folder and explicit_path, and checks what one key alone cannot show. Returns 0, a negative errno with a
 * message for the user. */
int master_config_load(const char *explicit_path, MasterConfig **ret, char **ret_message);

/* Whether an address of `listen`, as it stands there, speaks plaintext. */
bool master_config_is_insecure(const MasterConfig *config, const char *address);
/* Any of them does not: certificates are needed. */
bool master_config_needs_tls(const MasterConfig *config);

/* A running daemon's has been read again: what may change while it runs is exchanged between the two.
 * ret_waiting gets the keys that differ and have to wait for a restart (strv, NULL for none). Returns 0,
 * -ENOMEM: then nothing has been exchanged. */
int master_config_reload(MasterConfig *config, MasterConfig *again, char ***ret_waiting);

/* The checks behind the files: addresses against `insecure`, defaults that depend on others. */
int master_config_finish(MasterConfig *config, char **ret_message);
