/* SPDX-License-Identifier: Apache-2.0 */
#include "entrance.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "fd-util.h"
#include "log.h"
#include "manager.h"
#include "parse-util.h"
#include "peer.h"
#include "resolver.h"
#include "time-util.h"

#define REPORT_INTERVAL_USEC USEC_PER_SEC

static int on_accept(Listener *l, Connection *c, void *userdata) {
        Peer *peer;
        int r;

        r = peer_new(userdata, c, &peer);
        /* Of these there can be many, as strangers please: they are counted. */
        if (r < 0)
                log_debug_errno(r, "Cannot serve %s", connection_peer(c));
        return r;
}

/* "3 came too fast, 1 ended without an accepted hello": what did happen. From malloc. */
static char *what_happened(const uint64_t *n) {
        static const struct {
                GateReason reason;
                const char *words;
        } words[] = { { GATE_RATE, "came too fast" },
                      { GATE_PER_ORIGIN, "too many of one address" },
                      { GATE_UNPROVEN, "too many in all" },
                      { GATE_HELLO, "ended without an accepted hello" },
                      { GATE_RESOURCES, "had no room" } };
        char *text = strdup("");

        for (size_t i = 0; text && i < ELEMENTSOF(words); i++) {
                char *longer;

                if (n[words[i].reason] == 0)
                        continue;
                longer = strformat("%s%s%" PRIu64 " %s", text, text[0] ? ", " : "", n[words[i].reason],
                                   words[i].words);
                free(text);
                text = longer;
        }
        return text;
}

/* One line for all that happened within a second, however much that was. */
static int on_report(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(freep) char *text = NULL;
        Manager *m = userdata;
        Entrance *e = &m->entrance;
        uint64_t n[_GATE_REASON_MAX], all = 0;

        for (GateReason reason = 0; reason < _GATE_REASON_MAX; reason++) {
                uint64_t refused = entrance_refused_for(e, reason);

                n[reason] = refused - e->told[reason];
                e->told[reason] = refused;
                all += n[reason];
        }
        /* That somebody only looked whether the port is open happens all the time. */
        text = what_happened(n);
        if (all > 0)
                log_full(all > n[GATE_HELLO] ? LOG_WARNING : LOG_INFO,
                         "Turned away %" PRIu64 " connection%s: %s", all, all == 1 ? "" : "s",
                         strempty(text));
        return 0;
}

static void on_refused(Gate *gate, GateReason reason, void *userdata) {
        Manager *m = userdata;
        sd_event_source **report = &m->entrance.report;
        int enabled = SD_EVENT_OFF;

        if (m->stopping)
                return;
        if (*report)
                (void) sd_event_source_get_enabled(*report, &enabled);
        if (enabled == SD_EVENT_OFF)
                manager_timer(m, report, now_usec(CLOCK_BOOTTIME) + REPORT_INTERVAL_USEC, on_report, m);
}

/* Room for one more. */
static int listeners_extend(Entrance *e) {
        Listener **listeners = realloc(e->listeners, (e->n_listeners + 1) * sizeof(*listeners));

        if (!listeners)
                return -ENOMEM;
        e->listeners = listeners;
        return 0;
}

/* tls: NULL for plaintext. */
static ListenerOptions listener_options(const Manager *m, EntranceGate gate, TlsContext *tls) {
        return (ListenerOptions){ .tls = tls,
                                  .handlers = &PEER_HANDLERS,
                                  .connections_max = MANAGER_CONNECTIONS_MAX,
                                  .gate = m->entrance.gates[gate],
                                  .hello_timeout = m->config->hello_timeout,
                                  .hello_bytes = m->config->hello_size };
}

static int listen_on(Manager *m, const char *text) {
        const ListenerOptions options = listener_options(
                m, ENTRANCE_NETWORK, master_config_is_insecure(m->config, text) ? NULL : m->tls.context);
        struct sockaddr_storage storage;
        Entrance *e = &m->entrance;
        Address address;
        socklen_t size;
        int r;

        r = parse_address(text, ADDRESS_DEFAULT_PORT, &address);
        if (r >= 0)
                r = sockaddr_from_numeric(address.host, address.port, &storage, &size);
        if (r < 0)
                return log_error_errno(r, "Cannot listen on %s", text);
        r = listeners_extend(e);
        if (r < 0)
                return log_oom();
        r = listener_new(m->event, (struct sockaddr *) &storage, size, &options, on_accept, m,
                         e->listeners + e->n_listeners);
        if ((r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL) && storage.ss_family == AF_INET6) {
                log_notice("There is no IPv6 here: not listening on %s", text);
                return 0;
        }
        if (r < 0)
                return log_error_errno(r, "Cannot listen on %s", text);
        log_info("Listening on %s", listener_address(e->listeners[e->n_listeners]));
        e->n_listeners++;
        return 0;
}

