/* SPDX-License-Identifier: Apache-2.0 */

/* How many connections a second a master takes, each from connect to its end: TLS 1.3 with certificates on
 * both sides, hello, welcome, goodbye. And the same from a server that does nothing but OpenSSL: what is
 * left of this machine when everything but the cryptography is taken away.
 *
 * usage: handshakes connect HOST PORT PROCESSES COUNT USER [CERTIFICATE KEY AUTHORITY], without files in
 * plaintext; prints one JSON object handshakes serve PORT CERTIFICATE KEY AUTHORITY, one thread, until it is
 * ended */
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HEADER_SIZE = 24, HELLO = 1, WELCOME = 2, GOODBYE = 4, PROCESSES_MAX = 64 };

static double now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static _Noreturn void fail(const char *what) {
        unsigned long error = ERR_peek_error();
        fprintf(stderr, "handshakes: %s: %s\n", what,
                error ? ERR_error_string(error, NULL) : strerror(errno));
        exit(1);
}

static size_t frame(uint8_t *buffer, uint8_t type, const char *json) {
        uint32_t size = htole32((uint32_t) strlen(json));

        memset(buffer, 0, HEADER_SIZE);
        memcpy(buffer, "CLPY\1", 5);
        buffer[5] = type;
        memcpy(buffer + 8, &size, sizeof size);
        memcpy(buffer + HEADER_SIZE, json, strlen(json));
        return HEADER_SIZE + strlen(json);
}

/* As the product sets it up: docs/protocol.md says what is spoken. */
static SSL_CTX *context(bool server, const char *certificate, const char *key, const char *authority) {
        SSL_CTX *made = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

        if (!made || SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION) != 1 ||
            SSL_CTX_set_num_tickets(made, 0) != 1 || SSL_CTX_set1_groups_list(made, "X25519:P-256") != 1 ||
            SSL_CTX_use_certificate_file(made, certificate, SSL_FILETYPE_PEM) != 1 ||
            SSL_CTX_use_PrivateKey_file(made, key, SSL_FILETYPE_PEM) != 1 ||
            SSL_CTX_load_verify_locations(made, authority, NULL) != 1)
                fail(certificate);
        SSL_CTX_set_session_cache_mode(made, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_options(made, SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
        SSL_CTX_set_read_ahead(made, 1);
        SSL_CTX_set_verify(made, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        return made;
}

/* ---- the client */

typedef struct Link {
        int fd;
        SSL *ssl; /* NULL: plaintext */
} Link;

static void link_write(const Link *l, const uint8_t *data, size_t size) {
        if (l->ssl ? SSL_write(l->ssl, data, (int) size) != (int) size
                   : send(l->fd, data, size, 0) != (ssize_t) size)
                fail("write");
}

/* Returns 0 at the end. */
static size_t link_read(const Link *l, uint8_t *data, size_t size) {
        ssize_t n = l->ssl ? SSL_read(l->ssl, data, (int) size) : recv(l->fd, data, size, 0);

        if (n < 0 && !(l->ssl && SSL_get_error(l->ssl, (int) n) == SSL_ERROR_ZERO_RETURN))
                fail("read");
        return n > 0 ? (size_t) n : 0;
}

static void visit(const struct addrinfo *address, SSL_CTX *tls, const char *host, const char *user) {
        Link l = { .fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0) };
        uint8_t buffer[4096];
        char hello[512];
        size_t have = 0;
        uint32_t size;

        if (l.fd < 0 || connect(l.fd, address->ai_addr, address->ai_addrlen) < 0 ||
            setsockopt(l.fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)) < 0)
                fail("connect");
        if (tls) {
                l.ssl = SSL_new(tls);
                if (!l.ssl || SSL_set_fd(l.ssl, l.fd) != 1 || SSL_set1_host(l.ssl, host) != 1 ||
                    SSL_connect(l.ssl) != 1)
                        fail("TLS");
        }
        snprintf(hello, sizeof hello,
                 "{\"role\":\"operator\",\"protocol\":[1,1],\"software\":\"bench\",\"user\":\"%s\"}", user);
        link_write(&l, buffer, frame(buffer, HELLO, hello));
        do {
                size_t n = link_read(&l, buffer + have, sizeof buffer - have);
                if (n == 0) {
                        errno = ECONNRESET;
                        fail("no welcome");
                }
                have += n;
                memcpy(&size, buffer + 8, sizeof size);
        } while (have < HEADER_SIZE || have < HEADER_SIZE + le32toh(size));
        if (buffer[5] != WELCOME) {
                fprintf(stderr, "handshakes: refused: %.*s\n", (int) le32toh(size), buffer + HEADER_SIZE);
                exit(1);
        }
        link_write(&l, buffer, frame(buffer, GOODBYE, "{}"));
        /* The server ends first: the socket that is kept for a minute is on its side. */
        while (link_read(&l, buffer, sizeof buffer) > 0)
                ;
        SSL_free(l.ssl);
        close(l.fd);
}

static int compare(const void *left, const void *right) {
        double l = *(const double *) left, r = *(const double *) right;
        return l < r ? -1 : l > r;
}

