/* SPDX-License-Identifier: Apache-2.0 */
#include "master-link.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "build-config.h"
#include "json-util.h"
#include "log.h"
#include "resolver.h"
#include "time-util.h"

#define BACKOFF_FIRST_USEC (100 * USEC_PER_MSEC)
#define BACKOFF_LAST_USEC (5 * USEC_PER_SEC)

/* What a welcome may ask for. */
#define HEARTBEAT_LEAST_MS 100
#define HEARTBEAT_MOST_MS 60000
#define LEASE_MOST_MS (24 * 3600 * 1000)

enum { CODE_MAX = 64, SENTENCE_MAX = 512, HOST_MAX = 255, WHY_SIZE = 768 };

struct MasterLink {
        sd_event *event;
        sd_event_source *timer;
        MasterLinkState state;
        const MasterLinkHandlers *handlers;
        void *userdata;
        Id session;

        TlsContext *tls; /* NULL: plaintext */
        const Address *addresses;
        size_t n_addresses, address; /* the one tried, or to be tried next */
        unsigned tried;              /* addresses in vain since the last pause */
        uint64_t backoff;
        Resolver *resolver;
        ResolvedAddress resolved[RESOLVER_ADDRESSES_MAX];
        size_t n_resolved, next_resolved;
        ResolvedAddress dialled; /* of the connection, and the host as it is called */
        const char *dialled_host;

        Connection *connection;
        char peer[SOCKADDR_STRING_SIZE];
        char last_why[WHY_SIZE]; /* the last failure in the log: the same one is not repeated */
};

static const char *const master_link_state_table[_MASTER_LINK_STATE_MAX] = {
        [MASTER_LINK_STOPPED] = "stopped",     [MASTER_LINK_WAITING] = "waiting",
        [MASTER_LINK_RESOLVING] = "resolving", [MASTER_LINK_GREETING] = "greeting",
        [MASTER_LINK_REPORTING] = "reporting", [MASTER_LINK_UP] = "up",
};

const char *master_link_state_to_string(MasterLinkState state) {
        return (unsigned) state < _MASTER_LINK_STATE_MAX ? master_link_state_table[state] : "?";
}

static void master_link_set_state(MasterLink *l, MasterLinkState state) {
        if (l->state == state)
                return;
        log_debug("Link to the master: %s → %s", master_link_state_to_string(l->state),
                  master_link_state_to_string(state));
        l->state = state;
}

static bool master_link_is_welcome(const MasterLink *l) {
        return l->state == MASTER_LINK_REPORTING || l->state == MASTER_LINK_UP;
}

/* Half of it fixed, half of it chance, so that the nodes of a cluster do not all come back at once. */
static uint64_t jitter(uint64_t usec) {
        Id random;
        uint32_t n;

        if (id_random(&random) < 0)
                return usec;
        memcpy(&n, random.bytes, sizeof(n));
        return usec / 2 + (usec / 2) * n / UINT32_MAX;
}

static void master_link_wait(MasterLink *l, uint64_t usec) {
        master_link_set_state(l, MASTER_LINK_WAITING);
        (void) sd_event_source_set_time_relative(l->timer, usec);
        (void) sd_event_source_set_enabled(l->timer, SD_EVENT_ONESHOT);
}

/* An address was of no use: the next one at once, a pause after the last one. */
static void master_link_next(MasterLink *l) {
        if (l->next_resolved < l->n_resolved) {
                master_link_wait(l, 0);
                return;
        }
        l->n_resolved = l->next_resolved = 0;
        l->address = (l->address + 1) % l->n_addresses;
        if (++l->tried < l->n_addresses) {
                master_link_wait(l, 0);
                return;
        }
        l->tried = 0;
        master_link_wait(l, jitter(l->backoff));
        l->backoff = MIN(l->backoff * 2, BACKOFF_LAST_USEC);
}

