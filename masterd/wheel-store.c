/* SPDX-License-Identifier: Apache-2.0 */
#include "wheel-store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"
#include "environment-record.h"
#include "fd-util.h"
#include "folder-file.h"
#include "list.h"
#include "log.h"
#include "manager.h"
#include "master-config.h"
#include "owner.h"
#include "parse-util.h"
#include "requirement.h"
#include "session.h"
#include "stream.h"
#include "time-util.h"

enum {
        PATH_SIZE = 4500,
        FETCHES_OWNER_MAX = 4 * ENVIRONMENT_WHEELS_MAX, /* of one user, with those that wait */
        FETCHES_MAX = 16 * FETCHES_OWNER_MAX,           /* of all */
        WHEEL_OVERHEAD = 64 << 10, /* bytes that one is charged beside its own: names, inodes */
        WHEELS_OWNER_MAX = 4096,
        FETCH_MOVE_MIN = 64 << 10, /* bytes in WHEEL_STALL_S */
};

typedef struct Wheel {
        char *key; /* "DIGEST/NAME" */
        uint64_t size;
        char **owners;    /* who have sent it */
        uint64_t used_at; /* BOOTTIME µs */
} Wheel;

/* One on its way. */
typedef struct Fetch {
        WheelStore *store;
        ListLink link;
        char *key, *owner;
        Session *session; /* that has it */
        uint64_t expected;
        bool flowing; /* else: it waits for others */
        Stream *stream;
        uint64_t moved_at, moved; /* BOOTTIME µs; bytes since */
        DigestContext *digest;
        int fd, error;
        uint64_t size, number;
} Fetch;

struct WheelStore {
        Manager *manager;
        Hashmap *wheels; /* key → Wheel */
        ListLink fetches;
        unsigned n_fetches, n_flowing;
        bool starting;
        sd_event_source *timer;
        uint64_t bytes, sequence;
};

/* Names */

static void folder_path(const WheelStore *store, char path[static PATH_SIZE]) {
        snprintf(path, PATH_SIZE, "%s/wheels", store->manager->config->state_directory);
}

static void wheel_path(const WheelStore *store, const char *key, char path[static PATH_SIZE]) {
        snprintf(path, PATH_SIZE, "%s/wheels/%s", store->manager->config->state_directory, key);
}

static void fetch_path(const Fetch *f, char path[static PATH_SIZE]) {
        snprintf(path, PATH_SIZE, "%s/wheels/.new-%" PRIu64, f->store->manager->config->state_directory,
                 f->number);
}

static void digest_of(const char *key, char ret[static DIGEST_HEX_SIZE]) {
        snprintf(ret, DIGEST_HEX_SIZE, "%.*s", DIGEST_HEX_SIZE - 1, key);
}

/* The table */

static Wheel *wheel_free(WheelStore *store, Wheel *wheel) {
        (void) hashmap_remove(store->wheels, wheel->key);
        store->bytes -= wheel->size;
        strv_free(wheel->owners);
        free(wheel->key);
        return mfree(wheel);
}

static int wheel_add(WheelStore *store, const char *key, uint64_t size, const char *owner, Wheel **ret) {
        Wheel *wheel = hashmap_get(store->wheels, key);
        int r;

        if (!wheel) {
                wheel = new0(Wheel);
                if (!wheel)
                        return -ENOMEM;
                wheel->key = strdup(key);
                r = wheel->key ? hashmap_put(store->wheels, wheel->key, wheel) : -ENOMEM;
                if (r < 0) {
                        free(wheel->key);
                        free(wheel);
                        return r;
                }
                wheel->size = size;
                store->bytes += size;
        }
        wheel->used_at = manager_now(store->manager);
        *ret = wheel;
        return strv_contains(wheel->owners, owner) ? 0 : strv_extend(&wheel->owners, owner);
}

