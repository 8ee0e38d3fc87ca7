/* SPDX-License-Identifier: Apache-2.0 */
#include "join.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <termios.h>
#include <unistd.h>

#include "authority.h"
#include "fd-util.h"
#include "folder-file.h"
#include "join-token.h"
#include "json-util.h"
#include "master-request.h"
#include "tls-context.h"

#define SERVER_CONFIG_FILE "/etc/clupy/" SERVER_CONFIG_NAME

enum {
        TOKEN_LINE_MAX = 1024,
        SPACE_NEEDED =
                64 << 10, /* bytes: before a token is used it is certain that what it brings can be kept */
};

typedef struct Join {
        const ServerConfig *config;
        Address *masters;
        size_t n_masters;
        JoinToken token;
        int folder;
        bool has_authority; /* ca.crt is there already, the right one */
        bool is_authority;  /* … and the authority itself lives here */
        EVP_PKEY *key;
        char *certificate, *authority, *revoked; /* what came, PEM */
} Join;

static void join_done(Join *j) {
        free(j->masters);
        OPENSSL_cleanse(&j->token, sizeof(j->token));
        close_fd(j->folder);
        key_free(j->key);
        free(j->certificate);
        free(j->authority);
        free(j->revoked);
}

static int complain(int status, const char *format, ...) _printf_(2, 3);
static int complain(int status, const char *format, ...) {
        va_list arguments;

        fputs("clupy-agent: ", stderr);
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
        fputc('\n', stderr);
        return status;
}

static int complain_memory(void) {
        return complain(EX_OSERR, "out of memory");
}

/* One line. Its rest, if it is longer than any token, is not looked at. */
static ssize_t read_line(int fd, char *buffer, size_t size) {
        size_t n = 0;

        while (n + 1 < size) {
                ssize_t got = read(fd, buffer + n, 1);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return -errno;
                if (got == 0 || buffer[n] == '\n')
                        break;
                n++;
        }
        buffer[n] = '\0';
        return (ssize_t) n;
}

/* From a terminal without showing it. */
static ssize_t ask_token(char *buffer, size_t size) {
        struct termios before, silent;
        ssize_t n;

        if (!isatty(STDIN_FILENO))
                return read_line(STDIN_FILENO, buffer, size);
        if (tcgetattr(STDIN_FILENO, &before) < 0)
                return -errno;
        silent = before;
        silent.c_lflag &= ~(tcflag_t) ECHO;
        fputs("Token (clupyctl token new on the master's machine prints one): ", stderr);
        if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent) < 0)
                return -errno;
        n = read_line(STDIN_FILENO, buffer, size);
        (void) tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
        fputc('\n', stderr);
        return n;
}

static int read_token(Join *j) {
        char line[TOKEN_LINE_MAX];
        ssize_t n = ask_token(line, sizeof(line));
        int r = n < 0 ? (int) n : join_token_parse(line, &j->token);

        OPENSSL_cleanse(line, sizeof(line));
        if (n < 0)
                return complain(EX_NOINPUT, "cannot read the token: %s", strerrordesc_np((int) -n));
        if (r < 0)
                return complain(EX_DATAERR,
                                "this is no token: one is a line that begins with clupy-join-, as clupyctl "
                                "token new prints it");
        return 0;
}

static int digest_of_file(int folder, const char *name, Digest *ret) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = folder_read_file(folder, name, CERTIFICATE_PEM_MAX, &text, &size);
        if (r >= 0)
                r = certificate_from_pem(text, size, &certificate);
        return r < 0 ? r : certificate_digest(certificate, ret);
}