/* One line for each reason, not for each try. */
static void master_link_complain(MasterLink *l, const char *where, const char *why) {
        char text[WHY_SIZE];
        int level;

        /* The connection's own words may name the address already. */
        snprintf(text, sizeof(text), "%s%s%s", strstr(why, where) ? "" : where,
                 strstr(why, where) ? "" : ": ", why);
        level = streq(text, l->last_why) ? LOG_DEBUG : LOG_WARNING;
        log_full(level, "The master cannot be had, trying on: %s", text);
        memcpy(l->last_why, text, sizeof(text));
}

static void master_link_drop(MasterLink *l) {
        l->resolver = resolver_free(l->resolver);
        l->connection = connection_unref(l->connection);
        (void) sd_event_source_set_enabled(l->timer, SD_EVENT_OFF);
}

/* Disconnects; the state is the caller's to set before anybody else looks. */
static void master_link_leave(MasterLink *l, MasterLinkState state) {
        bool was_welcome = master_link_is_welcome(l);

        master_link_drop(l);
        master_link_set_state(l, state);
        if (was_welcome)
                l->handlers->down(l->userdata);
}

static int send_hello(MasterLink *l) {
        _cleanup_(json_putp) json_object *hello = NULL;
        char host[HOST_MAX + 1] = "";
        json_object *range;
        int r;

        (void) gethostname(host, sizeof(host) - 1);
        r = json_new_object(&hello);
        if (r >= 0)
                r = json_add_string(hello, "role", "agent");
        if (r >= 0)
                r = json_add_new_array(hello, "protocol", &range);
        for (int i = 0; i < 2 && r >= 0; i++)
                r = json_append(range, json_object_new_int(FRAME_PROTOCOL_VERSION));
        if (r >= 0)
                r = json_add_string(hello, "software", CLUPY_VERSION);
        if (r >= 0)
                r = json_add_string(hello, "python", CLUPY_PYTHON_VERSION);
        if (r >= 0)
                r = json_add_id(hello, "session", l->session);
        if (r >= 0)
                r = json_add_string(hello, "host", host);
        if (r >= 0)
                r = json_add_int64(hello, "pid", getpid());
        if (r >= 0)
                r = l->handlers->hello(hello, l->userdata);
        return r < 0 ? r : connection_send(l->connection, FRAME_HELLO, hello, NULL, 0);
}

static void on_connected(Connection *c, void *userdata) {
        MasterLink *l = userdata;
        int r;

        r = send_hello(l);
        if (r < 0)
                connection_close(c, r, "cannot say hello");
}

static int on_welcome(MasterLink *l, json_object *json) {
        MasterWelcome welcome;
        uint64_t heartbeat_ms, lease_ms, protocol;

        if (!json || json_get_uint64(json, "protocol", UINT32_MAX, &protocol) < 0 ||
            json_get_uint64(json, "epoch", INT64_MAX, &welcome.epoch) < 0 ||
            json_get_uint64(json, "heartbeat_ms", HEARTBEAT_MOST_MS, &heartbeat_ms) < 0 ||
            json_get_uint64(json, "lease_ms", LEASE_MOST_MS, &lease_ms) < 0)
                return -EBADMSG;
        if (protocol != FRAME_PROTOCOL_VERSION)
                return -EPROTONOSUPPORT;
        if (heartbeat_ms < HEARTBEAT_LEAST_MS || lease_ms < heartbeat_ms)
                return -EBADMSG;
        welcome.heartbeat_usec = heartbeat_ms * USEC_PER_MSEC;
        welcome.lease_usec = lease_ms * USEC_PER_MSEC;

        connection_established(l->connection);
        master_link_set_state(l, MASTER_LINK_REPORTING);
        return l->handlers->welcome(&welcome, l->userdata);
}

