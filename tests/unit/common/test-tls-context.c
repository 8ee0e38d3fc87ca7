/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "certificates.h"
#include "connection-internal.h"
#include "json-util.h"
#include "listener.h"
#include "time-util.h"
#include "tls-context.h"

/* The files behind TLS, how they change under a daemon, and whole connections over it. */

#define DAY_S (24 * 3600)

static sd_event *event;
static char *directory;
static TestCredential authority;
static char paths[4][256]; /* master.crt, master.key, ca.crt, ca.crl */

static const TestCertificate master_certificate = { .uris = { "clupy:master" },
                                                    .names = "DNS:localhost,IP:127.0.0.1",
                                                    .serial = 10,
                                                    .ends_s = 365 * DAY_S };

#define RUN_UNTIL(condition)                                                                                \
        for (uint64_t _end = now_usec(CLOCK_MONOTONIC) + 20 * USEC_PER_SEC; !(condition);) {                \
                if (now_usec(CLOCK_MONOTONIC) > _end)                                                       \
                        fail_msg("not within 20 s: %s", #condition);                                        \
                assert_ok(sd_event_run(event, 100 * USEC_PER_MSEC));                                        \
        }

static void issue(const char *name, const TestCertificate *what) {
        TestCredential c = test_credential_new(what, &authority);

        test_credential_write(&c, directory, name);
        test_credential_done(&c);
}

static int setup(void **state) {
        static const char *const names[] = { "master.crt", "master.key", "ca.crt", "ca.crl" };

        assert_ok(sd_event_new(&event));
        directory = test_directory();
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                snprintf(paths[i], sizeof(paths[i]), "%s/%s", directory, names[i]);
        authority =
                test_credential_new(&(TestCertificate){ .authority = true, .ends_s = 3650 * DAY_S }, NULL);
        test_credential_write(&authority, directory, "ca");
        issue("master", &master_certificate);
        issue("user",
              &(TestCertificate){ .uris = { "clupy:user:alice" }, .usage = "clientAuth", .serial = 11 });
        return 0;
}

static int teardown(void **state) {
        test_credential_done(&authority);
        test_directory_remove(directory);
        event = sd_event_unref(event);
        return 0;
}

static TlsContextOptions master_options(void) {
        return (TlsContextOptions){ .side = TLS_SERVER,
                                    .role = IDENTITY_MASTER,
                                    .paths = { paths[0], paths[1], paths[2], paths[3] } };
}

/* What is wrong with files is said by name, and what to do. */

static void wrong(const TlsContextOptions *options, const char *file, const char *words) {
        _cleanup_(freep) char *message = NULL;
        TlsContext *c = NULL;
        int r = tls_context_new(NULL, options, NULL, NULL, &c, &message);

        if (r >= 0)
                fail_msg("'%s' was taken, expected '%s'", file, words);
        assert_null(c);
        assert_non_null(message);
        if (!strstr(message, file) || !strstr(message, words))
                fail_msg("'%s' does not say '%s' of '%s'", message, words, file);
}

static void write_text(const char *name, const char *text) {
        char path[256];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        test_file_write(path, text, strlen(text));
        assert_ok(chmod(path, 0600));
}

static void test_wrong_files(void **state) {
        TlsContextOptions options = master_options();
        char path[256], other[256];
        TestCredential second;

        snprintf(path, sizeof(path), "%s/x", directory);
        options.paths.certificate = path;
        wrong(&options, path, "there is no such file: 'clupyctl pki init' makes");
        options.role = IDENTITY_AGENT;
        wrong(&options, path, "'clupy-agent --join MASTER'");
        options.role = IDENTITY_MASTER;
        write_text("x", "junk");
        wrong(&options, path, "is no certificate in PEM form");
        options.paths.certificate = paths[2];
        wrong(&options, paths[2], "has no clupy: name");
        snprintf(other, sizeof(other), "%s/user.crt", directory);
        options.paths.certificate = other;
        wrong(&options, other, "is the certificate of user alice, expected is one for the role master");
        options.paths.certificate = paths[0];

        options.paths.key = path;
        wrong(&options, path, "is no private key in PEM form");
        write_text("x", "none");
        wrong(&options, path, "there is no private key: 'clupyctl pki init'");
        snprintf(other, sizeof(other), "%s/user.key", directory);
        options.paths.key = other;
        wrong(&options, paths[0], "does not belong to the private key in");
        assert_ok(chmod(other, 0604));
        wrong(&options, other, "everybody can get at this private key");
        assert_ok(chmod(other, 0600));
        options.paths.key = paths[1];

        options.paths.authority = paths[0];
        wrong(&options, paths[0], "is not the certificate of an authority");
        second = test_credential_new(&(TestCertificate){ .authority = true }, NULL);
        test_credential_write(&second, directory, "second");
        snprintf(other, sizeof(other), "%s/second.crt", directory);
        options.paths.authority = other;
        wrong(&options, paths[0], "was not issued by the authority in");
        options.paths.authority = paths[2];

        options.paths.revoked = path;
        wrong(&options, path, "is no revocation list in PEM form");
        test_revoked_write(&second, directory, "x", NULL, 0, DAY_S);
        wrong(&options, path, "is not a revocation list of this cluster's authority");
        test_credential_done(&second);
}

/* Changes under a daemon */

typedef struct Watcher {
        unsigned changed, failed;
        char message[512];
} Watcher;

static void on_changed(TlsContext *c, void *userdata) {
        ((Watcher *) userdata)->changed++;
}

static void on_failed(TlsContext *c, const char *message, void *userdata) {
        Watcher *w = userdata;

        w->failed++;
        snprintf(w->message, sizeof(w->message), "%s", message);
}

static const TlsContextHandlers handlers = { .changed = on_changed, .failed = on_failed };

static bool warns(const TlsContext *c, uint64_t now, const char *words) {
        _cleanup_(strv_freep) char **list = NULL;
        int n = tls_context_warnings(c, now, &list);
        bool found = false;

        assert_ok(n);
        assert_int_equal(n, strv_length(list));
        for (char **s = list; s && *s; s++)
                found |= strstr(*s, words) != NULL;
        return found;
}

static void test_reload(void **state) {
        const TlsContextOptions options = master_options();
        _cleanup_(tls_context_unrefp) TlsContext *c = NULL;
        _cleanup_(freep) char *message = NULL;
        uint64_t now = now_usec(CLOCK_REALTIME), first;
        Watcher w = { 0 };
        TestCredential old, renewed;
        unsigned generation;

        /* A good key to renew with. */
        old = test_credential_new(&master_certificate, &authority);
        test_credential_write(&old, directory, "master");
        (void) unlink(paths[3]);
        assert_ok(tls_context_new(event, &options, &handlers, &w, &c, &message));
        first = tls_context_expires(c);
        generation = tls_context_generation(c);
        assert_true(first > now + 364 * USEC_PER_DAY && first < now + 366 * USEC_PER_DAY);
        assert_false(warns(c, now, ""));
        assert_true(warns(c, first - 10 * USEC_PER_DAY, "master.crt expires in 10 days"));
        assert_true(warns(c, first - 30 * USEC_PER_DAY + USEC_PER_HOUR, "'clupyctl pki renew'"));
        assert_false(warns(c, first - 30 * USEC_PER_DAY, ""));
        assert_true(warns(c, first + 1, "master.crt has expired on 20"));

        /* Renewed with the same key. */
        renewed = test_credential_renew(&(TestCertificate){ .uris = { "clupy:master" },
                                                            .names = "DNS:localhost,IP:127.0.0.1",
                                                            .serial = 12,
                                                            .ends_s = 500 * DAY_S },
                                        &authority, &old);
        test_credential_write(&renewed, directory, "master");
        RUN_UNTIL(w.changed == 1);
        assert_true(tls_context_expires(c) > first + 100 * USEC_PER_DAY);
        assert_int_equal(tls_context_generation(c), generation);

        /* Half a file, and what follows it. */
        write_text("master.crt", "-----BEGIN CERTIFICATE-----\nMIIB");
        RUN_UNTIL(w.failed == 1);
        assert_non_null(strstr(w.message, "is no certificate in PEM form"));
        assert_true(tls_context_expires(c) > first);
        assert_true(warns(c, now, "what was read before stays in force"));
        test_credential_write(&old, directory, "master");
        RUN_UNTIL(w.changed == 2);
        assert_false(warns(c, now, ""));
        assert_int_equal(tls_context_expires(c), first);

        /* The list of those revoked: made, grown, past its date, broken, gone. */
        assert_ok(tls_context_check_certificate(c, generation, old.certificate));
        test_revoked_write(&authority, directory, "ca.crl", (const long[]){ 7 }, 1, DAY_S);
        RUN_UNTIL(w.changed == 3);
        assert_ok(tls_context_check_certificate(c, generation, old.certificate));
        test_revoked_write(&authority, directory, "ca.crl", (const long[]){ 7, 10 }, 2, -60);
        RUN_UNTIL(w.changed == 4);
        assert_error(tls_context_check_certificate(c, generation, old.certificate), EKEYREVOKED);
        assert_ok(tls_context_check_certificate(c, generation, renewed.certificate));
        assert_true(warns(c, now, "ca.crl should have been renewed"));
        write_text("ca.crl", "junk");
        RUN_UNTIL(w.failed == 2);
        assert_error(tls_context_check_certificate(c, generation, old.certificate), EKEYREVOKED);
        assert_ok(unlink(paths[3]));
        RUN_UNTIL(w.failed == 3);
        assert_non_null(strstr(w.message, "the revocation list has gone"));
        assert_error(tls_context_check_certificate(c, generation, old.certificate), EKEYREVOKED);
        test_revoked_write(&authority, directory, "ca.crl", NULL, 0, DAY_S);
        RUN_UNTIL(w.changed == 5);
        assert_ok(tls_context_check_certificate(c, generation, old.certificate));

        /* Another authority, and everything of it: what the former one issued is not accepted any more. */
        {
                TestCredential next = test_credential_new(
                        &(TestCertificate){ .authority = true, .ends_s = 3650 * DAY_S }, NULL);
                TestCredential master = test_credential_new(&master_certificate, &next);

                test_credential_write(&next, directory, "ca");
                test_credential_write(&master, directory, "master");
                test_revoked_write(&next, directory, "ca.crl", NULL, 0, DAY_S);
                RUN_UNTIL(w.changed >= 6);
                assert_true(tls_context_generation(c) != generation);
                assert_error(tls_context_check_certificate(c, generation, old.certificate), EKEYREJECTED);
                test_credential_done(&next);
                test_credential_done(&master);
        }
        test_credential_write(&authority, directory, "ca");
        test_credential_write(&old, directory, "master");
        test_revoked_write(&authority, directory, "ca.crl", NULL, 0, DAY_S);
        test_credential_done(&old);
        test_credential_done(&renewed);
}

/* Connections */

typedef struct End {
        Connection *c;
        unsigned frames, connected, closed;
        uint64_t bytes;
        int error;
        char why[640];
        bool pause_each;
} End;

static End server_end;

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        End *end = userdata;

        end->frames++;
        for (size_t i = 0; i < frame->n_payloads; i++)
                end->bytes += frame->payloads[i].iov_len;
        if (end->pause_each)
                connection_pause(c, true);
        return 0;
}

