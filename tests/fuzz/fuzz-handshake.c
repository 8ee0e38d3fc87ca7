/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "certificates.h"
#include "connection-tls.h"
#include "tls-context.h"

/* Strangers at a TLS handshake, and somebody between two who know each other. The first byte of an input
 * says who: the rest goes to a master ('0') or to a client ('1') as it is; or it says what becomes of the
 * bytes that a client sends to a master ('2'), or that either sends to the other ('3'): groups of three, of
 * which the first is a distance, the second is the value that the byte there is changed with, the third cuts
 * the stream into pieces. */

static TlsContext *server_context, *client_context;
static char directory[] = "/tmp/clupy-fuzz-XXXXXX";

static void remove_directory(void) {
        static const char *const names[] = { "ca.crt",     "ca.key",   "master.crt",
                                             "master.key", "user.crt", "user.key" };
        char path[128];

        tls_context_unref(server_context);
        tls_context_unref(client_context);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
                (void) unlink(path);
        }
        (void) rmdir(directory);
}

static TlsContext *context_new(TlsSide side, IdentityRole role, const char *name) {
        char certificate[128], key[128], authority[128], *message = NULL;
        const TlsContextOptions options = {
                .side = side,
                .role = role,
                .paths = { .certificate = certificate, .key = key, .authority = authority },
        };
        TlsContext *c = NULL;

        snprintf(certificate, sizeof(certificate), "%s/%s.crt", directory, name);
        snprintf(key, sizeof(key), "%s/%s.key", directory, name);
        snprintf(authority, sizeof(authority), "%s/ca.crt", directory);
        CHECK(tls_context_new(NULL, &options, NULL, NULL, &c, &message) >= 0);
        return c;
}

static void prepare(void) {
        TestCredential ca, master, user;

        CHECK(mkdtemp(directory));
        ca = test_credential_new(&(TestCertificate){ .authority = true, .ends_s = 1 << 28 }, NULL);
        master = test_credential_new(
                &(TestCertificate){ .uris = { "clupy:master" }, .names = "DNS:master", .ends_s = 1 << 28 },
                &ca);
        user = test_credential_new(&(TestCertificate){ .uris = { "clupy:user:alice" }, .ends_s = 1 << 28 },
                                   &ca);
        test_credential_write(&ca, directory, "ca");
        test_credential_write(&master, directory, "master");
        test_credential_write(&user, directory, "user");
        test_credential_done(&ca);
        test_credential_done(&master);
        test_credential_done(&user);
        server_context = context_new(TLS_SERVER, IDENTITY_MASTER, "master");
        client_context = context_new(TLS_CLIENT, IDENTITY_USER, "user");
        CHECK(atexit(remove_directory) == 0);
}

typedef struct End {
        TlsLink *link;
        int fd, other; /* its socket, and the far end of that */
        bool shaken, over;
} End;

static const ConnectionTransport *const tls = &CONNECTION_TRANSPORT_TLS;

static void end_new(End *e, TlsContext *context, const char *host) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) >= 0);
        *e = (End){ .fd = pair[0], .other = pair[1] };
        CHECK(tls_link_new(context, e->fd, host, &e->link) >= 0);
}

static void end_free(End *e) {
        tls->close(e->link);
        close(e->fd);
        close(e->other);
}

/* What a connection does when its socket has something. */
static void end_step(End *e, IdentityRole expected) {
        uint8_t buffer[2][600];
        struct iovec iov[2] = { { buffer[0], 100 }, { buffer[1], sizeof(buffer[1]) } };
        uint32_t events = 0;
        ssize_t n;

        if (e->over)
                return;
        if (!e->shaken) {
                int r = tls->handshake(e->link, e->fd, &events);

                CHECK(r <= 0);
                e->over = r < 0 && r != -EAGAIN;
                e->shaken = r == 0;
                if (r != 0)
                        CHECK(!tls_link_identity(e->link));
                if (e->over)
                        CHECK(tls->why(e->link));
        }
        if (!e->shaken)
                return;
        /* Nobody gets here who does not have the key of a certificate. */
        if (tls_link_identity(e->link))
                CHECK(tls_link_identity(e->link)->role == expected);
        do
                n = tls->readv(e->link, e->fd, iov, 2, &events);
        while (n > 0);
        if (n != -EAGAIN)
                e->over = true;
        else
                CHECK(!tls->pending(e->link));
        if (!e->over && tls->writev(e->link, e->fd, iov, 2, &events) < 0)
                e->over = true;
}

static void fuzz_raw(End *e, IdentityRole expected, const uint8_t *data, size_t size) {
        uint8_t answer[4096];

        end_step(e, expected);
        while (size > 0 && !e->over) {
                /* In pieces of different sizes. */
                size_t piece = MIN(size, (size_t) (data[0] % 64) * 16 + 1);
                ssize_t n = send(e->other, data, piece, MSG_NOSIGNAL);

                if (n <= 0)
                        break;
                data += n;
                size -= (size_t) n;
                end_step(e, expected);
                while (recv(e->other, answer, sizeof(answer), 0) > 0)
                        ;
        }
        CHECK(!e->shaken);
        shutdown(e->other, SHUT_WR);
        end_step(e, expected);
        CHECK(e->over);
}

/* Carries what one end has sent to the other, and changes some of it. Returns whether there was anything. */
static bool carry(End *from, End *to, IdentityRole expected, const uint8_t **data, size_t *size,
                  bool change) {
        static uint8_t buffer[32 << 10];
        ssize_t n = recv(from->other, buffer, sizeof(buffer), 0);
        size_t at = 0, sent = 0;

        if (n <= 0)
                return false;
        while (change && *size >= 3) {
                size_t piece;

                at += (size_t) (*data)[0] * 8 + (*data)[1] % 8;
                if (at >= (size_t) n)
                        break;
                buffer[at] ^= (*data)[1];
                piece = MIN((size_t) (*data)[2] * 4, (size_t) n - sent);
                if (piece > 0 && sent + piece <= at &&
                    send(to->other, buffer + sent, piece, MSG_NOSIGNAL) > 0) {
                        sent += piece;
                        end_step(to, expected);
                }
                *data += 3;
                *size -= 3;
        }
        if (sent < (size_t) n)
                (void) send(to->other, buffer + sent, (size_t) n - sent, MSG_NOSIGNAL);
        return true;
}

static void fuzz_between(const uint8_t *data, size_t size, bool both) {
        End server, client;
        bool moved = true;

        end_new(&server, server_context, NULL);
        end_new(&client, client_context, "master");
        for (int i = 0; i < 8 && moved; i++) {
                end_step(&client, IDENTITY_MASTER);
                moved = carry(&client, &server, IDENTITY_USER, &data, &size, true);
                end_step(&server, IDENTITY_USER);
                moved |= carry(&server, &client, IDENTITY_MASTER, &data, &size, both);
        }
        if (size == 0 && server.shaken && tls_link_identity(server.link))
                CHECK(streq(tls_link_identity(server.link)->name, "alice"));
        end_free(&client);
        end_free(&server);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        End e;

        if (!server_context)
                prepare();
        if (size == 0)
                return 0;
        switch (data[0] % 4) {
        case 0:
                end_new(&e, server_context, NULL);
                fuzz_raw(&e, IDENTITY_USER, data + 1, size - 1);
                end_free(&e);
                break;
        case 1:
                end_new(&e, client_context, "master");
                fuzz_raw(&e, IDENTITY_MASTER, data + 1, size - 1);
                end_free(&e);
                break;
        default:
                fuzz_between(data + 1, size - 1, data[0] % 4 == 3);
        }
        return 0;
}
