/* SPDX-License-Identifier: Apache-2.0 */
/* `clupyctl token`: what lets a node into the cluster, once. */
#include <errno.h>
#include <unistd.h>

#include "fd-util.h"
#include "folder-file.h"
#include "join-token.h"
#include "json-util.h"
#include "parse-util.h"
#include "pki.h"
#include "table.h"
#include "time-util.h"

enum { VALID_S = 15 * 60 };

static const char *token_folder(const Ctl *ctl) {
        return ctl_option(ctl, "tokens") ?: JOIN_TOKEN_FOLDER;
}

/* The folder is the signer's, who alone reads it; made here when nobody has installed it. -EBADF in ret
 * where there is none, and none is to be made: no token has been made. */
static int open_folder(const Ctl *ctl, bool make, int *ret) {
        const char *path = token_folder(ctl);
        int fd;

        fd = folder_open_for(path, make, 0700, streq(path, JOIN_TOKEN_FOLDER) ? "clupy-signer" : NULL);
        if (fd == -ENOENT && !make) {
                *ret = -EBADF;
                return 0;
        }
        if (fd < 0)
                return pki_fail(ctl, fd, path, NULL);
        *ret = fd;
        return 0;
}

/* Tokens are where the authority is. */
static int check_here(const Ctl *ctl) {
        if (ctl_option(ctl, "tokens") || access(AUTHORITY_FOLDER "/ca.key", F_OK) >= 0 || errno != ENOENT)
                return 0;
        return pki_fail(ctl, -ENOENT, AUTHORITY_FOLDER, "ca.key");
}

static int parse_valid(const Ctl *ctl, int64_t *ret) {
        const char *text = ctl_option(ctl, "valid");
        uint64_t usec = VALID_S * USEC_PER_SEC;

        if (text && (parse_duration_usec(text, &usec) < 0 || usec < USEC_PER_SEC ||
                     usec > JOIN_TOKEN_DAYS_MAX * USEC_PER_DAY))
                return ctl_fail(ctl, CTL_USAGE, "usage",
                                "--valid: expected a duration such as 15m, at most %d days, got '%s'",
                                JOIN_TOKEN_DAYS_MAX, text);
        *ret = (int64_t) (usec / USEC_PER_SEC);
        return 0;
}

static int print_new(const Ctl *ctl, const JoinToken *token, const char *node, int64_t expires_at) {
        char text[JOIN_TOKEN_TEXT_SIZE];

        join_token_to_string(token, text);
        if (ctl->json) {
                _cleanup_(json_putp) json_object *json = NULL;

                if (json_new_object(&json) < 0 || json_add_string(json, "token", text) < 0 ||
                    json_add_string(json, "id", token->id) < 0 || json_add_string(json, "node", node) < 0 ||
                    json_add_int64(json, "expires_at", expires_at * 1000) < 0)
                        return ctl_fail_memory(ctl);
                ctl_print_json(ctl, json);
                return CTL_OK;
        }
        puts(text);
        if (ctl->terminal.is_tty)
                fprintf(stderr,
                        "Good once, for %s, for %s. On the node: clupy-agent --join HOST-OF-THIS-MASTER\n",
                        FORMAT_DURATION((uint64_t) (expires_at - pki_now()) * USEC_PER_SEC),
                        node ?: "any node");
        return CTL_OK;
}

static int token_new(Ctl *ctl) {
        static const char *const allowed[] = { "folder", "tokens", "node", "valid", NULL };
        const char *node = ctl_option(ctl, "node");
        _cleanup_(authority_closep) Authority *a = NULL;
        _cleanup_(close_fdp) int folder = -EBADF;
        int64_t valid_s = VALID_S, now = pki_now();
        JoinToken token;
        Digest digest;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_check_operands(ctl, 1, 1, "[--node NODE] [--valid DURATION]");
        if (r == 0)
                r = parse_valid(ctl, &valid_s);
        if (r == 0 && node && (!identity_name_is_valid(node) || !node_name_is_valid(node)))
                r = ctl_fail(ctl, CTL_USAGE, "usage", "--node: '%s' is no name of a node", node);
        if (r == 0)
                r = pki_open(ctl, AUTHORITY_READ, &a);
        if (r != 0)
                return r;
        if (certificate_digest(authority_certificate(a), &digest) < 0)
                return ctl_fail_memory(ctl);
        r = open_folder(ctl, true, &folder);
        if (r != 0)
                return r;
        r = join_token_new(folder, node, now, valid_s, &digest, &token);
        if (r == -EMFILE)
                return ctl_fail(ctl, CTL_FAILED, "failed", "there are %d tokens already", JOIN_TOKEN_MAX);
        if (r < 0)
                return pki_fail(ctl, r, token_folder(ctl), NULL);
        pki_record("token-new", token.id, NULL, "made join token %s for %s, good for %s", token.id,
                   node ?: "any node", FORMAT_DURATION((uint64_t) valid_s * USEC_PER_SEC));
        return print_new(ctl, &token, node, now + valid_s);
}