static void fetch_free(Fetch *f) {
        char path[PATH_SIZE];

        if (f->fd >= 0) {
                fetch_path(f, path);
                (void) unlink(path);
        }
        list_remove(&f->link);
        f->store->n_fetches--;
        f->store->n_flowing -= f->flowing;
        digest_context_free(f->digest);
        close_fd(f->fd);
        free(f->key);
        free(f->owner);
        free(f);
}

int wheel_store_new(Manager *m, WheelStore **ret) {
        WheelStore *store = new0(WheelStore);

        if (!store)
                return -ENOMEM;
        store->manager = m;
        list_init(&store->fetches);
        if (hashmap_new(HASHMAP_STRING, &store->wheels) < 0) {
                free(store);
                return -ENOMEM;
        }
        *ret = store;
        return 0;
}

void wheel_store_stop(WheelStore *store) {
        LIST_FOREACH(Fetch, f, link, &store->fetches) {
                if (f->flowing)
                        stream_cancel(f->stream);
                fetch_free(f);
        }
        store->timer = sd_event_source_disable_unref(store->timer);
}

WheelStore *wheel_store_free(WheelStore *store) {
        Wheel *wheel;

        if (!store)
                return NULL;
        HASHMAP_FOREACH(wheel, store->wheels)
                wheel_free(store, wheel);
        hashmap_free(store->wheels);
        sd_event_source_disable_unref(store->timer);
        return mfree(store);
}

uint64_t wheel_store_bytes(const WheelStore *store) {
        return store->bytes;
}

static bool owner_has(const WheelStore *store, const char *owner, const char *key) {
        const Wheel *wheel = hashmap_get(store->wheels, key);

        /* What is everybody's was locked by its hash, and came from somebody. */
        return wheel && (strv_contains(wheel->owners, owner) || streq(owner, ENVIRONMENT_OWNER_SHARED));
}

/* Room */

static uint64_t owner_bytes(const WheelStore *store, const char *owner) {
        uint64_t bytes = 0;
        Wheel *wheel;

        HASHMAP_FOREACH(wheel, store->wheels)
                if (strv_contains(wheel->owners, owner))
                        bytes += wheel->size + WHEEL_OVERHEAD;
        return bytes;
}

static unsigned owner_count(const WheelStore *store, const char *owner) {
        unsigned n = 0;
        Wheel *wheel;

        HASHMAP_FOREACH(wheel, store->wheels)
                n += strv_contains(wheel->owners, owner);
        return n;
}

static bool is_in_use(const WheelStore *store, const Wheel *wheel) {
        Environment *e;

        HASHMAP_FOREACH(e, store->manager->environments->table)
                if (e->n_references > 0 && strv_contains(e->wheels, wheel->key))
                        return true;
        return false;
}

/* It goes, and with it what is remembered and needs it. */
static void wheel_drop(WheelStore *store, Wheel *wheel) {
        char path[PATH_SIZE], *slash;
        Environment *e;

        HASHMAP_FOREACH(e, store->manager->environments->table)
                if (strv_contains(e->wheels, wheel->key)) {
                        environment_record_remove(e);
                        environment_free(e);
                }
        wheel_path(store, wheel->key, path);
        (void) unlink(path);
        slash = strrchr(path, '/');
        *slash = '\0';
        (void) rmdir(path);
        wheel_free(store, wheel);
}

static Wheel *find_oldest(const WheelStore *store, const char *owner) {
        Wheel *wheel, *oldest = NULL;

        HASHMAP_FOREACH(wheel, store->wheels)
                if ((!owner || strv_contains(wheel->owners, owner)) &&
                    (!oldest || wheel->used_at < oldest->used_at) && !is_in_use(store, wheel))
                        oldest = wheel;
        return oldest;
}

static uint64_t coming_bytes(const WheelStore *store, const char *owner) {
        uint64_t bytes = 0;

        LIST_FOREACH(Fetch, f, link, &store->fetches)
                if (!owner || streq(f->owner, owner))
                        bytes += f->size + WHEEL_OVERHEAD;
        return bytes;
}

