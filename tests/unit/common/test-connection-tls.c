/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "certificates.h"
#include "connection-tls.h"
#include "fd-util.h"
#include "tls-context.h"

/* The transport over TLS, both ends over a pair of sockets, and every peer that is to be refused. */

#define HOST "master.test"
#define DAY_S (24 * 3600)

static char *directory;
static TestCredential authority, other_authority;

static void issue(const char *name, const TestCertificate *what, const TestCredential *issuer) {
        TestCredential c = test_credential_new(what, issuer);

        test_credential_write(&c, directory, name);
        test_credential_done(&c);
}

static int setup(void **state) {
        directory = test_directory();
        authority = test_credential_new(&(TestCertificate){ .authority = true }, NULL);
        other_authority = test_credential_new(&(TestCertificate){ .authority = true, .serial = 2 }, NULL);
        test_credential_write(&authority, directory, "ca");
        test_credential_write(&other_authority, directory, "other-ca");
        issue("master",
              &(TestCertificate){ .uris = { "clupy:master" },
                                  .names = "DNS:" HOST ",IP:127.0.0.1,IP:::1",
                                  .serial = 10,
                                  .ends_s = 365 * DAY_S },
              &authority);
        issue("user",
              &(TestCertificate){ .uris = { "clupy:user:alice" },
                                  .usage = "clientAuth",
                                  .serial = 11,
                                  .ends_s = 365 * DAY_S },
              &authority);
        issue("agent",
              &(TestCertificate){ .uris = { "clupy:agent:node1" },
                                  .usage = "clientAuth",
                                  .serial = 12,
                                  .ends_s = 365 * DAY_S },
              &authority);
        return 0;
}

static int teardown(void **state) {
        test_credential_done(&authority);
        test_credential_done(&other_authority);
        test_directory_remove(directory);
        return 0;
}

static char *path_of(const char *name, const char *suffix) {
        char path[256];

        snprintf(path, sizeof(path), "%s/%s%s", directory, name, suffix);
        return strdup(path);
}

/* name NULL: without a certificate. */
static int context_try(TlsSide side, IdentityRole role, const char *name, const char *authority_name,
                       const char *revoked, TlsContext **ret, char **ret_message) {
        _cleanup_(freep) char *certificate = name ? path_of(name, ".crt") : NULL;
        _cleanup_(freep) char *key = name ? path_of(name, ".key") : NULL;
        _cleanup_(freep) char *ca = path_of(authority_name, ".crt");
        _cleanup_(freep) char *list = revoked ? path_of(revoked, "") : NULL;
        TlsContextOptions options = {
                .side = side,
                .role = role,
                .paths = { .certificate = certificate, .key = key, .authority = ca, .revoked = list }
        };

        return tls_context_new(NULL, &options, NULL, NULL, ret, ret_message);
}

static TlsContext *context_of(TlsSide side, IdentityRole role, const char *name, const char *revoked) {
        _cleanup_(freep) char *message = NULL;
        TlsContext *c = NULL;

        if (context_try(side, role, name, "ca", revoked, &c, &message) < 0)
                fail_msg("%s", message);
        return c;
}

typedef struct End {
        TlsLink *link;
        int fd;
        int result; /* of the handshake, and then of reading */
        bool done;
        char why[640];
} End;

static const ConnectionTransport *const tls = &CONNECTION_TRANSPORT_TLS;

static void end_note(End *e, int r) {
        const char *why;

        if (r == -EAGAIN)
                return;
        e->done = true;
        e->result = r;
        why = tls->why(e->link);
        snprintf(e->why, sizeof(e->why), "%s", r < 0 ? strempty(why) : "");
        /* What a connection would do. */
        if (r < 0)
                e->fd = close_fd(e->fd);
}

static void end_step(End *e) {
        uint32_t events = 0;

        if (!e->done)
                end_note(e, tls->handshake(e->link, e->fd, &events));
}

static void ends_new(TlsContext *server, TlsContext *client, const char *host, End *s, End *c) {
        int pair[2];

        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
        *s = (End){ .fd = pair[0] };
        *c = (End){ .fd = pair[1] };
        assert_ok(tls_link_new(server, s->fd, NULL, &s->link));
        assert_ok(tls_link_new(client, c->fd, host, &c->link));
}

