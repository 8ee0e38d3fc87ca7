/* SPDX-License-Identifier: Apache-2.0 */
/* `pki list`, `pki show` and `pki revoke`. */
#include <errno.h>

#include "fd-util.h"
#include "json-util.h"
#include "pki.h"
#include "table.h"

int pki_option_names(const Ctl *ctl, char ***ret) {
        _cleanup_(strv_freep) char **names = NULL;
        _cleanup_(freep) char *copy = NULL;
        const char *text = ctl_option(ctl, "name");
        char *rest, *name;

        if (!text)
                return 0;
        rest = copy = strdup(text);
        if (!copy)
                return ctl_fail_memory(ctl);
        while ((name = strsep(&rest, ","))) {
                if (!certificate_name_is_valid(name))
                        return ctl_fail(ctl, CTL_USAGE, "usage",
                                        "--name: '%s' is neither a host name nor an address", name);
                if (!strv_contains(names, name) && strv_extend(&names, name) < 0)
                        return ctl_fail_memory(ctl);
        }
        if (strv_length(names) > CERTIFICATE_NAMES_MAX)
                return ctl_fail(ctl, CTL_USAGE, "usage", "at most %d names", CERTIFICATE_NAMES_MAX);
        *ret = TAKE_PTR(names);
        return 0;
}

static Color issued_color(IssuedState state) {
        switch (state) {
        case ISSUED_VALID:
                return COLOR_GREEN;
        case ISSUED_SOON:
        case ISSUED_EARLY:
                return COLOR_YELLOW;
        case ISSUED_REVOKED:
                return COLOR_RED;
        default:
                return COLOR_DIM;
        }
}

static int print_table(const Ctl *ctl, const X509 *authority, const Issued *list, size_t n) {
        static const TableColumn columns[] = {
                { .title = "ROLE" },
                { .title = "NAME", .shrink = 8 },
                { .title = "SERIAL", .shrink = 8 },
                { .title = "EXPIRES" },
                { .title = "STATE" },
        };
        _cleanup_(table_freep) Table *table = NULL;
        _cleanup_(freep) char *text = NULL;
        char serial[CERTIFICATE_SERIAL_SIZE];
        int64_t from, until;

        if (table_new(columns, ELEMENTSOF(columns), &table) < 0)
                return ctl_fail_memory(ctl);
        certificate_validity(authority, &from, &until);
        table_cell(table, COLOR_NONE, "authority");
        table_cell(table, COLOR_NONE, "");
        table_cell(table, COLOR_NONE, certificate_serial(authority, serial));
        table_take(table, COLOR_NONE, format_time(until * 1000));
        table_cell(table, pki_now() < until ? COLOR_GREEN : COLOR_RED,
                   pki_now() < until ? "valid" : "expired");
        for (size_t i = 0; i < n; i++) {
                table_cell(table, COLOR_NONE, identity_role_to_string(list[i].identity.role));
                table_cell(table, COLOR_NONE, list[i].identity.name);
                table_cell(table, COLOR_NONE, list[i].serial);
                table_take(table, COLOR_NONE, format_time(list[i].not_after * 1000));
                table_cell(table, issued_color(list[i].state), issued_state_to_string(list[i].state));
        }
        if (table_render(table, &ctl->terminal, &text) < 0)
                return ctl_fail_memory(ctl);
        fputs(text, stdout);
        return CTL_OK;
}

static int add_authority(json_object *to, const X509 *authority) {
        char serial[CERTIFICATE_SERIAL_SIZE], hex[DIGEST_HEX_SIZE];
        int64_t from, until;
        Digest digest;
        int r;

        certificate_validity(authority, &from, &until);
        r = certificate_digest(authority, &digest);
        if (r >= 0)
                r = json_add_string(to, "role", "authority");
        if (r >= 0)
                r = json_add_string(to, "serial", certificate_serial(authority, serial));
        if (r >= 0)
                r = json_add_string(to, "sha256", digest_to_hex(&digest, hex));
        if (r >= 0)
                r = json_add_int64(to, "not_before", from * 1000);
        if (r >= 0)
                r = json_add_int64(to, "not_after", until * 1000);
        return r < 0 ? r
                     : json_add_string(to, "state",
                                       pki_now() < from    ? "not-yet-valid"
                                       : pki_now() < until ? "valid"
                                                           : "expired");
}