static int make_room(WheelStore *store, const char *owner, uint64_t size) {
        const MasterConfig *config = store->manager->config;

        while (owner_bytes(store, owner) + coming_bytes(store, owner) + size > config->wheels_size ||
               owner_count(store, owner) >= WHEELS_OWNER_MAX) {
                Wheel *oldest = find_oldest(store, owner);

                if (!oldest)
                        return -EDQUOT;
                wheel_drop(store, oldest);
        }
        while (store->bytes + (uint64_t) hashmap_size(store->wheels) * WHEEL_OVERHEAD +
                       coming_bytes(store, NULL) + size >
               config->wheels_total) {
                Wheel *oldest = find_oldest(store, NULL);

                if (!oldest)
                        return -ENOSPC;
                wheel_drop(store, oldest);
        }
        return 0;
}

/* What has come, or cannot */

static void wheel_failed(WheelStore *store, const char *owner, const char *key, const char *why) {
        _cleanup_(freep) char *log = strformat("the wheel %s: %s", strchr(key, '/') + 1, why);
        Environment *e;

        HASHMAP_FOREACH(e, store->manager->environments->table)
                if (e->state == ENVIRONMENT_FETCHING && strv_contains(e->wheels, key) &&
                    (streq(e->owner, owner) || streq(e->owner, ENVIRONMENT_OWNER_SHARED))) {
                        e->wheels_missing = true;
                        environment_fail(e, "infrastructure", strempty(log));
                        /* Who asks next begins anew. */
                        environments_forget(e);
                }
}

static void check_complete(WheelStore *store) {
        Environment *e;

        HASHMAP_FOREACH(e, store->manager->environments->table) {
                bool complete = e->state == ENVIRONMENT_FETCHING;

                for (char **s = e->wheels; s && *s && complete; s++)
                        complete = owner_has(store, e->owner, *s);
                if (complete)
                        environment_set_state(e, ENVIRONMENT_RESOLVING);
        }
}

/* Others may open it, for the index: nobody but the index gets into the folder that it is in. */
static int fetch_place(Fetch *f) {
        char hex[DIGEST_HEX_SIZE], wanted[DIGEST_HEX_SIZE], from[PATH_SIZE], to[PATH_SIZE], *slash;
        Digest digest;
        int r;

        r = digest_context_final(f->digest, &digest);
        if (r < 0)
                return r;
        digest_of(f->key, wanted);
        if (!streq(digest_to_hex(&digest, hex), wanted))
                return -EBADMSG;
        if (hashmap_get(f->store->wheels, f->key))
                return 0; /* another has sent the same */
        fetch_path(f, from);
        wheel_path(f->store, f->key, to);
        slash = strrchr(to, '/');
        *slash = '\0';
        if ((mkdir(to, 0755) < 0 && errno != EEXIST) || chmod(to, 0755) < 0)
                return -errno;
        *slash = '/';
        if (fchmod(f->fd, 0644) < 0 || fsync(f->fd) < 0 || rename(from, to) < 0)
                return -errno;
        return 0;
}

static const char *failure_text(int error) {
        switch (-error) {
        case EBADMSG:
                return "what the client sent is not what its hash says";
        case EDQUOT:
                return "your wheels take more room together than you may have (wheels.size in "
                       "clupy.master.yaml)";
        case ENOSPC:
                return "the master has no room for it (wheels.total in clupy.master.yaml, or its disk)";
        case EIO:
                return "the client did not send it to the end";
        case ETIMEDOUT:
                return "the client sent too little of it for a minute, while others waited";
        case EBUSY:
                return "too many wheels are on their way to the master: try again";
        default:
                return strerrordesc_np(-error) ?: "unknown error";
        }
}

static int on_data(const void *data, size_t size, void *userdata) {
        Fetch *f = userdata;
        int r;

        f->size += size;
        f->moved += size;
        if (f->moved >= FETCH_MOVE_MIN) {
                f->moved = 0;
                f->moved_at = manager_now(f->store->manager);
        }
        r = make_room(f->store, f->owner, 0);
        if (r >= 0)
                r = digest_context_update(f->digest, data, size);
        if (r >= 0)
                r = fd_write_all(f->fd, data, size);
        if (r < 0)
                f->error = r;
        return r;
}