static void end_free(End *e) {
        if (e->link)
                tls->close(e->link);
        e->link = NULL;
        e->fd = close_fd(e->fd);
}

/* Until both know. A client learns only by reading whether it was accepted. */
static void ends_shake(End *s, End *c) {
        for (int i = 0; i < 10 && !(s->done && c->done); i++) {
                end_step(c);
                end_step(s);
        }
        assert_true(s->done);
        assert_true(c->done);
        if (c->result == 0) {
                uint8_t byte;
                uint32_t events = 0;
                struct iovec iov = { &byte, 1 };
                ssize_t n = tls->readv(c->link, c->fd, &iov, 1, &events);

                if (n != -EAGAIN) {
                        c->done = false;
                        end_note(c, (int) n);
                }
        }
}

static void test_good(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        static const char *const hosts[] = { HOST, "127.0.0.1", "::1", "MASTER.test" };
        const char *why;
        End s, c;

        for (size_t i = 0; i < ELEMENTSOF(hosts); i++) {
                ends_new(server, client, hosts[i], &s, &c);
                assert_null(tls_link_identity(s.link));
                ends_shake(&s, &c);
                if (s.result < 0 || c.result < 0)
                        fail_msg("%s; %s", s.why, c.why);
                assert_int_equal(tls_link_identity(s.link)->role, IDENTITY_USER);
                assert_string_equal(tls_link_identity(s.link)->name, "alice");
                assert_int_equal(tls_link_identity(c.link)->role, IDENTITY_MASTER);
                assert_ok(tls_link_check(s.link, &why));
                assert_ok(tls_link_check(c.link, &why));
                end_free(&s);
                end_free(&c);
        }
}

static void test_no_certificate(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client = context_of(TLS_CLIENT, IDENTITY_USER, NULL, NULL);
        const char *why;
        End s, c;

        ends_new(server, client, HOST, &s, &c);
        ends_shake(&s, &c);
        assert_int_equal(s.result, 0);
        assert_int_equal(c.result, 0);
        assert_null(tls_link_identity(s.link));
        assert_ok(tls_link_check(s.link, &why));
        end_free(&s);
        end_free(&c);
}

/* A client that knows no more of the authority than its digest. */
static void test_pinned(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        size_t size;
        unsigned char *der = test_certificate_der(authority.certificate, &size);

        for (int good = 0; good < 2; good++) {
                _cleanup_(tls_context_unrefp) TlsContext *client = NULL;
                _cleanup_(freep) char *message = NULL;
                Digest digest;
                End s, c;

                assert_ok(digest_sha256(der, size - !good, &digest));
                assert_ok(tls_context_new(NULL,
                                          &(TlsContextOptions){ .side = TLS_CLIENT,
                                                                .role = IDENTITY_AGENT,
                                                                .authority = &digest },
                                          NULL, NULL, &client, &message));
                for (int host = 0; host < 2; host++) {
                        ends_new(server, client, host ? HOST : "else.test", &s, &c);
                        ends_shake(&s, &c);
                        assert_int_equal(c.result, good && host ? 0 : -EKEYREJECTED);
                        end_free(&s);
                        end_free(&c);
                }
        }
        free(der);
}

/* Who is refused by whom, with which words. */
static void refused(TlsContext *server, TlsContext *client, const char *host, int server_error,
                    const char *server_words, int client_error, const char *client_words) {
        End s, c;

        ends_new(server, client, host, &s, &c);
        ends_shake(&s, &c);
        if (s.result != server_error || !strstr(s.why, strempty(server_words)))
                fail_msg("server: %d, '%s', expected %d, '%s'", s.result, s.why, server_error, server_words);
        if (c.result != client_error || !strstr(c.why, strempty(client_words)))
                fail_msg("client: %d, '%s', expected %d, '%s'", c.result, c.why, client_error, client_words);
        assert_true(server_error < 0 ? !tls_link_identity(s.link) : !tls_link_identity(c.link));
        end_free(&s);
        end_free(&c);
}

