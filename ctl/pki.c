/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `pki`, and what its parts share. */
#include "pki.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "authority-index.h"
#include "client-config.h"
#include "json-util.h"
#include "parse-util.h"
#include "server-config.h"

typedef struct Part {
        const char *name;
        int (*run)(Ctl *ctl);
} Part;

static const Part parts[] = {
        { "init", pki_init },     { "issue", pki_issue }, { "list", pki_list },
        { "revoke", pki_revoke }, { "renew", pki_renew }, { "show", pki_show },
};

const char *pki_folder(const Ctl *ctl) {
        return ctl_option(ctl, "folder") ?: AUTHORITY_FOLDER;
}

int64_t pki_now(void) {
        return (int64_t) time(NULL);
}

const char *pki_certificate_file(IdentityRole role) {
        return role == IDENTITY_MASTER ? "master.crt" : role == IDENTITY_AGENT ? "agent.crt" : "user.crt";
}

const char *pki_key_file(IdentityRole role) {
        return role == IDENTITY_MASTER ? "master.key" : role == IDENTITY_AGENT ? "agent.key" : "user.key";
}

/* The master that this machine is told to use, by its user or as a node; the authority is usually there.
 * NULL when nothing says. From malloc. */
static char *known_master(const Ctl *ctl) {
        _cleanup_(client_config_done) ClientConfig client = { 0 };
        _cleanup_(freep) char *message = NULL;
        const char *url = ctl->master ?: getenv("CLUPY_MASTER_URL");
        ServerConfig server = { 0 };
        char *found = NULL;

        if (!isempty(url))
                return strdup(url);
        if (access(AUTHORITY_FOLDER "/agent.crt", F_OK) >= 0 &&
            server_config_load(NULL, &server, &message) >= 0) {
                if (server.n_masters > 0)
                        found = strdup(server.masters[0].host);
                server_config_done(&server);
        }
        if (!found && client_config_load(&client, &message) >= 0 && client.master)
                found = strdup(client.master);
        return found;
}

static int fail_elsewhere(const Ctl *ctl, const char *folder) {
        _cleanup_(freep) char *master = known_master(ctl);

        return ctl_fail(
                ctl, CTL_NOT_FOUND, "not-found",
                "the cluster's authority is not in %s of this machine: it is where `clupyctl pki init` "
                "was run, usually on the master%s%s%s; do this there",
                folder, master ? " (" : "", strempty(master), master ? ")" : "");
}

int pki_fail(const Ctl *ctl, int error, const char *folder, const char *file) {
        const char *slash = file ? "/" : "";

        file = strempty(file);
        switch (error) {
        case -ENOENT:
        case -ENOTDIR:
                if (streq(file, "ca.key") || streq(file, "ca.crt") || isempty(file) || streq(file, "issued"))
                        return fail_elsewhere(ctl, folder);
                return ctl_fail(ctl, CTL_NOT_FOUND, "not-found", "there is no %s%s%s", folder, slash, file);
        case -EACCES:
        case -EPERM:
        case -EROFS:
                return ctl_fail(ctl, CTL_NOT_ALLOWED, "not-allowed", "%s%s%s: %s%s", folder, slash, file,
                                strerrordesc_np(-error), geteuid() != 0 ? "; this needs root" : "");
        case -EEXIST:
                return ctl_fail(ctl, CTL_FAILED, "exists", "%s%s%s is there already; nothing was changed",
                                folder, slash, file);
        case -EBADMSG:
                return ctl_fail(ctl, CTL_FAILED, "failed",
                                "%s%s%s is damaged, or belongs to another authority than ca.crt", folder,
                                slash, file);
        case -EBUSY:
                return ctl_fail(ctl, CTL_FAILED, "busy",
                                "another process keeps %s locked; nothing was changed: try it again",
                                folder);
        case -EMFILE:
                return ctl_fail(ctl, CTL_FAILED, "failed",
                                "there are %d good certificates of this name, or for this key, already: "
                                "revoke those that nobody needs (clupyctl pki revoke SERIAL), or have a new "
                                "key made; nothing was changed",
                                INDEX_MAX);
        case -ELOOP:
                return ctl_fail(ctl, CTL_FAILED, "failed",
                                "%s%s%s is a symbolic link, which is not followed here; nothing was changed",
                                folder, slash, file);
        case -ERANGE:
                return ctl_fail(ctl, CTL_FAILED, "failed",
                                "the authority in %s has expired: make a new one in another folder, and new "
                                "certificates",
                                folder);
        default:
                return ctl_fail(ctl, CTL_FAILED, "failed", "%s%s%s: %s; nothing was changed", folder, slash,
                                file, strerrordesc_np(-error) ?: "unknown error");
        }
}

