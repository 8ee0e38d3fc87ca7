/* SPDX-License-Identifier: Apache-2.0 */
#include "tls-context.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "time-util.h"

enum {
        N_FILES = 4,
        CHAIN_SIZE_MAX = 16 << 10,   /* bytes of certificates that a peer may send */
        READ_BUFFER_SIZE = 34 << 10, /* two records at once */
};

/* Several files of one renewal are read together; a file that was replaced is in force within this. */
#define SETTLE_USEC (100 * USEC_PER_MSEC)
/* For what inotify does not tell: links to other folders, folders that were not there. */
#define POLL_USEC USEC_PER_MINUTE

typedef struct FileStamp {
        dev_t device;
        ino_t inode;
        off_t size;
        struct timespec changed;
        bool there;
} FileStamp;

typedef struct WatchedFile {
        char *path, *folder;
        FileStamp stamp;
        sd_event_source *watch;
} WatchedFile;

struct TlsContext {
        unsigned n_ref;
        TlsSide side;
        IdentityRole role;
        TlsPaths paths;
        bool pinned;
        Digest authority; /* if pinned */
        TlsMaterial material;
        unsigned generation; /* how many authorities there have been */
        SSL_CTX *ssl;
        char *trouble; /* why the files as they are now are not in force */

        sd_event *event;
        sd_event_source *settle, *poll;
        WatchedFile files[N_FILES];
        size_t n_files;
        const TlsContextHandlers *handlers;
        void *userdata;
};

/* Building one */

/* A node that joins knows the authority by its digest only: the certificate itself comes with the master's,
 * and all else is checked as ever. */
static int verify_pinned(X509_STORE_CTX *store, void *userdata) {
        const TlsContext *c = userdata;
        STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(store), *trusted;
        int ok;

        trusted = sk_X509_new_null();
        if (!trusted)
                return 0;
        for (int i = 0; i < sk_X509_num(sent); i++) {
                unsigned char *der = NULL;
                int size = i2d_X509(sk_X509_value(sent, i), &der);
                Digest digest;

                if (size > 0 && digest_sha256(der, (size_t) size, &digest) >= 0 &&
                    digest_equal(&digest, &c->authority))
                        (void) sk_X509_push(trusted, sk_X509_value(sent, i));
                OPENSSL_free(der);
        }
        X509_STORE_CTX_set0_trusted_stack(store, trusted);
        ok = X509_verify_cert(store);
        sk_X509_free(trusted);
        return ok > 0;
}

static int ssl_configure(TlsContext *c, const TlsMaterial *m, SSL_CTX *ssl) {
        X509_STORE *store;

        SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                         SSL_OP_IGNORE_UNEXPECTED_EOF);
        SSL_CTX_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
        (void) SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_read_ahead(ssl, 1);
        SSL_CTX_set_default_read_buffer_len(ssl, READ_BUFFER_SIZE);
        SSL_CTX_set_max_cert_list(ssl, CHAIN_SIZE_MAX);
        SSL_CTX_set_verify_depth(ssl, 1);
        if (SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) != 1 ||
            SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION) != 1 ||
            SSL_CTX_set_num_tickets(ssl, 0) != 1 || SSL_CTX_set1_groups_list(ssl, "X25519:P-256") != 1)
                return -EPROTO;
        store = X509_STORE_new();
        if (!store)
                return -ENOMEM;
        SSL_CTX_set_cert_store(ssl, store);
        if (m->authority && X509_STORE_add_cert(store, m->authority) != 1)
                return -EPROTO;
        if (c->pinned)
                SSL_CTX_set_cert_verify_callback(ssl, verify_pinned, c);
        if (!m->certificate)
                return 0;
        if (SSL_CTX_use_certificate(ssl, m->certificate) != 1 || SSL_CTX_use_PrivateKey(ssl, m->key) != 1)
                return -EPROTO;
        /* For those who join: they have no more than the authority's digest. */
        if (c->side == TLS_SERVER && SSL_CTX_add1_chain_cert(ssl, m->authority) != 1)
                return -EPROTO;
        return 0;
}