static void test_clients_refused(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", "revoked.crl");
        static const struct {
                TestCertificate what;
                int error;
                const char *server, *client;
        } cases[] = {
                { { .uris = { "clupy:user:a" },
                    .usage = "clientAuth",
                    .begins_s = -2 * DAY_S,
                    .ends_s = -DAY_S,
                    .serial = 21 },
                  -EKEYEXPIRED,
                  "The certificate of user a (serial 15) has expired on 20",
                  "it has expired on 20" },
                { { .uris = { "clupy:user:a" },
                    .usage = "clientAuth",
                    .begins_s = DAY_S,
                    .ends_s = 2 * DAY_S,
                    .serial = 22 },
                  -EKEYREJECTED,
                  "The certificate of user a (serial 16) is not yet valid, only from 20",
                  "it is not yet valid" },
                { { .uris = { "clupy:user:a" }, .usage = "clientAuth", .serial = 66 },
                  -EKEYREVOKED,
                  "The certificate of user a (serial 42) has been revoked",
                  "it has been revoked" },
                { { .uris = { "clupy:user:a", "clupy:admin:a" }, .usage = "clientAuth", .serial = 23 },
                  -EKEYREJECTED,
                  "serial 17 has more than one clupy: name",
                  NULL },
                { { .uris = { "clupy:user:a" }, .usage = "serverAuth", .serial = 24 },
                  -EKEYREJECTED,
                  "may not be used for a client",
                  NULL },
        };

        test_revoked_write(&authority, directory, "revoked.crl", (const long[]){ 65, 66, 67 }, 3, DAY_S);
        assert_ok(tls_context_reload(server));
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(tls_context_unrefp) TlsContext *client = NULL;
                _cleanup_(freep) char *message = NULL;

                issue("client", &cases[i].what, &authority);
                if (context_try(TLS_CLIENT, IDENTITY_USER, "client", "ca", NULL, &client, &message) < 0) {
                        /* One that says two things of itself is not even loaded. */
                        assert_non_null(strstr(message, "more than one clupy: name"));
                        continue;
                }
                refused(server, client, HOST, cases[i].error, cases[i].server, cases[i].error,
                        cases[i].client);
        }
}

static void test_other_authority(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client = NULL, *stranger = NULL;
        _cleanup_(freep) char *message = NULL, *path = path_of("ca", ".crt"),
                              *kept = path_of("kept", ".crt");

        /* Of another authority, which has the same name as ours, but knows ours. */
        issue("stranger", &(TestCertificate){ .uris = { "clupy:admin:root" }, .usage = "clientAuth" },
              &other_authority);
        assert_ok(context_try(TLS_CLIENT, IDENTITY_USER, "stranger", "other-ca", NULL, &stranger, &message));
        assert_int_equal(rename(path, kept), 0);
        test_credential_write(&other_authority, directory, "ca");
        client = context_of(TLS_CLIENT, IDENTITY_USER, "stranger", NULL);
        assert_int_equal(rename(kept, path), 0);

        /* The client is the first to see it: the master is not of its authority. */
        refused(server, stranger, HOST, -EKEYREJECTED, NULL, -EKEYREJECTED,
                "The master's certificate is not of this cluster's authority");
        refused(server, client, HOST, -EKEYREJECTED, NULL, -EKEYREJECTED,
                "The master's certificate is not of this cluster's authority");
}

/* By a client that does not care who the master is. */
static int raw_client(TlsContext *server, const char *name, int version, End *s) {
        _cleanup_(freep) char *certificate = path_of(name, ".crt"), *key = path_of(name, ".key");
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        int pair[2], r;
        uint8_t byte;
        SSL *ssl;

        assert_non_null(context);
        assert_int_equal(SSL_CTX_set_max_proto_version(context, version), 1);
        assert_int_equal(SSL_CTX_use_certificate_file(context, certificate, SSL_FILETYPE_PEM), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM), 1);
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
        ssl = SSL_new(context);
        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
        *s = (End){ .fd = pair[0] };
        assert_ok(tls_link_new(server, s->fd, NULL, &s->link));
        assert_int_equal(SSL_set_fd(ssl, pair[1]), 1);
        for (int i = 0; i < 10 && !s->done; i++) {
                (void) SSL_connect(ssl);
                end_step(s);
        }
        ERR_clear_error();
        /* What the server said last: within the handshake, or after it for the client. */
        (void) SSL_read(ssl, &byte, 1);
        r = ERR_GET_REASON(ERR_peek_error());
        ERR_clear_error();
        SSL_free(ssl);
        SSL_CTX_free(context);
        close(pair[1]);
        return r;
}