static void on_connected(Connection *c, void *userdata) {
        ((End *) userdata)->connected++;
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        End *end = userdata;

        end->closed++;
        end->error = error;
        snprintf(end->why, sizeof(end->why), "%s", why);
        end->c = connection_unref(end->c);
}

static const ConnectionHandlers connection_handlers = { .frame = on_frame,
                                                        .connected = on_connected,
                                                        .closed = on_closed };

/* The bytes before the hello of those that are taken next, 0: any number. */
static uint64_t hello_bytes;

static int on_accept(Listener *l, Connection *c, void *userdata) {
        server_end.c = connection_ref(c);
        connection_set_handlers(c, NULL, &server_end);
        return 0;
}

static Listener *listen_on(TlsContext *tls) {
        const ListenerOptions options = { .handlers = &connection_handlers,
                                          .tls = tls,
                                          .hello_bytes = hello_bytes };
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        Listener *l;

        assert_ok(listener_new(event, (struct sockaddr *) &address, sizeof(address), &options, on_accept,
                               NULL, &l));
        return l;
}

static void dial(const Listener *l, TlsContext *tls, const char *host, End *end) {
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_port = htons(listener_port(l)),
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

        server_end = (End){ 0 };
        *end = (End){ 0 };
        assert_ok(connection_new_outgoing_tls(event, (struct sockaddr *) &address, sizeof(address), tls,
                                              host, &connection_handlers, end, &end->c));
}

