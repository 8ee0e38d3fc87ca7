/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-bus.h"

#include <errno.h>
#include <stdlib.h>
#include <systemd/sd-bus.h>

#include "account.h"
#include "agent.h"
#include "build-config.h"
#include "bus-auth.h"
#include "log.h"
#include "time-util.h"

#define BUS_NAME "org.clupy.Agent1"
#define BUS_PATH "/org/clupy/Agent1"
#define RETRY_USEC (10 * USEC_PER_SEC)
#define RETRY_SLACK_USEC (5 * USEC_PER_SEC)

struct AgentBus {
        Agent *agent;
        sd_bus *bus;
        BusAuth *auth; /* of this bus */
        sd_event_source *retry;
        bool complained;
};

static void agent_bus_connect(AgentBus *b);

static int get_version(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "s", CLUPY_VERSION);
}

static int get_node(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "s", b->agent->config->name);
}

static int get_master(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "s", master_link_peer(b->agent->master));
}

static int get_connected(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "b", master_link_state(b->agent->master) == MASTER_LINK_UP);
}

static int get_epoch(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t", b->agent->epoch);
}

static int get_lease_until(sd_bus *bus, const char *path, const char *interface, const char *property,
                           sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t", b->agent->lease_until);
}

static int get_running(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t) agent_running(b->agent));
}

static int get_unreleased(sd_bus *bus, const char *path, const char *interface, const char *property,
                          sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t", b->agent->unreleased);
}

static int get_code_cache_bytes(sd_bus *bus, const char *path, const char *interface, const char *property,
                                sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t", code_cache_bytes(b->agent->code));
}

static int get_certificate_expires(sd_bus *bus, const char *path, const char *interface,
                                   const char *property, sd_bus_message *reply, void *userdata,
                                   sd_bus_error *error) {
        AgentBus *b = userdata;
        const TlsContext *tls = master_link_tls(b->agent->master);

        return sd_bus_message_append(reply, "t", tls ? tls_context_expires(tls) : 0);
}

static int get_environments(sd_bus *bus, const char *path, const char *interface, const char *property,
                            sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;
        Environment *e;
        int r;

        r = sd_bus_message_open_container(reply, 'a', "(sstt)");
        HASHMAP_FOREACH(e, environments_all(b->agent->environments))
                if (r >= 0)
                        r = sd_bus_message_append(reply, "(sstt)", e->name,
                                                  environment_state_to_string(e->state), e->bytes,
                                                  environment_last_use(e));
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int get_builds(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t", environments_statistics(b->agent->environments)->builds);
}

static int get_build_failures(sd_bus *bus, const char *path, const char *interface, const char *property,
                              sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t", environments_statistics(b->agent->environments)->failures);
}

static int get_build_seconds(sd_bus *bus, const char *path, const char *interface, const char *property,
                             sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(
                reply, "d", (double) environments_statistics(b->agent->environments)->build_usec / 1e6);
}

static int get_build_bytes(sd_bus *bus, const char *path, const char *interface, const char *property,
                           sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t",
                                     environments_statistics(b->agent->environments)->build_bytes);
}

static int get_environment_hits(sd_bus *bus, const char *path, const char *interface, const char *property,
                                sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append(reply, "t", environments_statistics(b->agent->environments)->hits);
}

static int get_pythons(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        return sd_bus_message_append_strv(reply, b->agent->pythons);
}

/* owner: whose are listed, NULL: all. */
static int reply_attempts(AgentBus *b, sd_bus_message *call, const char *owner) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Attempt *a;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(susss)");
        HASHMAP_FOREACH(a, b->agent->attempts)
                if (r >= 0 && (!owner || streq(owner, a->owner)))
                        r = sd_bus_message_append(reply, "(susss)", ID_HEX(a->task), a->attempt,
                                                  attempt_state_to_string(a->state), strempty(a->unit),
                                                  a->owner);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static void on_caller(sd_bus_message *call, int error, uid_t uid, BusVerdict verdict, void *userdata) {
        const char *owner = NULL;

        if (error == -ECANCELED)
                return;
        if (error < 0) {
                (void) sd_bus_reply_method_errorf(call, "org.clupy.Error.NotAllowed",
                                                  "The bus does not say who you are");
                return;
        }
        if (uid != 0 && verdict != BUS_GRANTED)
                owner = strempty(account_name(uid));
        (void) reply_attempts(userdata, call, owner);
}

static int method_list_attempts(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;
        int r;

        r = bus_auth_ask(b->auth, message, "org.clupy.view", false, on_caller, b);
        if (r == -EBUSY)
                return sd_bus_error_set(error, "org.freedesktop.DBus.Error.LimitsExceeded",
                                        "Too many calls wait for an answer: wait for some of them");
        return r < 0 ? r : 1;
}

