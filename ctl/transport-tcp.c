/* SPDX-License-Identifier: Apache-2.0 */
/* Queries over TCP, with TLS or without, and over the master's UNIX socket: role "operator" of
 * docs/protocol.md. */
#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/un.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>

#include "build-config.h"
#include "client-config.h"
#include "connection.h"
#include "json-util.h"
#include "parse-util.h"
#include "resolver.h"
#include "transport.h"

typedef struct TcpTransport {
        Transport transport;
        sd_event *event;
        Connection *connection;
        TlsContext *tls; /* NULL: plaintext */
        bool known;      /* to the master without being told: by certificate or socket */
        uint64_t patience_usec;

        /* while connecting */
        bool resolved;
        int resolve_error;
        ResolvedAddress addresses[RESOLVER_ADDRESSES_MAX];
        size_t n_addresses;
        bool welcome;

        /* the end of the connection */
        bool closed;
        int error; /* why it ended, and in words */
        char *why;
        char *refused;      /* the master's sentence */
        char *refused_code; /* and its code */

        /* the question under way */
        uint64_t query;
        bool answered; /* last answer has come */
        int stopped;   /* what part returned */
        TransportPart part;
        void *userdata;
        json_object *answer; /* a whole ANSWER */
} TcpTransport;

static uint64_t now_usec(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t) t.tv_sec * 1000000 + (uint64_t) t.tv_nsec / 1000;
}

/* Turns the loop until *flag or the connection's end. Returns false when the time is over. */
static bool tcp_wait(TcpTransport *c, const bool *flag, uint64_t patience_usec) {
        uint64_t until = now_usec() + patience_usec;

        while (!*flag && !c->closed) {
                uint64_t now = now_usec();

                if (patience_usec != UINT64_MAX && now >= until)
                        return false;
                if (sd_event_run(c->event, patience_usec == UINT64_MAX ? UINT64_MAX : until - now) < 0)
                        return false;
        }
        return true;
}

static void tcp_connected(Connection *connection, void *userdata) {
        _cleanup_(json_putp) json_object *hello = NULL;
        const TcpTransport *c = userdata;
        json_object *range;
        char host[HOST_NAME_MAX + 1] = "";
        struct passwd *user = getpwuid(geteuid());
        char number[16];

        gethostname(host, sizeof(host) - 1);
        snprintf(number, sizeof(number), "%u", geteuid());
        if (json_new_object(&hello) < 0 || json_add_string(hello, "role", "operator") < 0 ||
            json_add_new_array(hello, "protocol", &range) < 0 ||
            json_append(range, json_object_new_int(FRAME_PROTOCOL_VERSION)) < 0 ||
            json_append(range, json_object_new_int(FRAME_PROTOCOL_VERSION)) < 0 ||
            json_add_string(hello, "software", CLUPY_VERSION) < 0 ||
            json_add_string(hello, "host", host) < 0 ||
            json_add_uint64(hello, "pid", (uint64_t) getpid()) < 0 ||
            (!c->known && json_add_string(hello, "user", user ? user->pw_name : number) < 0))
                connection_close(connection, -ENOMEM, "out of memory");
        else
                (void) connection_send(connection, FRAME_HELLO, hello, NULL, 0);
}

static int tcp_answer(TcpTransport *c, json_object *answer) {
        json_object *result;
        uint64_t id;
        bool more, ok;

        if (json_get_uint64(answer, "id", INT64_MAX, &id) < 0 || id != c->query || c->answered)
                return 0; /* to a question that nobody asks any more */
        if (json_get_bool_optional(answer, "more", false, &more) < 0 || json_get_bool(answer, "ok", &ok) < 0)
                return -EBADMSG;
        if (c->part && ok) {
                if (json_get_object(answer, "result", &result) < 0)
                        return -EBADMSG;
                if (!c->stopped)
                        c->stopped = c->part(result, c->userdata);
                c->answered = !more || c->stopped;
                return 0;
        }
        json_put(c->answer);
        c->answer = json_object_get(answer);
        c->answered = true;
        return 0;
}

