/* SPDX-License-Identifier: Apache-2.0 */
/* `pki issue` and `pki renew`. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "fd-util.h"
#include "folder-file.h"
#include "json-util.h"
#include "pki.h"

/* Where a certificate for somebody else waits to be copied. */
static char *made_folder(const Ctl *ctl, const Identity *identity) {
        const char *out = ctl_option(ctl, "out");

        if (out)
                return strdup(out);
        return strformat("%s/made/%s%s%s", pki_folder(ctl), identity_role_to_string(identity->role),
                         identity->name[0] ? "-" : "", identity->name);
}

static int open_made(const Ctl *ctl, const char *path, int *ret) {
        int fd = folder_open(path, true, 0700);

        if (fd < 0)
                return pki_fail(ctl, fd, path, NULL);
        *ret = fd;
        return 0;
}

/* A copy of one of the authority's public files; a list that is not there is no list. */
static int read_public(Authority *a, const char *name, char **ret) {
        int r = folder_read_file(authority_folder(a), name, CERTIFICATE_LIST_MAX, ret, NULL);

        return r == -ENOENT && streq(name, "ca.crl") ? 0 : r;
}

/* ca.crt and ca.crl, which may be there from an earlier time: they are public and always the newest. */
static int write_public(Authority *a, int folder, const char **ret_file) {
        static const char *const names[] = { "ca.crt", "ca.crl" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_(freep) char *text = NULL;
                int r;

                *ret_file = names[i];
                r = read_public(a, names[i], &text);
                if (r >= 0 && text)
                        r = folder_write_file(folder, names[i], 0644, text, strlen(text), FOLDER_REPLACE);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* folder: where they wait to be copied; scp gives the files there the modes that they have here. */
static void print_copy(const Identity *identity, const char *folder) {
        bool system = identity->role == IDENTITY_AGENT || identity->role == IDENTITY_MASTER;
        const char *to = system ? AUTHORITY_FOLDER : ".config/clupy";
        char host[IDENTITY_NAME_MAX + sizeof("root@")];

        if (identity->role == IDENTITY_AGENT)
                snprintf(host, sizeof(host), "root@%s", identity->name);
        else
                snprintf(host, sizeof(host), "%s", system ? "root@MASTER" : "ACCOUNT@HOST");
        printf("Next, as root here:\n"
               "  ssh %s mkdir -p -m %s %s\n"
               "  scp -p '%s'/* %s:%s/\n"
               "  rm -r '%s'\n",
               host, system ? "755" : "700", to, folder, host, to, folder);
        if (identity->role == IDENTITY_AGENT)
                puts("so that agent.key belongs to root there, mode 0600; and there: systemctl enable --now "
                     "clupy-agent\nA join token needs no copying: clupyctl token new");
        else if (system)
                puts("so that master.key belongs to root there, mode 0600; and there: systemctl enable "
                     "--now "
                     "clupy-masterd\n(one that runs takes new files by itself)");
        else
                puts("so that user.key is readable for that person alone, mode 0600");
}

/* With --out: they are where they were wanted, or on their way in their own fashion. */
static void print_place(const Identity *identity) {
        if (identity->role == IDENTITY_AGENT || identity->role == IDENTITY_MASTER)
                printf("%s looks for them in " AUTHORITY_FOLDER ", where root alone may read the key\n",
                       identity->role == IDENTITY_MASTER ? "The master" : "The node's agent");
        else
                puts("That person's programs look for them in ~/.config/clupy, where nobody else may read "
                     "user.key");
}

static int add_issued(json_object *to, const Issued *issued, const char *folder) {
        int r = pki_add_json(to, issued);

        return r < 0 ? r : json_add_string(to, "folder", folder);
}

static void print_issued(const Issued *issued, const char *folder, bool key) {
        _cleanup_(freep) char *until = format_time(issued->not_after * 1000);

        printf("%s, serial %s, good until %s\n  %s/%s%s\n", IDENTITY_STRING(&issued->identity),
               issued->serial, strempty(until), folder, pki_certificate_file(issued->identity.role),
               key ? ", with its key, ca.crt and ca.crl" : "");
}

static int print_new(const Ctl *ctl, X509 *certificate, const char *folder) {
        _cleanup_(json_putp) json_object *json = NULL;
        Issued issued = { 0 };
        int r;

        r = issued_from(certificate, NULL, pki_now(), &issued);
        if (r < 0)
                return ctl_fail_memory(ctl);
        if (!ctl->json) {
                print_issued(&issued, folder, true);
                if (ctl_option(ctl, "out"))
                        print_place(&issued.identity);
                else
                        print_copy(&issued.identity, folder);
        } else {
                r = json_new_object(&json);
                if (r >= 0)
                        r = add_issued(json, &issued, folder);
                if (r >= 0)
                        ctl_print_json(ctl, json);
        }
        certificate_free(issued.certificate);
        return r < 0 ? ctl_fail_memory(ctl) : CTL_OK;
}

static int parse_identity(const Ctl *ctl, Identity *ret) {
        static const char synopsis[] = "agent NODE | user NAME | admin NAME | master [--name HOST]... "
                                       "[--days NUMBER] [--out FOLDER]";
        IdentityRole role;
        const char *name;
        int r;

        r = pki_check_operands(ctl, 2, 3, synopsis);
        if (r != 0)
                return r;
        name = ctl->n_operands > 2 ? ctl->operands[2] : NULL;
        if (identity_role_from_string(ctl->operands[1], &role) < 0 || (role == IDENTITY_MASTER) != !name)
                return ctl_fail(ctl, CTL_USAGE, "usage", "expected: clupyctl pki issue %s", synopsis);
        if (identity_set(role, name, ret) < 0)
                return ctl_fail(
                        ctl, CTL_USAGE, "usage",
                        "'%s' is no name: 1 to 64 letters, digits and . _ @ -, the first a letter or "
                        "a digit",
                        name);
        /* Root of the master's machine is the owner `root` too. */
        if (role == IDENTITY_USER && streq(name, "root"))
                return ctl_fail(ctl, CTL_USAGE, "usage",
                                "root is no ordinary user: use clupyctl pki issue admin root");
        if (role != IDENTITY_MASTER && ctl_option(ctl, "name"))
                return ctl_fail(ctl, CTL_USAGE, "usage", "only the master's certificate has host names");
        return 0;
}

/* The names given; without any, this machine's. */
static int master_names(const Ctl *ctl, const Identity *identity, char ***ret) {
        if (identity->role != IDENTITY_MASTER)
                return 0;
        return ctl_option(ctl, "name") ? pki_option_names(ctl, ret) : pki_own_names(ctl, ret);
}

static int write_pair(Authority *a, int folder, IdentityRole role, const char *key, const char *certificate,
                      const char **ret_file) {
        FolderFile files[] = {
                { .name = pki_key_file(role), .data = key, .size = strlen(key), .mode = 0600 },
                { .name = pki_certificate_file(role),
                  .data = certificate,
                  .size = strlen(certificate),
                  .mode = 0644 },
        };
        int r = folder_write(folder, files, ELEMENTSOF(files), 0, ret_file);

        return r < 0 ? r : write_public(a, folder, ret_file);
}

static void record(X509 *certificate, const char *action, const char *done, const char *path) {
        char serial[CERTIFICATE_SERIAL_SIZE], uri[IDENTITY_URI_SIZE];
        _cleanup_(freep) char *until = NULL;
        Identity identity;
        int64_t from, to;
        const char *why;

        if (identity_from_certificate(certificate, &identity, &why) < 0)
                return;
        certificate_serial(certificate, serial);
        certificate_validity(certificate, &from, &to);
        until = format_time(to * 1000);
        identity_to_uri(&identity, uri);
        pki_record(action, uri + strlen("clupy:"), serial,
                   "%s a certificate for %s, serial %s, good until %s, in %s", done, uri, serial,
                   strempty(until), path);
}

int pki_issue(Ctl *ctl) {
        static const char *const allowed[] = { "folder", "name", "days", "out", NULL };
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        _cleanup_(freep) char *path = NULL, *pem = NULL;
        _cleanup_(authority_closep) Authority *a = NULL;
        _cleanup_(strv_freep) char **names = NULL;
        _cleanup_(secret_freep) char *secret = NULL;
        _cleanup_(key_freep) EVP_PKEY *key = NULL;
        _cleanup_(close_fdp) int folder = -EBADF;
        const char *file = NULL;
        Identity identity;
        unsigned days;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = parse_identity(ctl, &identity);
        if (r == 0)
                r = pki_days(ctl, &days);
        if (r == 0)
                r = master_names(ctl, &identity, &names);
        if (r == 0)
                r = pki_open(ctl, AUTHORITY_SIGN, &a);
        if (r != 0)
                return r;
        path = made_folder(ctl, &identity);
        if (!path)
                return ctl_fail_memory(ctl);
        r = open_made(ctl, path, &folder);
        if (r != 0)
                return r;
        /* Before anything is signed: nothing is overwritten. */
        file = faccessat(folder, pki_key_file(identity.role), F_OK, AT_SYMLINK_NOFOLLOW) >= 0
                       ? pki_key_file(identity.role)
               : faccessat(folder, pki_certificate_file(identity.role), F_OK, AT_SYMLINK_NOFOLLOW) >= 0
                       ? pki_certificate_file(identity.role)
                       : NULL;
        if (file)
                return pki_fail(ctl, -EEXIST, path, file);
        r = key_new(&key);
        if (r >= 0)
                r = key_to_pem(key, &secret);
        if (r >= 0)
                r = authority_issue(a, &identity, names, key, days, pki_now(), &certificate);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), NULL);
        r = certificate_to_pem(certificate, &pem);
        if (r >= 0)
                r = write_pair(a, folder, identity.role, secret, pem, &file);
        if (r < 0) {
                /* Nobody has it, and nobody will. */
                (void) authority_revoke(a, &certificate, 1, REVOCATION_CESSATION, pki_now());
                return pki_fail(ctl, r, path, file);
        }
        record(certificate, "issue", "issued", path);
        a = authority_close(a);
        return print_new(ctl, TAKE_PTR(certificate), path);
}

