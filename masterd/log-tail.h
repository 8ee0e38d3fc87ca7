/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "list.h"
#include "types.h"

/* The end of what a task printed. */
struct LogTail {
        ListLink lru;
        char *data;
        size_t size, capacity;
        uint64_t end; /* bytes ever printed: the offset behind the last one held */
};

/* All of them, and what they may take together: beyond that the one that has been silent longest is emptied.
 */
typedef struct LogTails {
        ListLink lru;
        size_t bytes;
        uint64_t tail_max, bytes_max;
} LogTails;

void log_tails_init(LogTails *tails, uint64_t tail_max, uint64_t bytes_max);

/* Makes *tail on first use. Returns 0, -ENOMEM. */
int log_tail_append(LogTails *tails, LogTail **tail, const char *data, size_t size);
LogTail *log_tail_free(LogTails *tails, LogTail *tail);

/* What is held from `offset` on (or from the oldest byte held); ret_end: the offset behind it. Borrowed.
 * tail may be NULL. */
size_t log_tail_read(const LogTail *tail, uint64_t offset, const char **ret_data, uint64_t *ret_end);