/* Always ends the connection; says why in the master's own words. */
static int on_refused(MasterLink *l, json_object *json) {
        const char *code = "?", *message = "no reason given";
        _cleanup_(freep) char *text = NULL;
        char why[WHY_SIZE];

        if (json) {
                (void) json_get_string_optional(json, "error", CODE_MAX, code, &code);
                (void) json_get_string_optional(json, "message", SENTENCE_MAX, message, &message);
        }
        text = text_for_message(message, WHY_SIZE / 2);
        snprintf(why, sizeof(why), "refused (%s): %s", code, strempty(text));
        /* Nothing that a quick try could change; two nodes of one name would put each other out for ever. */
        if (!streq(code, "busy") && !streq(code, "shutting-down"))
                l->backoff = BACKOFF_LAST_USEC;
        connection_close(l->connection, -ECONNREFUSED, why);
        return 0;
}

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        MasterLink *l = userdata;

        switch (frame->type) {
        case FRAME_REFUSED:
                return on_refused(l, frame->json);
        case FRAME_GOODBYE:
                connection_close(c, 0, "the master has said goodbye");
                return 0;
        case FRAME_WELCOME:
                return l->state == MASTER_LINK_GREETING ? on_welcome(l, frame->json) : -EBADMSG;
        default:
                return master_link_is_welcome(l) ? l->handlers->frame(frame, l->userdata) : -EBADMSG;
        }
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        MasterLink *l = userdata;
        bool was_welcome = master_link_is_welcome(l), was_up = l->state == MASTER_LINK_UP;
        char peer[SOCKADDR_STRING_SIZE];

        if (c != l->connection)
                return;
        snprintf(peer, sizeof(peer), "%s", l->peer);
        if (was_up)
                log_warning("Lost the master at %s: %s", peer, strempty(why));
        else
                master_link_complain(l, peer, strempty(why));
        l->connection = connection_unref(l->connection);
        if (was_up && error != -ECONNREFUSED)
                l->backoff = BACKOFF_FIRST_USEC;
        if (was_welcome) {
                /* It was the right one: the same once more, after a short pause. */
                l->tried = (unsigned) l->n_addresses - 1;
                l->address = (l->address + l->n_addresses - 1) % l->n_addresses;
                l->n_resolved = l->next_resolved = 0;
        }
        master_link_next(l);
        if (was_welcome)
                l->handlers->down(l->userdata);
}

static void on_drained(Connection *c, void *userdata) {
        MasterLink *l = userdata;

        if (c == l->connection && master_link_is_welcome(l))
                l->handlers->drained(l->userdata);
}

static const ConnectionHandlers connection_handlers = {
        .frame = on_frame,
        .connected = on_connected,
        .closed = on_closed,
        .drained = on_drained,
};

static void master_link_connect(MasterLink *l) {
        const ResolvedAddress *address = l->resolved + l->next_resolved++;
        int r;

        sockaddr_to_string((const struct sockaddr *) &address->address, address->size, true, l->peer);
        l->dialled = *address;
        l->dialled_host = l->addresses[l->address].host;
        r = connection_new_outgoing_tls(l->event, (const struct sockaddr *) &address->address, address->size,
                                        l->tls, l->dialled_host, &connection_handlers, l, &l->connection);
        if (r < 0) {
                master_link_complain(l, l->peer, strerror(-r));
                master_link_next(l);
                return;
        }
        master_link_set_state(l, MASTER_LINK_GREETING);
}

static void on_resolved(Resolver *resolver, int error, const ResolvedAddress *addresses, size_t n,
                        void *userdata) {
        MasterLink *l = userdata;

        if (error >= 0) {
                l->n_resolved = MIN(n, ELEMENTSOF(l->resolved));
                l->next_resolved = 0;
                memcpy(l->resolved, addresses, l->n_resolved * sizeof(*addresses));
        }
        l->resolver = resolver_free(resolver); /* and the addresses with it */
        if (error < 0) {
                char where[ADDRESS_STRING_SIZE];

                address_to_string(l->addresses + l->address, where);
                master_link_complain(l, where,
                                     error == -ENOENT ? "there is no such host" : strerror(-error));
                master_link_next(l);
                return;
        }
        master_link_connect(l);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        MasterLink *l = userdata;
        const Address *address = l->addresses + l->address;
        int r;

        if (l->next_resolved < l->n_resolved) {
                master_link_connect(l);
                return 0;
        }
        master_link_set_state(l, MASTER_LINK_RESOLVING);
        r = resolver_start(l->event, address->host, address->port, on_resolved, l, &l->resolver);
        if (r < 0)
                on_resolved(NULL, r, NULL, 0, l);
        return 0;
}