static int print_json(const Ctl *ctl, const char *key, const X509 *authority, const Issued *list, size_t n) {
        _cleanup_(json_putp) json_object *json = NULL;
        json_object *array, *one;
        int r;

        r = json_new_object(&json);
        if (r >= 0 && authority) {
                r = json_add_new_object(json, "authority", &one);
                if (r >= 0)
                        r = add_authority(one, authority);
        }
        if (r >= 0)
                r = json_add_new_array(json, key, &array);
        for (size_t i = 0; i < n && r >= 0; i++) {
                r = json_append_new_object(array, &one);
                if (r >= 0)
                        r = pki_add_json(one, list + i);
        }
        if (r < 0)
                return ctl_fail_memory(ctl);
        ctl_print_json(ctl, json);
        return CTL_OK;
}

int pki_list(Ctl *ctl) {
        static const char *const allowed[] = { "folder", NULL };
        _cleanup_(authority_closep) Authority *a = NULL;
        size_t n, strange;
        Issued *list;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_check_operands(ctl, 1, 1, "[--folder FOLDER]");
        if (r == 0)
                r = pki_open(ctl, AUTHORITY_READ, &a);
        if (r != 0)
                return r;
        r = authority_list(a, pki_now(), &list, &n, &strange);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), "issued");
        if (strange > 0)
                fprintf(stderr, "clupyctl: %zu files in %s/issued are no certificates of this authority\n",
                        strange, pki_folder(ctl));
        r = ctl->json ? print_json(ctl, "certificates", authority_certificate(a), list, n)
                      : print_table(ctl, authority_certificate(a), list, n);
        issued_free(list, n);
        return r;
}

/* Whether a certificate is what the user named: by its serial number, by role and name, by its name. */
static bool matches(const Issued *issued, const char *selector) {
        char uri[IDENTITY_URI_SIZE];
        const char *name = strlen(selector) >= 8 ? startswith(issued->serial, selector) : NULL;

        identity_to_uri(&issued->identity, uri);
        return name || streq(uri + strlen("clupy:"), selector) || streq(issued->identity.name, selector);
}

int pki_select(const Ctl *ctl, const Issued *list, size_t n, const char *selector, bool *chosen) {
        const Issued *first = NULL, *gone = NULL;

        for (size_t i = 0; i < n; i++) {
                if (!matches(list + i, selector))
                        continue;
                if (list[i].state == ISSUED_REVOKED || list[i].state == ISSUED_EXPIRED) {
                        gone = list + i;
                        continue;
                }
                if (first && !identity_equal(&first->identity, &list[i].identity))
                        return ctl_fail(
                                ctl, CTL_USAGE, "ambiguous", "'%s' is the %s and the %s: say %s:%s or %s:%s",
                                selector, IDENTITY_STRING(&first->identity),
                                IDENTITY_STRING(&list[i].identity),
                                identity_role_to_string(first->identity.role), first->identity.name,
                                identity_role_to_string(list[i].identity.role), list[i].identity.name);
                first = first ?: list + i;
        }
        if (!first && gone)
                return ctl_fail(ctl, CTL_NOT_FOUND, issued_state_to_string(gone->state),
                                "the certificate of %s is %s already", IDENTITY_STRING(&gone->identity),
                                issued_state_to_string(gone->state));
        if (!first)
                return ctl_fail(ctl, CTL_NOT_FOUND, "not-found",
                                "no certificate of this authority is called '%s'; see clupyctl pki list",
                                selector);
        for (size_t i = 0; i < n; i++)
                if (matches(list + i, selector) && list[i].state != ISSUED_REVOKED &&
                    list[i].state != ISSUED_EXPIRED)
                        chosen[i] = true;
        return 0;
}

