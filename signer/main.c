/* SPDX-License-Identifier: Apache-2.0 */
/* clupy-signer: the only process that reads the authority's key. systemd starts it when somebody connects to
 * its socket, and it ends when nobody has for a while. One request at a time. */
#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "authority.h"
#include "daemon.h"
#include "fd-util.h"
#include "log.h"
#include "request.h"
#include "time-util.h"

enum {
        IDLE_MS = 30000,
        PATIENCE_S = 2, /* of a peer that has connected */
        MORE_SIZE = 48,
        TELL_MS = 1000, /* between two lines about what strangers can cause */
};

typedef struct Signer {
        char *key_path;
        const char *folder, *tokens;
        uint64_t told_at;  /* CLOCK_MONOTONIC µs of the last line that strangers caused; 0: none */
        unsigned withheld; /* how many there would have been since */
} Signer;

static int parse_folder(const char *argument, void *userdata) {
        ((Signer *) userdata)->folder = argument;
        return argument[0] == '/' ? 0 : -EINVAL;
}

static int parse_tokens(const char *argument, void *userdata) {
        ((Signer *) userdata)->tokens = argument;
        return argument[0] == '/' ? 0 : -EINVAL;
}

static const DaemonOption options[] = {
        { "folder", "FOLDER", "The authority's, instead of " AUTHORITY_FOLDER, parse_folder },
        { "tokens", "FOLDER", "The join tokens', instead of " JOIN_TOKEN_FOLDER, parse_tokens },
};

static const DaemonProgram program = {
        .name = "clupy-signer",
        .summary = "Signs the certificates of nodes that join a CluPy cluster, and renewals.",
        .manual = "clupy-signer(8)",
        .options = options,
        .n_options = ELEMENTSOF(options),
};

/* Root and the master. The name is looked up each time: the account may be made after the socket. */
static bool peer_is_allowed(int fd, uid_t *ret_uid) {
        struct ucred credentials;
        socklen_t size = sizeof(credentials);
        const struct passwd *master;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
                return false;
        *ret_uid = credentials.uid;
        if (credentials.uid == 0)
                return true;
        master = getpwnam("clupy-master");
        return master && master->pw_uid == credentials.uid;
}

/* Whether there is to be a line about what anybody can cause who reaches the master. Then `more` says how
 * many there were not. */
static bool may_tell(Signer *signer, char more[static MORE_SIZE]) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        more[0] = '\0';
        if (signer->told_at > 0 && now < signer->told_at + TELL_MS * USEC_PER_MSEC) {
                signer->withheld++;
                return false;
        }
        if (signer->withheld > 0)
                snprintf(more, MORE_SIZE, " (and %u more since)", signer->withheld);
        signer->told_at = now;
        signer->withheld = 0;
        return true;
}

static void say(Signer *signer, const SignerRequest *request, const SignerOutcome *outcome) {
        const char *what = request->kind == SIGNER_RENEW ? "renewal" : "join";
        char more[MORE_SIZE] = "";

        /* Only who has a certificate asks for a renewal. */
        if (outcome->result != SIGNER_SIGNED && request->kind != SIGNER_RENEW && !may_tell(signer, more))
                return;

        switch (outcome->result) {
        case SIGNER_SIGNED:
                log_notice("Signed %s until a year from now, serial %s (%s%s%.16s)",
                           IDENTITY_STRING(&outcome->identity), outcome->serial, what,
                           request->kind == SIGNER_JOIN ? ", token " : "",
                           request->kind == SIGNER_JOIN ? request->token : "");
                break;
        case SIGNER_FAILED:
                log_error_errno(outcome->error, "Cannot sign (%s): %s%s", what, outcome->what ?: "libcrypto",
                                more);
                break;
        default:
                log_warning("Refused a %s: %s%s%.16s%s", what, signer_result_to_string(outcome->result),
                            request->kind == SIGNER_JOIN ? ", token " : "",
                            request->kind == SIGNER_JOIN ? request->token : "", more);
        }
}

static void serve(Signer *signer, int fd) {
        /* One byte more than there may be. */
        union {
                SignerRequest request;
                uint8_t bytes[sizeof(SignerRequest) + 1];
        } message = { .bytes = { 0 } };
        const struct timeval patience = { .tv_sec = PATIENCE_S };
        SignerAnswer answer;
        SignerOutcome outcome;
        char more[MORE_SIZE];
        uid_t uid = 0;
        ssize_t n;

        if (!peer_is_allowed(fd, &uid)) {
                if (may_tell(signer, more))
                        log_warning("Refused a connection of uid %u: only clupy-masterd may ask%s", uid,
                                    more);
                return;
        }
        if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0) {
                log_error_errno(errno, "Cannot bound the time of a connection");
                return;
        }
        n = recv(fd, message.bytes, sizeof(message.bytes), 0);
        if (n <= 0) {
                log_debug("A connection that asks for nothing");
                return;
        }
        signer_handle(&(SignerSettings){ .folder = signer->folder,
                                         .key_path = signer->key_path,
                                         .tokens = signer->tokens,
                                         .now = (int64_t) time(NULL) },
                      message.bytes, (size_t) n, &answer, &outcome);
        message.request.token[sizeof(message.request.token) - 1] = '\0';
        say(signer, &message.request, &outcome);
        explicit_bzero(&message, sizeof(message));
        if (send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
                log_warning_errno(errno, "Cannot answer");
}

static int run(Signer *signer, int listener) {
        struct pollfd poll_fd = { .fd = listener, .events = POLLIN };

        for (;;) {
                _cleanup_(close_fdp) int fd = -EBADF;
                int n = poll(&poll_fd, 1, IDLE_MS);

                if (n == 0) {
                        if (signer->withheld > 0)
                                log_warning("Refused %u more since", signer->withheld);
                        return EXIT_SUCCESS;
                }
                if (n < 0 && errno == EINTR)
                        continue;
                fd = n < 0 ? -EBADF : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0 && n > 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
                        continue;
                if (fd < 0) {
                        log_error_errno(errno, "Cannot accept a connection");
                        return EXIT_FAILURE;
                }
                serve(signer, fd);
        }
}

static void signer_done(Signer *signer) {
        free(signer->key_path);
}

int main(int argc, char *argv[]) {
        _cleanup_(signer_done) Signer signer = { .folder = AUTHORITY_FOLDER, .tokens = JOIN_TOKEN_FOLDER };
        const char *credentials = getenv("CREDENTIALS_DIRECTORY");
        DaemonArguments arguments;
        int r, n;

        r = daemon_parse_arguments(&program, argc, argv, &signer, &arguments);
        if (r != DAEMON_GO_ON)
                return r;
        /* No core file, and no debugger of the same user. */
        (void) prctl(PR_SET_DUMPABLE, 0);
        if (credentials) {
                signer.key_path = strformat("%s/ca.key", credentials);
                if (!signer.key_path)
                        return log_oom() < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
        }
        n = sd_listen_fds(true);
        if (n != 1 || sd_is_socket(SD_LISTEN_FDS_START, AF_UNIX, SOCK_SEQPACKET, 1) <= 0) {
                log_error("Started without its socket: systemctl start clupy-signer.socket");
                return EX_USAGE;
        }
        return run(&signer, SD_LISTEN_FDS_START);
}