/* Puts what the files say into force, or leaves all as it is. */
static int tls_context_load(TlsContext *c, char **ret_message) {
        TlsMaterial m;
        SSL_CTX *ssl;
        int r;

        *ret_message = NULL;
        r = tls_material_load(&c->paths, c->role, &m, ret_message);
        if (r < 0)
                return r;
        if (!m.revoked && c->material.revoked) {
                tls_material_done(&m);
                *ret_message =
                        strformat("%s: the revocation list has gone: write an empty one with 'clupyctl pki' "
                                  "if nobody shall be revoked any more",
                                  c->paths.revoked);
                return -ENOENT;
        }
        ssl = SSL_CTX_new(c->side == TLS_SERVER ? TLS_server_method() : TLS_client_method());
        r = ssl ? ssl_configure(c, &m, ssl) : -ENOMEM;
        if (r < 0) {
                *ret_message = strformat("%s: OpenSSL does not take it: %s", strempty(c->paths.certificate),
                                         ERR_reason_error_string(ERR_peek_error()) ?: "no reason given");
                ERR_clear_error();
                SSL_CTX_free(ssl);
                tls_material_done(&m);
                return r;
        }
        if (m.authority && (!c->material.authority || X509_cmp(m.authority, c->material.authority) != 0))
                c->generation++;
        SSL_CTX_free(c->ssl);
        tls_material_done(&c->material);
        c->ssl = ssl;
        c->material = m;
        c->trouble = mfree(c->trouble);
        return 0;
}

/* Watching */

static FileStamp file_stamp(const char *path) {
        struct stat st;

        if (stat(path, &st) < 0)
                return (FileStamp){ .there = false };
        return (FileStamp){ .device = st.st_dev,
                            .inode = st.st_ino,
                            .size = st.st_size,
                            .changed = st.st_mtim,
                            .there = true };
}

static bool file_stamp_equal(const FileStamp *left, const FileStamp *right) {
        return left->there == right->there && left->device == right->device && left->inode == right->inode &&
               left->size == right->size && left->changed.tv_sec == right->changed.tv_sec &&
               left->changed.tv_nsec == right->changed.tv_nsec;
}

/* Whether any file is another than the one that was looked at last. */
static bool tls_context_stamp(TlsContext *c) {
        bool changed = false;

        for (size_t i = 0; i < c->n_files; i++) {
                FileStamp stamp = file_stamp(c->files[i].path);

                changed |= !file_stamp_equal(&stamp, &c->files[i].stamp);
                c->files[i].stamp = stamp;
        }
        return changed;
}

int tls_context_reload(TlsContext *c) {
        _cleanup_(freep) char *message = NULL;
        int r;

        /* Before reading: what changes meanwhile is seen as a change. */
        (void) tls_context_stamp(c);
        r = tls_context_load(c, &message);
        if (r < 0) {
                (void) free_and_strdup(&c->trouble, message ?: strerror(-r));
                if (c->handlers && c->handlers->failed)
                        c->handlers->failed(c, strempty(c->trouble), c->userdata);
        } else if (c->handlers && c->handlers->changed)
                c->handlers->changed(c, c->userdata);
        return r;
}

static int on_settled(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(tls_context_unrefp) TlsContext *c = tls_context_ref(userdata);

        if (tls_context_stamp(c))
                (void) tls_context_reload(c);
        return 0;
}

static int on_inotify(sd_event_source *source, const struct inotify_event *event, void *userdata) {
        TlsContext *c = userdata;
        int enabled = SD_EVENT_OFF;

        if (event->mask & (IN_IGNORED | IN_MOVE_SELF))
                /* The folder itself went: found again by the poll. */
                for (size_t i = 0; i < c->n_files; i++)
                        if (c->files[i].watch == source)
                                c->files[i].watch = sd_event_source_disable_unref(c->files[i].watch);
        (void) sd_event_source_get_enabled(c->settle, &enabled);
        if (enabled == SD_EVENT_OFF) {
                (void) sd_event_source_set_time_relative(c->settle, SETTLE_USEC);
                (void) sd_event_source_set_enabled(c->settle, SD_EVENT_ONESHOT);
        }
        return 0;
}