static TlsContext *client_context(const char *name) {
        _cleanup_(freep) char *certificate = strformat("%s/%s.crt", directory, name);
        _cleanup_(freep) char *key = strformat("%s/%s.key", directory, name), *message = NULL;
        const TlsContextOptions options = { .side = TLS_CLIENT,
                                            .role = IDENTITY_USER,
                                            .paths = { certificate, key, paths[2], NULL } };
        TlsContext *c = NULL;

        if (tls_context_new(NULL, &options, NULL, NULL, &c, &message) < 0)
                fail_msg("%s", message);
        return c;
}

static void test_connection(void **state) {
        const TlsContextOptions options = master_options();
        _cleanup_(tls_context_unrefp) TlsContext *server = NULL, *client = client_context("user");
        _cleanup_(listener_freep) Listener *l = NULL;
        _cleanup_(freep) char *message = NULL;
        static uint8_t payload[256 << 10];
        const struct iovec iov = { payload, sizeof(payload) };
        const char *why;
        End end;

        assert_ok(tls_context_new(event, &options, NULL, NULL, &server, &message));
        l = listen_on(server);
        dial(l, client, "localhost", &end);
        /* What is sent before the link is up waits for it. */
        assert_ok(connection_send_text(end.c, FRAME_HELLO, "{}", 2, NULL, 0));
        assert_null(connection_identity(end.c));
        RUN_UNTIL(server_end.frames == 1);
        assert_int_equal(end.connected, 1);
        assert_true(connection_is_secure(end.c) && connection_is_secure(server_end.c));
        assert_string_equal(connection_identity(server_end.c)->name, "alice");
        assert_int_equal(connection_identity(end.c)->role, IDENTITY_MASTER);
        connection_established(end.c);
        connection_established(server_end.c);

        /* 64 MiB each way at once, with a reader that rests after each frame. */
        server_end.pause_each = true;
        for (unsigned i = 0; i < 255; i++) {
                assert_ok(connection_send_text(end.c, FRAME_DATA, "{}", 2, &iov, 1));
                assert_ok(connection_send_text(server_end.c, FRAME_DATA, "{}", 2, &iov, 1));
        }
        while (server_end.frames < 256 || end.frames < 255) {
                unsigned before = server_end.frames;

                RUN_UNTIL(server_end.frames > before || server_end.frames == 256);
                connection_pause(server_end.c, false);
                if (server_end.frames == 256)
                        RUN_UNTIL(end.frames == 255);
        }
        assert_true(server_end.bytes == 255 * sizeof(payload) && end.bytes == server_end.bytes);
        server_end.pause_each = false;
        connection_pause(server_end.c, false);

        /* Revoked while it is open. */
        assert_ok(connection_check_peer(server_end.c, &why));
        test_revoked_write(&authority, directory, "ca.crl", (const long[]){ 11 }, 1, DAY_S);
        assert_ok(tls_context_reload(server));
        assert_error(connection_check_peer(server_end.c, &why), EKEYREVOKED);
        assert_non_null(strstr(why, "The certificate of user alice (serial 0b) has been revoked"));
        assert_ok(connection_check_peer(end.c, &why));
        connection_close(server_end.c, -EKEYREVOKED, why);
        RUN_UNTIL(end.closed && server_end.closed);
        assert_int_equal(end.error, 0);

        /* And not let in again; the client is told why, though it learns late. */
        dial(l, client, "localhost", &end);
        assert_ok(connection_send_text(end.c, FRAME_HELLO, "{}", 2, NULL, 0));
        RUN_UNTIL(end.closed && server_end.closed);
        assert_int_equal(server_end.error, -EKEYREVOKED);
        assert_int_equal(server_end.frames, 0);
        assert_int_equal(end.error, -EKEYREVOKED);
        assert_non_null(strstr(end.why, "user.crt: it has been revoked"));
        test_revoked_write(&authority, directory, "ca.crl", NULL, 0, DAY_S);
        assert_ok(tls_context_reload(server));

        dial(l, client, "127.0.0.2", &end);
        RUN_UNTIL(end.closed && server_end.closed);
        assert_int_equal(end.connected, 0);
        assert_non_null(strstr(end.why, "is not for 127.0.0.2"));

        /* The orderly end: all that was sent arrives before it. */
        dial(l, client, "localhost", &end);
        RUN_UNTIL(end.connected == 1);
        assert_ok(connection_send_text(end.c, FRAME_GOODBYE, "{}", 2, NULL, 0));
        connection_finish(end.c, 0, "done");
        RUN_UNTIL(end.closed && server_end.closed);
        assert_int_equal(server_end.frames, 1);
        assert_int_equal(server_end.error, 0);
        assert_int_equal(end.error, 0);
        assert_string_equal(end.why, "done");

        /* One that just goes. */
        dial(l, client, "localhost", &end);
        RUN_UNTIL(end.connected == 1 && server_end.c && connection_identity(server_end.c));
        end.c = connection_unref(end.c);
        RUN_UNTIL(server_end.closed);
        assert_int_equal(server_end.error, 0);
}