static void test_raw_clients(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        End s;
        int r;

        r = raw_client(server, "user", TLS1_2_VERSION, &s);
        assert_int_equal(r, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
        assert_int_equal(s.result, -EPROTO);
        assert_non_null(strstr(s.why, "does not speak TLS 1.3"));
        end_free(&s);

        issue("stranger", &(TestCertificate){ .uris = { "clupy:admin:root" }, .usage = "clientAuth" },
              &other_authority);
        r = raw_client(server, "stranger", 0, &s);
        assert_int_equal(r, SSL_R_TLSV1_ALERT_UNKNOWN_CA);
        assert_int_equal(s.result, -EKEYREJECTED);
        assert_non_null(strstr(
                s.why, "The certificate of admin root (serial 01) is not of this cluster's authority"));
        end_free(&s);

        issue("twofold", &(TestCertificate){ .uris = { "clupy:user:a", "clupy:admin:a" } }, &authority);
        (void) raw_client(server, "twofold", 0, &s);
        assert_int_equal(s.result, -EKEYREJECTED);
        assert_non_null(strstr(s.why, "more than one clupy: name"));
        end_free(&s);

        issue("nobody", &(TestCertificate){ .names = "DNS:x" }, &authority);
        (void) raw_client(server, "nobody", 0, &s);
        assert_int_equal(s.result, -EKEYREJECTED);
        assert_non_null(strstr(s.why, "has no clupy: name"));
        end_free(&s);
}

/* A server of the test's own making, for what tls_context_new() would not load. */
static int raw_server(TlsContext *client, const char *name, const char *host, int version, End *c) {
        _cleanup_(freep) char *certificate = path_of(name, ".crt"), *key = path_of(name, ".key");
        SSL_CTX *context = SSL_CTX_new(TLS_server_method());
        int pair[2];
        SSL *ssl;

        assert_non_null(context);
        assert_int_equal(SSL_CTX_set_max_proto_version(context, version), 1);
        assert_int_equal(SSL_CTX_use_certificate_file(context, certificate, SSL_FILETYPE_PEM), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM), 1);
        ssl = SSL_new(context);
        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
        *c = (End){ .fd = pair[0] };
        assert_ok(tls_link_new(client, c->fd, host, &c->link));
        assert_int_equal(SSL_set_fd(ssl, pair[1]), 1);
        for (int i = 0; i < 10 && !c->done; i++) {
                end_step(c);
                (void) SSL_accept(ssl);
        }
        ERR_clear_error();
        SSL_free(ssl);
        SSL_CTX_free(context);
        close(pair[1]);
        assert_true(c->done);
        return c->result;
}

