/* SPDX-License-Identifier: Apache-2.0 */
#include "why-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd-util.h"
#include "parse-util.h"

#define NAME ".failures" /* no key of the state store, whose folder it is */
#define MAGIC "CluPyWhy"

enum { READ_AT_ONCE = 256, INDEX_FIRST = 256 };

_Static_assert(sizeof(WhyRecord) == 1024, "the size of a record");

/* What a look-up needs to know of each. sequence 0: nothing is there. */
typedef struct IndexEntry {
        uint64_t sequence, ended_at;
        uint64_t owner; /* hashed */
        Id id;
} IndexEntry;

struct WhyFile {
        int fd;
        unsigned records;
        uint64_t sequence; /* of the latest; its place is this modulo records */
        IndexEntry *index;
        size_t n_index;
};

/* FNV-1a: it is there to tell what is damaged, not what is forged. */
static uint64_t hash(const void *data, size_t size, uint64_t value) {
        for (const uint8_t *p = data; size > 0; p++, size--)
                value = (value ^ *p) * UINT64_C(0x100000001b3);
        return value;
}

#define HASH_START UINT64_C(0xcbf29ce484222325)

static uint64_t record_check(const WhyRecord *record) {
        return hash((const char *) record + offsetof(WhyRecord, sequence),
                    sizeof(*record) - offsetof(WhyRecord, sequence), HASH_START);
}

static bool record_is_good(const WhyRecord *record) {
        return memcmp(record->magic, MAGIC, sizeof(record->magic)) == 0 &&
               record->check == record_check(record) && record->sequence > 0 &&
               memchr(record->owner, 0, sizeof(record->owner)) &&
               memchr(record->kind, 0, sizeof(record->kind)) &&
               memchr(record->sentence, 0, sizeof(record->sentence));
}

static uint64_t owner_hash(const char *owner) {
        return hash(owner, strlen(owner), HASH_START);
}

static int index_set(WhyFile *file, const WhyRecord *record) {
        size_t place = record->sequence % file->records;

        if (place >= file->n_index) {
                size_t n = MIN(MAX(MAX((size_t) INDEX_FIRST, 2 * file->n_index), place + 1),
                               (size_t) file->records);
                IndexEntry *index = reallocarray(file->index, n, sizeof(*index));

                if (!index)
                        return -ENOMEM;
                memset(index + file->n_index, 0, (n - file->n_index) * sizeof(*index));
                file->index = index;
                file->n_index = n;
        }
        file->index[place] = (IndexEntry){ .sequence = record->sequence,
                                           .ended_at = record->ended_at,
                                           .owner = owner_hash(record->owner),
                                           .id = record->id };
        file->sequence = MAX(file->sequence, record->sequence);
        return 0;
}

static int index_read(WhyFile *file) {
        _cleanup_(freep) WhyRecord *records = newn0(WhyRecord, READ_AT_ONCE);
        int r;

        if (!records)
                return -ENOMEM;
        for (size_t place = 0; place < file->records; place += READ_AT_ONCE) {
                ssize_t size = pread(file->fd, records, READ_AT_ONCE * sizeof(*records),
                                     (off_t) (place * sizeof(*records)));

                if (size < 0)
                        return -errno;
                for (size_t i = 0; i < (size_t) size / sizeof(*records); i++)
                        if (place + i < file->records && record_is_good(records + i) &&
                            records[i].sequence % file->records == place + i) {
                                r = index_set(file, records + i);
                                if (r < 0)
                                        return r;
                        }
                if ((size_t) size < READ_AT_ONCE * sizeof(*records))
                        break;
        }
        return 0;
}

int why_file_open(const char *folder, unsigned records, WhyFile **ret) {
        _cleanup_(why_file_closep) WhyFile *file = new0(WhyFile);
        _cleanup_(freep) char *path = NULL;
        int r;

        if (!file)
                return -ENOMEM;
        file->fd = -EBADF;
        path = strformat("%s/" NAME, folder);
        if (!path)
                return -ENOMEM;
        file->records = CLAMP(records, 1U, (unsigned) WHY_FILE_RECORDS);
        file->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (file->fd < 0)
                return -errno;
        if (flock(file->fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EBUSY : -errno;
        r = index_read(file);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(file);
        return 0;
}

WhyFile *why_file_close(WhyFile *file) {
        if (!file)
                return NULL;
        close_fd(file->fd);
        free(file->index);
        return mfree(file);
}

/* Not within a character. */
static void cut(char *to, size_t size, const char *from) {
        size_t n = strlen(from);

        if (n >= size)
                for (n = size - 1; n > 0 && ((unsigned char) from[n] & 0xc0U) == 0x80;)
                        n--;
        memcpy(to, from, n);
        to[n] = '\0';
}

int why_file_add(WhyFile *file, Id id, const char *owner, const char *kind, uint64_t ended_at,
                 const char *sentence) {
        WhyRecord record = { .sequence = file->sequence + 1, .ended_at = ended_at, .id = id };
        ssize_t size;

        memcpy(record.magic, MAGIC, sizeof(record.magic));
        snprintf(record.owner, sizeof(record.owner), "%s", owner);
        snprintf(record.kind, sizeof(record.kind), "%s", kind);
        cut(record.sentence, sizeof(record.sentence), sentence);
        record.check = record_check(&record);
        size = pwrite(file->fd, &record, sizeof(record),
                      (off_t) (record.sequence % file->records * sizeof(record)));
        if (size < 0)
                return -errno;
        return size == sizeof(record) ? index_set(file, &record) : -ENOSPC;
}

static int read_at(const WhyFile *file, size_t place, WhyRecord *ret) {
        ssize_t size = pread(file->fd, ret, sizeof(*ret), (off_t) (place * sizeof(*ret)));

        if (size < 0)
                return -errno;
        return size == sizeof(*ret) && record_is_good(ret) ? 0 : -EBADMSG;
}

/* hex: lower-case digits. */
static bool id_begins(const Id *id, const char *hex) {
        for (size_t i = 0; hex[i]; i++) {
                unsigned digit = hex[i] >= 'a' ? (unsigned) (hex[i] - 'a') + 10 : (unsigned) (hex[i] - '0');

                if ((i % 2 == 0 ? id->bytes[i / 2] >> 4U : id->bytes[i / 2] & 0xfU) != digit)
                        return false;
        }
        return true;
}

int why_file_find(const WhyFile *file, const char *owner, const char *hex, uint64_t since, WhyRecord *ret) {
        uint64_t wanted = owner ? owner_hash(owner) : 0;
        const IndexEntry *found = NULL;
        WhyRecord record;
        int r;

        if (strlen(hex) >= ID_HEX_SIZE || strspn(hex, "0123456789abcdef") != strlen(hex))
                return -ENOENT;
        for (size_t i = 0; i < file->n_index; i++) {
                const IndexEntry *entry = file->index + i;

                if (entry->sequence == 0 || entry->ended_at < since || (owner && entry->owner != wanted) ||
                    !id_begins(&entry->id, hex))
                        continue;
                if (found && !id_equal(found->id, entry->id))
                        return -ENOTUNIQ;
                if (!found || entry->sequence > found->sequence)
                        found = entry;
        }
        if (!found)
                return -ENOENT;
        r = read_at(file, (size_t) (found - file->index), &record);
        if (r < 0)
                return r;
        /* The index knows owners by a hash only. */
        if (!id_equal(record.id, found->id) || (owner && !streq(record.owner, owner)))
                return -ENOENT;
        *ret = record;
        return 0;
}