static void test_mismatch(void **state) {
        const TlsContextOptions options = master_options();
        _cleanup_(tls_context_unrefp) TlsContext *server = NULL, *client = client_context("user");
        _cleanup_(listener_freep) Listener *secure = NULL, *plain = NULL;
        _cleanup_(freep) char *message = NULL;
        End end;

        assert_ok(tls_context_new(event, &options, NULL, NULL, &server, &message));
        secure = listen_on(server);
        plain = listen_on(NULL);

        dial(plain, client, "localhost", &end);
        RUN_UNTIL(end.closed && server_end.closed);
        assert_int_equal(server_end.error, -EPROTONOSUPPORT);
        assert_non_null(strstr(server_end.why, "speaks TLS to an address for plaintext"));
        assert_non_null(strstr(end.why, "does it speak plaintext only there"));

        dial(secure, NULL, NULL, &end);
        assert_ok(connection_send_text(end.c, FRAME_HELLO, "{}", 2, NULL, 0));
        RUN_UNTIL(end.closed && server_end.closed);
        assert_int_equal(server_end.error, -EPROTONOSUPPORT);
        assert_int_equal(end.frames, 1); /* REFUSED */
}

/* Somebody who connects and says nothing. */
static void test_silence(void **state) {
        const TlsContextOptions options = master_options();
        _cleanup_(tls_context_unrefp) TlsContext *server = NULL;
        _cleanup_(listener_freep) Listener *l = NULL;
        _cleanup_(freep) char *message = NULL;
        End end;

        assert_ok(tls_context_new(event, &options, NULL, NULL, &server, &message));
        l = listen_on(server);
        dial(l, NULL, NULL, &end);
        RUN_UNTIL(server_end.c);
        connection_set_hello_limits(server_end.c, 50 * USEC_PER_MSEC, 0);
        RUN_UNTIL(end.closed && server_end.closed);
        assert_int_equal(server_end.error, -ETIMEDOUT);
        assert_non_null(strstr(server_end.why, "The TLS handshake with 127.0.0.1:"));
}

