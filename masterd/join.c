/* SPDX-License-Identifier: Apache-2.0 */
#include "join.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "connection.h"
#include "fd-util.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "parse-util.h"
#include "peer.h"
#include "signer-protocol.h"
#include "time-util.h"

enum {
        SIGNER_PATIENCE_S = 4, /* less than a connection has for its hello */
        PUBLIC_FILE_MAX = 512 << 10,
};

struct JoinRequest {
        Peer *peer;
        SignerKind kind;
        char who[IDENTITY_URI_SIZE]; /* for the journal: "node node1", "user alice" */
        int fd;                      /* to the signer */
        sd_event_source *io, *timer;
};

JoinRequest *join_request_free(JoinRequest *request) {
        if (!request)
                return NULL;
        sd_event_source_disable_unref(request->io);
        sd_event_source_disable_unref(request->timer);
        close_fd(request->fd);
        return mfree(request);
}
DEFINE_CLEANUP(JoinRequest, join_request_free);

/* Ends the request: the peer is told and goes. */
static void refuse(JoinRequest *request, const char *sentence) {
        Peer *peer = request->peer;
        char who[IDENTITY_URI_SIZE];

        COPY_TEXT(who, request->who);
        peer->join = join_request_free(request);
        peer_refuse_not_allowed(peer, who, sentence);
}

/* The signer's trouble is not the fault of the one who asks. */
static void fail(JoinRequest *request, int error, const char *what) {
        Peer *peer = request->peer;
        char more[MASTER_TLS_MORE_SIZE] = "";

        if (peer_has_proof(peer) || master_tls_may_tell(peer->manager, peer->connection, more))
                log_error_errno(error, "%s at %s gets no certificate: %s%s", request->who,
                                connection_peer(peer->connection), what, more);
        peer->join = join_request_free(request);
        peer_refuse(
                peer, "busy",
                "The master's signer does not answer: systemctl status clupy-signer.socket on the master's "
                "machine says why",
                NULL);
}

static int add_file(json_object *json, const char *key, const char *path) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = read_file_full(path, PUBLIC_FILE_MAX, &text, NULL);
        if (r < 0)
                return r;
        return json_add_string(json, key, text);
}

static int answer(JoinRequest *request, const char *certificate) {
        const MasterConfig *config = request->peer->manager->config;
        Connection *connection = request->peer->connection;
        _cleanup_(json_putp) json_object *json = NULL;
        int r;

        r = json_new_object(&json);
        if (r >= 0)
                r = json_add_string(json, "certificate", certificate);
        if (r >= 0)
                r = add_file(json, "authority", config->tls_authority);
        if (r < 0)
                return r;
        /* There need not be one; one that is too large is not for a node. */
        (void) add_file(json, "revoked", config->tls_revoked);
        r = connection_send(connection, request->kind == SIGNER_JOIN ? FRAME_JOINED : FRAME_RENEWED, json,
                            NULL, 0);
        if (r < 0)
                return r;
        log_notice("%s at %s got a certificate", request->who, connection_peer(connection));
        /* Not one of those who were turned away. */
        connection_established(connection);
        request->peer->join = join_request_free(request);
        connection_finish(connection, 0, "The certificate was handed out");
        return 0;
}

static int on_signer(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        JoinRequest *request = userdata;
        SignerAnswer message;
        ssize_t n;
        int r;

        n = recv(fd, &message, sizeof(message), MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n != sizeof(message) || message.magic != SIGNER_MAGIC || message.result >= _SIGNER_RESULT_MAX ||
            strnlen(message.certificate, sizeof(message.certificate)) == sizeof(message.certificate)) {
                fail(request, n < 0 ? -errno : 0, "the signer gave no answer");
                return 0;
        }
        switch ((SignerResult) message.result) {
        case SIGNER_SIGNED:
                r = answer(request, message.certificate);
                if (r < 0)
                        fail(request, r, "the certificate is signed, but cannot be sent");
                break;
        case SIGNER_FAILED:
                fail(request, 0, "the signer could not sign, its journal says why");
                break;
        default:
                refuse(request, signer_result_sentence((SignerResult) message.result));
        }
        return 0;
}