static void start_waiting(WheelStore *store);

/* Frees it. */
static void fetch_end(Fetch *f, int r) {
        WheelStore *store = f->store;
        _cleanup_(freep) char *key = strdup(f->key), *owner = strdup(f->owner);
        Wheel *wheel;

        if (store->manager->stopping || !key || !owner) {
                fetch_free(f);
                return;
        }
        if (r >= 0)
                r = fetch_place(f);
        if (r >= 0)
                r = wheel_add(store, key, f->size, owner, &wheel);
        fetch_free(f);
        if (r < 0) {
                log_warning("Wheel %s of %s: %s", key, owner, failure_text(r));
                wheel_failed(store, owner, key, failure_text(r));
        } else
                check_complete(store);
}

static void on_done(int error, void *userdata) {
        Fetch *f = userdata;
        WheelStore *store = f->store;

        fetch_end(f, f->error < 0 ? f->error : error);
        start_waiting(store);
}

static const StreamSink sink = { .data = on_data, .done = on_done };

/* Asking for them */

static int fetch_begin(Fetch *f) {
        char path[PATH_SIZE], digest[DIGEST_HEX_SIZE];
        WheelStore *store = f->store;
        int r;

        folder_path(store, path);
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
                return -errno;
        (void) chmod(path, 0755);
        r = digest_context_new(&f->digest);
        if (r < 0)
                return r;
        fetch_path(f, path);
        f->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (f->fd < 0)
                return -errno;
        digest_of(f->key, digest);
        r = stream_fetch_wheel(&store->manager->streams, f->session, digest, f->expected, &sink, f,
                               &f->stream);
        if (r < 0)
                return r;
        f->flowing = true;
        f->moved_at = manager_now(store->manager);
        store->n_flowing++;
        return 0;
}

static unsigned count_of(const WheelStore *store, const char *owner, bool flowing) {
        unsigned n = 0;

        LIST_FOREACH(Fetch, f, link, &store->fetches)
                n += (!flowing || f->flowing) && streq(f->owner, owner);
        return n;
}

/* First come, first served; but nobody takes all places. */
static Fetch *find_next(const WheelStore *store) {
        if (store->n_flowing >= WHEELS_FLOWING_MAX)
                return NULL;
        LIST_FOREACH(Fetch, f, link, &store->fetches)
                if (!f->flowing && count_of(store, f->owner, true) < WHEELS_FLOWING_OWNER_MAX)
                        return f;
        return NULL;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        WheelStore *store = userdata;

        wheel_store_end_stalled(store);
        return 0;
}

static void start_waiting(WheelStore *store) {
        uint64_t due = UINT64_MAX;
        Fetch *next;

        if (store->starting || store->manager->stopping)
                return;
        store->starting = true;
        while ((next = find_next(store))) {
                int r = fetch_begin(next);

                if (r < 0)
                        fetch_end(next, r);
        }
        store->starting = false;
        if (store->n_fetches > store->n_flowing)
                LIST_FOREACH(Fetch, f, link, &store->fetches)
                        if (f->flowing)
                                due = MIN(due, usec_add(f->moved_at, WHEEL_STALL_S * USEC_PER_SEC));
        manager_timer(store->manager, &store->timer, due, on_timer, store);
}

static Fetch *find_stalled(const WheelStore *store) {
        uint64_t now = manager_now(store->manager);

        LIST_FOREACH(Fetch, f, link, &store->fetches)
                if (f->flowing && usec_add(f->moved_at, WHEEL_STALL_S * USEC_PER_SEC) <= now)
                        return f;
        return NULL;
}

void wheel_store_end_stalled(WheelStore *store) {
        Fetch *f;

        while (store->n_fetches > store->n_flowing && (f = find_stalled(store))) {
                stream_cancel(f->stream);
                fetch_end(f, -ETIMEDOUT);
                start_waiting(store);
        }
        start_waiting(store);
}