static int tcp_frame(Connection *connection, const Frame *frame, void *userdata) {
        TcpTransport *c = userdata;
        const char *code, *message;

        switch (frame->type) {
        case FRAME_WELCOME:
                connection_established(connection);
                c->welcome = true;
                return 0;
        case FRAME_REFUSED:
                if (frame->json && json_get_string(frame->json, "error", 64, &code) >= 0 &&
                    json_get_string(frame->json, "message", 4096, &message) >= 0) {
                        (void) free_and_strdup(&c->refused, message);
                        (void) free_and_strdup(&c->refused_code, code);
                }
                return -ECONNREFUSED;
        case FRAME_ANSWER:
                return frame->json ? tcp_answer(c, frame->json) : -EBADMSG;
        default:
                return 0;
        }
}

static void tcp_closed(Connection *connection, int error, const char *why, void *userdata) {
        TcpTransport *c = userdata;

        c->closed = true;
        c->error = error;
        (void) free_and_strdup(&c->why, why);
}

static const ConnectionHandlers tcp_handlers = {
        .frame = tcp_frame,
        .connected = tcp_connected,
        .closed = tcp_closed,
};

static void tcp_drop(TcpTransport *c) {
        c->connection = connection_unref(c->connection);
        c->closed = c->welcome = false;
        c->why = mfree(c->why);
}

static void tcp_free(Transport *t) {
        TcpTransport *c = (TcpTransport *) t;

        tcp_drop(c);
        tls_context_unref(c->tls);
        free(c->refused);
        free(c->refused_code);
        json_put(c->answer);
        sd_event_unref(c->event);
        free(c);
}

static int tcp_ask(TcpTransport *c, const char *verb, json_object *args, uint64_t patience_usec,
                   QueryError *ret_error) {
        _cleanup_(json_putp) json_object *query = NULL;
        int r;

        c->query++;
        c->answered = false;
        c->stopped = 0;
        c->answer = json_put(c->answer);
        r = json_new_object(&query);
        if (r >= 0)
                r = json_add_uint64(query, "id", c->query);
        if (r >= 0)
                r = json_add_string(query, "verb", verb);
        if (r >= 0)
                r = json_add(query, "args", json_object_get(args));
        if (r >= 0)
                r = connection_send(c->connection, FRAME_QUERY, query, NULL, 0);
        if (r < 0 && r != -ENOTCONN)
                return query_error_set(ret_error, CTL_FAILED, "failed", "The query could not be sent: %s.",
                                       strerror(-r));
        if (!tcp_wait(c, &c->answered, patience_usec))
                return query_error_set(ret_error, CTL_NO_MASTER, "no-master",
                                       "The master at %s has not answered within %s.", c->transport.peer,
                                       FORMAT_DURATION(patience_usec));
        if (!c->answered) {
                if (c->refused)
                        return query_error_set(ret_error, query_error_status(c->refused_code),
                                               c->refused_code, "%s", c->refused);
                return query_error_set(ret_error, CTL_NO_MASTER, "no-master",
                                       "The connection to the master at %s ended: %s.", c->transport.peer,
                                       strempty(c->why));
        }
        return 0;
}

/* The error in an ANSWER that is not ok. */
static int tcp_answer_error(TcpTransport *c, QueryError *ret_error) {
        const char *code, *message;

        if (json_get_string(c->answer, "error", 64, &code) < 0 ||
            json_get_string(c->answer, "message", 65536, &message) < 0)
                return query_error_set(
                        ret_error, CTL_FAILED, "failed",
                        "The master's answer is not what this clupyctl understands: are both of one "
                        "version?");
        return query_error_set(ret_error, query_error_status(code), code, "%s", message);
}

static int tcp_query(Transport *t, const char *verb, json_object *args, json_object **ret,
                     QueryError *ret_error) {
        TcpTransport *c = (TcpTransport *) t;
        json_object *result;
        bool ok;

        c->part = NULL;
        if (tcp_ask(c, verb, args, MAX(c->patience_usec, UINT64_C(30000000)), ret_error) < 0)
                return -1;
        if (json_get_bool(c->answer, "ok", &ok) < 0 || !ok ||
            json_get_object(c->answer, "result", &result) < 0)
                return tcp_answer_error(c, ret_error);
        *ret = json_object_get(result);
        return 0;
}