static int parse_reason(const Ctl *ctl, RevocationReason *ret) {
        const char *text = ctl_option(ctl, "reason");

        *ret = REVOCATION_UNSPECIFIED;
        if (!text || revocation_reason_from_string(text, ret) >= 0)
                return 0;
        return ctl_fail(ctl, CTL_USAGE, "usage",
                        "--reason: expected unspecified, key-compromise, affiliation-changed, superseded or "
                        "cessation, got '%s'",
                        text);
}

static void print_revoked(const Issued *list, size_t n) {
        size_t n_master = 0;

        for (size_t i = 0; i < n; i++) {
                printf("revoked: %s, serial %s\n", IDENTITY_STRING(&list[i].identity), list[i].serial);
                n_master += list[i].identity.role == IDENTITY_MASTER;
        }
        if (n_master < n)
                puts("The master closes what is open with it within 5 s, and refuses it from now on.");
        if (n_master > 0)
                puts("The master goes on showing its own until it has another one: clupyctl pki issue "
                     "master\n"
                     "Nodes refuse it from when they have the new ca.crl: copy that to each of them. "
                     "Clients have\n"
                     "no such list: who has the key of that certificate can be the master to them until it "
                     "expires.");
}

static int revoke_chosen(Ctl *ctl, Authority *a, Issued *list, size_t n, RevocationReason reason) {
        _cleanup_(freep) bool *chosen = newn0(bool, n + 1);
        _cleanup_(freep) X509 **certificates = newn0(X509 *, n + 1);
        _cleanup_(freep) Issued *revoked = newn0(Issued, n + 1);
        size_t n_revoked = 0;
        int r = 0;

        if (!chosen || !certificates || !revoked)
                return ctl_fail_memory(ctl);
        for (size_t i = 1; i < ctl->n_operands && r == 0; i++)
                r = pki_select(ctl, list, n, ctl->operands[i], chosen);
        if (r != 0)
                return r;
        for (size_t i = 0; i < n; i++)
                if (chosen[i]) {
                        certificates[n_revoked] = list[i].certificate;
                        revoked[n_revoked++] = list[i];
                }
        r = authority_revoke(a, certificates, n_revoked, reason, pki_now());
        authority_unlock(a);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), "ca.crl");
        for (size_t i = 0; i < n_revoked; i++) {
                char uri[IDENTITY_URI_SIZE];

                identity_to_uri(&revoked[i].identity, uri);
                pki_record("revoke", uri + strlen("clupy:"), revoked[i].serial,
                           "revoked the certificate of %s, serial %s, reason %s", uri, revoked[i].serial,
                           revocation_reason_to_string(reason));
                revoked[i].state = ISSUED_REVOKED;
                (void) revocation_find(authority_revoked(a), revoked[i].certificate, &revoked[i].revoked_at,
                                       &revoked[i].reason);
        }
        if (ctl->json)
                return print_json(ctl, "revoked", NULL, revoked, n_revoked);
        print_revoked(revoked, n_revoked);
        return CTL_OK;
}

int pki_revoke(Ctl *ctl) {
        static const char *const allowed[] = { "folder", "reason", NULL };
        _cleanup_(authority_closep) Authority *a = NULL;
        RevocationReason reason;
        size_t n, strange;
        Issued *list;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_check_operands(ctl, 2, SIZE_MAX, "NAME|SERIAL... [--reason REASON]");
        if (r == 0)
                r = parse_reason(ctl, &reason);
        if (r == 0)
                r = pki_open(ctl, AUTHORITY_SIGN, &a);
        if (r != 0)
                return r;
        r = authority_list(a, pki_now(), &list, &n, &strange);
        if (r < 0)
                return pki_fail(ctl, r, pki_folder(ctl), "issued");
        r = revoke_chosen(ctl, a, list, n, reason);
        issued_free(list, n);
        return r;
}

