/* SPDX-License-Identifier: Apache-2.0 */
#include "master-tls.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "log.h"
#include "manager.h"
#include "peer.h"
#include "time-util.h"

/* Certificates that are accepted no more: their connections end at once. What their sessions and nodes had
 * goes on as after any broken connection, until it is over for good. */
static void check_peers(Manager *m) {
        LIST_FOREACH(Peer, peer, link, &m->peers) {
                const Identity *identity = connection_identity(peer->connection);
                const char *why, *from = connection_peer(peer->connection);

                if (!identity || connection_check_peer(peer->connection, &why) >= 0)
                        continue;
                log_struct(LOG_WARNING,
                           log_field("MESSAGE=Closed the connection of %s at %s: %s",
                                     IDENTITY_STRING(identity), from, why),
                           log_field("MESSAGE_ID=%s", PEER_REFUSED_MESSAGE_ID),
                           log_field("CLUPY_OWNER=%s", identity->name), log_field("CLUPY_PEER=%s", from));
                peer_close(peer, -EKEYREVOKED, why);
        }
}

static void warn_of_expiry(const Manager *m) {
        _cleanup_(strv_freep) char **list = NULL;

        if (m->tls.context && tls_context_warnings(m->tls.context, now_usec(CLOCK_REALTIME), &list) > 0)
                for (char **s = list; *s; s++)
                        log_warning("%s", *s);
}

static void on_changed(TlsContext *c, void *userdata) {
        Manager *m = userdata;

        log_info("Certificates were read anew; this master's is good until %s",
                 tls_time_to_string(tls_context_not_after(c), (char[TLS_TIME_SIZE]){ 0 }));
        warn_of_expiry(m);
        check_peers(m);
}

static void on_failed(TlsContext *c, const char *message, void *userdata) {
        log_error("%s; what was read before stays in force", message);
}

static int on_hourly(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;

        /* Some may have expired meanwhile. */
        check_peers(m);
        master_tls_warn(m);
        return 0;
}

int master_tls_open(Manager *m) {
        static const TlsContextHandlers handlers = { .changed = on_changed, .failed = on_failed };
        const MasterConfig *config = m->config;
        const TlsContextOptions options = { .side = TLS_SERVER,
                                            .role = IDENTITY_MASTER,
                                            .paths = { .certificate = config->tls_certificate,
                                                       .key = config->tls_key,
                                                       .authority = config->tls_authority,
                                                       .revoked = config->tls_revoked } };
        _cleanup_(freep) char *message = NULL;
        int r;

        if (!master_config_needs_tls(config))
                return 0;
        tls_protect_memory();
        r = tls_context_new(m->event, &options, &handlers, m, &m->tls.context, &message);
        if (r < 0)
                return log_error_errno(message ? 0 : r, "%s", message ?: "Cannot set up TLS"), r;
        return 0;
}

void master_tls_done(MasterTls *tls) {
        if (tls->context)
                tls_context_stop(tls->context);
        tls->context = tls_context_unref(tls->context);
        tls->hourly = sd_event_source_disable_unref(tls->hourly);
}

int master_tls_warnings(const Manager *m, char ***list) {
        int r = 0;

        for (char **s = m->config->warnings; s && *s && r >= 0; s++)
                r = strv_extend(list, *s);
        if (r >= 0 && m->tls.context)
                r = tls_context_warnings(m->tls.context, now_usec(CLOCK_REALTIME), list);
        return r < 0 ? r : 0;
}

void master_tls_warn(Manager *m) {
        for (char **s = m->config->warnings; s && *s; s++)
                log_warning("Insecure: %s", *s);
        if (m->tls.hours++ % 24 == 0)
                warn_of_expiry(m);
        manager_timer(m, &m->tls.hourly, now_usec(CLOCK_BOOTTIME) + USEC_PER_HOUR, on_hourly, m);
}

/* Refusals */

bool master_tls_is_refusal(int error) {
        return error == -EKEYREJECTED || error == -EKEYEXPIRED || error == -EKEYREVOKED ||
               error == -EPROTO || error == -EPROTONOSUPPORT;
}

static TlsOrigin *find_origin(MasterTls *tls, const char *host) {
        uint32_t hash = 2166136261;

        for (const char *s = host; *s; s++)
                hash = (hash ^ (uint8_t) *s) * 16777619;
        return tls->origins + hash % MASTER_TLS_ORIGINS;
}

bool master_tls_may_tell(Manager *m, const Connection *c, char more[static MASTER_TLS_MORE_SIZE]) {
        const char *host = connection_peer_host(c);
        TlsOrigin *origin = find_origin(&m->tls, host);
        uint64_t now = now_usec(CLOCK_BOOTTIME);

        more[0] = '\0';
        if (now < origin->until) {
                origin->withheld++;
                return false;
        }
        if (origin->withheld > 0)
                snprintf(more, MASTER_TLS_MORE_SIZE, " (and %" PRIu64 " more of %s since)", origin->withheld,
                         streq(origin->host, host) ? "this address" : "others");
        origin->until = now + USEC_PER_SEC;
        origin->withheld = 0;
        snprintf(origin->host, sizeof(origin->host), "%s", host);
        return true;
}

void master_tls_refused(Manager *m, const Connection *c, const char *why) {
        char more[MASTER_TLS_MORE_SIZE];
        const char *from = connection_peer(c);

        if (master_tls_may_tell(m, c, more))
                log_struct(LOG_WARNING, log_field("MESSAGE=Refused %s: %s%s", from, why, more),
                           log_field("MESSAGE_ID=%s", PEER_REFUSED_MESSAGE_ID),
                           log_field("CLUPY_PEER=%s", from));
}