int pki_open(const Ctl *ctl, AuthorityAccess access, Authority **ret) {
        const char *file;
        int r = authority_open(pki_folder(ctl), access, NULL, ret, &file);

        return r < 0 ? pki_fail(ctl, r, pki_folder(ctl), file) : 0;
}

int pki_days(const Ctl *ctl, unsigned *ret) {
        const char *text = ctl_option(ctl, "days");
        uint64_t days = CERTIFICATE_DAYS;

        if (text && (parse_uint64(text, &days) < 0 || days < 1 || days > CERTIFICATE_DAYS_MAX))
                return ctl_fail(ctl, CTL_USAGE, "usage", "--days: expected 1 to %d, got '%s'",
                                CERTIFICATE_DAYS_MAX, text);
        *ret = (unsigned) days;
        return 0;
}

int pki_check_options(const Ctl *ctl, const char *const *allowed) {
        for (size_t i = 0; i < ctl->verb->n_options; i++) {
                bool known = false;

                for (size_t a = 0; allowed[a]; a++)
                        known = known || streq(allowed[a], ctl->verb->options[i].name);
                if (ctl->values[i] && !known)
                        return ctl_fail(ctl, CTL_USAGE, "usage", "--%s is no option of `%s %s`",
                                        ctl->verb->options[i].name, ctl->verb->name, ctl->operands[0]);
        }
        return 0;
}

int pki_check_operands(const Ctl *ctl, size_t min, size_t max, const char *synopsis) {
        if (ctl->n_operands >= min && ctl->n_operands <= max)
                return 0;
        return ctl_fail(ctl, CTL_USAGE, "usage", "expected: clupyctl %s %s%s%s", ctl->verb->name,
                        ctl->operands[0], isempty(synopsis) ? "" : " ", synopsis);
}

int pki_add_names(json_object *to, char *const *names) {
        json_object *array;
        int r;

        r = json_add_new_array(to, "names", &array);
        for (char *const *name = names; name && *name && r >= 0; name++)
                r = json_append_string(array, *name);
        return r;
}

int pki_add_json(json_object *to, const Issued *issued) {
        _cleanup_(strv_freep) char **names = NULL;
        int r;

        r = json_add_string(to, "role", identity_role_to_string(issued->identity.role));
        if (r >= 0 && issued->identity.name[0])
                r = json_add_string(to, "name", issued->identity.name);
        if (r >= 0)
                r = json_add_string(to, "serial", issued->serial);
        if (r >= 0)
                r = json_add_int64(to, "not_before", issued->not_before * 1000);
        if (r >= 0)
                r = json_add_int64(to, "not_after", issued->not_after * 1000);
        if (r >= 0)
                r = json_add_string(to, "state", issued_state_to_string(issued->state));
        if (r >= 0 && issued->state == ISSUED_REVOKED) {
                r = json_add_int64(to, "revoked_at", issued->revoked_at * 1000);
                if (r >= 0)
                        r = json_add_string(to, "reason", revocation_reason_to_string(issued->reason));
        }
        if (r >= 0)
                r = certificate_names(issued->certificate, &names);
        return r < 0 ? r : pki_add_names(to, names);
}

static int run(Ctl *ctl) {
        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                if (streq(parts[i].name, ctl->operands[0]))
                        return parts[i].run(ctl);
        return ctl_fail(ctl, CTL_USAGE, "usage",
                        "'%s' is no part of `pki`: init, issue, list, revoke, renew or show",
                        ctl->operands[0]);
}

static const CtlOption options[] = {
        { "folder", 0, "FOLDER", "the authority's, instead of " AUTHORITY_FOLDER },
        { "name", 0, "HOST...", "a name or address of the master; may be given several times" },
        { "days", 0, "NUMBER", "how long the certificate is good, 365 by default" },
        { "out", 0, "FOLDER", "where certificate and key are written to" },
        { "reason", 0, "REASON", "why: key-compromise, superseded, cessation, …" },
};

static const char *const words[] = { "init", "issue", "list", "revoke", "renew", "show", NULL };

const CtlVerb verb_pki = {
        .name = "pki",
        .synopsis = "init|issue|list|revoke|renew|show …",
        .help = "Keep the cluster's certificates",
        .details = "  clupyctl pki init [--folder FOLDER] [--name HOST]... [--days NUMBER]\n"
                   "  clupyctl pki issue agent NODE | user NAME | admin NAME | master [--name HOST]...\n"
                   "                     [--days NUMBER] [--out FOLDER]\n"
                   "  clupyctl pki list\n"
                   "  clupyctl pki revoke NAME|SERIAL... [--reason REASON]\n"
                   "  clupyctl pki renew [NAME|SERIAL]... [--days NUMBER] [--out FOLDER]\n"
                   "  clupyctl pki show FILE\n",
        .min_operands = 1,
        .max_operands = 64,
        .options = options,
        .n_options = ELEMENTSOF(options),
        .words = words,
        .run = run,
};
