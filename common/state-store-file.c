/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"
#include "fd-util.h"
#include "list.h"
#include "state-store.h"

/* One file per key, all in one directory, named by the escaped key. A change is written to a temporary file,
 * flushed, renamed over the old one, and the directory flushed: whenever the power goes, a name leads to a
 * whole old or a whole new file. The checksum is for what that order cannot prevent (a disk that lies, a
 * hand that edits): such a file is reported, not used. */

enum {
        HEADER_SIZE = 56,
        NAME_SIZE = 3 * STATE_KEY_PARTS_MAX * (STATE_KEY_PART_MAX + 1) + 8,
        FILE_NAME_MAX = 255
};

static const char file_magic[8] = { 'C', 'L', 'P', 'Y', 'S', 'T', 'A', '1' };
static const char temporary_prefix[] = ".new-";
static const char lock_name[] = ".lock";

/* At the start of a file; numbers are little-endian. */
typedef struct FileHeader {
        char magic[8];
        uint64_t version;
        uint64_t size;      /* of the value, which follows */
        uint8_t digest[32]; /* SHA-256 over the key, version, size and value */
} FileHeader;
_Static_assert(sizeof(FileHeader) == HEADER_SIZE, "the header has no padding");

typedef struct Watch {
        ListLink link;
        uint64_t id;
        StateWatch callback;
        void *userdata;
        char prefix[];
} Watch;

typedef struct FileStore {
        StateStore store; /* first */
        int directory;
        int lock;
        uint64_t sequence; /* of temporary files and watches */
        ListLink watches;
} FileStore;

static FileStore *FILE_STORE(StateStore *store) {
        return CONTAINER_OF(store, FileStore, store);
}

static bool is_plain(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
               c == '_' || c == '.';
}

/* '/' becomes '+', everything but letters, digits and "-_." becomes %xx, and so does a dot in front: names
 * that begin with a dot are the store's own. Returns 0, -ENAMETOOLONG. */
static int name_from_key(const char *key, char name[static NAME_SIZE]) {
        size_t n = 0;

        for (const char *p = key; *p; p++) {
                if (*p == '/')
                        name[n++] = '+';
                else if (is_plain(*p) && !(*p == '.' && p == key))
                        name[n++] = *p;
                else
                        n += (size_t) snprintf(name + n, 4, "%%%02x", (unsigned) (uint8_t) *p);
        }
        name[n] = '\0';
        return n > FILE_NAME_MAX ? -ENAMETOOLONG : 0;
}

/* Returns 0 and the key, -EINVAL when no key has that file name. */
static int key_from_name(const char *name, char **ret) {
        _cleanup_(freep) char *key = NULL;
        char again[NAME_SIZE];
        size_t n = 0;

        if (strlen(name) > FILE_NAME_MAX)
                return -EINVAL;
        key = malloc(strlen(name) + 1);
        if (!key)
                return -ENOMEM;
        for (const char *p = name; *p; p++) {
                unsigned c;

                if (*p == '+')
                        key[n++] = '/';
                else if (*p == '%') {
                        if (sscanf(p + 1, "%2x", &c) != 1 || c == 0)
                                return -EINVAL;
                        key[n++] = (char) c;
                        p += 2;
                        if (p[-1] == '\0' || p[0] == '\0')
                                return -EINVAL;
                } else
                        key[n++] = *p;
        }
        key[n] = '\0';
        /* Only what we would have written ourselves. */
        if (!state_key_is_valid(key) || name_from_key(key, again) < 0 || !streq(again, name))
                return -EINVAL;
        *ret = TAKE_PTR(key);
        return 0;
}

static int value_digest(const char *key, const FileHeader *header, const void *value, size_t size,
                        Digest *ret) {
        _cleanup_(digest_context_freep) DigestContext *context = NULL;
        int r;

        r = digest_context_new(&context);
        if (r < 0)
                return r;
        /* With its NUL: where the key ends must not be a matter of opinion. */
        r = digest_context_update(context, key, strlen(key) + 1);
        if (r < 0)
                return r;
        r = digest_context_update(context, header, offsetof(FileHeader, digest));
        if (r < 0)
                return r;
        r = digest_context_update(context, value, size);
        if (r < 0)
                return r;
        return digest_context_final(context, ret);
}

