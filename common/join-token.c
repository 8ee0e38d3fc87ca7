/* SPDX-License-Identifier: Apache-2.0 */
#include "join-token.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd-util.h"
#include "folder-file.h"
#include "id.h"
#include "json-util.h"

enum { FILE_NAME_SIZE = JOIN_TOKEN_ID_SIZE + sizeof(".revoked"), FILE_MAX = 1024 };

static const char *const join_token_state_table[_JOIN_TOKEN_STATE_MAX] = {
        [JOIN_TOKEN_GOOD] = "good",
        [JOIN_TOKEN_EXPIRED] = "expired",
        [JOIN_TOKEN_USED] = "used",
        [JOIN_TOKEN_REVOKED] = "revoked",
};

DEFINE_NAME_TABLE(join_token_state, JoinTokenState, join_token_state_table);

/* What the files of a state end with; one that has expired is still ID.token. */
static const char *state_suffix(JoinTokenState state) {
        return state == JOIN_TOKEN_USED ? "used" : state == JOIN_TOKEN_REVOKED ? "revoked" : "token";
}

static void file_name(char buffer[static FILE_NAME_SIZE], const char *id, JoinTokenState state) {
        snprintf(buffer, FILE_NAME_SIZE, "%.16s.%s", id, state_suffix(state));
}

static bool is_hex(const char *s, size_t size) {
        return strspn(s, "0123456789abcdef") >= size;
}

bool join_token_id_is_valid(const char *id) {
        return strlen(id) == JOIN_TOKEN_ID_SIZE - 1 && is_hex(id, JOIN_TOKEN_ID_SIZE - 1);
}

int join_token_parse(const char *text, JoinToken *ret) {
        char authority[DIGEST_HEX_SIZE];
        JoinToken token = { 0 };
        const char *s = text;

        while (isspace((unsigned char) *s))
                s++;
        s = startswith(s, "clupy-join-");
        if (!s || !is_hex(s, 16) || s[16] != '-' || !is_hex(s + 17, 32) || s[49] != '-' ||
            !is_hex(s + 50, 64))
                return -EINVAL;
        memcpy(token.id, s, 16);
        memcpy(token.secret, s + 17, 32);
        memcpy(authority, s + 50, 64);
        authority[64] = '\0';
        s += 114;
        while (isspace((unsigned char) *s))
                s++;
        if (*s != '\0' || digest_from_hex(authority, &token.authority) < 0)
                return -EINVAL;
        *ret = token;
        OPENSSL_cleanse(&token, sizeof(token));
        return 0;
}

char *join_token_to_string(const JoinToken *token, char buffer[static JOIN_TOKEN_TEXT_SIZE]) {
        char authority[DIGEST_HEX_SIZE];

        snprintf(buffer, JOIN_TOKEN_TEXT_SIZE, "clupy-join-%s-%s-%s", token->id, token->secret,
                 digest_to_hex(&token->authority, authority));
        return buffer;
}

static int read_record(int folder, const char *id, JoinTokenState state, JoinTokenRecord *ret) {
        _cleanup_(json_putp) json_object *json = NULL;
        _cleanup_(freep) char *text = NULL;
        JoinTokenRecord record = { .state = state };
        const char *secret, *node;
        char name[FILE_NAME_SIZE];
        size_t size;
        int r;

        file_name(name, id, state);
        r = folder_read_file(folder, name, FILE_MAX, &text, &size);
        if (r < 0)
                return r;
        if (json_parse_strict_object(text, size, 2, &json) < 0 ||
            json_get_string(json, "secret", 64, &secret) < 0 ||
            digest_from_hex(secret, &record.secret) < 0 ||
            json_get_string_optional(json, "node", IDENTITY_NAME_MAX, "", &node) < 0 ||
            (node[0] && !identity_name_is_valid(node)) ||
            json_get_int64(json, "created_at", 0, INT64_MAX / 2, &record.created_at) < 0 ||
            json_get_int64(json, "expires_at", 0, INT64_MAX / 2, &record.expires_at) < 0)
                return -EBADMSG;
        memcpy(record.id, id, sizeof(record.id));
        snprintf(record.node, sizeof(record.node), "%s", node);
        *ret = record;
        return 0;
}

static int write_record(int folder, const JoinTokenRecord *record) {
        _cleanup_(json_putp) json_object *json = NULL;
        char name[FILE_NAME_SIZE], hex[DIGEST_HEX_SIZE];
        const char *text;
        size_t size;
        int r;

        r = json_new_object(&json);
        if (r >= 0)
                r = json_add_string(json, "secret", digest_to_hex(&record->secret, hex));
        if (r >= 0 && record->node[0])
                r = json_add_string(json, "node", record->node);
        if (r >= 0)
                r = json_add_int64(json, "created_at", record->created_at);
        if (r >= 0)
                r = json_add_int64(json, "expires_at", record->expires_at);
        if (r < 0)
                return r;
        text = json_text(json, &size);
        if (!text)
                return -ENOMEM;
        file_name(name, record->id, JOIN_TOKEN_GOOD);
        return folder_write_file(folder, name, 0600, text, size, 0);
}

