/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "connection.h"
#include "memory-util.h"

/* A build's way to the master's package index: it connects to a socket of its own network, where we accept;
 * for each such connection we make one to the master (role `index`) and pass bytes on, both ways. Neither
 * side is read while the other does not take what is there. */
typedef struct IndexPort IndexPort;

/* Makes an outgoing connection to the master. Returns as connection_new_outgoing_tls(), -ENOTCONN while
 * there is no master. */
typedef int (*IndexDial)(const ConnectionHandlers *handlers, void *handlers_userdata, Connection **ret,
                         void *userdata);

enum {
        INDEX_LINKS_MAX = 64,         /* of one node at once */
        INDEX_BUFFER_MAX = 1 << 20,   /* bytes that wait for the build, then the master is not read */
        INDEX_BUFFER_LOW = 256 << 10, /* from here on it is again */
        INDEX_PIECE = 64 << 10,       /* bytes of one INDEX frame */
        INDEX_BURST_MAX = 64,         /* connections that builds may open at once, … */
        INDEX_RATE = 10,              /* … and how many of them come back each second */
};

/* How many connections the builds of a node may open yet, all together. Each costs the master a handshake,
 * and counts for the node's address at its gate: what comes too fast waits here rather than have the agent's
 * own connection refused there. Begins as zero. */
typedef struct IndexRate {
        uint64_t used_until; /* CLOCK_MONOTONIC µs: when all of it has come back */
} IndexRate;

/* listening_fd becomes the port's on success. node, build: names for the hello, copied. links_max: at once;
 * further ones wait. rate: outlives it. Returns 0, -ENOMEM, -errno. */
int index_port_new(sd_event *event, int listening_fd, const char *node, const char *build,
                   unsigned links_max, IndexRate *rate, IndexDial dial, void *userdata, IndexPort **ret);
/* Ends all its connections. Takes NULL, returns NULL. */
IndexPort *index_port_free(IndexPort *p);
DEFINE_CLEANUP(IndexPort, index_port_free);

/* Why a connection did not get through to the index, or broke off: the last one's, NULL when all was well,
 * or when a later one has brought an answer to its end. */
const char *index_port_failure(const IndexPort *p);
unsigned index_port_links(const IndexPort *p);
