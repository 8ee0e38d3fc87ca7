/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "connection.h"
#include "tls-context.h"
#include "types.h"

enum { MASTER_TLS_ORIGINS = 64, MASTER_TLS_MORE_SIZE = 96 };

/* What was told of one address within the present second. Addresses that meet in one place share it: so many
 * lines a second are enough. */
typedef struct TlsOrigin {
        uint64_t until;    /* CLOCK_BOOTTIME µs */
        uint64_t withheld; /* not told since */
        char host[64];
} TlsOrigin;

/* The master's certificate, and what others' certificates are held against. Part of the manager; all zero
 * before master_tls_open(). */
typedef struct MasterTls {
        TlsContext *context; /* NULL: all addresses speak plaintext */
        sd_event_source *hourly;
        unsigned hours;
        TlsOrigin origins[MASTER_TLS_ORIGINS];
} MasterTls;

/* Reads the files that the configuration names, if any address speaks TLS. Logs what fails. Returns 0,
 * -errno: the configuration has to be put right. */
int master_tls_open(Manager *m);
void master_tls_done(MasterTls *tls);

/* What `status` shows: addresses without TLS, certificates that expire. Appended to *list. Returns 0,
 * -ENOMEM. */
int master_tls_warnings(const Manager *m, char ***list);
/* Tells the journal the same, now and then: plaintext each hour, the rest each day. */
void master_tls_warn(Manager *m);

/* Of a connection's end: it had to do with TLS or a certificate. */
bool master_tls_is_refusal(int error);
/* Whether the journal is to be told of a stranger's refusal: once a second for each address, and then of how
 * many it was not told, in `more`. */
bool master_tls_may_tell(Manager *m, const Connection *c, char more[static MASTER_TLS_MORE_SIZE]);
/* Tells the journal who was refused and why, once a second for each address. */
void master_tls_refused(Manager *m, const Connection *c, const char *why);