static int tcp_stream(Transport *t, const char *verb, json_object *args, TransportPart part, void *userdata,
                      QueryError *ret_error) {
        TcpTransport *c = (TcpTransport *) t;

        c->part = part;
        c->userdata = userdata;
        /* Hours may pass between two lines of a log: the link is judged by TCP's own keepalive. */
        if (tcp_ask(c, verb, args, UINT64_MAX, ret_error) < 0)
                return -1;
        if (c->answer)
                return tcp_answer_error(c, ret_error);
        return c->stopped;
}

static const TransportOperations tcp_operations = {
        .query = tcp_query,
        .stream = tcp_stream,
        .free = tcp_free,
};

static void tcp_resolved(Resolver *r, int error, const ResolvedAddress *addresses, size_t n,
                         void *userdata) {
        TcpTransport *c = userdata;

        c->resolved = true;
        c->resolve_error = error;
        c->n_addresses = MIN(n, ELEMENTSOF(c->addresses));
        if (error >= 0)
                memcpy(c->addresses, addresses, c->n_addresses * sizeof(*addresses));
}

/* Appends ", host:port: reason" to what was tried. */
static void note_failure(char **tried, const char *where, const char *reason) {
        char *longer = strformat("%s%s%s: %s", strempty(*tried), *tried ? "; " : "", where, reason);

        if (longer) {
                free(*tried);
                *tried = longer;
        }
}

/* Of a connection that ended before the welcome. Returns -EKEYREJECTED when it is a matter of certificates,
 * else -ENOTCONN. */
static int note_end(TcpTransport *c, const char *where, char **tried) {
        bool certificate = c->error == -EKEYREJECTED || c->error == -EKEYEXPIRED || c->error == -EKEYREVOKED;
        bool tls = c->tls && !startswith(strempty(c->why), "No connection");

        note_failure(tried, where,
                     tls && !isempty(c->why) ? c->why
                     : c->error < 0          ? strerror(-c->error)
                                             : "the connection was closed");
        return certificate ? -EKEYREJECTED : -ENOTCONN;
}

/* Returns 0, -ECONNREFUSED when a master was there and refused, another negative errno after a note in
 * tried. */
static int tcp_try(TcpTransport *c, const Address *address, uint64_t until, char **tried) {
        _cleanup_(resolver_freep) Resolver *resolver = NULL;
        char where[ADDRESS_STRING_SIZE];
        int r;

        address_to_string(address, where);
        c->resolved = false;
        r = resolver_start(c->event, address->host, address->port, tcp_resolved, c, &resolver);
        if (r >= 0 && !tcp_wait(c, &c->resolved, until - MIN(until, now_usec())))
                r = -ETIMEDOUT;
        if (r >= 0 && c->resolve_error < 0)
                r = c->resolve_error;
        if (r < 0) {
                note_failure(tried, where,
                             r == -ENOENT   ? "no such host"
                             : r == -EAGAIN ? "the name service does not answer"
                                            : strerror(-r));
                return r;
        }
        for (size_t i = 0; i < c->n_addresses; i++) {
                tcp_drop(c);
                r = connection_new_outgoing_tls(c->event, (struct sockaddr *) &c->addresses[i].address,
                                                c->addresses[i].size, c->tls, address->host, &tcp_handlers,
                                                c, &c->connection);
                if (r < 0) {
                        note_failure(tried, where, strerror(-r));
                        continue;
                }
                if (!tcp_wait(c, &c->welcome, until - MIN(until, now_usec()))) {
                        note_failure(tried, where, "no answer in time");
                        r = -ETIMEDOUT;
                } else if (c->welcome) {
                        free_and_strdup(&c->transport.peer, where);
                        return 0;
                } else if (c->refused)
                        return -ECONNREFUSED;
                else {
                        r = note_end(c, where, tried);
                        if (r == -EKEYREJECTED)
                                break;
                }
        }
        return r;
}

static int tcp_try_socket(TcpTransport *c, const char *path, uint64_t until, char **tried) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int r;

        if (strlen(path) >= sizeof(address.sun_path)) {
                note_failure(tried, path, strerror(ENAMETOOLONG));
                return -ENAMETOOLONG;
        }
        memcpy(address.sun_path, path, strlen(path) + 1);
        r = connection_new_outgoing(c->event, (struct sockaddr *) &address, sizeof(address), &tcp_handlers,
                                    c, &c->connection);
        if (r < 0) {
                note_failure(tried, path, strerror(-r));
                return r;
        }
        if (!tcp_wait(c, &c->welcome, until - MIN(until, now_usec()))) {
                note_failure(tried, path, "no answer in time");
                return -ETIMEDOUT;
        }
        if (c->welcome) {
                free_and_strdup(&c->transport.peer, path);
                return 0;
        }
        return c->refused ? -ECONNREFUSED : note_end(c, path, tried);
}