static int print_table(const Ctl *ctl, const JoinTokenRecord *list, size_t n) {
        static const TableColumn columns[] = {
                { .title = "ID" },
                { .title = "NODE", .shrink = 8 },
                { .title = "EXPIRES" },
                { .title = "STATE" },
        };
        _cleanup_(table_freep) Table *table = NULL;
        _cleanup_(freep) char *text = NULL;

        if (table_new(columns, ELEMENTSOF(columns), &table) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < n; i++) {
                table_cell(table, COLOR_NONE, list[i].id);
                table_cell(table, COLOR_NONE, list[i].node[0] ? list[i].node : "any");
                table_take(table, COLOR_NONE, format_time(list[i].expires_at * 1000));
                table_cell(table, list[i].state == JOIN_TOKEN_GOOD ? COLOR_GREEN : COLOR_DIM,
                           join_token_state_to_string(list[i].state));
        }
        if (table_render(table, &ctl->terminal, &text) < 0)
                return ctl_fail_memory(ctl);
        fputs(text, stdout);
        return CTL_OK;
}

static int print_json(const Ctl *ctl, const JoinTokenRecord *list, size_t n) {
        _cleanup_(json_putp) json_object *json = NULL;
        json_object *array, *one;

        if (json_new_object(&json) < 0 || json_add_new_array(json, "tokens", &array) < 0)
                return ctl_fail_memory(ctl);
        for (size_t i = 0; i < n; i++)
                if (json_append_new_object(array, &one) < 0 || json_add_string(one, "id", list[i].id) < 0 ||
                    (list[i].node[0] && json_add_string(one, "node", list[i].node) < 0) ||
                    json_add_int64(one, "created_at", list[i].created_at * 1000) < 0 ||
                    json_add_int64(one, "expires_at", list[i].expires_at * 1000) < 0 ||
                    json_add_string(one, "state", join_token_state_to_string(list[i].state)) < 0)
                        return ctl_fail_memory(ctl);
        ctl_print_json(ctl, json);
        return CTL_OK;
}

static int print_all(const Ctl *ctl, int folder) {
        _cleanup_(freep) JoinTokenRecord *list = NULL;
        size_t n = 0;
        int r;

        r = folder < 0 ? 0 : join_token_list(folder, pki_now(), &list, &n);
        if (r < 0)
                return pki_fail(ctl, r, token_folder(ctl), NULL);
        if (n == 0 && !ctl->json) {
                puts("No tokens.");
                return CTL_OK;
        }
        return ctl->json ? print_json(ctl, list, n) : print_table(ctl, list, n);
}

static int token_list(Ctl *ctl) {
        static const char *const allowed[] = { "tokens", NULL };
        _cleanup_(close_fdp) int folder = -EBADF;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_check_operands(ctl, 1, 1, "");
        if (r == 0)
                r = check_here(ctl);
        if (r == 0)
                r = open_folder(ctl, false, &folder);
        return r != 0 ? r : print_all(ctl, folder);
}

static int token_revoke(Ctl *ctl) {
        static const char *const allowed[] = { "tokens", NULL };
        _cleanup_(close_fdp) int folder = -EBADF;
        int r;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_check_operands(ctl, 2, SIZE_MAX, "ID...");
        if (r == 0)
                r = check_here(ctl);
        if (r == 0)
                r = open_folder(ctl, false, &folder);
        if (r != 0)
                return r;
        for (size_t i = 1; i < ctl->n_operands; i++) {
                r = folder < 0 ? -ENOENT : join_token_revoke(folder, ctl->operands[i]);
                if (r == -ENOENT)
                        return ctl_fail(ctl, CTL_NOT_FOUND, "not-found",
                                        "there is no token '%s' that could be used; see clupyctl token list",
                                        ctl->operands[i]);
                if (r < 0)
                        return pki_fail(ctl, r, token_folder(ctl), NULL);
                pki_record("token-revoke", ctl->operands[i], NULL, "revoked join token %s",
                           ctl->operands[i]);
                if (!ctl->json)
                        printf("token %s is revoked\n", ctl->operands[i]);
        }
        return ctl->json ? print_all(ctl, folder) : CTL_OK;
}

static int run(Ctl *ctl) {
        const char *part = ctl->operands[0];

        if (streq(part, "new"))
                return token_new(ctl);
        if (streq(part, "list"))
                return token_list(ctl);
        if (streq(part, "revoke"))
                return token_revoke(ctl);
        return ctl_fail(ctl, CTL_USAGE, "usage", "'%s' is no part of `token`: new, list or revoke", part);
}

static const CtlOption options[] = {
        { "node", 'n', "NODE", "the token is for this node only, also when it is in the cluster" },
        { "valid", 0, "DURATION", "for how long it is good, 15m by default" },
        { "folder", 0, "FOLDER", "the authority's, instead of " AUTHORITY_FOLDER },
        { "tokens", 0, "FOLDER", "the tokens', instead of " JOIN_TOKEN_FOLDER },
};

static const char *const words[] = { "new", "list", "revoke", NULL };

const CtlVerb verb_token = {
        .name = "token",
        .synopsis = "new|list|revoke …",
        .help = "Let nodes into the cluster",
        .details = "  clupyctl token new [--node NODE] [--valid DURATION]\n"
                   "  clupyctl token list\n"
                   "  clupyctl token revoke ID...\n",
        .min_operands = 1,
        .max_operands = 64,
        .options = options,
        .n_options = ELEMENTSOF(options),
        .words = words,
        .run = run,
};