/* The certificate of that role in the authority's own folder, if it has this key. */
static bool is_own(Authority *a, const char *name, const EVP_PKEY *key) {
        _cleanup_(certificate_freep) X509 *own = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t size;

        return folder_read_file(authority_folder(a), name, CERTIFICATE_PEM_MAX, &text, &size) >= 0 &&
               certificate_from_pem(text, size, &own) >= 0 && certificate_has_key(own, key);
}

/* A certificate that is to be renewed, and the folder that the new one goes to. */
typedef struct Target {
        const Issued *former;
        char *folder;
} Target;

typedef struct Targets {
        Target *list;
        size_t n, capacity;
} Targets;

static void targets_done(Targets *targets) {
        for (size_t i = 0; i < targets->n; i++)
                free(targets->list[i].folder);
        free(targets->list);
}

static int targets_add(const Ctl *ctl, Authority *a, const Issued *former, Targets *targets) {
        const char *name = pki_certificate_file(former->identity.role);
        char *folder;

        if (ARRAY_RESERVE(targets->list, targets->capacity, targets->n + 1) < 0)
                return -ENOMEM;
        /* Users' certificates do not lie in this folder, whatever user.crt is there. */
        folder = !ctl_option(ctl, "out") && is_own(a, name, certificate_key(former->certificate))
                         ? strdup(pki_folder(ctl))
                         : made_folder(ctl, &former->identity);
        if (!folder)
                return -ENOMEM;
        targets->list[targets->n++] = (Target){ .former = former, .folder = folder };
        return 0;
}

