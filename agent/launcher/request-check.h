/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

#include "launcher-protocol.h"

/* Bounds of what an agent may ask for. */
#define REQUEST_MEMORY_MIN (UINT64_C(16) << 20)
#define REQUEST_BYTES_MAX (UINT64_C(1) << 50)
#define REQUEST_CPU_QUOTA_MIN UINT64_C(10000)
#define REQUEST_CPU_QUOTA_MAX (UINT64_C(4096) * 1000000)
#define REQUEST_TASKS_MAX 32768u
#define REQUEST_CPUS_MAX 4096u
#define REQUEST_DURATION_MAX (UINT64_C(100) * 366 * 86400 * 1000000)
#define REQUEST_POOL_MAX 64u
#define REQUEST_BUILD_TASKS_MIN 4u /* two of them are the launcher's own */
#define REQUEST_BUILD_DISK_MIN (UINT64_C(1) << 20)
#define REQUEST_BUILD_FILES_MAX UINT64_C(100000000)

/* Is a packet of that size with that many file descriptors a request within all bounds? Reads nothing but
 * the packet. Returns 0, -EBADMSG (size, operation, number of fds), -EPROTONOSUPPORT (version), -EINVAL with
 * one sentence in *ret_why. */
int request_check(const void *packet, size_t size, size_t n_fds, const char **ret_why);
