/* SPDX-License-Identifier: Apache-2.0 */
#include "authority.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "authority-index.h"
#include "fd-util.h"
#include "folder-file.h"
#include "id.h"
#include "time-util.h"

#define DAY_S ((int64_t) 86400)

enum { LOCK_PAUSE_MS = 10 };

/* There when the index has all that were issued. */
static const char indexed[] = ".indexed";

struct Authority {
        int folder, issued;
        X509 *certificate;
        EVP_PKEY *key; /* AUTHORITY_SIGN */
        X509_CRL *revoked;
};

static const char *const issued_state_table[_ISSUED_STATE_MAX] = {
        [ISSUED_VALID] = "valid",         [ISSUED_SOON] = "expires-soon", [ISSUED_EXPIRED] = "expired",
        [ISSUED_EARLY] = "not-yet-valid", [ISSUED_REVOKED] = "revoked",
};

DEFINE_NAME_TABLE(issued_state, IssuedState, issued_state_table);

/* Making one */

typedef struct NewAuthority {
        EVP_PKEY *key, *master_key;
        X509 *certificate, *master;
        X509_CRL *revoked;
        char *key_pem, *certificate_pem, *master_key_pem, *master_pem, *revoked_pem;
} NewAuthority;

static void new_authority_done(NewAuthority *n) {
        key_free(n->key);
        key_free(n->master_key);
        certificate_free(n->certificate);
        certificate_free(n->master);
        revocation_free(n->revoked);
        secret_free(n->key_pem);
        secret_free(n->master_key_pem);
        free(n->certificate_pem);
        free(n->master_pem);
        free(n->revoked_pem);
}

static int new_authority_make(NewAuthority *n, const AuthorityDraft *draft) {
        char name[65];
        CertificateDraft master = {
                .identity = { .role = IDENTITY_MASTER },
                .names = draft->names,
                .not_before = draft->now - CERTIFICATE_BACKDATE_S,
                .not_after = draft->now + DAY_S * draft->days,
        };
        Id random;
        int r;

        /* Two authorities never have the same name, whatever their clusters are called. */
        r = id_random(&random);
        if (r < 0)
                return r;
        snprintf(name, sizeof(name), "CluPy authority %.8s %.38s", ID_HEX(random), strempty(draft->cluster));
        r = key_new(&n->key);
        if (r >= 0)
                r = key_new(&n->master_key);
        if (r >= 0)
                r = certificate_new_authority(n->key, name, master.not_before,
                                              draft->now + DAY_S * AUTHORITY_DAYS, &n->certificate);
        master.public_key = n->master_key;
        if (r >= 0)
                r = certificate_new(&master, n->certificate, n->key, &n->master);
        if (r >= 0)
                r = revocation_new(NULL, NULL, 0, REVOCATION_UNSPECIFIED, draft->now, n->certificate, n->key,
                                   &n->revoked);
        if (r >= 0)
                r = key_to_pem(n->key, &n->key_pem);
        if (r >= 0)
                r = key_to_pem(n->master_key, &n->master_key_pem);
        if (r >= 0)
                r = certificate_to_pem(n->certificate, &n->certificate_pem);
        if (r >= 0)
                r = certificate_to_pem(n->master, &n->master_pem);
        return r < 0 ? r : revocation_to_pem(n->revoked, &n->revoked_pem);
}

/* The folder of issued certificates is the signer's, who writes into it; nobody else has to know who is
 * there. */