/* All that can fail on this machine fails before the token is used. */
static int prepare(Join *j) {
        _cleanup_(freep) char *space = calloc(1, SPACE_NEEDED);
        Digest digest;
        int r;

        if (!space)
                return complain_memory();
        j->folder = folder_open(AUTHORITY_FOLDER, true, 0755);
        r = j->folder < 0 ? j->folder
                          : folder_write_file(j->folder, ".join", 0600, space, SPACE_NEEDED, FOLDER_REPLACE);
        if (r >= 0 && unlinkat(j->folder, ".join", 0) < 0)
                r = -errno;
        if (r < 0)
                return complain(EX_CANTCREAT, "%s: %s; the token has not been used", AUTHORITY_FOLDER,
                                strerrordesc_np(-r));
        r = digest_of_file(j->folder, "ca.crt", &digest);
        if (r != -ENOENT && (r < 0 || !digest_equal(&digest, &j->token.authority)))
                return complain(
                        EX_CONFIG,
                        "%s/ca.crt is of another cluster than the token: move %s away if this machine is "
                        "to leave that cluster; the token has not been used",
                        AUTHORITY_FOLDER, AUTHORITY_FOLDER);
        j->has_authority = r >= 0;
        j->is_authority = j->has_authority && faccessat(j->folder, "ca.key", F_OK, AT_SYMLINK_NOFOLLOW) >= 0;
        return key_new(&j->key) < 0 ? complain_memory() : 0;
}

static int make_request(const Join *j, json_object **ret) {
        _cleanup_(json_putp) json_object *json = NULL;
        _cleanup_(freep) char *request = NULL;
        int r;

        r = request_new(j->key, &request);
        if (r >= 0)
                r = json_new_object(&json);
        if (r >= 0)
                r = json_add_string(json, "token", j->token.id);
        if (r >= 0)
                r = json_add_string(json, "secret", j->token.secret);
        if (r >= 0)
                r = json_add_string(json, "node", j->config->name);
        if (r >= 0)
                r = json_add_string(json, "request", request);
        if (r >= 0)
                *ret = TAKE_PTR(json);
        return r;
}

static int copy_member(json_object *json, const char *key, size_t max, char **ret) {
        const char *text;
        int r;

        r = json_get_string(json, key, max, &text);
        if (r < 0)
                return r;
        *ret = strdup(text);
        return *ret ? 0 : -ENOMEM;
}

/* The master is the right one, but what it says is used only if it is what was asked for. */
static int check_answer(Join *j, json_object *json) {
        _cleanup_(certificate_freep) X509 *certificate = NULL, *authority = NULL;
        _cleanup_(revocation_freep) X509_CRL *revoked = NULL;
        Identity identity;
        Digest digest;
        const char *why;
        int r;

        r = copy_member(json, "certificate", CERTIFICATE_PEM_MAX, &j->certificate);
        if (r >= 0)
                r = copy_member(json, "authority", CERTIFICATE_PEM_MAX, &j->authority);
        if (r >= 0)
                r = copy_member(json, "revoked", FRAME_JSON_MAX, &j->revoked);
        if (r == -ENOENT && j->authority)
                r = 0;
        if (r >= 0)
                r = certificate_from_pem(j->certificate, strlen(j->certificate), &certificate);
        if (r >= 0)
                r = certificate_from_pem(j->authority, strlen(j->authority), &authority);
        if (r >= 0)
                r = certificate_digest(authority, &digest);
        if (r >= 0 && j->revoked)
                r = revocation_from_pem(j->revoked, strlen(j->revoked), &revoked);
        if (r >= 0)
                r = identity_from_certificate(certificate, &identity, &why);
        if (r < 0)
                return r;
        if (!digest_equal(&digest, &j->token.authority) ||
            !certificate_is_signed_by(certificate, authority) || !certificate_has_key(certificate, j->key) ||
            identity.role != IDENTITY_AGENT || !streq(identity.name, j->config->name) ||
            (revoked && !revocation_is_signed_by(revoked, authority)))
                return -EBADMSG;
        return 0;
}

static int ask_master(Join *j) {
        const TlsContextOptions options = { .side = TLS_CLIENT,
                                            .role = IDENTITY_AGENT,
                                            .authority = &j->token.authority };
        _cleanup_(json_putp) json_object *json = NULL, *answer = NULL;
        _cleanup_(tls_context_unrefp) TlsContext *tls = NULL;
        _cleanup_(freep) char *message = NULL;
        int r;

        r = make_request(j, &json);
        if (r >= 0)
                r = tls_context_new(NULL, &options, NULL, NULL, &tls, &message);
        if (r < 0)
                return complain(EX_OSERR, "%s", message ?: strerrordesc_np(-r));
        r = master_request(j->masters, j->n_masters, tls, FRAME_JOIN, json, FRAME_JOINED, &answer, &message);
        if (r == -EACCES)
                return complain(EX_NOPERM, "%s", strempty(message));
        if (r < 0)
                return complain(EX_UNAVAILABLE, "%s", message ?: strerrordesc_np(-r));
        r = check_answer(j, answer);
        return r < 0 ? complain(EX_PROTOCOL, "the master's answer is not what was asked for: %s",
                                strerrordesc_np(-r))
                     : 0;
}

