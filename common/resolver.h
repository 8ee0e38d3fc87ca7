/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "memory-util.h"

enum { RESOLVER_ADDRESSES_MAX = 16, RESOLVER_TIMEOUT_S = 5 };

typedef struct ResolvedAddress {
        struct sockaddr_storage address; /* with the port */
        socklen_t size;
} ResolvedAddress;

/* A resolution on its way. Freeing it cancels it. */
typedef struct Resolver Resolver;

/* error: 0 with n ≥ 1 addresses in the system's order of preference; -ENOENT: no such host; -EAGAIN: the
 * name service failed for now; -ETIMEDOUT; -errno. Called exactly once, from the event loop, unless the
 * resolver was freed before; it may free it. addresses is valid during the call. */
typedef void (*ResolverCallback)(Resolver *r, int error, const ResolvedAddress *addresses, size_t n,
                                 void *userdata);

/* Numeric hosts take no time; for names a child process runs getaddrinfo(). Returns 0, -EINVAL for an empty
 * or overlong host, -ENOMEM, -errno. */
int resolver_start(sd_event *event, const char *host, uint16_t port, ResolverCallback callback,
                   void *userdata, Resolver **ret);
Resolver *resolver_free(Resolver *r);
DEFINE_CLEANUP(Resolver, resolver_free);

/* Numeric hosts only ("::", "127.0.0.1", "*" for every address). Returns 0, -EINVAL. */
int sockaddr_from_numeric(const char *host, uint16_t port, struct sockaddr_storage *ret,
                          socklen_t *ret_size);

/* "10.0.0.2:4242", "[::1]:4242" (IPv4 mapped into IPv6 shown as IPv4), "unix", "unix:/path". buffer has
 * SOCKADDR_STRING_SIZE bytes and is returned. */
enum { SOCKADDR_STRING_SIZE = 128 };
char *sockaddr_to_string(const struct sockaddr *address, socklen_t size, bool with_port,
                         char buffer[static SOCKADDR_STRING_SIZE]);
/* 127.0.0.0/8, ::1, UNIX sockets. */
bool sockaddr_is_loopback(const struct sockaddr *address);
