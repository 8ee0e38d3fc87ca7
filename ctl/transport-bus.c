/* SPDX-License-Identifier: Apache-2.0 */
/* Queries over D-Bus: org.clupy.Master1.Query on the system bus. */
#include <errno.h>
#include <stdlib.h>
#include <systemd/sd-bus.h>

#include "json-util.h"
#include "transport.h"

#define BUS_NAME "org.clupy.Master1"
#define BUS_PATH "/org/clupy/Master1"

typedef struct BusTransport {
        Transport transport;
        sd_bus *bus;
        uint64_t patience_usec;
} BusTransport;

static void bus_free(Transport *t) {
        BusTransport *b = (BusTransport *) t;

        sd_bus_flush_close_unref(b->bus);
        free(b);
}

/* "org.clupy.Error.NotFound" gives "NotFound". */
static const char *last_part(const char *name) {
        const char *dot = strrchr(name, '.');

        return dot ? dot + 1 : name;
}

static int bus_fail(QueryError *ret_error, const sd_bus_error *e, int r) {
        const char *name = e->name ? last_part(e->name) : "";
        CtlStatus status = query_error_status(name);

        switch (status) {
        case CTL_NO_MASTER:
                return query_error_set(
                        ret_error, status, "no-master",
                        "The master on this machine does not answer (%s). See `systemctl status "
                        "clupy-masterd`.",
                        strempty(e->message));
        case CTL_NOT_ALLOWED:
                return query_error_set(ret_error, status, "not-allowed", "%s", strempty(e->message));
        case CTL_NOT_FOUND:
                return query_error_set(ret_error, status, "not-found", "%s", strempty(e->message));
        case CTL_USAGE:
                return query_error_set(ret_error, status, "invalid-argument", "%s", strempty(e->message));
        default:
                return query_error_set(ret_error, status, "failed", "%s", e->message ?: strerror(-r));
        }
}

static int bus_query(Transport *t, const char *verb, json_object *args, json_object **ret,
                     QueryError *ret_error) {
        BusTransport *b = (BusTransport *) t;
        _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        const char *text, *answer;
        size_t size;
        int r;

        text = json_text(args, &size);
        if (!text)
                return bus_fail(ret_error, &e, -ENOMEM);
        r = sd_bus_message_new_method_call(b->bus, &m, BUS_NAME, BUS_PATH, "org.clupy.Master1", "Query");
        if (r >= 0)
                r = sd_bus_message_append(m, "ss", verb, text);
        /* polkit may ask the user for a password: that is what the long wait is for. */
        if (r >= 0)
                r = sd_bus_message_set_allow_interactive_authorization(m, true);
        if (r >= 0)
                r = sd_bus_call(b->bus, m, MAX(b->patience_usec, UINT64_C(120000000)), &e, &reply);
        if (r >= 0)
                r = sd_bus_message_read(reply, "s", &answer);
        if (r < 0)
                return bus_fail(ret_error, &e, r);
        r = json_parse_strict_object(answer, strlen(answer), JSON_DEPTH_MAX, ret);
        if (r < 0)
                return query_error_set(
                        ret_error, CTL_FAILED, "failed",
                        "The master's answer is not what this clupyctl understands: are both of one "
                        "version?");
        return 0;
}

static const TransportOperations bus_operations = {
        .query = bus_query,
        .free = bus_free,
};

bool transport_bus_has_master(void) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int has = 0;

        return sd_bus_open_system(&bus) >= 0 &&
               sd_bus_call_method(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                  "org.freedesktop.DBus", "NameHasOwner", NULL, &reply, "s",
                                  BUS_NAME) >= 0 &&
               sd_bus_message_read(reply, "b", &has) >= 0 && has;
}

int transport_bus_open(uint64_t patience_usec, Transport **ret, QueryError *ret_error) {
        BusTransport *b = new0(BusTransport);
        int r;

        if (!b)
                return query_error_set(ret_error, CTL_FAILED, "failed", "Out of memory.");
        b->transport.operations = &bus_operations;
        b->patience_usec = patience_usec;
        b->transport.peer = strdup("the system bus");
        r = b->transport.peer ? sd_bus_open_system(&b->bus) : -ENOMEM;
        if (r < 0) {
                transport_free(&b->transport);
                return query_error_set(
                        ret_error, CTL_NO_MASTER, "no-master",
                        "The system bus does not answer: %s. Give the master's address with --master.",
                        strerror(-r));
        }
        *ret = &b->transport;
        return 0;
}
