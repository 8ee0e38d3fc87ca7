/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-tls.h"

#include <errno.h>

#include "log.h"
#include "time-util.h"

struct AgentTls {
        const ServerConfig *config;
        TlsContext *context;
        sd_event_source *timer;
};

static void warn(AgentTls *t) {
        _cleanup_(strv_freep) char **list = NULL;

        if (!t->context)
                log_warning("The master is spoken to in plaintext: whoever is on the way can run code here");
        else if (tls_context_warnings(t->context, now_usec(CLOCK_REALTIME), &list) > 0)
                for (char **s = list; *s; s++)
                        log_warning("%s", *s);
}

static void on_changed(TlsContext *c, void *userdata) {
        AgentTls *t = userdata;

        log_info("The certificate was read anew; it is good until %s",
                 tls_time_to_string(tls_context_not_after(c), (char[TLS_TIME_SIZE]){ 0 }));
        warn(t);
}

static void on_failed(TlsContext *c, const char *message, void *userdata) {
        log_error("%s; what was read before stays in force", message);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        AgentTls *t = userdata;

        warn(t);
        (void) sd_event_source_set_time_relative(source, t->context ? USEC_PER_DAY : USEC_PER_HOUR);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static int open_context(AgentTls *t, sd_event *event) {
        static const TlsContextHandlers handlers = { .changed = on_changed, .failed = on_failed };
        const TlsContextOptions options = { .side = TLS_CLIENT,
                                            .role = IDENTITY_AGENT,
                                            .paths = { .certificate = t->config->tls_certificate,
                                                       .key = t->config->tls_key,
                                                       .authority = t->config->tls_authority,
                                                       .revoked = t->config->tls_revoked } };
        _cleanup_(freep) char *message = NULL;
        int r;

        tls_protect_memory();
        r = tls_context_new(event, &options, &handlers, t, &t->context, &message);
        if (r < 0) {
                if (message)
                        log_error("%s", message);
                else
                        log_error_errno(r, "Cannot set up TLS");
                return r;
        }
        if (streq(tls_context_identity(t->context)->name, t->config->name))
                return 0;
        log_error("%s: is the certificate of node %s, and this node's name is %s: join again, or set 'name' "
                  "in "
                  "%s",
                  t->config->tls_certificate, tls_context_identity(t->context)->name, t->config->name,
                  SERVER_CONFIG_NAME);
        return -EKEYREJECTED;
}

int agent_tls_new(sd_event *event, const ServerConfig *config, AgentTls **ret) {
        _cleanup_(agent_tls_freep) AgentTls *t = NULL;
        int r;

        t = new0(AgentTls);
        if (!t)
                return log_oom();
        t->config = config;
        if (!config->insecure) {
                r = open_context(t, event);
                if (r < 0)
                        return r;
        }
        r = sd_event_add_time_relative(event, &t->timer, CLOCK_BOOTTIME, 0, USEC_PER_MINUTE, on_timer, t);
        if (r < 0)
                return log_error_errno(r, "Cannot make a timer");
        *ret = TAKE_PTR(t);
        return 0;
}

AgentTls *agent_tls_free(AgentTls *t) {
        if (!t)
                return NULL;
        if (t->context)
                tls_context_stop(t->context);
        tls_context_unref(t->context);
        sd_event_source_disable_unref(t->timer);
        return mfree(t);
}

TlsContext *agent_tls_context(const AgentTls *t) {
        return t->context;
}
