/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "macros.h"
#include "memory-util.h"

/* How a query gets to the master and its answer back: over D-Bus on the master's own machine, over TCP from
 * everywhere. */

/* Also the exit statuses of clupyctl. */
typedef enum CtlStatus {
        CTL_OK = 0,
        CTL_FAILED = 1,
        CTL_USAGE = 2,
        CTL_NOT_FOUND = 3,
        CTL_NO_MASTER = 4,
        CTL_NOT_ALLOWED = 5,
} CtlStatus;

typedef struct QueryError {
        CtlStatus status;
        char code[40]; /* the wire's name: "not-found" … */
        char *message; /* a sentence, from malloc */
} QueryError;

void query_error_done(QueryError *e);
/* Returns -1, for "return query_error_set(…)". */
int query_error_set(QueryError *e, CtlStatus status, const char *code, const char *format, ...)
        _printf_(4, 5);
/* What an error code of the wire (or its last part on D-Bus, "NotFound") means to a caller. */
CtlStatus query_error_status(const char *code);

typedef struct Transport Transport;

/* One of several answers, borrowed. Returns 0 to go on, anything else to end. */
typedef int (*TransportPart)(json_object *answer, void *userdata);

typedef struct TransportOperations {
        int (*query)(Transport *t, const char *verb, json_object *args, json_object **ret,
                     QueryError *ret_error);
        int (*stream)(Transport *t, const char *verb, json_object *args, TransportPart part, void *userdata,
                      QueryError *ret_error); /* NULL: cannot */
        void (*free)(Transport *t);
} TransportOperations;

struct Transport {
        const TransportOperations *operations;
        char *peer; /* "the system bus", "10.0.0.2:7878" */
        /* By which certificate the master knows who asks, where that is how. */
        char *own_name;        /* "user alice"; NULL: by none */
        int64_t own_not_after; /* unix ms */
        char **warnings;       /* of its end, and of the authority's */
};

/* master: a URL, or NULL: CLUPY_MASTER_URL, else D-Bus if a master is on it, else clupy.client.yaml, else
 * the master's socket on this machine if there is one, else clupy://localhost:7878.
 * patience_usec bounds the making of the connection, and how long an answer may take. Returns 0, or -1 and
 * the error. */
int transport_open(const char *master, uint64_t patience_usec, Transport **ret, QueryError *ret_error);
Transport *transport_free(Transport *t);
DEFINE_CLEANUP(Transport, transport_free);

/* One question, one answer. Returns 0, or -1 and the error. */
int transport_query(Transport *t, const char *verb, json_object *args, json_object **ret,
                    QueryError *ret_error);

/* Whether transport_stream() works: else the caller asks again and again. */
bool transport_can_stream(const Transport *t);
/* One question, answers until the master says that it was the last. Returns 0, what part returned, or -1 and
 * the error. */
int transport_stream(Transport *t, const char *verb, json_object *args, TransportPart part, void *userdata,
                     QueryError *ret_error);

int transport_bus_open(uint64_t patience_usec, Transport **ret, QueryError *ret_error);
/* Whether a master is on the system bus of this machine. */
bool transport_bus_has_master(void);
/* url: clupy://host[:port][,…] with TLS, unless clupy.client.yaml says `insecure: true`; clupy+insecure://…;
 * unix:/path. */
int transport_tcp_open(const char *url, uint64_t patience_usec, Transport **ret, QueryError *ret_error);
