/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "detached-internal.h"
#include "digest.h"
#include "fd-util.h"
#include "job.h"
#include "log.h"
#include "manager.h"
#include "owner.h"
#include "parse-util.h"
#include "session.h"
#include "task.h"

/* All that is kept is on disk before anybody is told that it is. A file of any size is flushed without the
 * loop waiting for all of it: each MiB is given to the disk as soon as it has come, and the one that was
 * given to it two MiB before is waited for, which is there by then unless the disk is slower than the
 * sender. The flush at the end finds little left to write: it takes about as long as that of a task's
 * record. */
enum {
        CHUNK = 1 << 20,
        CHUNKS_BEHIND = 2,
        ALLOCATE_FROM = 64 << 10, /* bytes: room for more is made sure of before the first byte comes */
        DISK_RESERVE = 16 << 20,  /* bytes: what the master needs for itself */
};

const char *const detached_part_names[_PART_MAX] = { "args", "code", "result" };

/* A part on its way to disk. */
struct Transfer {
        Detached *d;
        DetachedPart part;
        Stream *stream;
        DigestContext *digest; /* of code */
        int fd, error;
        uint64_t size, flushed; /* the latter: bytes that have been given to the disk */
};

/* Code that at least one task uses. */
struct DetachedCode {
        char *key; /* "HASH-OWNER" */
        unsigned n_users;
        uint64_t bytes; /* counted against `detached.total` */
        bool ready;
        Detached *fetcher;
        ListLink waiters; /* of Detached.code_waiter */
};

/* Names */

static int directory_path(const Manager *m, char path[static DETACHED_PATH_SIZE]) {
        int n = snprintf(path, DETACHED_PATH_SIZE, "%s/.detached", m->config->state_directory);

        return n < DETACHED_PATH_SIZE ? 0 : -ENAMETOOLONG;
}

static void part_path(const Detached *d, DetachedPart part, bool unfinished,
                      char path[static DETACHED_PATH_SIZE]) {
        const Task *task = d->task;
        const char *directory = task->manager->config->state_directory;

        if (part == PART_CODE && !unfinished)
                snprintf(path, DETACHED_PATH_SIZE, "%s/.detached/code-%s", directory, d->code->key);
        else
                snprintf(path, DETACHED_PATH_SIZE, "%s/.detached/%s-%s.%s%s", directory, ID_HEX(task->id),
                         task->session->user, detached_part_names[part], unfinished ? ".new" : "");
}

/* Room */

uint64_t detached_owner_bytes(const Manager *m) {
        return (uint64_t) ((double) m->config->detached_total * m->config->detached_share);
}

int detached_check_room(const Owner *owner, uint64_t bytes) {
        const Manager *m = owner->manager;
        struct statvfs disk;

        if (m->config->detached_share < 1 && owner->detached_bytes + bytes > detached_owner_bytes(m))
                return -EUSERS;
        if (m->detached_bytes + bytes > m->config->detached_total)
                return -EDQUOT;
        if (m->store && statvfs(m->config->state_directory, &disk) >= 0 &&
            (uint64_t) disk.f_bavail * disk.f_frsize < bytes + DISK_RESERVE)
                return -ENOSPC;
        return 0;
}

/* Whose they are. A task that moves stays its owner's. */
static Owner *detached_owner(const Detached *d) {
        return d->task->session->owner;
}

static void count(Owner *owner, uint64_t *field, uint64_t bytes) {
        owner->detached_bytes += bytes - *field;
        owner->manager->detached_bytes += bytes - *field;
        *field = bytes;
}

static int charge(Owner *owner, uint64_t *field, uint64_t bytes) {
        int r = 0;

        if (bytes > *field) {
                r = detached_check_room(owner, bytes - *field);
                if (r < 0)
                        return r;
        }
        count(owner, field, bytes);
        return 0;
}

static void uncharge(Owner *owner, uint64_t *field) {
        if (*field == 0)
                return;
        count(owner, field, 0);
        detached_room_made(owner->manager);
}

void detached_uncount(Detached *d) {
        for (DetachedPart part = 0; part < _PART_MAX; part++)
                count(detached_owner(d), d->bytes + part, 0);
}

/* Code */