/* One watch for each folder. Without one (no such folder, too many watches) the poll has to do. */
static void tls_context_watch(TlsContext *c) {
        for (size_t i = 0; i < c->n_files; i++) {
                bool watched = false;

                for (size_t k = 0; k < c->n_files; k++)
                        watched |= c->files[k].watch && streq(c->files[k].folder, c->files[i].folder);
                if (!watched)
                        (void) sd_event_add_inotify(c->event, &c->files[i].watch, c->files[i].folder,
                                                    IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM |
                                                            IN_DELETE | IN_MOVE_SELF | IN_ONLYDIR,
                                                    on_inotify, c);
        }
}

static int on_poll(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(tls_context_unrefp) TlsContext *c = tls_context_ref(userdata);

        (void) sd_event_source_set_time_relative(source, POLL_USEC);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        tls_context_watch(c);
        if (tls_context_stamp(c))
                (void) tls_context_reload(c);
        return 0;
}

static int tls_context_watch_start(TlsContext *c, sd_event *event) {
        int r;

        c->event = sd_event_ref(event);
        r = sd_event_add_time_relative(event, &c->settle, CLOCK_MONOTONIC, 0, USEC_PER_MSEC, on_settled, c);
        if (r >= 0)
                r = sd_event_source_set_enabled(c->settle, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &c->poll, CLOCK_BOOTTIME, POLL_USEC, POLL_USEC / 4,
                                               on_poll, c);
        if (r >= 0)
                tls_context_watch(c);
        return r;
}

/* A folder's files are told apart by the folder's own path: dirname() changes what it is given. */
static int tls_context_add_file(TlsContext *c, const char *path, const char **ret) {
        WatchedFile *file = c->files + c->n_files;
        _cleanup_(freep) char *copy = NULL;

        *ret = NULL;
        if (!path)
                return 0;
        copy = strdup(path);
        file->path = strdup(path);
        if (!copy || !file->path)
                return -ENOMEM;
        file->folder = strdup(dirname(copy));
        if (!file->folder)
                return -ENOMEM;
        c->n_files++;
        *ret = file->path;
        return 0;
}

/* Life */

static TlsContext *tls_context_free(TlsContext *c) {
        tls_context_stop(c);
        for (size_t i = 0; i < N_FILES; i++) {
                free(c->files[i].path);
                free(c->files[i].folder);
        }
        sd_event_unref(c->event);
        SSL_CTX_free(c->ssl);
        tls_material_done(&c->material);
        free(c->trouble);
        return mfree(c);
}

TlsContext *tls_context_ref(TlsContext *c) {
        c->n_ref++;
        return c;
}

TlsContext *tls_context_unref(TlsContext *c) {
        if (!c || --c->n_ref > 0)
                return NULL;
        return tls_context_free(c);
}

void tls_context_stop(TlsContext *c) {
        c->handlers = NULL;
        c->settle = sd_event_source_disable_unref(c->settle);
        c->poll = sd_event_source_disable_unref(c->poll);
        for (size_t i = 0; i < c->n_files; i++)
                c->files[i].watch = sd_event_source_disable_unref(c->files[i].watch);
}

