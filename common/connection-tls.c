/* SPDX-License-Identifier: Apache-2.0 */
#include "connection-tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "frame.h"
#include "tls-failure.h"

enum {
        RECORD_SIZE = 16 << 10,
        EXCESS_MAX = 128 << 10, /* bytes from the socket in one go that become none of the application's */
};

struct TlsLink {
        TlsContext *context;
        unsigned generation; /* of its authority, when the peer's certificate was checked */
        SSL *ssl;
        int fd;
        bool shaken;       /* the handshake is over */
        bool broken;       /* OpenSSL must not be asked any more */
        bool write_broken; /* nor for writing; what came in before may still be read */
        bool socket_empty; /* the last read got less than it asked for */
        bool at_end;       /* the socket is */
        bool starved;      /* the last read took all that OpenSSL had */
        bool plaintext;    /* the peer speaks our protocol, but without TLS */
        bool ended;        /* `end` is to be returned by the next read */
        ssize_t end;
        uint64_t received; /* bytes from the socket */
        uint64_t bound;    /* `received` is to stay below, UINT64_MAX: none */
        bool over;         /* it would not have */
        int64_t excess;    /* bytes from the socket less those handed out, since others had their turn */
        int socket_error;  /* what the socket said last */
        bool known;        /* `identity` is the peer's */
        Identity identity;
        TlsFailure failure;
};

/* Small frames are put together in one record. One for all connections: it is used within one call only. */
static uint8_t gathered[RECORD_SIZE];

/* Between OpenSSL and the socket */

static int bio_read(BIO *bio, char *buffer, int size) {
        TlsLink *l = BIO_get_data(bio);
        ssize_t n;

        BIO_clear_retry_flags(bio);
        if (l->received >= l->bound)
                l->over = true;
        /* Of what is TLS's own (updates of the key, say), OpenSSL would take as much as the peer sends
         * before it returns. The socket that is not empty wakes the loop again. */
        if (l->socket_empty || l->over || l->excess >= EXCESS_MAX) {
                BIO_set_retry_read(bio);
                return -1;
        }
        size = (int) MIN((uint64_t) size, l->bound - l->received);
        do
                n = recv(l->fd, buffer, (size_t) size, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0) {
                if (errno == EAGAIN)
                        BIO_set_retry_read(bio);
                else
                        l->socket_error = -errno;
                return -1;
        }
        /* Before OpenSSL answers with an alert, which the peer would take for a broken frame. */
        if (l->received == 0 && n >= 4 && memcmp(buffer, "CLPY", 4) == 0) {
                l->plaintext = true;
                return -1;
        }
        l->received += (uint64_t) n;
        l->excess += n;
        l->socket_empty = n > 0 && n < size;
        l->at_end = n == 0;
        return (int) n;
}

static int bio_write(BIO *bio, const char *data, int size) {
        TlsLink *l = BIO_get_data(bio);
        ssize_t n;

        BIO_clear_retry_flags(bio);
        do
                n = send(l->fd, data, (size_t) size, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0) {
                if (errno == EAGAIN)
                        BIO_set_retry_write(bio);
                else
                        l->socket_error = -errno;
        }
        return (int) n;
}

static long bio_control(BIO *bio, int command, long number, void *pointer) {
        const TlsLink *l = BIO_get_data(bio);

        switch (command) {
        case BIO_CTRL_FLUSH:
                return 1;
        case BIO_CTRL_EOF:
                return l->at_end;
        default:
                return 0;
        }
}

/* Made once, never freed: as OpenSSL's own. */
static const BIO_METHOD *bio_method(void) {
        static BIO_METHOD *method;

        if (method)
                return method;
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "clupy socket");
        if (method &&
            (BIO_meth_set_read(method, bio_read) != 1 || BIO_meth_set_write(method, bio_write) != 1 ||
             BIO_meth_set_ctrl(method, bio_control) != 1)) {
                BIO_meth_free(method);
                method = NULL;
        }
        return method;
}

/* The peer's certificate */

static int link_index(void) {
        static int index = -1;

        if (index < 0)
                index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
        return index;
}