static int file_get(StateStore *store, const char *key, void **ret_value, size_t *ret_size,
                    uint64_t *ret_version) {
        FileStore *f = FILE_STORE(store);
        _cleanup_(close_fdp) int fd = -EBADF;
        _cleanup_(freep) char *contents = NULL, *value = NULL;
        char name[NAME_SIZE];
        FileHeader header;
        Digest digest;
        size_t size;
        int r;

        r = name_from_key(key, name);
        if (r < 0)
                return r;
        fd = openat(f->directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        r = read_fd_full(fd, HEADER_SIZE + STATE_VALUE_MAX, &contents, &size);
        if (r < 0)
                return r == -EFBIG ? -EBADMSG : r;
        if (size < HEADER_SIZE)
                return -EBADMSG;
        memcpy(&header, contents, HEADER_SIZE);
        size -= HEADER_SIZE;
        if (memcmp(header.magic, file_magic, sizeof(file_magic)) != 0 || le64toh(header.size) != size ||
            header.version == 0)
                return -EBADMSG;
        r = value_digest(key, &header, contents + HEADER_SIZE, size, &digest);
        if (r < 0)
                return r;
        if (memcmp(digest.bytes, header.digest, sizeof(header.digest)) != 0)
                return -EBADMSG;
        value = memdup_nul(contents + HEADER_SIZE, size);
        if (!value)
                return -ENOMEM;
        *ret_value = TAKE_PTR(value);
        *ret_size = size;
        *ret_version = le64toh(header.version);
        return 0;
}

static int file_version(StateStore *store, const char *key, uint64_t *ret) {
        _cleanup_(freep) void *value = NULL;
        size_t size;
        int r;

        r = file_get(store, key, &value, &size, ret);
        if (r == -ENOENT) {
                *ret = 0;
                return 0;
        }
        return r;
}

/* Whether key is prefix or lies below it. */
static bool key_has_prefix(const char *key, const char *prefix) {
        const char *rest = startswith(key, prefix);

        return isempty(prefix) || (rest && (*rest == '\0' || *rest == '/'));
}

static void file_notify(FileStore *f, const char *key, uint64_t version) {
        uint64_t last = f->sequence, seen = 0;

        /* Callbacks may add and drop watches: begin anew after each, with the next number. */
        for (bool again = true; again;) {
                again = false;
                LIST_FOREACH(Watch, watch, link, &f->watches) {
                        if (watch->id <= seen || watch->id > last || !key_has_prefix(key, watch->prefix))
                                continue;
                        seen = watch->id;
                        watch->callback(&f->store, key, version, watch->userdata);
                        again = true;
                        break;
                }
        }
}

static int write_file(FileStore *f, const char *temporary, const FileHeader *header, const void *value,
                      size_t size) {
        _cleanup_(close_fdp) int fd = -EBADF;
        int r;

        fd = openat(f->directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        r = fd_write_all(fd, header, HEADER_SIZE);
        if (r < 0)
                return r;
        r = fd_write_all(fd, value, size);
        if (r < 0)
                return r;
        return fsync(fd) < 0 ? -errno : 0;
}

static int file_compare_and_set(StateStore *store, const char *key, uint64_t expected_version,
                                const void *value, size_t size, uint64_t *ret_version) {
        FileStore *f = FILE_STORE(store);
        FileHeader header = { .version = htole64(expected_version + 1), .size = htole64(size) };
        char name[NAME_SIZE], temporary[48];
        uint64_t version;
        Digest digest;
        int r;

        r = name_from_key(key, name);
        if (r < 0)
                return r;
        r = file_version(store, key, &version);
        if (r < 0)
                return r;
        if (version != expected_version)
                return -ESTALE;

        memcpy(header.magic, file_magic, sizeof(file_magic));
        r = value_digest(key, &header, value, size, &digest);
        if (r < 0)
                return r;
        memcpy(header.digest, digest.bytes, sizeof(header.digest));
        snprintf(temporary, sizeof(temporary), "%s%llu", temporary_prefix,
                 (unsigned long long) ++f->sequence);
        r = write_file(f, temporary, &header, value, size);
        if (r >= 0 && renameat(f->directory, temporary, f->directory, name) < 0)
                r = -errno;
        if (r < 0) {
                (void) unlinkat(f->directory, temporary, 0);
                return r;
        }
        /* If this fails the new value is there but may not outlive a power cut; the caller must not take it
         * for durable. */
        if (fsync(f->directory) < 0)
                return -errno;
        *ret_version = expected_version + 1;
        file_notify(f, key, expected_version + 1);
        return 0;
}

static int file_remove(StateStore *store, const char *key, uint64_t expected_version) {
        FileStore *f = FILE_STORE(store);
        char name[NAME_SIZE];
        uint64_t version;
        int r;

        r = name_from_key(key, name);
        if (r < 0)
                return r;
        r = file_version(store, key, &version);
        /* A damaged value can be removed by who does not insist on its version. */
        if (r < 0 && !(r == -EBADMSG && expected_version == 0))
                return r;
        if (r >= 0 && version == 0)
                return -ENOENT;
        if (expected_version != 0 && version != expected_version)
                return -ESTALE;
        if (unlinkat(f->directory, name, 0) < 0)
                return -errno;
        if (fsync(f->directory) < 0)
                return -errno;
        file_notify(f, key, 0);
        return 0;
}

static int compare_strings(const void *left, const void *right) {
        return strcmp(*(char *const *) left, *(char *const *) right);
}

static inline void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

static DIR *directory_open(FileStore *f) {
        int fd = openat(f->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d;

        if (fd < 0)
                return NULL;
        d = fdopendir(fd);
        if (!d)
                close_fd(fd);
        return d;
}

static int file_list(StateStore *store, const char *prefix, char ***ret_keys) {
        FileStore *f = FILE_STORE(store);
        _cleanup_(strv_freep) char **keys = NULL;
        _cleanup_(closedirp) DIR *d = NULL;
        size_t n = 0, capacity = 0;
        int r;

        d = directory_open(f);
        if (!d)
                return -errno;
        for (;;) {
                _cleanup_(freep) char *key = NULL;
                struct dirent *entry;

                errno = 0;
                entry = readdir(d);
                if (!entry) {
                        if (errno > 0)
                                return -errno;
                        break;
                }
                if (entry->d_name[0] == '.')
                        continue;
                r = key_from_name(entry->d_name, &key);
                if (r == -ENOMEM)
                        return r;
                if (r < 0 || !key_has_prefix(key, prefix) || streq(key, prefix))
                        continue;
                if (ARRAY_RESERVE(keys, capacity, n + 2) < 0)
                        return -ENOMEM;
                keys[n++] = TAKE_PTR(key);
                keys[n] = NULL;
        }
        if (!keys) {
                keys = newn0(char *, 1);
                if (!keys)
                        return -ENOMEM;
        }
        if (n > 1)
                qsort(keys, n, sizeof(char *), compare_strings);
        *ret_keys = TAKE_PTR(keys);
        return 0;
}

static int file_watch(StateStore *store, const char *prefix, StateWatch callback, void *userdata,
                      uint64_t *ret_watch) {
        FileStore *f = FILE_STORE(store);
        size_t size = strlen(prefix) + 1;
        Watch *watch;

        watch = calloc(1, sizeof(Watch) + size);
        if (!watch)
                return -ENOMEM;
        watch->id = ++f->sequence;
        watch->callback = callback;
        watch->userdata = userdata;
        memcpy(watch->prefix, prefix, size);
        list_append(&f->watches, &watch->link);
        *ret_watch = watch->id;
        return 0;
}

static void file_unwatch(StateStore *store, uint64_t id) {
        FileStore *f = FILE_STORE(store);

        LIST_FOREACH(Watch, watch, link, &f->watches)
                if (watch->id == id) {
                        list_remove(&watch->link);
                        free(watch);
                }
}

static void file_close(StateStore *store) {
        FileStore *f = FILE_STORE(store);

        LIST_FOREACH(Watch, watch, link, &f->watches) {
                list_remove(&watch->link);
                free(watch);
        }
        close_fd(f->lock);
        close_fd(f->directory);
        free(f);
}

/* What a power cut left half written. */
static int remove_temporaries(FileStore *f) {
        _cleanup_(closedirp) DIR *d = NULL;
        struct dirent *entry;

        d = directory_open(f);
        if (!d)
                return -errno;
        while ((entry = readdir(d)))
                if (startswith(entry->d_name, temporary_prefix) &&
                    unlinkat(f->directory, entry->d_name, 0) < 0)
                        return -errno;
        return 0;
}

/* Makes the directory and makes sure that its own name lasts. */
static int directory_make(const char *path) {
        _cleanup_(freep) char *parent = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        char *slash;

        if (mkdir(path, 0700) < 0)
                return errno == EEXIST ? 0 : -errno;
        parent = strdup(path);
        if (!parent)
                return -ENOMEM;
        slash = strrchr(parent, '/');
        slash[slash == parent ? 1 : 0] = '\0';
        fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return fsync(fd) < 0 ? -errno : 0;
}

int state_store_file_open(const char *directory, StateStore **ret) {
        static const StateStoreOperations operations = {
                .get = file_get,
                .compare_and_set = file_compare_and_set,
                .remove = file_remove,
                .list = file_list,
                .watch = file_watch,
                .unwatch = file_unwatch,
                .close = file_close,
        };
        _cleanup_(state_store_closep) StateStore *store = NULL;
        FileStore *f;
        int r;

        if (isempty(directory) || directory[0] != '/')
                return -EINVAL;
        f = new0(FileStore);
        if (!f)
                return -ENOMEM;
        store = &f->store;
        store->operations = &operations;
        f->directory = f->lock = -EBADF;
        list_init(&f->watches);
        r = directory_make(directory);
        if (r < 0)
                return r;
        f->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (f->directory < 0)
                return -errno;
        f->lock = openat(f->directory, lock_name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (f->lock < 0)
                return -errno;
        if (flock(f->lock, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EBUSY : -errno;
        r = remove_temporaries(f);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(store);
        return 0;
}