static int open_issued(int folder, bool make, const char *owner) {
        _cleanup_(close_fdp) int fd = -EBADF;
        const struct passwd *user;

        if (make && mkdirat(folder, "issued", 0700) < 0 && errno != EEXIST)
                return -errno;
        fd = openat(folder, "issued", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        user = make && owner ? getpwnam(owner) : NULL;
        if (user && fchown(fd, user->pw_uid, user->pw_gid) < 0 && errno != EPERM)
                return -errno;
        return TAKE_FD(fd);
}

static int index_add(int issued, const char *name, const char *serial) {
        _cleanup_(strv_freep) char **serials = NULL;
        int r;

        r = index_read(issued, name, &serials);
        if (r < 0 || strv_contains(serials, serial))
                return r;
        if (strv_length(serials) >= INDEX_MAX)
                return -EMFILE;
        if (strv_extend(&serials, serial) < 0)
                return -ENOMEM;
        return index_write(issued, name, serials);
}

static int index_certificate(int issued, const X509 *certificate) {
        char serial[CERTIFICATE_SERIAL_SIZE], name[INDEX_NAME_SIZE];
        const EVP_PKEY *key = certificate_key(certificate);
        Identity identity;
        const char *why;
        int r;

        r = key ? identity_from_certificate(certificate, &identity, &why) : -EBADMSG;
        if (r < 0)
                return r;
        certificate_serial(certificate, serial);
        index_of_identity(&identity, name);
        r = index_add(issued, name, serial);
        if (r >= 0)
                r = index_of_key(key, name);
        return r < 0 ? r : index_add(issued, name, serial);
}

/* The index comes first: a serial number without a certificate in it does no harm. */
static int record(int issued, const X509 *certificate) {
        _cleanup_(freep) char *pem = NULL;
        char serial[CERTIFICATE_SERIAL_SIZE], name[CERTIFICATE_SERIAL_SIZE + 8];
        int r;

        r = certificate_to_pem(certificate, &pem);
        if (r >= 0)
                r = index_certificate(issued, certificate);
        if (r < 0)
                return r;
        snprintf(name, sizeof(name), "%s.crt", certificate_serial(certificate, serial));
        return folder_write_file(issued, name, 0644, pem, strlen(pem), 0);
}

/* Of an authority that is not to be: nobody else's certificates are there. */
static void forget(int issued, const X509 *certificate) {
        char serial[CERTIFICATE_SERIAL_SIZE], name[INDEX_NAME_SIZE];
        const Identity master = { .role = IDENTITY_MASTER };
        const EVP_PKEY *key = certificate_key(certificate);

        snprintf(name, sizeof(name), "%s.crt", certificate_serial(certificate, serial));
        (void) unlinkat(issued, name, 0);
        (void) unlinkat(issued, indexed, 0);
        index_of_identity(&master, name);
        (void) unlinkat(issued, name, 0);
        if (key && index_of_key(key, name) >= 0)
                (void) unlinkat(issued, name, 0);
}

int authority_create(const AuthorityDraft *draft, const char **ret_file) {
        static const char *const names[] = { "master.key", "master.crt", "ca.crl", "ca.key", "ca.crt" };
        _cleanup_(new_authority_done) NewAuthority n = { 0 };
        _cleanup_(close_fdp) int folder = -EBADF, issued = -EBADF;
        int r;

        *ret_file = NULL;
        folder = folder_open(draft->folder, true, 0755);
        if (folder < 0)
                return folder;
        if (flock(folder, LOCK_EX) < 0)
                return -errno;
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (faccessat(folder, names[i], F_OK, AT_SYMLINK_NOFOLLOW) >= 0) {
                        *ret_file = names[i];
                        return -EEXIST;
                }
        r = new_authority_make(&n, draft);
        if (r < 0)
                return r;
        *ret_file = "issued";
        issued = open_issued(folder, true, draft->owner);
        if (issued < 0)
                return issued;
        r = record(issued, n.master);
        if (r >= 0)
                r = folder_write_file(issued, indexed, 0644, "", 0, FOLDER_REPLACE);
        if (r < 0) {
                forget(issued, n.master);
                return r;
        }
        /* ca.crt comes last: where it is the rest is. */
        r = folder_write(
                folder,
                (FolderFile[]){
                        { .name = names[0],
                          .data = n.master_key_pem,
                          .size = strlen(n.master_key_pem),
                          .mode = 0600 },
                        { .name = names[1],
                          .data = n.master_pem,
                          .size = strlen(n.master_pem),
                          .mode = 0644 },
                        { .name = names[2],
                          .data = n.revoked_pem,
                          .size = strlen(n.revoked_pem),
                          .mode = 0644 },
                        { .name = names[3], .data = n.key_pem, .size = strlen(n.key_pem), .mode = 0600 },
                        { .name = names[4],
                          .data = n.certificate_pem,
                          .size = strlen(n.certificate_pem),
                          .mode = 0644 },
                },
                ELEMENTSOF(names), 0, ret_file);
        if (r < 0)
                forget(issued, n.master);
        return r;
}

/* Opening one */

static int load_certificate(Authority *a) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = folder_read_file(a->folder, "ca.crt", CERTIFICATE_PEM_MAX, &text, &size);
        if (r >= 0)
                r = certificate_from_pem(text, size, &a->certificate);
        if (r == -EFBIG || (r >= 0 && !certificate_is_authority(a->certificate)))
                return -EBADMSG;
        return r;
}

