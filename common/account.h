/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

enum { ACCOUNT_NAME_MAX = 64 }; /* bytes */

/* The name of a local account (/etc/passwd; read again when that file has changed). Directory servers are
 * not asked: nothing here waits. NULL: there is none, its name is longer than ACCOUNT_NAME_MAX or could not
 * be kept. Valid until the next call. */
const char *account_name(uid_t uid);

/* The same of another file, for tests. NULL: /etc/passwd. */
void account_set_file(const char *path);