/* After OpenSSL's own checks of one certificate, with their result. */
static int on_verify(int ok, X509_STORE_CTX *store) {
        SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
        TlsLink *l = SSL_get_ex_data(ssl, link_index());
        X509 *certificate = X509_STORE_CTX_get_current_cert(store);
        int depth = X509_STORE_CTX_get_error_depth(store);
        const char *clause;

        if (!ok) {
                int error = X509_STORE_CTX_get_error(store);
                bool dates = error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID;

                /* Dates are each certificate's own; everything else is of interest for the peer's. */
                if (!dates)
                        certificate = X509_STORE_CTX_get0_cert(store);
                tls_failure_verify(&l->failure, l->context, certificate, dates ? depth : 0, error);
                return 0;
        }
        if (depth > 0)
                return 1;
        if (tls_material_is_revoked(tls_context_material(l->context), certificate)) {
                X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REVOKED);
                tls_failure_verify(&l->failure, l->context, certificate, depth, X509_V_ERR_CERT_REVOKED);
                return 0;
        }
        if (identity_from_certificate(certificate, &l->identity, &clause) < 0) {
                /* The alert for it is bad_certificate. */
                X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
                tls_failure_certificate(&l->failure, l->context, certificate, clause);
                return 0;
        }
        if (tls_context_side(l->context) == TLS_CLIENT && l->identity.role != IDENTITY_MASTER) {
                X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
                tls_failure_role(&l->failure, &l->identity);
                return 0;
        }
        l->known = true;
        return 1;
}

static int expect_host(SSL *ssl, const char *host) {
        X509_VERIFY_PARAM *parameters = SSL_get0_param(ssl);
        unsigned char address[sizeof(struct in6_addr)];

        X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
                                                            X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        if (inet_pton(AF_INET, host, address) == 1)
                return X509_VERIFY_PARAM_set1_ip(parameters, address, 4) == 1 ? 0 : -EINVAL;
        if (inet_pton(AF_INET6, host, address) == 1)
                return X509_VERIFY_PARAM_set1_ip(parameters, address, 16) == 1 ? 0 : -EINVAL;
        if (isempty(host) || X509_VERIFY_PARAM_set1_host(parameters, host, 0) != 1)
                return -EINVAL;
        (void) SSL_set_tlsext_host_name(ssl, host);
        return 0;
}

static void tls_close(void *transport) {
        TlsLink *l = transport;

        SSL_free(l->ssl);
        tls_context_unref(l->context);
        free(l->failure.host);
        free(l);
}

static void tls_closep(TlsLink **l) {
        if (*l)
                tls_close(*l);
}

int tls_link_new(TlsContext *context, int fd, const char *host, TlsLink **ret) {
        _cleanup_(tls_closep) TlsLink *l = NULL;
        BIO *bio;
        int r;

        l = new0(TlsLink);
        if (!l)
                return -ENOMEM;
        l->context = tls_context_ref(context);
        l->generation = tls_context_generation(context);
        l->fd = fd;
        l->bound = UINT64_MAX;
        l->ssl = SSL_new(tls_context_ssl(context));
        bio = l->ssl && bio_method() ? BIO_new(bio_method()) : NULL;
        if (!bio) {
                ERR_clear_error();
                return -ENOMEM;
        }
        BIO_set_data(bio, l);
        BIO_set_init(bio, 1);
        SSL_set_bio(l->ssl, bio, bio);
        if (SSL_set_ex_data(l->ssl, link_index(), l) != 1)
                return -ENOMEM;
        SSL_set_verify(l->ssl, SSL_VERIFY_PEER, on_verify);
        if (tls_context_side(context) == TLS_SERVER)
                SSL_set_accept_state(l->ssl);
        else {
                SSL_set_connect_state(l->ssl);
                r = expect_host(l->ssl, strempty(host));
                if (r < 0)
                        return r;
        }
        l->failure.host = strdup(strempty(host));
        if (!l->failure.host)
                return -ENOMEM;
        *ret = TAKE_PTR(l);
        return 0;
}