/* Whether the folder has a pair of that name with another key, which the certificate would not belong to. */
static bool has_other_pair(const Target *target) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        IdentityRole role = target->former->identity.role;
        const X509 *former = target->former->certificate;
        _cleanup_(secret_freep) char *secret = NULL;
        _cleanup_(key_freep) EVP_PKEY *key = NULL;
        _cleanup_(close_fdp) int folder = -EBADF;
        _cleanup_(freep) char *text = NULL;
        size_t size;

        folder = folder_open(target->folder, false, 0);
        if (folder < 0)
                return false;
        if (folder_read_file(folder, pki_certificate_file(role), CERTIFICATE_PEM_MAX, &text, &size) >= 0 &&
            certificate_from_pem(text, size, &certificate) >= 0 &&
            !certificate_has_key(former, certificate_key(certificate)))
                return true;
        return folder_read_file(folder, pki_key_file(role), CERTIFICATE_PEM_MAX, &secret, &size) >= 0 &&
               key_from_pem(secret, size, &key) >= 0 && !certificate_has_key(former, key);
}

/* Before anything is signed: no pair is torn apart. */
static int check_targets(const Ctl *ctl, const Targets *targets) {
        for (size_t i = 0; i < targets->n; i++) {
                const Target *one = targets->list + i;
                const char *name = pki_certificate_file(one->former->identity.role);

                for (size_t k = 0; k < i; k++) {
                        const Target *other = targets->list + k;

                        if (streq(one->folder, other->folder) &&
                            streq(name, pki_certificate_file(other->former->identity.role)))
                                return ctl_fail(
                                        ctl, CTL_USAGE, "ambiguous",
                                        "serial %s (%s) and serial %s (%s) have keys of their own, and both "
                                        "would become %s/%s: name one of them by its serial number",
                                        other->former->serial, IDENTITY_STRING(&other->former->identity),
                                        one->former->serial, IDENTITY_STRING(&one->former->identity),
                                        one->folder, name);
                }
                if (has_other_pair(one))
                        return ctl_fail(ctl, CTL_FAILED, "exists",
                                        "in %s there is %s of another key than that of serial %s (%s): name "
                                        "another folder with --out; nothing was changed",
                                        one->folder, name, one->former->serial,
                                        IDENTITY_STRING(&one->former->identity));
        }
        return 0;
}