static int load_key(Authority *a, const char *path) {
        _cleanup_(secret_freep) char *text = NULL;
        size_t size;
        int r;

        r = path ? read_file_full(path, CERTIFICATE_PEM_MAX, &text, &size)
                 : folder_read_file(a->folder, "ca.key", CERTIFICATE_PEM_MAX, &text, &size);
        if (r >= 0)
                r = key_from_pem(text, size, &a->key);
        if (r == -EFBIG || (r >= 0 && !certificate_has_key(a->certificate, a->key)))
                return -EBADMSG;
        return r;
}

static int load_revoked(Authority *a) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = folder_read_file(a->folder, "ca.crl", CERTIFICATE_LIST_MAX, &text, &size);
        if (r == -ENOENT)
                return 0;
        if (r >= 0)
                r = revocation_from_pem(text, size, &a->revoked);
        if (r == -EFBIG || (r >= 0 && !revocation_is_signed_by(a->revoked, a->certificate)))
                return -EBADMSG;
        return r;
}

static int load_issued(Authority *a, const char *name, X509 **ret) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = folder_read_file(a->issued, name, CERTIFICATE_PEM_MAX, &text, &size);
        if (r >= 0)
                r = certificate_from_pem(text, size, &certificate);
        if (r == -EFBIG || (r >= 0 && !certificate_is_signed_by(certificate, a->certificate)))
                return -EBADMSG;
        if (r >= 0)
                *ret = TAKE_PTR(certificate);
        return r;
}

/* Files that are none of ours. */
static bool is_strange(int error) {
        return error == -EBADMSG || error == -ENOENT || error == -ELOOP;
}

/* Who changes something keeps others from it, by the folder that not everybody may open. Nothing tells when
 * a lock is free but to wait for it, and that has no bound. */
static int lock(int issued) {
        const struct timespec pause = { .tv_nsec = LOCK_PAUSE_MS * 1000000L };

        for (int waited_ms = 0;; waited_ms += LOCK_PAUSE_MS) {
                if (flock(issued, LOCK_EX | LOCK_NB) >= 0)
                        return 0;
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                if (waited_ms >= AUTHORITY_PATIENCE_MS)
                        return -EBUSY;
                (void) nanosleep(&pause, NULL);
        }
}

/* Of a folder whose index is missing. */
static int index_all(Authority *a) {
        _cleanup_(strv_freep) char **names = NULL;
        int r;

        if (faccessat(a->issued, indexed, F_OK, AT_SYMLINK_NOFOLLOW) >= 0)
                return 0;
        r = folder_list(a->issued, &names);
        for (char **name = names; r >= 0 && name && *name; name++) {
                _cleanup_(certificate_freep) X509 *certificate = NULL;

                if (!endswith(*name, ".crt"))
                        continue;
                r = load_issued(a, *name, &certificate);
                if (r >= 0)
                        r = index_certificate(a->issued, certificate);
                /* Of more than there is room for the first ones must do. */
                if (is_strange(r) || r == -EMFILE)
                        r = 0;
        }
        return r < 0 ? r : folder_write_file(a->issued, indexed, 0644, "", 0, FOLDER_REPLACE);
}

int authority_open(const char *folder, AuthorityAccess access, const char *key_path, Authority **ret,
                   const char **ret_file) {
        _cleanup_(authority_closep) Authority *a = new0(Authority);
        int r;

        if (!a)
                return -ENOMEM;
        *ret_file = "ca.crt";
        a->issued = -EBADF;
        a->folder = folder_open(folder, false, 0);
        if (a->folder < 0)
                return a->folder;
        r = load_certificate(a);
        if (r < 0)
                return r;
        if (access == AUTHORITY_SIGN) {
                *ret_file = "ca.key";
                r = load_key(a, key_path);
                if (r < 0)
                        return r;
        }
        *ret_file = "issued";
        a->issued = open_issued(a->folder, false, NULL);
        if (a->issued < 0)
                return a->issued;
        r = access == AUTHORITY_SIGN ? lock(a->issued) : 0;
        if (r < 0)
                return r;
        *ret_file = "ca.crl";
        r = load_revoked(a);
        if (r < 0)
                return r;
        *ret_file = "issued";
        r = access == AUTHORITY_SIGN ? index_all(a) : 0;
        if (r < 0)
                return r;
        *ret_file = NULL;
        *ret = TAKE_PTR(a);
        return 0;
}

void authority_unlock(Authority *a) {
        (void) flock(a->issued, LOCK_UN);
}