static void test_masters_refused(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_AGENT, "agent", "m.crl");
        static const struct {
                TestCertificate what;
                const char *host;
                int error;
                const char *words;
        } cases[] = {
                { { .uris = { "clupy:master" }, .names = "DNS:" HOST ",IP:127.0.0.1" },
                  "other.test",
                  -EKEYREJECTED,
                  "The master's certificate is not for other.test but for master.test, 127.0.0.1" },
                { { .uris = { "clupy:master" }, .names = "DNS:" HOST },
                  "127.0.0.2",
                  -EKEYREJECTED,
                  "is not for 127.0.0.2 but for master.test" },
                { { .uris = { "clupy:master" } }, HOST, -EKEYREJECTED, "but for no host at all" },
                { { .uris = { "clupy:user:eve" }, .names = "DNS:" HOST, .usage = "clientAuth" },
                  HOST,
                  -EKEYREJECTED,
                  "shows the certificate of user eve: it is not the master" },
                { { .uris = { "clupy:user:eve" }, .names = "DNS:" HOST },
                  HOST,
                  -EKEYREJECTED,
                  "shows the certificate of user eve: it is not the master" },
                { { .uris = { "clupy:admin:eve" } },
                  HOST,
                  -EKEYREJECTED,
                  "shows the certificate of admin eve" },
                { { .uris = { "clupy:agent:node2" }, .names = "DNS:" HOST },
                  HOST,
                  -EKEYREJECTED,
                  "shows the certificate of agent node2" },
                { { .names = "DNS:" HOST }, HOST, -EKEYREJECTED, "has no clupy: name" },
                { { .uris = { "clupy:master" }, .names = "DNS:" HOST, .usage = "clientAuth" },
                  HOST,
                  -EKEYREJECTED,
                  "may not be used for a server" },
                { { .uris = { "clupy:master" },
                    .names = "DNS:" HOST,
                    .begins_s = -2 * DAY_S,
                    .ends_s = -DAY_S },
                  HOST,
                  -EKEYEXPIRED,
                  "The master's certificate has expired on 20" },
                { { .uris = { "clupy:master" },
                    .names = "DNS:" HOST,
                    .begins_s = DAY_S,
                    .ends_s = 2 * DAY_S },
                  HOST,
                  -EKEYREJECTED,
                  "The master's certificate is not yet valid" },
                { { .uris = { "clupy:master" }, .names = "DNS:" HOST, .serial = 99 },
                  HOST,
                  -EKEYREVOKED,
                  "The master's certificate has been revoked" },
        };
        End c;

        test_revoked_write(&authority, directory, "m.crl", (const long[]){ 99 }, 1, DAY_S);
        assert_ok(tls_context_reload(client));
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int r;

                issue("server", &cases[i].what, &authority);
                r = raw_server(client, "server", cases[i].host, 0, &c);
                if (r != cases[i].error || !strstr(c.why, cases[i].words))
                        fail_msg("case %zu: %d, '%s'", i, r, c.why);
                assert_null(tls_link_identity(c.link));
                end_free(&c);
        }
        assert_error(raw_server(client, "master", HOST, TLS1_2_VERSION, &c), EPROTO);
        assert_non_null(strstr(c.why, "does not speak TLS 1.3"));
        end_free(&c);

        issue("server", &(TestCertificate){ .uris = { "clupy:master" }, .names = "DNS:" HOST },
              &other_authority);
        assert_error(raw_server(client, "server", HOST, 0, &c), EKEYREJECTED);
        assert_non_null(strstr(c.why, "not of this cluster's authority"));
        end_free(&c);
}

/* Data */

static void pump(End *from, End *to, size_t total, size_t write_size, size_t read_size, size_t buffer_size) {
        uint8_t *out = malloc(total), *in = malloc(total);
        size_t written = 0, read = 0;

        for (size_t i = 0; i < total; i++)
                out[i] = (uint8_t) (i * 31 + (i >> 8));
        if (buffer_size > 0) {
                int size = (int) buffer_size;

                assert_ok(setsockopt(from->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
        }
        while (read < total) {
                uint32_t events = 0;
                struct iovec iov[3];
                ssize_t n;

                if (written < total) {
                        /* In three pieces, one of them empty at times; the same bytes again when they were
                         * not taken. */
                        size_t size = MIN(write_size, total - written), first = size / 3,
                               second = size / 2 - first;

                        iov[0] = (struct iovec){ out + written, first };
                        iov[1] = (struct iovec){ out + written + first, second };
                        iov[2] = (struct iovec){ out + written + first + second, size - first - second };
                        n = tls->writev(from->link, from->fd, iov, 3, &events);
                        if (n >= 0)
                                written += (size_t) n;
                        else {
                                assert_int_equal(n, -EAGAIN);
                                assert_int_equal(events, EPOLLOUT);
                        }
                }
                do {
                        size_t size = MIN(read_size, total - read);

                        iov[0] = (struct iovec){ in + read, size / 2 };
                        iov[1] = (struct iovec){ in + read + size / 2, size - size / 2 };
                        n = tls->readv(to->link, to->fd, iov, 2, &events);
                        if (n < 0)
                                assert_int_equal(n, -EAGAIN);
                        else
                                read += (size_t) n;
                } while (n > 0 && read < total);
        }
        assert_memory_equal(in, out, total);
        free(in);
        free(out);
}

static void test_data(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        uint32_t events = 0;
        End s, c;
        uint8_t byte;
        struct iovec iov = { &byte, 1 };

        ends_new(server, client, HOST, &s, &c);
        ends_shake(&s, &c);
        assert_int_equal(tls->readv(s.link, s.fd, &iov, 1, &events), -EAGAIN);
        assert_int_equal(events, EPOLLIN);
        pump(&c, &s, 1000, 1, 1, 0);
        pump(&s, &c, 1000, 1, 1000, 0);
        pump(&c, &s, 100000, 7, 100000, 0);
        pump(&c, &s, 300000, 300000, 3, 0);
        /* What comes together is read together, and nothing that is left is forgotten. */
        pump(&s, &c, 1 << 20, 40000, 1 << 20, 4096);
        pump(&s, &c, 64 << 20, 1 << 20, 100000, 0);
        pump(&c, &s, 64 << 20, 256 << 10, 64 << 10, 0);

        /* The orderly end of one direction: what is under way the other way still comes. */
        assert_ok(tls->shutdown(c.link, c.fd, &events));
        assert_int_equal(tls->readv(s.link, s.fd, &iov, 1, &events), 0);
        pump(&s, &c, 50000, 20000, 20000, 0);
        assert_ok(tls->shutdown(s.link, s.fd, &events));
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), 0);
        end_free(&s);
        end_free(&c);
}