/* Whether nobody answers at a socket that is there: its owner is gone. */
static bool is_abandoned(const struct sockaddr_un *address) {
        _cleanup_(close_fdp) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct stat st;

        return fd >= 0 && lstat(address->sun_path, &st) >= 0 && S_ISSOCK(st.st_mode) &&
               connect(fd, (const struct sockaddr *) address, sizeof(*address)) < 0 && errno == ECONNREFUSED;
}

static int listen_on_path(Manager *m, const char *path) {
        const ListenerOptions options = listener_options(m, ENTRANCE_LOCAL, NULL);
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        Entrance *e = &m->entrance;
        int r;

        if (strlen(path) >= sizeof(address.sun_path))
                return log_error_errno(-ENAMETOOLONG, "Cannot listen on %s", path);
        memcpy(address.sun_path, path, strlen(path) + 1);
        if (is_abandoned(&address))
                (void) unlink(path);
        r = listeners_extend(e);
        if (r < 0)
                return log_oom();
        r = listener_new(m->event, (struct sockaddr *) &address, sizeof(address), &options, on_accept, m,
                         e->listeners + e->n_listeners);
        if (r < 0)
                return log_error_errno(r, "Cannot listen on %s", path);
        log_info("Listening on %s", listener_address(e->listeners[e->n_listeners]));
        e->n_listeners++;
        /* For everybody: who it is says the kernel. */
        if (chmod(path, 0666) < 0)
                return log_error_errno(-errno, "Cannot open %s to everybody", path);
        return 0;
}

/* What systemd listens on for us. Returns how many there were, -errno. */
static int take_sockets(Manager *m) {
        const ListenerOptions options = listener_options(m, ENTRANCE_LOCAL, NULL);
        Entrance *e = &m->entrance;
        int n = sd_listen_fds(true), r;

        for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + n; fd++) {
                if (sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0) {
                        log_warning(
                                "A descriptor that was handed over is no listening UNIX socket: ignored");
                        (void) close_fd(fd);
                        continue;
                }
                r = listeners_extend(e);
                if (r >= 0)
                        r = listener_new_from_fd(m->event, fd, &options, on_accept, m,
                                                 e->listeners + e->n_listeners);
                if (r < 0)
                        return log_error_errno(r, "Cannot listen on the socket that was handed over");
                log_info("Listening on %s", listener_address(e->listeners[e->n_listeners]));
                e->n_listeners++;
        }
        return n;
}

static GateLimits gate_limits(const MasterConfig *config) {
        return (GateLimits){ .unproven = config->limit_unproven,
                             .unproven_per_origin = config->limit_per_address,
                             .rate = config->limit_rate,
                             .burst = config->limit_burst };
}

int entrance_open(Manager *m) {
        const MasterConfig *config = m->config;
        const GateLimits limits = gate_limits(config);
        int r;

        for (EntranceGate i = 0; i < _ENTRANCE_GATE_MAX; i++) {
                if (gate_new(&limits, m->entrance.gates + i) < 0)
                        return log_oom();
                gate_set_notify(m->entrance.gates[i], on_refused, m);
        }
        for (char **s = config->listen; *s; s++) {
                r = listen_on(m, *s);
                if (r < 0)
                        return r;
        }
        if (m->entrance.n_listeners == 0)
                return log_error_errno(-EADDRNOTAVAIL, "There is no address to listen on");
        r = take_sockets(m);
        if (r == 0 && config->socket)
                r = listen_on_path(m, config->socket);
        return r < 0 ? r : 0;
}

void entrance_close(Entrance *e) {
        for (size_t i = 0; i < e->n_listeners; i++)
                e->listeners[i] = listener_free(e->listeners[i]);
        e->n_listeners = 0;
}

void entrance_done(Entrance *e) {
        entrance_close(e);
        e->listeners = mfree(e->listeners);
        e->report = sd_event_source_disable_unref(e->report);
        for (EntranceGate i = 0; i < _ENTRANCE_GATE_MAX; i++) {
                if (e->gates[i])
                        gate_set_notify(e->gates[i], NULL, NULL);
                e->gates[i] = gate_unref(e->gates[i]);
        }
}

void entrance_set_limits(Entrance *e, const MasterConfig *config) {
        const GateLimits limits = gate_limits(config);

        for (EntranceGate i = 0; i < _ENTRANCE_GATE_MAX; i++)
                if (e->gates[i])
                        gate_set_limits(e->gates[i], &limits);
}

unsigned entrance_unproven(const Entrance *e) {
        unsigned n = 0;

        for (EntranceGate i = 0; i < _ENTRANCE_GATE_MAX; i++)
                n += e->gates[i] ? gate_unproven(e->gates[i]) : 0;
        return n;
}

uint64_t entrance_refused_for(const Entrance *e, GateReason reason) {
        uint64_t n = 0;

        for (EntranceGate i = 0; i < _ENTRANCE_GATE_MAX; i++)
                n += e->gates[i] ? gate_refused(e->gates[i], reason) : 0;
        return n;
}

uint64_t entrance_refused(const Entrance *e) {
        uint64_t all = 0;

        for (GateReason reason = 0; reason < _GATE_REASON_MAX; reason++)
                all += entrance_refused_for(e, reason);
        return all;
}