/* The files that say who we are, and who the master has to be. */
static int tcp_load_tls(TcpTransport *c, QueryError *ret_error) {
        _cleanup_(client_config_done) ClientConfig config = { 0 };
        _cleanup_(freep) char *message = NULL;
        TlsContextOptions options = { .side = TLS_CLIENT, .role = IDENTITY_USER };
        int r;

        r = client_config_load(&config, &message);
        if (r >= 0 && config.insecure)
                return 0;
        if (r >= 0) {
                options.paths = (TlsPaths){ .certificate = config.certificate,
                                            .key = config.key,
                                            .authority = config.authority };
                r = tls_context_new(NULL, &options, NULL, NULL, &c->tls, &message);
        }
        if (r < 0)
                return query_error_set(ret_error, CTL_FAILED, "configuration", "%s.",
                                       message ?: strerror(-r));
        c->known = true;
        return 0;
}

/* What the user should know of the certificate. Without memory it is not told. */
static void tcp_describe(TcpTransport *c) {
        const Identity *identity = tls_context_identity(c->tls);
        struct timespec now;

        if (!identity)
                return;
        clock_gettime(CLOCK_REALTIME, &now);
        c->transport.own_name = strdup(IDENTITY_STRING(identity));
        c->transport.own_not_after = tls_time_usec(tls_context_not_after(c->tls)) / 1000;
        (void) tls_context_warnings(c->tls, (uint64_t) now.tv_sec * 1000000, &c->transport.warnings);
}

int transport_tcp_open(const char *url, uint64_t patience_usec, Transport **ret, QueryError *ret_error) {
        _cleanup_(freep) Address *addresses = NULL;
        _cleanup_(freep) char *tried = NULL;
        _cleanup_(transport_freep) Transport *transport = NULL;
        const char *plain = startswith(url, "clupy+insecure://"), *path = startswith(url, "unix:");
        TcpTransport *c;
        size_t n = 0;
        int r;

        if (path ? *path != '/' : parse_address_list(plain ?: url, ADDRESS_DEFAULT_PORT, &addresses, &n) < 0)
                return query_error_set(
                        ret_error, CTL_USAGE, "usage",
                        "'%s' is no address of a master: expected one such as clupy://host:7878 "
                        "or unix:/run/clupy/master.sock.",
                        url);
        c = new0(TcpTransport);
        if (!c)
                return query_error_set(ret_error, CTL_FAILED, "failed", "Out of memory.");
        transport = &c->transport;
        c->transport.operations = &tcp_operations;
        c->patience_usec = patience_usec;
        if (sd_event_new(&c->event) < 0)
                return query_error_set(ret_error, CTL_FAILED, "failed", "Out of memory.");
        c->known = path;
        if (!path && !plain && tcp_load_tls(c, ret_error) < 0)
                return -1;
        for (size_t i = 0; i < (path ? 1 : n); i++) {
                char where[ADDRESS_STRING_SIZE];

                if (path)
                        r = tcp_try_socket(c, path, now_usec() + patience_usec, &tried);
                else
                        r = tcp_try(c, &addresses[i], now_usec() + patience_usec, &tried);
                if (r >= 0) {
                        if (c->tls)
                                tcp_describe(c);
                        *ret = TAKE_PTR(transport);
                        return 0;
                }
                if (c->refused)
                        return query_error_set(ret_error, query_error_status(c->refused_code),
                                               c->refused_code, "The master at %s refuses: %s",
                                               path ?: address_to_string(&addresses[i], where), c->refused);
                if (r == -EKEYREJECTED)
                        return query_error_set(ret_error, CTL_NOT_ALLOWED, "not-allowed", "%s.",
                                               strempty(tried));
                tcp_drop(c);
        }
        return query_error_set(
                ret_error, CTL_NO_MASTER, "no-master",
                "No master answers (%s). Is clupy-masterd running there, and does it listen on this "
                "address (`listen` in clupy.master.yaml)? Another address: --master URL or "
                "CLUPY_MASTER_URL.",
                strempty(tried));
}