static void test_pending(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        uint8_t bytes[100] = { 0 };
        struct iovec iov = { bytes, 100 };
        uint32_t events = 0;
        End s, c;

        ends_new(server, client, HOST, &s, &c);
        ends_shake(&s, &c);
        assert_false(tls->pending(c.link));
        for (int i = 0; i < 3; i++)
                assert_int_equal(tls->writev(s.link, s.fd, &iov, 1, &events), 100);
        iov.iov_len = 10;
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), 10);
        assert_true(tls->pending(c.link));
        iov.iov_len = 100;
        for (int i = 0; i < 2; i++)
                assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), 100);
        assert_true(tls->pending(c.link));
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), 90);
        assert_false(tls->pending(c.link));
        /* The end came right behind the data: it must not be forgotten either. */
        assert_int_equal(tls->writev(s.link, s.fd, &iov, 1, &events), 100);
        assert_ok(tls->shutdown(s.link, s.fd, &events));
        iov.iov_len = 50;
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), 50);
        iov.iov_len = 100;
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), 50);
        assert_true(tls->pending(c.link));
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), 0);
        end_free(&s);
        end_free(&c);
}

static int bytes_waiting(int fd) {
        int n = 0;

        assert_ok(ioctl(fd, FIONREAD, &n));
        return n;
}

/* What TLS takes for itself ends no read, so that a peer could go on with it for ever; others must get their
 * turn, and the data behind it must come. */
static void test_updates_of_the_key(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        const int buffer_size = 1 << 20;
        size_t size, sent = 0;
        uint32_t events = 0;
        unsigned reads = 0;
        unsigned char *updates;
        uint8_t bytes[100] = { 0 };
        struct iovec iov = { bytes, sizeof(bytes) };
        int pair[2], before;
        ssize_t n;
        SSL *ssl;
        End s;

        assert_non_null(context);
        ssl = SSL_new(context);
        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
        assert_ok(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &buffer_size, sizeof(buffer_size)));
        s = (End){ .fd = pair[0] };
        assert_ok(tls_link_new(server, s.fd, NULL, &s.link));
        assert_int_equal(SSL_set_fd(ssl, pair[1]), 1);
        for (int i = 0; i < 10 && !s.done; i++) {
                (void) SSL_connect(ssl);
                end_step(&s);
        }
        assert_true(s.done && s.result == 0);

        updates = test_key_updates(ssl, 30000, &size);
        while (sent < size) {
                n = send(pair[1], updates + sent, size - sent, 0);
                if (n > 0)
                        sent += (size_t) n;
                before = bytes_waiting(s.fd);
                assert_int_equal(tls->readv(s.link, s.fd, &iov, 1, &events), -EAGAIN);
                assert_int_equal(events, EPOLLIN);
                assert_false(tls->pending(s.link));
                assert_in_range(before - bytes_waiting(s.fd), 1, 192 << 10);
        }
        free(updates);
        assert_int_equal(SSL_write(ssl, bytes, sizeof(bytes)), sizeof(bytes));
        do {
                assert_true(++reads < 100);
                n = tls->readv(s.link, s.fd, &iov, 1, &events);
        } while (n == -EAGAIN && bytes_waiting(s.fd) > 0);
        assert_int_equal(n, sizeof(bytes));
        SSL_free(ssl);
        SSL_CTX_free(context);
        close(pair[1]);
        end_free(&s);
}

