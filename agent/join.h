/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "server-config.h"

/* `clupy-agent --join MASTER`: with a token from the terminal or standard input this machine gets the
 * certificate of the node that config names, from the cluster that the token is of. Everything is written to
 * AUTHORITY_FOLDER; nothing is when it fails. Talks to the user. Returns the exit status. */
int agent_join(const ServerConfig *config, const char *master);
