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

int pki_print_issued(const Ctl *ctl, X509 *certificate, const char *folder, bool key) {
        Issued issued = { 0 };
        int r;

        r = issued_from(certificate, NULL, pki_now(), &issued);
        if (r < 0)
                return ctl_fail_memory(ctl);
        if (ctl->json) {
                _cleanup_(json_putp) json_object *json = NULL;

                r = json_new_object(&json);
                if (r >= 0)
                        r = pki_add_json(json, &issued);
                if (r >= 0)
                        r = json_add_string(json, "folder", folder);
                if (r >= 0)
                        ctl_print_json(ctl, json);
        } else {
                _cleanup_(freep) char *until = format_time(issued.not_after * 1000);

                printf("%s, serial %s, good until %s\n", IDENTITY_STRING(&issued.identity), issued.serial,
                       strempty(until));
                printf("  %s/%s%s\n", folder, pki_certificate_file(issued.identity.role),
                       key ? ", with its key, ca.crt and ca.crl" : "");
                if (key && ctl_option(ctl, "out"))
                        print_place(&issued.identity);
                else if (key)
                        print_copy(&issued.identity, folder);
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
        return pki_print_issued(ctl, TAKE_PTR(certificate), path, true);
}

/* The certificate of that role in the authority's own folder, if it has this key. */
static bool is_own(Authority *a, const char *name, const EVP_PKEY *key) {
        _cleanup_(certificate_freep) X509 *own = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t size;

        return folder_read_file(authority_folder(a), name, CERTIFICATE_PEM_MAX, &text, &size) >= 0 &&
               certificate_from_pem(text, size, &own) >= 0 && certificate_has_key(own, key);
}

static int renew_one(Ctl *ctl, Authority *a, const Issued *former, unsigned days) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        _cleanup_(freep) char *path = NULL, *pem = NULL;
        _cleanup_(close_fdp) int folder = -EBADF;
        const char *name = pki_certificate_file(former->identity.role);
        int r;

        /* Users' certificates do not lie in this folder, whatever user.crt is there. */
        if (!ctl_option(ctl, "out") && is_own(a, name, certificate_key(former->certificate)))
                path = strdup(pki_folder(ctl));
        else
                path = made_folder(ctl, &former->identity);
        if (!path)
                return ctl_fail_memory(ctl);
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
        return pki_print_issued(ctl, TAKE_PTR(certificate), path, false);
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

static int renew_chosen(Ctl *ctl, Authority *a, const Issued *list, size_t n, unsigned days) {
        _cleanup_(freep) bool *chosen = newn0(bool, n + 1);
        bool any = false;
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
        for (size_t i = 0; i < n && r == 0; i++)
                if (chosen[i] && !is_superseded(list, chosen, n, i)) {
                        any = true;
                        r = renew_one(ctl, a, list + i, days);
                }
        if (r == 0 && !any)
                return ctl_fail(ctl, CTL_NOT_FOUND, "not-found",
                                "%s has no certificate of this machine that is valid; name those to renew",
                                pki_folder(ctl));
        return r;
}

int pki_renew(Ctl *ctl) {
        static const char *const allowed[] = { "folder", "days", "out", NULL };
        _cleanup_(authority_closep) Authority *a = NULL;
        size_t n, strange;
        const char *file;
        Issued *list;
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
                return pki_renew_remotely(ctl);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), file);
        r = authority_list(a, pki_now(), &list, &n, &strange);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), "issued");
        r = renew_chosen(ctl, a, list, n, days);
        issued_free(list, n);
        return r;
}