/* Revoked while the client lets the end of its handshake wait: its certificate was shown before. */
static void test_revoked_meanwhile(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", "late.crl");
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        uint8_t flight[16 << 10];
        ssize_t n;

        for (int revoked = 0; revoked < 2; revoked++) {
                End s, c;

                ends_new(server, client, HOST, &s, &c);
                end_step(&c);
                end_step(&s);
                end_step(&c);
                assert_true(c.done && c.result == 0);
                n = recv(s.fd, flight, sizeof(flight), 0);
                assert_true(n > 100);
                assert_int_equal(send(c.fd, flight, (size_t) n - 1, 0), n - 1);
                end_step(&s);
                assert_false(s.done);
                if (revoked) {
                        test_revoked_write(&authority, directory, "late.crl", (const long[]){ 11 }, 1,
                                           DAY_S);
                        assert_ok(tls_context_reload(server));
                }
                assert_int_equal(send(c.fd, flight + n - 1, 1, 0), 1);
                end_step(&s);
                assert_true(s.done);
                assert_int_equal(s.result, revoked ? -EKEYREVOKED : 0);
                if (revoked) {
                        assert_non_null(
                                strstr(s.why, "The certificate of user alice (serial 0b) has been revoked"));
                        assert_null(tls_link_identity(s.link));
                } else
                        assert_string_equal(tls_link_identity(s.link)->name, "alice");
                end_free(&s);
                end_free(&c);
        }
}

/* Somebody between the two changes a byte. */
static void test_changed_on_the_way(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        uint8_t bytes[100] = { 0 }, record[200];
        struct iovec iov = { bytes, 100 };
        uint32_t events = 0;
        int between[2];
        ssize_t n;
        End s, c;

        ends_new(server, client, HOST, &s, &c);
        ends_shake(&s, &c);
        assert_int_equal(tls->writev(s.link, s.fd, &iov, 1, &events), 100);
        n = recv(c.fd, record, sizeof(record), 0);
        assert_true(n > 100);
        record[n / 2] ^= 1;
        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, between));
        assert_int_equal(send(s.fd, record, (size_t) n, 0), n);
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), -EPROTO);
        assert_non_null(strstr(tls->why(c.link), "The TLS connection broke"));
        assert_int_equal(tls->readv(c.link, c.fd, &iov, 1, &events), -EPROTO);
        assert_int_equal(tls->writev(c.link, c.fd, &iov, 1, &events), -EPIPE);
        close(between[0]);
        close(between[1]);
        end_free(&s);
        end_free(&c);
}

/* Wherever in the handshake one end goes, the other one is told and does not wait. */
static void test_vanishing(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        unsigned ended = 0;

        for (int step = 0; step < 6; step++)
                for (int who = 0; who < 2; who++) {
                        End s, c, *gone = who ? &s : &c, *left = who ? &c : &s;

                        ends_new(server, client, HOST, &s, &c);
                        for (int i = 0; i < step; i++)
                                end_step(i % 2 ? &s : &c);
                        shutdown(gone->fd, SHUT_RDWR);
                        gone->fd = close_fd(gone->fd);
                        for (int i = 0; i < 10 && !left->done; i++)
                                end_step(left);
                        if (!left->done)
                                fail_msg("step %d, %s left: still waiting", step, who ? "client" : "server");
                        ended += left->result < 0;
                        if (left->result < 0)
                                assert_true(left->result == -ECONNRESET || left->result == -EPIPE);
                        end_free(&s);
                        end_free(&c);
                }
        assert_true(ended >= 6);
}

