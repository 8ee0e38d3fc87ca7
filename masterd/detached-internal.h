/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "detached.h"
#include "list.h"
#include "stream.h"

/* What the parts of detached.c share: detached-file.c has the files, detached-record.c what is written down
 * of a task, detached.c its life. */

typedef enum DetachedPart {
        PART_ARGS,
        PART_CODE, /* one file for all tasks of an owner that run it */
        PART_RESULT,
        _PART_MAX,
} DetachedPart;

extern const char *const detached_part_names[_PART_MAX];

typedef struct DetachedCode DetachedCode;
typedef struct Transfer Transfer;

enum { DETACHED_WATCHES_MAX = 64 };

/* A client that has attached to it, and another one after it. */
typedef struct DetachedWatch {
        Detached *detached;
        Session *session;
        ListLink in_detached, in_session;
} DetachedWatch;

struct Detached {
        Task *task;
        ListLink watches; /* of DetachedWatch.in_detached, who hears of its end next first */
        unsigned n_watches;
        ListLink link, due;
        bool held;                 /* not queued before it has been written down */
        bool recorded;             /* it has */
        bool stuck;                /* there was no room for its result */
        bool ready[_PART_MAX];     /* of code see detached_code_ready() */
        uint64_t bytes[_PART_MAX]; /* counted against `detached.total`; code is counted with itself */
        DetachedCode *code;
        ListLink code_waiter; /* another task's transfer brings it */
        Transfer *transfers[_PART_MAX];
};

enum { DETACHED_PATH_SIZE = 4400 };

/* Files (detached-file.c) */

/* Counts its code among those that are in use. Returns 0, -ENOMEM. */
int detached_code_use(Detached *d);
/* The last user's file is removed. */
void detached_code_leave(Detached *d);
bool detached_code_ready(const Detached *d);

/* Fetches the part from whoever has it, or writes the argument that is there. detached_part_done() follows,
 * at once or later, unless it is there already or on its way. Returns 0, -EUSERS over the owner's share of
 * `detached.total`, -EDQUOT over that, -ENOSPC, -EFBIG, -errno. */
int detached_part_keep(Detached *d, DetachedPart part);
void detached_part_cancel(Detached *d, DetachedPart part);
/* The file and what it counts. Not for code. */
void detached_part_remove(Detached *d, DetachedPart part);

/* Bytes that one owner's may take. */
uint64_t detached_owner_bytes(const Manager *m);
/* Whether so much more is within the owner's share of `detached.total`, within that, and on the disk.
 * Returns 0, -EUSERS, -EDQUOT, -ENOSPC. */
int detached_check_room(const Owner *owner, uint64_t bytes);
/* Its parts count no more; they may be there for the next master. Not for code. */
void detached_uncount(Detached *d);

/* After a start: what there is is counted, and files that belong to nothing go. */
void detached_parts_find(Detached *d);
void detached_files_sweep(Manager *m);

/* Records (detached-record.c) */

int detached_record_write(const Task *task);
void detached_record_remove(const Task *task);

/* Life (detached.c) */

int detached_new(Task *task, Detached **ret);
/* A part is there, or error says why not. May free d. */
void detached_part_done(Detached *d, DetachedPart part, int error);
/* There is room for another transfer; bytes have been given back. */
void detached_work_wake(Manager *m);
void detached_room_made(Manager *m);
int detached_permanent_session(Manager *m, const char *user, Session **ret);
void detached_forget(Task *task);