/* Somebody without a certificate who sends no hello, but what TLS takes for itself, as long as it goes. */
static void test_flood(void **state) {
        const TlsContextOptions options = master_options();
        _cleanup_(tls_context_unrefp) TlsContext *server = NULL;
        _cleanup_(listener_freep) Listener *l = NULL;
        _cleanup_(freep) char *message = NULL;
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        unsigned char *updates;
        size_t size;

        assert_non_null(context);
        assert_ok(tls_context_new(event, &options, NULL, NULL, &server, &message));
        hello_bytes = 16 << 10;
        l = listen_on(server);
        hello_bytes = 0;
        address.sin_port = htons(listener_port(l));
        for (int accepted = 0; accepted < 2; accepted++) {
                int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
                SSL *ssl = SSL_new(context);
                size_t sent = 0;

                server_end = (End){ 0 };
                assert_ok(connect(fd, (struct sockaddr *) &address, sizeof(address)));
                assert_ok(fcntl(fd, F_SETFL, O_NONBLOCK));
                assert_int_equal(SSL_set_fd(ssl, fd), 1);
                RUN_UNTIL(SSL_connect(ssl) == 1);
                updates = test_key_updates(ssl, 4000, &size);
                assert_true(size > 64 << 10);
                if (accepted)
                        connection_established(server_end.c);
                while (sent < size && !server_end.closed) {
                        ssize_t n = send(fd, updates + sent, MIN(size - sent, (size_t) 4096), MSG_NOSIGNAL);

                        sent += n > 0 ? (size_t) n : 0;
                        assert_ok(sd_event_run(event, 10 * USEC_PER_MSEC));
                }
                free(updates);
                if (accepted) {
                        assert_true(SSL_write(ssl, "CLPY\x01\x01\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0{}",
                                              26) == 26);
                        RUN_UNTIL(server_end.frames == 1);
                        connection_close(server_end.c, 0, NULL);
                }
                RUN_UNTIL(server_end.closed);
                assert_int_equal(server_end.error, accepted ? 0 : -EMSGSIZE);
                if (!accepted) {
                        assert_string_equal(server_end.why, "More was sent than may be before the hello");
                        assert_true(sent <= 64 << 10);
                }
                SSL_free(ssl);
                close(fd);
        }
        SSL_CTX_free(context);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_wrong_files), cmocka_unit_test(test_reload),
                cmocka_unit_test(test_connection),  cmocka_unit_test(test_mismatch),
                cmocka_unit_test(test_silence),     cmocka_unit_test(test_flood),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