/* A bytewise handshake: each record in as many pieces as it has bytes. */
static void test_slow(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        int near_client[2], near_server[2];
        End s = { 0 }, c = { 0 };

        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, near_client));
        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, near_server));
        s.fd = near_server[0];
        c.fd = near_client[0];
        assert_ok(tls_link_new(server, s.fd, NULL, &s.link));
        assert_ok(tls_link_new(client, c.fd, HOST, &c.link));
        for (int i = 0; i < 20000 && !(s.done && c.done); i++) {
                uint8_t byte;

                end_step(&c);
                end_step(&s);
                if (recv(near_client[1], &byte, 1, 0) == 1)
                        assert_int_equal(send(near_server[1], &byte, 1, 0), 1);
                if (recv(near_server[1], &byte, 1, 0) == 1)
                        assert_int_equal(send(near_client[1], &byte, 1, 0), 1);
        }
        assert_int_equal(s.result, 0);
        assert_true(s.done && c.done);
        assert_string_equal(tls_link_identity(s.link)->name, "alice");
        close(near_client[1]);
        close(near_server[1]);
        end_free(&s);
        end_free(&c);
}

static void test_plaintext(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *server =
                context_of(TLS_SERVER, IDENTITY_MASTER, "master", NULL);
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        uint8_t answer[1024] = { 0 };
        End s, c;

        /* Ours, in plaintext: told so in plaintext. */
        ends_new(server, client, HOST, &s, &c);
        assert_int_equal(send(c.fd, "CLPY\1\1", 6, 0), 6);
        end_step(&s);
        assert_int_equal(s.result, -EPROTONOSUPPORT);
        assert_non_null(strstr(s.why, "speaks plaintext to an address for TLS"));
        assert_true(recv(c.fd, answer, sizeof(answer) - 1, 0) > 24);
        assert_memory_equal(answer, "CLPY\1\3", 6);
        assert_non_null(strstr((char *) answer + 24, "\"error\":\"not-allowed\""));
        end_free(&s);
        end_free(&c);

        ends_new(server, client, HOST, &s, &c);
        end_step(&c);
        assert_int_equal(send(s.fd, "CLPY\1\3", 6, 0), 6);
        end_step(&c);
        assert_int_equal(c.result, -EPROTONOSUPPORT);
        assert_non_null(strstr(c.why, "The other end speaks plaintext there"));
        end_free(&s);
        end_free(&c);

        ends_new(server, client, HOST, &s, &c);
        assert_int_equal(send(c.fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
        end_step(&s);
        assert_int_equal(s.result, -EPROTO);
        assert_non_null(strstr(s.why, "is not TLS"));
        end_free(&s);
        end_free(&c);

        ends_new(server, client, HOST, &s, &c);
        end_step(&c);
        s.fd = close_fd(s.fd);
        end_step(&c);
        assert_true(c.result < 0);
        assert_non_null(strstr(c.why, "does it speak plaintext only there"));
        end_free(&s);
        end_free(&c);
}

static void test_hosts(void **state) {
        _cleanup_(tls_context_unrefp) TlsContext *client =
                context_of(TLS_CLIENT, IDENTITY_USER, "user", NULL);
        TlsLink *link;

        assert_error(tls_link_new(client, -EBADF, "", &link), EINVAL);
        assert_error(tls_link_new(client, -EBADF, NULL, &link), EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),
                cmocka_unit_test(test_no_certificate),
                cmocka_unit_test(test_pinned),
                cmocka_unit_test(test_clients_refused),
                cmocka_unit_test(test_other_authority),
                cmocka_unit_test(test_raw_clients),
                cmocka_unit_test(test_masters_refused),
                cmocka_unit_test(test_data),
                cmocka_unit_test(test_pending),
                cmocka_unit_test(test_updates_of_the_key),
                cmocka_unit_test(test_revoked_meanwhile),
                cmocka_unit_test(test_changed_on_the_way),
                cmocka_unit_test(test_vanishing),
                cmocka_unit_test(test_slow),
                cmocka_unit_test(test_plaintext),
                cmocka_unit_test(test_hosts),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