int detached_code_use(Detached *d) {
        Manager *m = d->task->manager;
        DetachedCode *code;
        char *key;
        int r;

        key = strformat("%s-%s", d->task->job->code, d->task->session->user);
        if (!key)
                return -ENOMEM;
        code = hashmap_get(m->detached_codes, key);
        if (code) {
                free(key);
                code->n_users++;
                d->code = code;
                return 0;
        }
        code = new0(DetachedCode);
        if (!code) {
                free(key);
                return -ENOMEM;
        }
        code->key = key;
        code->n_users = 1;
        list_init(&code->waiters);
        r = hashmap_put(m->detached_codes, key, code);
        if (r < 0) {
                free(key);
                free(code);
                return r;
        }
        d->code = code;
        return 0;
}

void detached_code_leave(Detached *d) {
        DetachedCode *code = TAKE_PTR(d->code);
        Manager *m = d->task->manager;
        char path[DETACHED_PATH_SIZE];

        if (!code)
                return;
        list_remove(&d->code_waiter);
        if (--code->n_users > 0)
                return;
        snprintf(path, sizeof(path), "%s/.detached/code-%s", m->config->state_directory, code->key);
        (void) hashmap_remove(m->detached_codes, code->key);
        /* At the master's end it is there for the next one. */
        if (!m->stopping && m->store)
                (void) unlink(path);
        uncharge(detached_owner(d), &code->bytes);
        free(code->key);
        free(code);
}

bool detached_code_ready(const Detached *d) {
        return d->code && d->code->ready;
}

/* Those that waited for another's transfer: they have it now, or the next one fetches it. */
static void code_wake(DetachedCode *code) {
        Detached *d;

        /* Whoever calls uses it too: it does not go with one of them. */
        while (!code->fetcher && (d = LIST_FIRST(Detached, code_waiter, &code->waiters))) {
                int r = 0;

                list_remove(&d->code_waiter);
                if (!code->ready)
                        r = detached_part_keep(d, PART_CODE);
                if (code->ready || r < 0)
                        detached_part_done(d, PART_CODE, r);
        }
}

/* Transfers */

static Transfer *transfer_free(Transfer *t) {
        if (!t)
                return NULL;
        t->d->task->manager->n_transfers--;
        detached_work_wake(t->d->task->manager);
        t->d->transfers[t->part] = NULL;
        if (t->part == PART_CODE && t->d->code && t->d->code->fetcher == t->d)
                t->d->code->fetcher = NULL;
        digest_context_free(t->digest);
        close_fd(t->fd);
        return mfree(t);
}
DEFINE_CLEANUP(Transfer, transfer_free);

static int transfer_new(Detached *d, DetachedPart part, uint64_t size, Transfer **ret) {
        _cleanup_(transfer_freep) Transfer *t = NULL;
        char path[DETACHED_PATH_SIZE];
        int r;

        r = directory_path(d->task->manager, path);
        if (r < 0)
                return r;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        t = new0(Transfer);
        if (!t)
                return -ENOMEM;
        *t = (Transfer){ .d = d, .part = part, .fd = -EBADF };
        d->transfers[part] = t;
        d->task->manager->n_transfers++;
        if (part == PART_CODE) {
                r = digest_context_new(&t->digest);
                if (r < 0)
                        return r;
        }
        part_path(d, part, true, path);
        t->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (t->fd < 0)
                return -errno;
        /* Not every file system can. */
        if (size > ALLOCATE_FROM && fallocate(t->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t) size) < 0 &&
            (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
                r = -errno;
                (void) unlink(path);
                return r == -EDQUOT ? -ENOSPC : r;
        }
        *ret = TAKE_PTR(t);
        return 0;
}

/* See above. Errors of writing come with the flush at the end. */
static void transfer_write_back(Transfer *t) {
        while (t->size - t->flushed >= CHUNK) {
                (void) sync_file_range(t->fd, (off_t) t->flushed, CHUNK, SYNC_FILE_RANGE_WRITE);
                if (t->flushed >= (uint64_t) CHUNKS_BEHIND * CHUNK)
                        (void) sync_file_range(t->fd, (off_t) t->flushed - CHUNKS_BEHIND * CHUNK, CHUNK,
                                               SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                                       SYNC_FILE_RANGE_WAIT_AFTER);
                t->flushed += CHUNK;
        }
}