int tls_context_new(sd_event *event, const TlsContextOptions *options, const TlsContextHandlers *handlers,
                    void *userdata, TlsContext **ret, char **ret_message) {
        _cleanup_(tls_context_unrefp) TlsContext *c = NULL;
        int r;

        *ret_message = NULL;
        c = new0(TlsContext);
        if (!c)
                return -ENOMEM;
        c->n_ref = 1;
        c->side = options->side;
        c->role = options->role;
        c->handlers = handlers;
        c->userdata = userdata;
        if (options->authority) {
                c->pinned = true;
                c->authority = *options->authority;
        }
        r = tls_context_add_file(c, options->paths.certificate, &c->paths.certificate);
        if (r >= 0)
                r = tls_context_add_file(c, options->paths.key, &c->paths.key);
        if (r >= 0)
                r = tls_context_add_file(c, options->paths.authority, &c->paths.authority);
        if (r >= 0)
                r = tls_context_add_file(c, options->paths.revoked, &c->paths.revoked);
        if (r < 0)
                return r;
        (void) tls_context_stamp(c);
        if (event) {
                r = tls_context_watch_start(c, event);
                if (r < 0)
                        return r;
        }
        r = tls_context_load(c, ret_message);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

/* What others ask */

void tls_protect_memory(void) {
        /* The sanitizers' search for leaks is a debugger. */
#ifndef __SANITIZE_ADDRESS__
        (void) prctl(PR_SET_DUMPABLE, 0);
#endif
}

TlsSide tls_context_side(const TlsContext *c) {
        return c->side;
}

const Identity *tls_context_identity(const TlsContext *c) {
        return c->material.certificate ? &c->material.identity : NULL;
}

const TlsMaterial *tls_context_material(const TlsContext *c) {
        return &c->material;
}

const TlsPaths *tls_context_paths(const TlsContext *c) {
        return &c->paths;
}

SSL_CTX *tls_context_ssl(const TlsContext *c) {
        return c->ssl;
}

uint64_t tls_context_expires(const TlsContext *c) {
        uint64_t own = 0, authority = 0;

        if (c->material.certificate)
                own = tls_time_usec(X509_get0_notAfter(c->material.certificate));
        if (c->material.authority)
                authority = tls_time_usec(X509_get0_notAfter(c->material.authority));
        return own == 0 || authority == 0 ? MAX(own, authority) : MIN(own, authority);
}

const ASN1_TIME *tls_context_not_after(const TlsContext *c) {
        return c->material.certificate ? X509_get0_notAfter(c->material.certificate) : NULL;
}

/* Returns 1 when there is something to say. */
static int warn_of_expiry(const X509 *certificate, const char *path, const char *remedy, uint64_t now,
                          char ***list) {
        _cleanup_(freep) char *text = NULL;
        const ASN1_TIME *end;
        uint64_t expires;

        if (!certificate)
                return 0;
        end = X509_get0_notAfter(certificate);
        expires = tls_time_usec(end);
        if (expires > now && expires - now >= TLS_EXPIRY_WARNING_DAYS * USEC_PER_DAY)
                return 0;
        if (expires <= now)
                text = strformat("%s has expired on %s: %s", path,
                                 tls_time_to_string(end, (char[TLS_TIME_SIZE]){ 0 }), remedy);
        else
                text = strformat("%s expires in %" PRIu64 " days, on %s: %s", path,
                                 (expires - now) / USEC_PER_DAY,
                                 tls_time_to_string(end, (char[TLS_TIME_SIZE]){ 0 }), remedy);
        return text && strv_extend(list, text) >= 0 ? 1 : -ENOMEM;
}

int tls_context_warnings(const TlsContext *c, uint64_t now, char ***list) {
        _cleanup_(freep) char *stale = NULL, *trouble = NULL;
        const ASN1_TIME *next;
        int r, n;

        n = warn_of_expiry(c->material.certificate, strempty(c->paths.certificate),
                           "renew it with 'clupyctl pki renew', no restart is needed", now, list);
        if (n < 0)
                return n;
        r = warn_of_expiry(c->material.authority, strempty(c->paths.authority),
                           "the cluster needs a new authority, and all certificates anew", now, list);
        if (r < 0)
                return r;
        n += r;
        next = c->material.revoked ? X509_CRL_get0_nextUpdate(c->material.revoked) : NULL;
        if (next && tls_time_usec(next) <= now) {
                stale = strformat(
                        "%s should have been renewed until %s: copy the present one from the authority's "
                        "machine ('clupyctl pki' writes it); the old one stays in force",
                        c->paths.revoked, tls_time_to_string(next, (char[TLS_TIME_SIZE]){ 0 }));
                if (!stale || strv_extend(list, stale) < 0)
                        return -ENOMEM;
                n++;
        }
        if (c->trouble) {
                trouble = strformat("%s; what was read before stays in force", c->trouble);
                if (!trouble || strv_extend(list, trouble) < 0)
                        return -ENOMEM;
                n++;
        }
        return n;
}

unsigned tls_context_generation(const TlsContext *c) {
        return c->generation;
}

int tls_context_check_certificate(const TlsContext *c, unsigned generation, const X509 *certificate) {
        /* Signatures take time, and there may be ten thousand to check. */
        if (generation != c->generation && c->material.authority &&
            !tls_material_is_issued(&c->material, certificate))
                return -EKEYREJECTED;
        if (tls_material_is_revoked(&c->material, certificate))
                return -EKEYREVOKED;
        if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
                return -EKEYEXPIRED;
        return 0;
}
