/* SPDX-License-Identifier: Apache-2.0 */
/* What a shell offers behind `pki` and `token`: names and serial numbers out of the authority's books, where
 * they can be read. */
#include <string.h>

#include "fd-util.h"
#include "folder-file.h"
#include "join-token.h"
#include "pki.h"

static bool is_good(const Issued *issued) {
        return issued->state != ISSUED_REVOKED && issued->state != ISSUED_EXPIRED;
}

/* Each name once: renewed certificates have theirs again. */
static bool is_first(const Issued *list, size_t i) {
        for (size_t k = 0; k < i; k++)
                if (is_good(list + k) && streq(list[k].identity.name, list[i].identity.name))
                        return false;
        return true;
}

static void print_certificates(const char *folder, bool any, IdentityRole role) {
        _cleanup_(authority_closep) Authority *a = NULL;
        size_t n, strange;
        const char *file;
        Issued *list;

        if (authority_open(folder, AUTHORITY_READ, NULL, &a, &file) < 0 ||
            authority_list(a, pki_now(), &list, &n, &strange) < 0)
                return;
        for (size_t i = 0; i < n; i++) {
                const Identity *identity = &list[i].identity;

                if (!is_good(list + i) || (!any && identity->role != role))
                        continue;
                if (is_first(list, i))
                        puts(identity->name[0] ? identity->name : identity_role_to_string(identity->role));
                if (any)
                        puts(list[i].serial);
        }
        issued_free(list, n);
}

static void print_tokens(const char *path) {
        _cleanup_(close_fdp) int folder = folder_open(path, false, 0);
        _cleanup_(freep) JoinTokenRecord *list = NULL;
        size_t n;

        if (folder < 0 || join_token_list(folder, pki_now(), &list, &n) < 0)
                return;
        for (size_t i = 0; i < n; i++)
                if (list[i].state == JOIN_TOKEN_GOOD)
                        puts(list[i].id);
}

void pki_complete(const char *verb, const char *part, const char *role, size_t operands, const char *folder,
                  const char *tokens) {
        IdentityRole wanted;

        if (streq(verb, "token")) {
                if (streq_ptr(part, "revoke"))
                        print_tokens(tokens ?: JOIN_TOKEN_FOLDER);
        } else if (streq_ptr(part, "revoke") || streq_ptr(part, "renew"))
                print_certificates(folder ?: AUTHORITY_FOLDER, true, IDENTITY_USER);
        else if (streq_ptr(part, "issue") && operands == 1)
                puts("agent\nuser\nadmin\nmaster");
        else if (streq_ptr(part, "issue") && operands == 2 && role &&
                 identity_role_from_string(role, &wanted) >= 0 && wanted != IDENTITY_MASTER)
                print_certificates(folder ?: AUTHORITY_FOLDER, false, wanted);
}
