/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>

#include "memory-util.h"

#define CLIENT_CONFIG_NAME "clupy.client.yaml"

/* clupy.client.yaml, which Python clients read too: in the working directory, and in the user's
 * configuration folder; the first that says something counts. */
typedef struct ClientConfig {
        char *master;  /* URL; NULL: no file names one */
        bool insecure; /* speak plaintext */
        char *certificate, *key,
                *authority; /* the environment's, the file's, or those of the usual places */
} ClientConfig;

/* Returns 0, or a negative errno with a message for the user. */
int client_config_load(ClientConfig *ret, char **ret_message);
void client_config_done(ClientConfig *config);
