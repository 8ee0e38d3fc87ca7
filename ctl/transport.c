/* SPDX-License-Identifier: Apache-2.0 */
#include "transport.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client-config.h"

#define MASTER_SOCKET "/run/clupy/master.sock"

void query_error_done(QueryError *e) {
        e->message = mfree(e->message);
}

int query_error_set(QueryError *e, CtlStatus status, const char *code, const char *format, ...) {
        va_list arguments;

        query_error_done(e);
        e->status = status;
        snprintf(e->code, sizeof(e->code), "%s", code);
        va_start(arguments, format);
        if (vasprintf(&e->message, format, arguments) < 0)
                e->message = NULL;
        va_end(arguments);
        return -1;
}

CtlStatus query_error_status(const char *code) {
        static const struct {
                const char *wire, *bus;
                CtlStatus status;
        } table[] = {
                { "not-found", "NotFound", CTL_NOT_FOUND },
                { "not-allowed", "NotAllowed", CTL_NOT_ALLOWED },
                { "invalid-argument", "InvalidArgument", CTL_USAGE },
                { "not-allowed", "AccessDenied", CTL_NOT_ALLOWED },
                { "not-allowed", "InteractiveAuthorizationRequired", CTL_NOT_ALLOWED },
                { "no-master", "ServiceUnknown", CTL_NO_MASTER },
                { "no-master", "NameHasNoOwner", CTL_NO_MASTER },
                { "no-master", "NoReply", CTL_NO_MASTER },
                { "no-master", "Timeout", CTL_NO_MASTER },
                { "no-master", "Disconnected", CTL_NO_MASTER },
                { "shutting-down", "ShuttingDown", CTL_NO_MASTER },
                { "busy", "Busy", CTL_NO_MASTER },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(code, table[i].wire) || streq(code, table[i].bus))
                        return table[i].status;
        return CTL_FAILED;
}

int transport_open(const char *master, uint64_t patience_usec, Transport **ret, QueryError *ret_error) {
        _cleanup_(client_config_done) ClientConfig config = { 0 };
        _cleanup_(freep) char *message = NULL;
        int r;

        if (!master)
                master = getenv("CLUPY_MASTER_URL");
        if (!isempty(master))
                return transport_tcp_open(master, patience_usec, ret, ret_error);
        if (transport_bus_has_master())
                return transport_bus_open(patience_usec, ret, ret_error);
        r = client_config_load(&config, &message);
        if (r < 0)
                return query_error_set(ret_error, CTL_FAILED, "configuration", "%s",
                                       message ?: strerror(-r));
        master = config.master;
        if (!master)
                master = access(MASTER_SOCKET, F_OK) == 0 ? "unix:" MASTER_SOCKET : "clupy://localhost:7878";
        return transport_tcp_open(master, patience_usec, ret, ret_error);
}

Transport *transport_free(Transport *t) {
        if (t) {
                free(t->peer);
                free(t->own_name);
                strv_free(t->warnings);
                t->operations->free(t);
        }
        return NULL;
}

int transport_query(Transport *t, const char *verb, json_object *args, json_object **ret,
                    QueryError *ret_error) {
        return t->operations->query(t, verb, args, ret, ret_error);
}

bool transport_can_stream(const Transport *t) {
        return t->operations->stream;
}

int transport_stream(Transport *t, const char *verb, json_object *args, TransportPart part, void *userdata,
                     QueryError *ret_error) {
        return t->operations->stream(t, verb, args, part, userdata, ret_error);
}