/* Who speaks plaintext is told in plaintext. */
static void refuse_plaintext(TlsLink *l) {
        static const char json[] =
                "{\"error\":\"not-allowed\",\"message\":\"This master speaks TLS on this address, "
                "and was spoken to in plaintext: use clupy:// and a certificate, or have "
                "the address listed under 'insecure' on the master\"}";
        uint8_t frame[FRAME_HEADER_SIZE + sizeof(json)];
        ssize_t head = frame_head_write(frame, FRAME_REFUSED, sizeof(json) - 1, NULL, 0);

        if (head < 0 || (size_t) head > FRAME_HEADER_SIZE)
                return;
        memcpy(frame + head, json, sizeof(json) - 1);
        (void) send(l->fd, frame, (size_t) head + sizeof(json) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Of an SSL_*() call that did not do it. Returns 0 for the peer's orderly end, -EAGAIN, -errno. */
static int tls_result(TlsLink *l, int result, bool writing, uint32_t *ret_events) {
        int error = SSL_get_error(l->ssl, result), r;

        switch (error) {
        case SSL_ERROR_WANT_READ:
                if (l->over)
                        return -EMSGSIZE;
                /* Others get their turn. */
                l->excess = 0;
                l->socket_empty = false;
                *ret_events = EPOLLIN;
                return -EAGAIN;
        case SSL_ERROR_WANT_WRITE:
                *ret_events = EPOLLOUT;
                return -EAGAIN;
        case SSL_ERROR_ZERO_RETURN:
                if (l->shaken)
                        return 0;
                break;
        default:
                break;
        }
        if (writing && error == SSL_ERROR_SYSCALL) {
                /* The peer may have said why before it went. */
                l->write_broken = true;
                return l->socket_error ?: -EPIPE;
        }
        l->broken = true;
        if (l->plaintext) {
                if (tls_context_side(l->context) == TLS_SERVER)
                        refuse_plaintext(l);
                r = tls_failure_plaintext(&l->failure, l->context);
        } else if (error == SSL_ERROR_SSL)
                r = tls_failure_library(&l->failure, l->context, l->shaken);
        else if (l->shaken)
                r = l->socket_error ?: -ECONNRESET;
        else
                r = tls_failure_broken(&l->failure, l->context, l->socket_error, l->received > 0);
        ERR_clear_error();
        return r;
}

/* The transport */

static int tls_handshake(void *transport, int fd, uint32_t *ret_events) {
        TlsLink *l = transport;
        int r;

        if (l->broken)
                return -EPROTO;
        l->socket_empty = false;
        ERR_clear_error();
        r = SSL_do_handshake(l->ssl);
        if (r == 1) {
                const char *why;

                /* It was shown some time ago: a peer may let its last byte wait until it has been revoked,
                 * and before the end of the handshake nobody looks at it again. */
                r = tls_link_check(l, &why);
                if (r < 0) {
                        l->broken = true;
                        return r;
                }
                l->shaken = true;
                return 0;
        }
        r = tls_result(l, r, false, ret_events);
        return r == 0 ? -EPROTO : r;
}

static ssize_t tls_readv(void *transport, int fd, const struct iovec *iov, int n_iov, uint32_t *ret_events) {
        TlsLink *l = transport;
        size_t total = 0;

        if (l->ended)
                return l->end;
        if (l->broken)
                return -EPROTO;
        l->socket_empty = false;
        l->starved = false;
        for (int i = 0; i < n_iov; i++) {
                uint8_t *p = iov[i].iov_base;
                size_t left = iov[i].iov_len;

                while (left > 0) {
                        size_t n = 0;
                        int r;

                        ERR_clear_error();
                        r = SSL_read_ex(l->ssl, p, left, &n);
                        if (r == 1) {
                                p += n;
                                left -= n;
                                total += n;
                                l->excess -= (int64_t) n;
                                continue;
                        }
                        r = tls_result(l, r, false, ret_events);
                        l->starved = r == -EAGAIN || r == -EMSGSIZE;
                        if (total == 0)
                                return r;
                        if (!l->starved) {
                                /* Asked again, OpenSSL would not know why any more. */
                                l->ended = true;
                                l->end = r;
                        }
                        return (ssize_t) total;
                }
        }
        return (ssize_t) total;
}

static ssize_t tls_writev(void *transport, int fd, const struct iovec *iov, int n_iov,
                          uint32_t *ret_events) {
        TlsLink *l = transport;
        size_t total = 0, at = 0;

        if (l->broken || l->write_broken)
                return -EPIPE;
        for (int i = 0; i < n_iov;) {
                const uint8_t *data;
                size_t size, n = 0;
                int r;

                if (at >= iov[i].iov_len) {
                        at = 0;
                        i++;
                        continue;
                }
                /* A record that could not be written as a whole is given to OpenSSL once more, and must then
                 * be at least as long: so each is filled from what there is, whatever its pieces. */
                data = (const uint8_t *) iov[i].iov_base + at;
                size = MIN(iov[i].iov_len - at, (size_t) RECORD_SIZE);
                if (size < RECORD_SIZE && i + 1 < n_iov) {
                        memcpy(gathered, data, size);
                        for (int k = i + 1; k < n_iov && size < RECORD_SIZE; k++) {
                                size_t piece = MIN(iov[k].iov_len, RECORD_SIZE - size);

                                if (piece > 0)
                                        memcpy(gathered + size, iov[k].iov_base, piece);
                                size += piece;
                        }
                        data = gathered;
                }
                ERR_clear_error();
                r = SSL_write_ex(l->ssl, data, size, &n);
                if (r != 1) {
                        r = tls_result(l, r, true, ret_events);
                        if (total > 0 && r == -EAGAIN)
                                break;
                        return r == 0 ? -EPIPE : r;
                }
                total += n;
                at += n;
                while (i < n_iov && at >= iov[i].iov_len)
                        at -= iov[i++].iov_len;
        }
        return (ssize_t) total;
}

static int tls_shutdown(void *transport, int fd, uint32_t *ret_events) {
        TlsLink *l = transport;
        int r;

        if (!l->broken && !l->write_broken) {
                ERR_clear_error();
                r = SSL_shutdown(l->ssl);
                if (r < 0) {
                        r = tls_result(l, r, true, ret_events);
                        if (r < 0)
                                return r;
                }
        }
        return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

static bool tls_pending(const void *transport) {
        const TlsLink *l = transport;

        return l->ended || (!l->starved && !l->broken && SSL_has_pending(l->ssl) == 1);
}

static const char *tls_why(const void *transport) {
        const TlsLink *l = transport;

        if (l->failure.why[0] != '\0')
                return l->failure.why;
        return l->over ? "More was sent than may be before the hello" : NULL;
}

static void tls_free(void *transport) {
        TlsLink *l = transport;

        tls_close(l);
}

const ConnectionTransport CONNECTION_TRANSPORT_TLS = {
        .name = "tls",
        .handshake = tls_handshake,
        .readv = tls_readv,
        .writev = tls_writev,
        .shutdown = tls_shutdown,
        .pending = tls_pending,
        .why = tls_why,
        .close = tls_free,
};

/* What others ask */

const Identity *tls_link_identity(const TlsLink *l) {
        return l->shaken && l->known ? &l->identity : NULL;
}

TlsContext *tls_link_context(const TlsLink *l) {
        return l->context;
}

void tls_link_bound(TlsLink *l, uint64_t bytes) {
        l->bound = bytes;
        l->over = false;
}

int tls_link_check(TlsLink *l, const char **ret_why) {
        X509 *certificate = SSL_get0_peer_certificate(l->ssl);
        int r;

        if (!certificate)
                return 0;
        r = tls_context_check_certificate(l->context, l->generation, certificate);
        if (r < 0) {
                tls_failure_verify(&l->failure, l->context, certificate, 0,
                                   r == -EKEYREVOKED   ? X509_V_ERR_CERT_REVOKED
                                   : r == -EKEYEXPIRED ? X509_V_ERR_CERT_HAS_EXPIRED
                                                       : X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
                *ret_why = l->failure.why;
        }
        return r;
}
