/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdint.h>

#include "id.h"
#include "memory-util.h"
#include "types.h"

/* The last failures, on disk: what `why` says of tasks that the master no longer remembers, since there were
 * many or since it has been restarted. One file, a ring of records of 1 KiB; what is written is safe from
 * the end of this process at once, and not flushed: after a power cut some of the last records may be
 * missing. A look-up searches an index in memory and reads what it has found, so nobody waits for it. */
typedef struct WhyFile WhyFile;

enum {
        WHY_FILE_RECORDS = 65536,
        WHY_OWNER_SIZE = 65,
        WHY_KIND_SIZE = 24,
        WHY_SENTENCE_SIZE = 880, /* longer ones are cut, with their NUL */
        WHY_KEEP_DAYS = 7,
};

typedef struct WhyRecord {
        char magic[8];
        uint64_t check, sequence;
        uint64_t ended_at; /* realtime µs */
        Id id;
        char owner[WHY_OWNER_SIZE], kind[WHY_KIND_SIZE], sentence[WHY_SENTENCE_SIZE];
        char rest[7];
} WhyRecord;

/* In a folder that is there; reads what a former process wrote, at most records (1 … WHY_FILE_RECORDS) of
 * it. What is damaged counts as not written. Returns 0, -EBUSY when another process has it open, -ENOMEM,
 * -errno. */
int why_file_open(const char *folder, unsigned records, WhyFile **ret);
WhyFile *why_file_close(WhyFile *file);
DEFINE_CLEANUP(WhyFile, why_file_close);

/* One write(); the oldest record gives way. Returns 0, -errno. */
int why_file_add(WhyFile *file, Id id, const char *owner, const char *kind, uint64_t ended_at,
                 const char *sentence);

/* The latest of the task whose id begins so, not older than since (realtime µs); owner NULL: anybody's.
 * Returns 0, -ENOENT, -ENOTUNIQ when several tasks' ids do, -errno. */
int why_file_find(const WhyFile *file, const char *owner, const char *hex, uint64_t since, WhyRecord *ret);