static int print_strange(const Ctl *ctl, const X509 *certificate, const char *file, const char *why) {
        char serial[CERTIFICATE_SERIAL_SIZE], hex[DIGEST_HEX_SIZE];
        _cleanup_(freep) char *until = NULL;
        int64_t from, to;
        Digest digest;

        if (!certificate_is_authority(certificate))
                return ctl_fail(ctl, CTL_FAILED, "failed", "%s: the certificate %s", file, why);
        if (ctl->json) {
                _cleanup_(json_putp) json_object *json = NULL;

                if (json_new_object(&json) < 0 || add_authority(json, certificate) < 0)
                        return ctl_fail_memory(ctl);
                ctl_print_json(ctl, json);
                return CTL_OK;
        }
        certificate_validity(certificate, &from, &to);
        until = format_time(to * 1000);
        if (!until || certificate_digest(certificate, &digest) < 0)
                return ctl_fail_memory(ctl);
        printf("authority, serial %s\n  good until  %s\n  SHA-256     %s\n",
               certificate_serial(certificate, serial), until, digest_to_hex(&digest, hex));
        return CTL_OK;
}

int pki_show(Ctl *ctl) {
        static const char *const allowed[] = { "folder", NULL };
        _cleanup_(strv_freep) char **names = NULL;
        _cleanup_(authority_closep) Authority *a = NULL;
        _cleanup_(freep) char *text = NULL, *from = NULL, *until = NULL;
        X509 *certificate;
        const char *why, *file;
        Identity identity;
        Issued issued;
        size_t size;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_check_operands(ctl, 2, 2, "FILE");
        if (r != 0)
                return r;
        r = read_file_full(ctl->operands[1], CERTIFICATE_PEM_MAX, &text, &size);
        if (r < 0)
                return ctl_fail(ctl,
                                r == -ENOENT   ? CTL_NOT_FOUND
                                : r == -EACCES ? CTL_NOT_ALLOWED
                                               : CTL_FAILED,
                                r == -ENOENT   ? "not-found"
                                : r == -EACCES ? "not-allowed"
                                               : "failed",
                                "%s: %s", ctl->operands[1], strerrordesc_np(-r));
        r = certificate_from_pem(text, size, &certificate);
        if (r < 0)
                return ctl_fail(ctl, CTL_FAILED, "failed", "%s is not a certificate", ctl->operands[1]);
        if (identity_from_certificate(certificate, &identity, &why) < 0) {
                r = print_strange(ctl, certificate, ctl->operands[1], why);
                certificate_free(certificate);
                return r;
        }
        /* What is revoked is known where an authority is. */
        (void) authority_open(pki_folder(ctl), AUTHORITY_READ, NULL, &a, &file);
        if (issued_from(certificate, a ? authority_revoked(a) : NULL, pki_now(), &issued) < 0)
                return ctl_fail_memory(ctl);
        if (ctl->json) {
                _cleanup_(json_putp) json_object *json = NULL;

                r = json_new_object(&json) < 0 || pki_add_json(json, &issued) < 0 ? -ENOMEM : 0;
                if (r >= 0)
                        ctl_print_json(ctl, json);
        } else {
                r = certificate_names(issued.certificate, &names);
                from = format_time(issued.not_before * 1000);
                until = format_time(issued.not_after * 1000);
                printf("%s, serial %s: %s%s%s\n  good from   %s\n  good until  %s\n",
                       IDENTITY_STRING(&issued.identity), issued.serial,
                       color_on(&ctl->terminal, issued_color(issued.state)),
                       issued_state_to_string(issued.state),
                       color_off(&ctl->terminal, issued_color(issued.state)), strempty(from),
                       strempty(until));
                for (char **name = names; name && *name; name++)
                        printf("  %s  %s\n", name == names ? "for       " : "          ", *name);
        }
        certificate_free(issued.certificate);
        return r < 0 ? ctl_fail_memory(ctl) : CTL_OK;
}