static int renew_one(Ctl *ctl, Authority *a, const Target *target, unsigned days, PkiRenewals *renewals) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        const Issued *former = target->former;
        const char *name = pki_certificate_file(former->identity.role), *path = target->folder;
        _cleanup_(close_fdp) int folder = -EBADF;
        _cleanup_(freep) char *pem = NULL;
        int r;

        r = open_made(ctl, path, &folder);
        if (r != 0)
                return r;
        r = authority_renew(a, former->certificate, days, pki_now(), &certificate);
        if (r == -EKEYREVOKED)
                return ctl_fail(ctl, CTL_FAILED, "revoked",
                                "the key of %s has been revoked: issue a new certificate, with a new key",
                                IDENTITY_STRING(&former->identity));
        if (r == -EKEYEXPIRED)
                return ctl_fail(ctl, CTL_FAILED, "expired",
                                "the certificate of %s is not valid now: issue a new one",
                                IDENTITY_STRING(&former->identity));
        if (r >= 0)
                r = certificate_to_pem(certificate, &pem);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), NULL);
        r = folder_write_file(folder, name, 0644, pem, strlen(pem), FOLDER_REPLACE);
        if (r < 0)
                return pki_fail(ctl, r, path, name);
        record(certificate, "renew", "renewed", path);
        return pki_renewals_add(renewals, TAKE_PTR(certificate), path) < 0 ? ctl_fail_memory(ctl) : 0;
}

/* Of several certificates for one key only the last one is renewed. */
static bool is_superseded(const Issued *list, const bool *chosen, size_t n, size_t i) {
        const EVP_PKEY *key = certificate_key(list[i].certificate);

        for (size_t k = i + 1; k < n; k++)
                if (chosen[k] && identity_equal(&list[k].identity, &list[i].identity) && key &&
                    certificate_has_key(list[k].certificate, key))
                        return true;
        return false;
}