Authority *authority_close(Authority *a) {
        if (!a)
                return NULL;
        close_fd(a->issued);
        close_fd(a->folder);
        certificate_free(a->certificate);
        key_free(a->key);
        revocation_free(a->revoked);
        return mfree(a);
}

const X509 *authority_certificate(const Authority *a) {
        return a->certificate;
}

const X509_CRL *authority_revoked(const Authority *a) {
        return a->revoked;
}

int authority_folder(const Authority *a) {
        return a->folder;
}

/* What it does */

int authority_find(Authority *a, const char *serial, X509 **ret) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        char name[CERTIFICATE_SERIAL_SIZE + 8], found[CERTIFICATE_SERIAL_SIZE];
        int r;

        if (strlen(serial) < 32 || strlen(serial) >= CERTIFICATE_SERIAL_SIZE ||
            strspn(serial, "0123456789abcdef") != strlen(serial))
                return -ENOENT;
        snprintf(name, sizeof(name), "%s.crt", serial);
        r = load_issued(a, name, &certificate);
        if (r < 0)
                return r;
        if (!streq(certificate_serial(certificate, found), serial))
                return -EBADMSG;
        *ret = TAKE_PTR(certificate);
        return 0;
}

static bool is_in_use(Authority *a, const char *serial, const Identity *identity, int64_t now) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        Identity found;
        int64_t from, until;
        const char *why;

        if (authority_find(a, serial, &certificate) < 0 ||
            identity_from_certificate(certificate, &found, &why) < 0 || !identity_equal(&found, identity))
                return false;
        certificate_validity(certificate, &from, &until);
        return now < until && !revocation_find(a->revoked, certificate, NULL, NULL);
}

int authority_has_valid(Authority *a, const Identity *identity, int64_t now) {
        _cleanup_(strv_freep) char **serials = NULL;
        char name[INDEX_NAME_SIZE];
        int r;

        index_of_identity(identity, name);
        r = index_read(a->issued, name, &serials);
        if (r < 0)
                return r;
        /* The newest first: it is most likely to be good. */
        for (size_t i = strv_length(serials); i > 0; i--)
                if (is_in_use(a, serials[i - 1], identity, now))
                        return 1;
        return 0;
}

/* Forgets those of an identity that nobody can show any more, where there are as many as there may be. */
static int make_room(Authority *a, const Identity *identity, int64_t now) {
        _cleanup_(strv_freep) char **serials = NULL, **kept = NULL;
        char name[INDEX_NAME_SIZE];
        int r;

        index_of_identity(identity, name);
        r = index_read(a->issued, name, &serials);
        if (r < 0 || strv_length(serials) < INDEX_MAX)
                return r;
        for (char **serial = serials; serial && *serial; serial++)
                if (is_in_use(a, *serial, identity, now) && strv_extend(&kept, *serial) < 0)
                        return -ENOMEM;
        return index_write(a->issued, name, kept);
}

int authority_issue(Authority *a, const Identity *identity, char *const *names, EVP_PKEY *public_key,
                    unsigned days, int64_t now, X509 **ret) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        int64_t from, until;
        CertificateDraft draft = {
                .identity = *identity,
                .names = names,
                .public_key = public_key,
                .not_before = now - CERTIFICATE_BACKDATE_S,
                .not_after = now + DAY_S * days,
        };
        int r;

        certificate_validity(a->certificate, &from, &until);
        if (now >= until)
                return -ERANGE;
        draft.not_before = MAX(draft.not_before, from);
        draft.not_after = MIN(draft.not_after, until);
        r = make_room(a, identity, now);
        if (r < 0)
                return r;
        r = certificate_new(&draft, a->certificate, a->key, &certificate);
        /* Written down before anybody has it: what is not in the list could not be revoked. */
        if (r >= 0)
                r = record(a->issued, certificate);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(certificate);
        return 0;
}

int authority_key_is_revoked(Authority *a, const EVP_PKEY *key) {
        _cleanup_(strv_freep) char **serials = NULL;
        char name[INDEX_NAME_SIZE];
        int r;

        r = index_of_key(key, name);
        if (r >= 0)
                r = index_read(a->issued, name, &serials);
        if (r < 0)
                return r;
        for (char **serial = serials; serial && *serial; serial++) {
                _cleanup_(certificate_freep) X509 *certificate = NULL;

                if (authority_find(a, *serial, &certificate) >= 0 && certificate_has_key(certificate, key) &&
                    revocation_find(a->revoked, certificate, NULL, NULL))
                        return 1;
        }
        return 0;
}