static void add_file(FolderFile *files, size_t *n, const char *name, const char *text, mode_t mode) {
        files[(*n)++] = (FolderFile){ .name = name, .data = text, .size = strlen(text), .mode = mode };
}

static int write_files(const Join *j) {
        _cleanup_(secret_freep) char *secret = NULL;
        FolderFile files[4];
        const char *file = NULL;
        size_t n = 0;
        int r;

        r = key_to_pem(j->key, &secret);
        if (r < 0)
                return complain_memory();
        if (!j->has_authority)
                add_file(files, &n, "ca.crt", j->authority, 0644);
        if (!j->is_authority && j->revoked)
                add_file(files, &n, "ca.crl", j->revoked, 0644);
        add_file(files, &n, "agent.key", secret, 0600);
        add_file(files, &n, "agent.crt", j->certificate, 0644);
        r = folder_write(j->folder, files, n, FOLDER_REPLACE, &file);
        if (r < 0)
                return complain(EX_CANTCREAT,
                                "%s/%s: %s; the token is used up: put this right and join with another one",
                                AUTHORITY_FOLDER, strempty(file), strerrordesc_np(-r));
        return 0;
}

static bool knows_master(const Join *j) {
        for (size_t i = 0; i < j->config->n_masters; i++)
                for (size_t k = 0; k < j->n_masters; k++)
                        if (streq(j->config->masters[i].host, j->masters[k].host) &&
                            j->config->masters[i].port == j->masters[k].port)
                                return true;
        return false;
}

/* Where there is no configuration yet it gets the one line that it needs. */
static void write_config(const Join *j, const char *master) {
        _cleanup_(close_fdp) int folder = -EBADF;
        _cleanup_(freep) char *text = NULL;
        int r;

        if (knows_master(j))
                return;
        text = strformat("master: %s%s\n", strstr(master, "://") ? "" : "clupy://", master);
        folder = text ? folder_open("/etc/clupy", true, 0755) : -ENOMEM;
        r = folder < 0 ? folder : folder_write_file(folder, SERVER_CONFIG_NAME, 0644, text, strlen(text), 0);
        if (r >= 0)
                printf("Wrote %s: %s", SERVER_CONFIG_FILE, text);
        else
                printf("Put this line into %s: %s", SERVER_CONFIG_FILE, strempty(text));
}

static int join(Join *j, const char *master) {
        int r;

        if (geteuid() != 0)
                return complain(EX_NOPERM, "joining a cluster needs root");
        if (!identity_name_is_valid(j->config->name))
                return complain(EX_CONFIG, "'%s' can be no node's name in a certificate: set `name` in %s",
                                j->config->name, SERVER_CONFIG_FILE);
        r = parse_address_list(master, ADDRESS_DEFAULT_PORT, &j->masters, &j->n_masters);
        if (r < 0)
                return complain(
                        EX_USAGE,
                        "--join: expected the master as HOST, HOST:PORT or clupy://HOST:PORT, got '%s'",
                        master);
        r = read_token(j);
        if (r == 0)
                r = prepare(j);
        if (r == 0)
                r = ask_master(j);
        if (r == 0)
                r = write_files(j);
        if (r != 0)
                return r;
        printf("This machine is node %s of the cluster now; its certificate is in %s.\n", j->config->name,
               AUTHORITY_FOLDER);
        write_config(j, master);
        printf("Next: systemctl enable clupy-agent && systemctl restart clupy-agent\n");
        return EX_OK;
}

int agent_join(const ServerConfig *config, const char *master) {
        _cleanup_(join_done) Join j = { .config = config, .folder = -EBADF };

        return join(&j, master);
}
