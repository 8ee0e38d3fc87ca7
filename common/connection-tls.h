/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "connection-transport.h"
#include "identity.h"
#include "memory-util.h"
#include "tls-context.h"

/* The transport over TLS. Its functions give besides -errno of the socket: -EPROTO (no or another TLS),
 * -EPROTONOSUPPORT (the peer speaks plaintext), -EKEYEXPIRED, -EKEYREVOKED, -EKEYREJECTED (its certificate,
 * or what it says of ours), -EMSGSIZE (tls_link_bound()); `why` then has the sentence. */
typedef struct TlsLink TlsLink;

extern const ConnectionTransport CONNECTION_TRANSPORT_TLS; /* its object is a TlsLink */

/* host: the name or address that was dialled, which the other end's certificate must have; NULL for
 * TLS_SERVER. The context is referenced. fd is borrowed. Returns 0, -ENOMEM, -EINVAL for a host that none
 * can have. */
int tls_link_new(TlsContext *context, int fd, const char *host, TlsLink **ret);

/* After the handshake: who the other end is. NULL when it has shown no certificate. */
const Identity *tls_link_identity(const TlsLink *l);
/* How many bytes may come from the socket in all, those of TLS itself included: who needs more is -EMSGSIZE.
 * UINT64_MAX, as it is first: any number. */
void tls_link_bound(TlsLink *l, uint64_t bytes);
TlsContext *tls_link_context(const TlsLink *l);
/* Whether the other end's certificate would still be accepted. As tls_context_check_certificate(); why: a
 * sentence, valid until the next call. */
int tls_link_check(TlsLink *l, const char **ret_why);