int join_token_new(int folder, const char *node, int64_t now, int64_t valid_s, const Digest *authority,
                   JoinToken *ret) {
        JoinTokenRecord record = { .created_at = now, .expires_at = now + valid_s }, *list;
        JoinToken token = { .authority = *authority };
        Id random[2];
        size_t n;
        int r;

        if (node && !identity_name_is_valid(node))
                return -EINVAL;
        snprintf(record.node, sizeof(record.node), "%s", strempty(node));
        r = join_token_list(folder, now, &list, &n);
        if (r < 0)
                return r;
        free(list);
        if (n >= JOIN_TOKEN_MAX)
                return -EMFILE;
        r = id_random(&random[0]);
        if (r >= 0)
                r = id_random(&random[1]);
        if (r < 0)
                return r;
        memcpy(token.id, ID_HEX(random[0]), 16);
        id_to_hex(random[1], token.secret);
        memcpy(record.id, token.id, sizeof(record.id));
        r = digest_sha256(token.secret, 32, &record.secret);
        if (r >= 0)
                r = write_record(folder, &record);
        if (r < 0)
                return r;
        *ret = token;
        return 0;
}

/* The id and state that a file's name says. */
static bool parse_file_name(const char *name, char id[static JOIN_TOKEN_ID_SIZE], JoinTokenState *ret) {
        static const JoinTokenState states[] = { JOIN_TOKEN_GOOD, JOIN_TOKEN_USED, JOIN_TOKEN_REVOKED };

        if (strlen(name) < JOIN_TOKEN_ID_SIZE || name[JOIN_TOKEN_ID_SIZE - 1] != '.')
                return false;
        memcpy(id, name, JOIN_TOKEN_ID_SIZE - 1);
        id[JOIN_TOKEN_ID_SIZE - 1] = '\0';
        for (size_t i = 0; i < ELEMENTSOF(states); i++)
                if (streq(name + JOIN_TOKEN_ID_SIZE, state_suffix(states[i]))) {
                        *ret = states[i];
                        return join_token_id_is_valid(id);
                }
        return false;
}

static int compare_records(const void *left, const void *right) {
        const JoinTokenRecord *l = left, *r = right;

        if (l->created_at != r->created_at)
                return l->created_at < r->created_at ? -1 : 1;
        return strcmp(l->id, r->id);
}

int join_token_list(int folder, int64_t now, JoinTokenRecord **ret, size_t *ret_n) {
        _cleanup_(freep) JoinTokenRecord *list = NULL;
        _cleanup_(strv_freep) char **names = NULL;
        size_t n = 0, capacity = 0;
        int r;

        r = folder_list(folder, &names);
        if (r < 0)
                return r;
        for (char **name = names; name && *name; name++) {
                char id[JOIN_TOKEN_ID_SIZE];
                JoinTokenState state;

                if (!parse_file_name(*name, id, &state))
                        continue;
                if (ARRAY_RESERVE(list, capacity, n + 1) < 0)
                        return -ENOMEM;
                /* One that is taken or written just now is no error. */
                if (read_record(folder, id, state, list + n) < 0)
                        continue;
                if (list[n].expires_at + JOIN_TOKEN_KEPT_S <= now) {
                        (void) unlinkat(folder, *name, 0);
                        continue;
                }
                if (state == JOIN_TOKEN_GOOD && list[n].expires_at <= now)
                        list[n].state = JOIN_TOKEN_EXPIRED;
                n++;
        }
        if (n > 0)
                qsort(list, n, sizeof(*list), compare_records);
        *ret = TAKE_PTR(list);
        *ret_n = n;
        return 0;
}

static int rename_token(int folder, const char *id, JoinTokenState state) {
        char from[FILE_NAME_SIZE], to[FILE_NAME_SIZE];

        file_name(from, id, JOIN_TOKEN_GOOD);
        file_name(to, id, state);
        if (renameat(folder, from, folder, to) < 0)
                return -errno;
        return fsync(folder) < 0 ? -errno : 0;
}

int join_token_revoke(int folder, const char *id) {
        return join_token_id_is_valid(id) ? rename_token(folder, id, JOIN_TOKEN_REVOKED) : -ENOENT;
}

static bool secret_is(const JoinTokenRecord *record, const char *secret) {
        Digest digest;

        return strlen(secret) == JOIN_TOKEN_SECRET_SIZE - 1 &&
               digest_sha256(secret, JOIN_TOKEN_SECRET_SIZE - 1, &digest) >= 0 &&
               CRYPTO_memcmp(digest.bytes, record->secret.bytes, sizeof(digest.bytes)) == 0;
}

/* What has become of a token is told only to those who know its secret. */
static int what_became(int folder, const char *id, const char *secret) {
        JoinTokenRecord record;

        if (read_record(folder, id, JOIN_TOKEN_USED, &record) >= 0 && secret_is(&record, secret))
                return -EALREADY;
        if (read_record(folder, id, JOIN_TOKEN_REVOKED, &record) >= 0 && secret_is(&record, secret))
                return -EKEYREVOKED;
        return -ENOENT;
}

int join_token_check(int folder, const char *id, const char *secret, const char *node, int64_t now,
                     bool *ret_bound) {
        JoinTokenRecord record;
        int r;

        if (!join_token_id_is_valid(id))
                return -ENOENT;
        r = read_record(folder, id, JOIN_TOKEN_GOOD, &record);
        if (r == -ENOENT)
                return what_became(folder, id, secret);
        if (r < 0)
                return r;
        if (!secret_is(&record, secret))
                return -ENOENT;
        if (now >= record.expires_at)
                return -ETIME;
        if (record.node[0] && !streq(record.node, node))
                return -EXDEV;
        *ret_bound = record.node[0] != '\0';
        return 0;
}

int join_token_take(int folder, const char *id, const char *secret, const char *node, int64_t now) {
        bool bound;
        int r;

        r = join_token_check(folder, id, secret, node, now, &bound);
        if (r < 0)
                return r;
        r = rename_token(folder, id, JOIN_TOKEN_USED);
        return r == -ENOENT ? what_became(folder, id, secret) : r;
}
