/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "launcher/launcher-protocol.h"
#include "server-config.h"

enum { SETTINGS_UIDS_PER_ZYGOTE_MIN = 16 }; /* the launcher gives each zygote its share of uid_range */

/* What the launcher, which reads no YAML, has to know of clupy.server.yaml. Fills *ret. Returns 0; -ERANGE
 * with a message for the user
 * ("file: key …") when uid_range is too small for so many zygotes; -ENOMEM. */
int settings_from_config(const ServerConfig *config, LauncherSettings *ret, char **ret_message);

/* The ids of a file with lines "name:…:id:…" or "name:start:count". */
typedef enum IdFileKind {
        ID_FILE_PASSWD, /* the third field is an id: /etc/passwd, /etc/group */
        ID_FILE_SUBID,  /* the second field is the first id, the third their number: /etc/subuid, /etc/subgid
                         */
} IdFileKind;

/* Whether an id of the file lies in the range, which becomes tasks' user and group ids. Returns 0, also when
 * there is no such file; -EADDRINUSE with a message for the user ("file:line: …"); another negative errno
 * with a message when the file cannot be read. */
int settings_check_ids(const char *path, IdFileKind kind, uint32_t start, uint32_t count,
                       char **ret_message);