int master_link_new(sd_event *event, const Address *addresses, size_t n_addresses,
                    const MasterLinkHandlers *handlers, void *userdata, MasterLink **ret) {
        _cleanup_(master_link_freep) MasterLink *l = NULL;
        int r;

        l = new0(MasterLink);
        if (!l)
                return -ENOMEM;
        l->event = sd_event_ref(event);
        l->addresses = addresses;
        l->n_addresses = n_addresses;
        l->handlers = handlers;
        l->userdata = userdata;
        l->backoff = BACKOFF_FIRST_USEC;
        r = id_random(&l->session);
        if (r < 0)
                return r;
        r = sd_event_add_time_relative(event, &l->timer, CLOCK_MONOTONIC, 0, 10 * USEC_PER_MSEC, on_timer,
                                       l);
        if (r >= 0)
                r = sd_event_source_set_enabled(l->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

MasterLink *master_link_free(MasterLink *l) {
        if (!l)
                return NULL;
        master_link_drop(l);
        tls_context_unref(l->tls);
        sd_event_source_disable_unref(l->timer);
        sd_event_unref(l->event);
        return mfree(l);
}

void master_link_set_tls(MasterLink *l, TlsContext *tls) {
        tls_context_unref(l->tls);
        l->tls = tls ? tls_context_ref(tls) : NULL;
}

const TlsContext *master_link_tls(const MasterLink *l) {
        return l->tls;
}

void master_link_start(MasterLink *l) {
        if (l->state == MASTER_LINK_STOPPED)
                master_link_wait(l, 0);
}

void master_link_stop(MasterLink *l, const char *why) {
        if (l->state == MASTER_LINK_STOPPED)
                return;
        log_info("Leaving the master: %s", why);
        master_link_leave(l, MASTER_LINK_STOPPED);
}

void master_link_restart(MasterLink *l, const char *why) {
        if (l->state == MASTER_LINK_STOPPED)
                return;
        log_warning("Connecting to the master anew: %s", why);
        master_link_leave(l, MASTER_LINK_STOPPED);
        l->backoff = BACKOFF_FIRST_USEC;
        master_link_wait(l, jitter(BACKOFF_FIRST_USEC));
}

void master_link_reconciled(MasterLink *l) {
        if (l->state != MASTER_LINK_REPORTING)
                return;
        master_link_set_state(l, MASTER_LINK_UP);
        log_info("Connected to the master at %s", connection_peer(l->connection));
        l->last_why[0] = '\0';
}

int master_link_send(MasterLink *l, FrameType type, json_object *json, const struct iovec *payloads,
                     size_t n_payloads) {
        if (!l->connection || !master_link_is_welcome(l))
                return -ENOTCONN;
        return connection_send(l->connection, type, json, payloads, n_payloads);
}

int master_link_dial(const MasterLink *l, const ConnectionHandlers *handlers, void *handlers_userdata,
                     Connection **ret) {
        if (!l->connection || !master_link_is_welcome(l))
                return -ENOTCONN;
        return connection_new_outgoing_tls(l->event, (const struct sockaddr *) &l->dialled.address,
                                           l->dialled.size, l->tls, l->dialled_host, handlers,
                                           handlers_userdata, ret);
}

bool master_link_is_congested(const MasterLink *l) {
        return l->connection && connection_is_congested(l->connection);
}

MasterLinkState master_link_state(const MasterLink *l) {
        return l->state;
}

const char *master_link_peer(const MasterLink *l) {
        return l->peer;
}
