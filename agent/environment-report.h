/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>

#include "memory-util.h"

/* What a builder reports of a build that went well. It ran strangers' code: none of it is believed unseen.
 */
typedef struct EnvironmentReport {
        char *lock; /* hash-locked requirements, UTF-8; NULL: none */
        size_t lock_size;
        json_object *libraries; /* names to versions, of characters that need no quoting; never NULL */
        char *installer;        /* "uv 0.5.1"; NULL: it does not say */
} EnvironmentReport;

enum { ENVIRONMENT_LIBRARIES_SIZE_MAX = 128 << 10 }; /* bytes of the object as JSON */

/* From the text of it. Returns 0, -EBADMSG when it is no such report, -ENOMEM. */
int environment_report_parse(const char *text, size_t size, EnvironmentReport *ret);
/* From a sealed memfd of at most BUILD_REPORT_MAX bytes. Returns also -EPERM, -EFBIG, -errno of reading. */
int environment_report_read(int fd, EnvironmentReport *ret);
/* Frees what is inside. */
void environment_report_done(EnvironmentReport *report);

/* The last bytes, at most BUILD_LOG_MAX, of what an installer said: from a sealed memfd. Returns 0, -ENOMEM,
 * -EPERM, -errno. */
int environment_log_read(int fd, char **ret, size_t *ret_size);
