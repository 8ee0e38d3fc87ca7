/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/* A whole file of that mode in the place of a former one, by way of a temporary one beside it. Nothing is
 * flushed: what is written here lies in /run. Returns 0, -errno. */
int write_file_atomic(const char *path, mode_t mode, const void *data, size_t size);