static int run_clients(char **argv, int argc) {
        const char *host = argv[0], *user = argv[4];
        unsigned processes = (unsigned) atoi(argv[2]), each = (unsigned) atoi(argv[3]) / (processes ?: 1),
                 total;
        SSL_CTX *tls = argc == 8 ? context(false, argv[5], argv[6], argv[7]) : NULL;
        struct addrinfo *address;
        double *took, begin;
        int status;

        if (processes == 0 || processes > PROCESSES_MAX || each == 0)
                return fprintf(stderr, "handshakes: 1 to %d processes, a connection or more for each\n",
                               PROCESSES_MAX),
                       2;
        if (getaddrinfo(host, argv[1], &(struct addrinfo){ .ai_socktype = SOCK_STREAM }, &address) != 0)
                fail(host);
        total = processes * each;
        took = mmap(NULL, total * sizeof *took, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (took == MAP_FAILED)
                fail("mmap");
        begin = now();
        for (unsigned p = 0; p < processes; p++) {
                pid_t pid = fork();
                if (pid < 0)
                        fail("fork");
                if (pid > 0)
                        continue;
                for (unsigned i = 0; i < each; i++) {
                        double start = now();
                        visit(address, tls, host, user);
                        took[p * each + i] = now() - start;
                }
                _exit(0);
        }
        for (unsigned p = 0; p < processes; p++)
                if (wait(&status) < 0 || status != 0)
                        return 1;
        printf("{\"connections\": %u, \"processes\": %u, \"per_second\": %.1f, ", total, processes,
               total / (now() - begin));
        qsort(took, total, sizeof *took, compare);
        printf("\"p50_ms\": %.3f, \"p99_ms\": %.3f}\n", took[total / 2] * 1000,
               took[total * 99 / 100] * 1000);
        return 0;
}

/* ---- the bare server */

typedef struct Guest {
        int fd;
        bool shaken, welcomed;
        SSL *ssl;
} Guest;

/* As far as it goes now. Returns whether the guest stays. */
static bool guest_step(Guest *g) {
        static const char welcome[] =
                "{\"protocol\":1,\"software\":\"bench\",\"python\":\"3.11.2\",\"epoch\":1,"
                "\"session_kept\":false,\"heartbeat_ms\":1000,\"lease_ms\":10000,"
                "\"task_window\":20000,\"insecure\":false}";
        uint8_t buffer[4096];
        int r;

        if (!g->shaken) {
                r = SSL_accept(g->ssl);
                if (r != 1)
                        return SSL_get_error(g->ssl, r) == SSL_ERROR_WANT_READ;
                g->shaken = true;
        }
        for (;;) {
                /* Each of the client's frames is one record. */
                r = SSL_read(g->ssl, buffer, sizeof buffer);
                if (r <= 0)
                        return SSL_get_error(g->ssl, r) == SSL_ERROR_WANT_READ;
                if (g->welcomed) {
                        (void) SSL_shutdown(g->ssl);
                        return false;
                }
                if (SSL_write(g->ssl, buffer, (int) frame(buffer, WELCOME, welcome)) <= 0)
                        return false;
                g->welcomed = true;
        }
}

static void guest_new(int epoll, int fd, SSL_CTX *tls) {
        Guest *g = calloc(1, sizeof *g);

        if (!g)
                fail("calloc");
        *g = (Guest){ .fd = fd, .ssl = SSL_new(tls) };
        if (!g->ssl || SSL_set_fd(g->ssl, fd) != 1 ||
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)) < 0 ||
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN, .data.ptr = g }) <
                    0)
                fail("a guest");
}

static int serve(char **argv) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t) atoi(argv[0])) };
        SSL_CTX *tls = context(true, argv[1], argv[2], argv[3]);
        int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
            epoll = epoll_create1(0);

        if (listening < 0 || epoll < 0 ||
            setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) < 0 ||
            bind(listening, (struct sockaddr *) &address, sizeof address) < 0 ||
            listen(listening, 512) < 0 ||
            epoll_ctl(epoll, EPOLL_CTL_ADD, listening, &(struct epoll_event){ .events = EPOLLIN }) < 0)
                fail("listen");
        for (;;) {
                struct epoll_event events[64];
                int n = epoll_wait(epoll, events, 64, -1);

                for (int i = 0; i < n; i++) {
                        Guest *g = events[i].data.ptr;
                        int fd;

                        if (!g) {
                                while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >=
                                       0)
                                        guest_new(epoll, fd, tls);
                                continue;
                        }
                        ERR_clear_error();
                        if (guest_step(g))
                                continue;
                        SSL_free(g->ssl);
                        close(g->fd);
                        free(g);
                }
        }
}

int main(int argc, char **argv) {
        if (argc >= 2 && strcmp(argv[1], "connect") == 0 && (argc == 7 || argc == 10))
                return run_clients(argv + 2, argc - 2);
        if (argc == 6 && strcmp(argv[1], "serve") == 0)
                return serve(argv + 2);
        fprintf(stderr,
                "usage: handshakes connect HOST PORT PROCESSES COUNT USER [CERTIFICATE KEY AUTHORITY]\n"
                "       handshakes serve PORT CERTIFICATE KEY AUTHORITY\n");
        return 2;
}