static Fetch *find_waiting_of(const WheelStore *store, const Session *session) {
        LIST_FOREACH(Fetch, f, link, &store->fetches)
                if (!f->flowing && f->session == session)
                        return f;
        return NULL;
}

void wheel_store_session_gone(WheelStore *store, Session *session) {
        Fetch *f;

        while ((f = find_waiting_of(store, session)))
                fetch_end(f, -EIO);
}

static int fetch_new(WheelStore *store, Session *session, const char *key, uint64_t size) {
        Fetch *f;
        int r;

        LIST_FOREACH(Fetch, other, link, &store->fetches)
                if (streq(other->key, key) && streq(other->owner, session->user))
                        return 0; /* on its way */
        if (store->n_fetches >= FETCHES_MAX || count_of(store, session->user, false) >= FETCHES_OWNER_MAX)
                return -EBUSY;
        r = make_room(store, session->user, size + WHEEL_OVERHEAD);
        if (r < 0)
                return r;
        f = new0(Fetch);
        if (!f)
                return -ENOMEM;
        *f = (Fetch){ .store = store,
                      .fd = -EBADF,
                      .number = ++store->sequence,
                      .session = session,
                      .expected = size };
        list_append(&store->fetches, &f->link);
        store->n_fetches++;
        f->key = strdup(key);
        f->owner = strdup(session->user);
        if (f->key && f->owner)
                return 0;
        fetch_free(f);
        return -ENOMEM;
}

int wheel_store_fetch(Environment *e, Session *session, const EnvironmentRequest *request) {
        WheelStore *store = e->manager->environments->wheels;
        bool missing = false;
        size_t i = 0;
        int r;

        for (char **s = request->wheels; s && *s; s++, i++) {
                Wheel *wheel;

                if (owner_has(store, session->user, *s)) {
                        wheel = hashmap_get(store->wheels, *s);
                        wheel->used_at = manager_now(e->manager);
                        continue;
                }
                if (!missing && e->state != ENVIRONMENT_FETCHING)
                        environment_set_state(e, ENVIRONMENT_FETCHING);
                missing = true;
                r = fetch_new(store, session, *s, request->wheel_sizes ? request->wheel_sizes[i] : 0);
                if (r == -ENOMEM)
                        return r;
                if (r < 0) {
                        wheel_failed(store, session->user, *s, failure_text(r));
                        break;
                }
        }
        start_waiting(store);
        return 0;
}

/* What there is */

int wheel_store_remember(Manager *m, const char *owner, const char *wheel) {
        WheelStore *store = m->environments->wheels;
        char path[PATH_SIZE];
        struct stat file;
        Wheel *found;

        wheel_path(store, wheel, path);
        if (stat(path, &file) < 0 || !S_ISREG(file.st_mode))
                return -ENOENT;
        return wheel_add(store, wheel, (uint64_t) file.st_size, owner, &found);
}

static void sweep_folder(WheelStore *store, int folder, const char *digest) {
        _cleanup_(close_fdp) int fd =
                openat(folder, digest, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_(strv_freep) char **names = NULL;
        bool empty = true;

        if (fd < 0 || folder_list(fd, &names) < 0)
                return;
        for (char **name = names; name && *name; name++) {
                _cleanup_(freep) char *key = strformat("%s/%s", digest, *name);

                if (key && hashmap_get(store->wheels, key))
                        empty = false;
                else
                        (void) unlinkat(fd, *name, 0);
        }
        if (empty)
                (void) unlinkat(folder, digest, AT_REMOVEDIR);
}

void wheel_store_sweep(Manager *m) {
        WheelStore *store = m->environments->wheels;
        _cleanup_(strv_freep) char **digests = NULL;
        _cleanup_(close_fdp) int folder = -EBADF;
        char path[PATH_SIZE];

        folder_path(store, path);
        folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0 || folder_list(folder, &digests) < 0)
                return;
        for (char **digest = digests; digest && *digest; digest++)
                sweep_folder(store, folder, *digest);
        /* What was on its way has numbers from 1 on, and is written over. */
}