int authority_renew(Authority *a, const X509 *former, unsigned days, int64_t now, X509 **ret) {
        _cleanup_(strv_freep) char **names = NULL;
        EVP_PKEY *key = certificate_key(former);
        Identity identity;
        int64_t from, until;
        const char *why;
        int r;

        if (!key || !certificate_is_signed_by(former, a->certificate))
                return -EBADMSG;
        r = revocation_find(a->revoked, former, NULL, NULL) ? 1 : authority_key_is_revoked(a, key);
        if (r != 0)
                return r < 0 ? r : -EKEYREVOKED;
        certificate_validity(former, &from, &until);
        if (now < from || now >= until)
                return -EKEYEXPIRED;
        r = identity_from_certificate(former, &identity, &why);
        if (r >= 0)
                r = certificate_names(former, &names);
        return r < 0 ? r : authority_issue(a, &identity, names, key, days, now, ret);
}

int issued_from(X509 *certificate, const X509_CRL *revoked, int64_t now, Issued *ret) {
        _cleanup_(certificate_freep) X509 *taken = certificate;
        Issued issued = { 0 };
        const char *why;

        if (identity_from_certificate(certificate, &issued.identity, &why) < 0)
                return -EBADMSG;
        certificate_serial(certificate, issued.serial);
        certificate_validity(certificate, &issued.not_before, &issued.not_after);
        if (revocation_find(revoked, certificate, &issued.revoked_at, &issued.reason))
                issued.state = ISSUED_REVOKED;
        else if (now < issued.not_before)
                issued.state = ISSUED_EARLY;
        else if (now >= issued.not_after)
                issued.state = ISSUED_EXPIRED;
        else if (now >= issued.not_after - CERTIFICATE_SOON_DAYS * DAY_S)
                issued.state = ISSUED_SOON;
        issued.certificate = TAKE_PTR(taken);
        *ret = issued;
        return 0;
}

Issued *issued_free(Issued *list, size_t n) {
        for (size_t i = 0; i < n; i++)
                certificate_free(list[i].certificate);
        return mfree(list);
}

static int compare_issued(const void *left, const void *right) {
        const Issued *l = left, *r = right;

        if (l->identity.role != r->identity.role)
                return l->identity.role < r->identity.role ? -1 : 1;
        if (!streq(l->identity.name, r->identity.name))
                return strcmp(l->identity.name, r->identity.name);
        if (l->not_before != r->not_before)
                return l->not_before < r->not_before ? -1 : 1;
        return strcmp(l->serial, r->serial);
}

int authority_list(Authority *a, int64_t now, Issued **ret, size_t *ret_n, size_t *ret_strange) {
        _cleanup_(strv_freep) char **names = NULL;
        Issued *list = NULL;
        size_t n = 0, capacity = 0, strange = 0;
        int r;

        r = folder_list(a->issued, &names);
        for (char **name = names; r >= 0 && name && *name; name++) {
                X509 *certificate = NULL;

                if (!endswith(*name, ".crt"))
                        continue;
                r = ARRAY_RESERVE(list, capacity, n + 1);
                if (r >= 0)
                        r = load_issued(a, *name, &certificate);
                if (r >= 0)
                        r = issued_from(certificate, a->revoked, now, list + n);
                if (r >= 0)
                        n++;
                else if (is_strange(r)) {
                        strange++;
                        r = 0;
                }
        }
        if (r < 0) {
                issued_free(list, n);
                return r;
        }
        if (n > 0)
                qsort(list, n, sizeof(*list), compare_issued);
        *ret = list;
        *ret_n = n;
        *ret_strange = strange;
        return 0;
}

int authority_revoke(Authority *a, X509 *const *certificates, size_t n, RevocationReason reason,
                     int64_t now) {
        _cleanup_(revocation_freep) X509_CRL *list = NULL;
        _cleanup_(freep) char *pem = NULL;
        size_t former = revocation_size(a->revoked), added;
        int r;

        r = revocation_new(a->revoked, certificates, n, reason, now, a->certificate, a->key, &list);
        if (r < 0)
                return r;
        added = revocation_size(list) - former;
        if (added == 0 && a->revoked)
                return 0;
        r = revocation_to_pem(list, &pem);
        if (r >= 0)
                r = folder_write_file(a->folder, "ca.crl", 0644, pem, strlen(pem), FOLDER_REPLACE);
        if (r < 0)
                return r;
        revocation_free(a->revoked);
        a->revoked = TAKE_PTR(list);
        return (int) added;
}
