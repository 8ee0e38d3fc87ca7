/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* clupy.client.yaml, which Python clients read too: in the working directory, else in the user's
 * configuration folder. Returns 1 and the master's URL (free() it), 0 when no file names one, or a negative
 * errno with a message for the user. */
int client_config_load(char **ret_master, char **ret_message);