static const sd_bus_vtable agent_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Version", "s", get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Node", "s", get_node, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Master", "s", get_master, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Connected", "b", get_connected, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Epoch", "t", get_epoch, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("LeaseUntil", "t", get_lease_until, 0, 0),
        SD_BUS_PROPERTY("Running", "u", get_running, 0, 0),
        SD_BUS_PROPERTY("Unreleased", "t", get_unreleased, 0, 0),
        SD_BUS_PROPERTY("CodeCacheBytes", "t", get_code_cache_bytes, 0, 0),
        SD_BUS_PROPERTY("CertificateExpires", "t", get_certificate_expires, 0, 0),
        SD_BUS_PROPERTY("Pythons", "as", get_pythons, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Environments", "a(sstt)", get_environments, 0, 0),
        SD_BUS_PROPERTY("EnvironmentHits", "t", get_environment_hits, 0, 0),
        SD_BUS_PROPERTY("Builds", "t", get_builds, 0, 0),
        SD_BUS_PROPERTY("BuildFailures", "t", get_build_failures, 0, 0),
        SD_BUS_PROPERTY("BuildSeconds", "d", get_build_seconds, 0, 0),
        SD_BUS_PROPERTY("BuildBytes", "t", get_build_bytes, 0, 0),
        SD_BUS_METHOD_WITH_NAMES("ListAttempts", NULL, , "a(susss)", SD_BUS_PARAM(attempts),
                                 method_list_attempts, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

static void agent_bus_disconnect(AgentBus *b) {
        if (!b->bus)
                return;
        b->auth = bus_auth_free(b->auth);
        sd_bus_detach_event(b->bus);
        b->bus = sd_bus_close_unref(b->bus);
}

static void agent_bus_retry(AgentBus *b) {
        (void) sd_event_source_set_time_relative(b->retry, RETRY_USEC);
        (void) sd_event_source_set_enabled(b->retry, SD_EVENT_ONESHOT);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        AgentBus *b = userdata;

        /* Here and not in the handler that saw it go: that one still runs inside of the bus object. */
        agent_bus_disconnect(b);
        agent_bus_connect(b);
        return 0;
}

static int on_disconnected(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        AgentBus *b = userdata;

        log_info("The D-Bus system bus has gone away, trying again");
        agent_bus_retry(b);
        return 0;
}

static int on_name(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        const sd_bus_error *e = sd_bus_message_get_error(message);

        /* Another agent of this machine, or a policy that is not installed: nothing depends on it. */
        if (e)
                log_warning("Cannot have the name " BUS_NAME " on D-Bus: %s", strempty(e->message));
        return 0;
}

/* Nothing in here waits: the bus's own hello is answered later, from the loop. */
static int agent_bus_try(AgentBus *b) {
        int r;

        r = sd_bus_open_system_with_description(&b->bus, "clupy-agent");
        if (r < 0)
                return r;
        r = bus_auth_new(b->bus, &b->auth);
        if (r >= 0)
                r = sd_bus_set_exit_on_disconnect(b->bus, false);
        if (r >= 0)
                r = sd_bus_add_object_vtable(b->bus, NULL, BUS_PATH, BUS_NAME, agent_vtable, b);
        if (r >= 0)
                r = sd_bus_match_signal_async(b->bus, NULL, "org.freedesktop.DBus.Local",
                                              "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
                                              "Disconnected", on_disconnected, NULL, b);
        if (r >= 0)
                r = sd_bus_request_name_async(b->bus, NULL, BUS_NAME, 0, on_name, b);
        return r < 0 ? r : sd_bus_attach_event(b->bus, b->agent->event, SD_EVENT_PRIORITY_NORMAL + 20);
}

static void agent_bus_connect(AgentBus *b) {
        int r;

        r = agent_bus_try(b);
        if (r >= 0) {
                b->complained = false;
                return;
        }
        log_full_errno(b->complained ? LOG_DEBUG : LOG_INFO, r, "No D-Bus system bus, going on without");
        b->complained = true;
        agent_bus_disconnect(b);
        agent_bus_retry(b);
}

int agent_bus_new(Agent *agent, AgentBus **ret) {
        AgentBus *b;
        int r;

        b = new0(AgentBus);
        if (!b)
                return -ENOMEM;
        b->agent = agent;
        r = sd_event_add_time_relative(agent->event, &b->retry, CLOCK_MONOTONIC, 0, RETRY_SLACK_USEC,
                                       on_retry, b);
        if (r >= 0)
                r = sd_event_source_set_enabled(b->retry, SD_EVENT_OFF);
        if (r < 0) {
                agent_bus_free(b);
                return r;
        }
        agent_bus_connect(b);
        *ret = b;
        return 0;
}

AgentBus *agent_bus_free(AgentBus *b) {
        if (!b)
                return NULL;
        agent_bus_disconnect(b);
        sd_event_source_disable_unref(b->retry);
        return mfree(b);
}

void agent_bus_changed(AgentBus *b) {
        if (b && b->bus && sd_bus_is_ready(b->bus) > 0)
                (void) sd_bus_emit_properties_changed(b->bus, BUS_PATH, BUS_NAME, "Master", "Connected",
                                                      "Epoch", NULL);
}
