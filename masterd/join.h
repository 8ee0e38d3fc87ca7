/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "frame.h"
#include "memory-util.h"
#include "types.h"

/* JOIN and RENEW: what somebody may send instead of a hello to get a certificate. The master checks only who
 * may ask for what; tokens and signatures are clupy-signer's affair, who is asked in between. */
typedef struct JoinRequest JoinRequest;

/* The first frame of a connection is one of them. The peer holds the request until it is answered, which
 * ends the connection. Returns 0, or a negative errno to close the connection with. */
int join_frame(Peer *peer, const Frame *frame);

/* Without an answer. Takes NULL, returns NULL. */
JoinRequest *join_request_free(JoinRequest *request);