static int renew_chosen(Ctl *ctl, Authority *a, const Issued *list, size_t n, unsigned days,
                        PkiRenewals *renewals) {
        _cleanup_(freep) bool *chosen = newn0(bool, n + 1);
        _cleanup_(targets_done) Targets targets = { 0 };
        int r = 0;

        if (!chosen)
                return ctl_fail_memory(ctl);
        for (size_t i = 1; i < ctl->n_operands && r == 0; i++)
                r = pki_select(ctl, list, n, ctl->operands[i], chosen);
        if (r != 0)
                return r;
        for (size_t i = 0; i < n; i++) {
                const char *name = pki_certificate_file(list[i].identity.role);

                if (ctl->n_operands == 1 && list[i].identity.role <= IDENTITY_AGENT &&
                    list[i].state != ISSUED_REVOKED && list[i].state != ISSUED_EXPIRED &&
                    is_own(a, name, certificate_key(list[i].certificate)))
                        chosen[i] = true;
        }
        for (size_t i = 0; i < n; i++)
                if (chosen[i] && !is_superseded(list, chosen, n, i) &&
                    targets_add(ctl, a, list + i, &targets) < 0)
                        return ctl_fail_memory(ctl);
        r = check_targets(ctl, &targets);
        for (size_t i = 0; i < targets.n && r == 0; i++)
                r = renew_one(ctl, a, targets.list + i, days, renewals);
        if (r == 0 && targets.n == 0)
                return ctl_fail(ctl, CTL_NOT_FOUND, "not-found",
                                "%s has no certificate of this machine that is valid; name those to renew",
                                pki_folder(ctl));
        return r;
}

void pki_renewals_done(PkiRenewals *renewals) {
        for (size_t i = 0; i < renewals->n; i++) {
                certificate_free(renewals->list[i].certificate);
                free(renewals->list[i].folder);
        }
        free(renewals->list);
}

int pki_renewals_add(PkiRenewals *renewals, X509 *certificate, const char *folder) {
        _cleanup_(certificate_freep) X509 *taken = certificate;
        char *copy;

        if (ARRAY_RESERVE(renewals->list, renewals->capacity, renewals->n + 1) < 0)
                return -ENOMEM;
        copy = strdup(folder);
        if (!copy)
                return -ENOMEM;
        renewals->list[renewals->n++] = (PkiRenewed){ .certificate = TAKE_PTR(taken), .folder = copy };
        return 0;
}

/* json: an array, or NULL: for people. Takes the certificate. */
static int tell_renewed(PkiRenewed *renewed, json_object *json) {
        Issued issued = { 0 };
        json_object *one;
        int r;

        r = issued_from(TAKE_PTR(renewed->certificate), NULL, pki_now(), &issued);
        if (r < 0)
                return r;
        if (!json)
                print_issued(&issued, renewed->folder, false);
        else {
                r = json_append_new_object(json, &one);
                if (r >= 0)
                        r = add_issued(one, &issued, renewed->folder);
        }
        certificate_free(issued.certificate);
        return r;
}

static int print_renewed(const Ctl *ctl, PkiRenewals *renewals) {
        _cleanup_(json_putp) json_object *json = NULL;
        json_object *array = NULL;
        int r = 0;

        if (ctl->json) {
                r = json_new_object(&json);
                if (r >= 0)
                        r = json_add_new_array(json, "renewed", &array);
        }
        for (size_t i = 0; i < renewals->n && r >= 0; i++)
                r = tell_renewed(renewals->list + i, array);
        if (r < 0)
                return ctl_fail_memory(ctl);
        if (ctl->json)
                ctl_print_json(ctl, json);
        return CTL_OK;
}

static int renew_here(Ctl *ctl, Authority *a, unsigned days, PkiRenewals *renewals) {
        size_t n, strange;
        Issued *list;
        int r;

        r = authority_list(a, pki_now(), &list, &n, &strange);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), "issued");
        r = renew_chosen(ctl, a, list, n, days, renewals);
        issued_free(list, n);
        return r;
}

int pki_renew(Ctl *ctl) {
        static const char *const allowed[] = { "folder", "days", "out", NULL };
        _cleanup_(pki_renewals_done) PkiRenewals renewals = { 0 };
        _cleanup_(authority_closep) Authority *a = NULL;
        const char *file;
        unsigned days;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_days(ctl, &days);
        if (r != 0)
                return r;
        r = authority_open(pki_folder(ctl), AUTHORITY_SIGN, NULL, &a, &file);
        /* Where there is no authority the master is asked. */
        if (r == -ENOENT && ctl->n_operands == 1)
                r = pki_renew_remotely(ctl, &renewals);
        else if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), file);
        else
                r = renew_here(ctl, a, days, &renewals);
        a = authority_close(a);
        /* Of a failure JSON tells that alone, people also what was done before. */
        if (r != 0 && ctl->json)
                return r;
        return print_renewed(ctl, &renewals) ?: r;
}