static int transfer_write(Transfer *t, const void *data, size_t size) {
        const char *p = data;
        int r;

        if (t->size + size > t->d->task->manager->config->detached_memory)
                return t->error = -EFBIG;
        if (t->digest) {
                r = digest_context_update(t->digest, data, size);
                if (r < 0)
                        return t->error = r;
        }
        while (size > 0) {
                ssize_t n = write(t->fd, p, size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return t->error = -errno;
                p += n;
                size -= (size_t) n;
                t->size += (uint64_t) n;
        }
        transfer_write_back(t);
        return 0;
}

static int check_code(Transfer *t) {
        char hex[DIGEST_HEX_SIZE];
        Digest digest;
        int r;

        r = digest_context_final(t->digest, &digest);
        if (r < 0)
                return r;
        return streq(digest_to_hex(&digest, hex), t->d->task->job->code) ? 0 : -EBADMSG;
}

static int directory_flush(const Manager *m) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char path[DETACHED_PATH_SIZE];

        (void) directory_path(m, path);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* All of it is there: it gets its name. */
static int transfer_finish(Transfer *t) {
        Detached *d = t->d;
        char from[DETACHED_PATH_SIZE], to[DETACHED_PATH_SIZE];
        int r;

        if (t->part == PART_CODE) {
                r = check_code(t);
                if (r < 0)
                        return r;
        }
        if (fsync(t->fd) < 0)
                return -errno;
        part_path(d, t->part, true, from);
        part_path(d, t->part, false, to);
        if (rename(from, to) < 0)
                return -errno;
        r = directory_flush(d->task->manager);
        if (r < 0)
                return r;
        d->ready[t->part] = true;
        if (t->part == PART_CODE)
                d->code->ready = true;
        return 0;
}

static void unfinished_remove(Detached *d, DetachedPart part) {
        char path[DETACHED_PATH_SIZE];

        part_path(d, part, true, path);
        (void) unlink(path);
        if (part == PART_CODE)
                uncharge(detached_owner(d), &d->code->bytes);
        else
                uncharge(detached_owner(d), &d->bytes[part]);
}

static int on_data(const void *data, size_t size, void *userdata) {
        return transfer_write(userdata, data, size);
}

static void on_done(int error, void *userdata) {
        Transfer *t = userdata;
        Detached *d = t->d;
        DetachedPart part = t->part;
        DetachedCode *code = part == PART_CODE ? d->code : NULL;

        t->stream = NULL;
        error = t->error ?: error;
        if (error >= 0)
                error = transfer_finish(t);
        transfer_free(t);
        if (error < 0)
                unfinished_remove(d, part);
        if (code)
                /* Before this one may go, which may be the last. */
                code_wake(code);
        detached_part_done(d, part, error);
}

static int argument_write(Detached *d) {
        Task *task = d->task;
        Transfer *t = NULL;
        int r;

        r = transfer_new(d, PART_ARGS, task->size, &t);
        if (r < 0 || !t)
                return r;
        r = task->size > 0 ? transfer_write(t, task->argument, task->size) : 0;
        if (r >= 0)
                r = transfer_finish(t);
        transfer_free(t);
        return r;
}

static int part_fetch(Detached *d, DetachedPart part, uint64_t size) {
        static const StreamSink sink = { on_data, on_done };
        Transfer *t = NULL;
        int r;

        r = transfer_new(d, part, size, &t);
        if (r < 0)
                return r;
        if (part == PART_CODE)
                d->code->fetcher = d;
        r = stream_fetch_own(&d->task->manager->streams, d->task, detached_part_names[part], &sink, t,
                             &t->stream);
        if (r < 0)
                transfer_free(t);
        return r;
}

static int code_keep(Detached *d) {
        DetachedCode *code = d->code;
        int r;

        if (code->ready || list_is_linked(&d->code_waiter))
                return 0;
        if (code->fetcher) {
                list_append(&code->waiters, &d->code_waiter);
                return 0;
        }
        r = charge(detached_owner(d), &code->bytes, d->task->job->code_size);
        if (r >= 0)
                r = part_fetch(d, PART_CODE, d->task->job->code_size);
        if (r < 0)
                uncharge(detached_owner(d), &code->bytes);
        return r;
}

int detached_part_keep(Detached *d, DetachedPart part) {
        const Task *task = d->task;
        uint64_t size = part == PART_RESULT ? task->result_size : task->size;
        int r;

        if (d->transfers[part])
                return 0;
        if (part == PART_CODE)
                return code_keep(d);
        if (d->ready[part])
                return 0;
        if (size > task->manager->config->detached_memory)
                return -EFBIG;
        r = charge(detached_owner(d), &d->bytes[part], size);
        if (r < 0)
                return r;
        if (part == PART_ARGS && (size == 0 || task->argument))
                r = argument_write(d);
        else
                r = part_fetch(d, part, size);
        if (r < 0)
                unfinished_remove(d, part);
        return r;
}

void detached_part_cancel(Detached *d, DetachedPart part) {
        Transfer *t = d->transfers[part];
        DetachedCode *code = d->code;

        if (!t)
                return;
        if (t->stream)
                stream_cancel(t->stream);
        transfer_free(t);
        unfinished_remove(d, part);
        if (part == PART_CODE && !d->task->manager->stopping)
                code_wake(code);
}

void detached_part_remove(Detached *d, DetachedPart part) {
        char path[DETACHED_PATH_SIZE];

        detached_part_cancel(d, part);
        part_path(d, part, false, path);
        if (d->ready[part])
                (void) unlink(path);
        d->ready[part] = false;
        uncharge(detached_owner(d), &d->bytes[part]);
}

int detached_open(const Task *task, const char *what, uint64_t offset) {
        int part = name_table_find(detached_part_names, _PART_MAX, what);
        const Detached *d = task->detached;
        char path[DETACHED_PATH_SIZE];
        int fd;

        if (!d || part < 0 || !(part == PART_CODE ? detached_code_ready(d) : d->ready[part]))
                return -ENOENT;
        part_path(d, (DetachedPart) part, false, path);
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        if (lseek(fd, (off_t) offset, SEEK_SET) < 0) {
                int r = -errno;

                close(fd);
                return r;
        }
        return fd;
}

/* After a start */

void detached_parts_find(Detached *d) {
        for (DetachedPart part = 0; part < _PART_MAX; part++) {
                uint64_t *bytes = part == PART_CODE ? &d->code->bytes : d->bytes + part;
                char path[DETACHED_PATH_SIZE];
                struct stat st;

                part_path(d, part, false, path);
                if (stat(path, &st) < 0)
                        continue;
                d->ready[part] = true;
                if (part == PART_CODE)
                        d->code->ready = true;
                count(detached_owner(d), bytes, (uint64_t) st.st_size);
        }
}

/* "ID-OWNER.PART" of a task that is kept. */
static bool belongs_to_task(Manager *m, const char *name) {
        _cleanup_(freep) char *copy = strdup(name);
        char *owner, *part;
        Task *task;
        Id id;

        if (!copy || strlen(copy) < ID_HEX_SIZE + 2 || copy[ID_HEX_SIZE - 1] != '-')
                return !copy;
        copy[ID_HEX_SIZE - 1] = '\0';
        owner = copy + ID_HEX_SIZE;
        part = strrchr(owner, '.');
        if (!part || id_from_hex(copy, &id) < 0)
                return false;
        *part++ = '\0';
        task = name_table_find(detached_part_names, _PART_MAX, part) >= 0 ? manager_task(m, owner, id)
                                                                          : NULL;
        return task && task->detached;
}

static inline void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

void detached_files_sweep(Manager *m) {
        _cleanup_(closedirp) DIR *directory = NULL;
        char path[DETACHED_PATH_SIZE];
        struct dirent *entry;

        if (directory_path(m, path) < 0)
                return;
        directory = opendir(path);
        while (directory && (entry = readdir(directory))) {
                const char *code = startswith(entry->d_name, "code-");

                if (streq(entry->d_name, ".") || streq(entry->d_name, "..") ||
                    (code ? hashmap_get(m->detached_codes, code) != NULL
                          : belongs_to_task(m, entry->d_name)))
                        continue;
                (void) unlinkat(dirfd(directory), entry->d_name, 0);
        }
}