static int on_patience(sd_event_source *source, uint64_t usec, void *userdata) {
        fail(userdata, -ETIMEDOUT, "the signer takes too long");
        return 0;
}

/* Sends the whole message: a socket of this kind takes it at once or not at all. */
static int signer_ask(const SignerRequest *message) {
        static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SIGNER_SOCKET };
        _cleanup_(close_fdp) int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0 || connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ||
            send(fd, message, sizeof(*message), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int start(Peer *peer, const SignerRequest *message, const char *who) {
        _cleanup_(join_request_freep) JoinRequest *request = new0(JoinRequest);
        sd_event *event = peer->manager->event;
        int r;

        if (!request)
                return -ENOMEM;
        request->peer = peer;
        request->kind = (SignerKind) message->kind;
        snprintf(request->who, sizeof(request->who), "%s", who);
        request->fd = signer_ask(message);
        if (request->fd < 0) {
                fail(request, request->fd, "the signer cannot be reached");
                TAKE_PTR(request);
                return 0;
        }
        r = sd_event_add_io(event, &request->io, request->fd, EPOLLIN, on_signer, request);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &request->timer, CLOCK_MONOTONIC,
                                               SIGNER_PATIENCE_S * USEC_PER_SEC, 0, on_patience, request);
        if (r < 0)
                return r;
        /* One frame, one answer. */
        connection_pause(peer->connection, true);
        peer->join = TAKE_PTR(request);
        return 0;
}

/* Copies a text that is there and fits. */
static bool copy_text(json_object *json, const char *key, char *field, size_t size) {
        const char *text;

        if (json_get_string(json, key, size - 1, &text) < 0)
                return false;
        memcpy(field, text, strlen(text) + 1);
        return true;
}

static int bad_request(Peer *peer, const char *what) {
        peer_refuse(peer, "bad-hello", what, NULL);
        return 0;
}

static int join(Peer *peer, json_object *json) {
        SignerRequest message = { .magic = SIGNER_MAGIC, .kind = SIGNER_JOIN };
        char who[IDENTITY_URI_SIZE];
        int r;

        if (connection_identity(peer->connection))
                return bad_request(peer, "Who has a certificate of this cluster does not join it once more");
        if (!copy_text(json, "token", message.token, sizeof(message.token)) ||
            !copy_text(json, "secret", message.secret, sizeof(message.secret)) ||
            !copy_text(json, "node", message.node, sizeof(message.node)) ||
            !node_name_is_valid(message.node) ||
            !copy_text(json, "request", message.request, sizeof(message.request)))
                r = bad_request(peer, "JOIN needs token, secret, node and request");
        else {
                snprintf(who, sizeof(who), "node %s", message.node);
                r = start(peer, &message, who);
        }
        explicit_bzero(message.secret, sizeof(message.secret));
        return r;
}

static int renew(Peer *peer, json_object *json) {
        const Identity *identity = connection_identity(peer->connection);
        SignerRequest message = { .magic = SIGNER_MAGIC, .kind = SIGNER_RENEW };
        const char *why;

        if (!identity) {
                peer_refuse_not_allowed(peer, NULL, "Only who shows a certificate can have it renewed");
                return 0;
        }
        if (connection_check_peer(peer->connection, &why) < 0) {
                peer_refuse_not_allowed(peer, IDENTITY_STRING(identity), why);
                return 0;
        }
        identity_to_uri(identity, message.identity);
        if (!copy_text(json, "serial", message.serial, sizeof(message.serial)) ||
            !copy_text(json, "request", message.request, sizeof(message.request)))
                return bad_request(peer, "RENEW needs serial and request");
        return start(peer, &message, IDENTITY_STRING(identity));
}

int join_frame(Peer *peer, const Frame *frame) {
        if (!frame->json)
                return -EPROTO;
        if (peer->manager->stopping) {
                peer_refuse(peer, "shutting-down", "The master is shutting down", NULL);
                return 0;
        }
        /* A token, or a certificate, that anybody on the way could have read or exchanged. */
        if (!connection_is_secure(peer->connection)) {
                peer_refuse_not_allowed(peer, NULL, "Certificates are handed out over TLS only");
                return 0;
        }
        return frame->type == FRAME_JOIN ? join(peer, frame->json) : renew(peer, frame->json);
}
