/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "digest.h"
#include "frame.h"
#include "id.h"
#include "memory-util.h"

/* Payload streams of one connection (docs/protocol.md, "Payload streams"): those that we ask for end up in
 * sealed memfds, those that we are asked for come out of memfds. What is sent waits for the peer's credit
 * and for the connection to drain, and takes turns, so that nothing else on the connection waits for it. */
typedef struct PayloadStreams PayloadStreams;

typedef struct PayloadWire {
        /* Returns 0 or a negative errno, which nobody looks at: a dead connection is noticed elsewhere. */
        int (*send)(FrameType type, json_object *json, const struct iovec *payloads, size_t n_payloads,
                    void *userdata);
        /* No more DATA now: payload_streams_writable() will be called. */
        bool (*congested)(void *userdata);
} PayloadWire;

enum {
        PAYLOAD_CHUNK = 256 << 10,     /* bytes of one DATA */
        PAYLOAD_WINDOW = 1 << 20,      /* that we offer */
        PAYLOAD_WINDOW_MAX = 64 << 20, /* credit that we believe in */
        PAYLOAD_OUT_MAX = 1024,        /* streams that the peer may have open */
        PAYLOAD_IN_GROUP = 4,          /* that we open at once for one group; further ones wait */
};

int payload_streams_new(sd_event *event, const PayloadWire *wire, void *userdata, PayloadStreams **ret);
PayloadStreams *payload_streams_free(PayloadStreams *p);
DEFINE_CLEANUP(PayloadStreams, payload_streams_free);

/* The connection is gone: what goes out is forgotten, what comes in fails with -ECONNRESET. */
void payload_streams_reset(PayloadStreams *p);
/* The connection has drained. */
void payload_streams_writable(PayloadStreams *p);
/* DATA, CREDIT or END has come. Returns 0, -EBADMSG when the peer broke the protocol. */
int payload_streams_frame(PayloadStreams *p, const Frame *frame);

/* Streams open in either direction. */
size_t payload_streams_count(const PayloadStreams *p);

typedef struct PayloadIn PayloadIn;

/* error 0: fd is a sealed memfd of exactly the size asked for, the callee's own. Else fd is -EBADF and
 * message a sentence: -ENODATA: the owner does not have it any more; -EBADMSG: it is not what was asked for
 * (size, hash); -ECONNRESET; -ENOSPC, -ENOMEM. The stream is gone afterwards. */
typedef void (*PayloadInDone)(PayloadIn *in, int error, int fd, const char *message, void *userdata);

typedef struct PayloadRequest {
        Id task;
        uint32_t attempt;
        const Digest *code; /* code with that hash, which is checked; NULL: arguments */
        uint64_t size;      /* bytes, > 0 */
        Id group;           /* whose PAYLOAD_IN_GROUP it counts against: the session */
} PayloadRequest;

/* Asks for a payload. done comes from the event loop, never from within this call. Returns 0, -ENOMEM,
 * -errno of making a memfd. */
int payload_in_start(PayloadStreams *p, const PayloadRequest *request, PayloadInDone done, void *userdata,
                     PayloadIn **ret);
/* Ends it without a callback. Takes NULL, returns NULL. */
PayloadIn *payload_in_cancel(PayloadIn *in);

/* Answers a FETCH with the first size bytes of fd, which stays the caller's. Returns 0, -EEXIST when the
 * stream is open already, -EBUSY when there are too many, -ENOMEM, -errno. */
int payload_out_start(PayloadStreams *p, uint64_t stream, int fd, uint64_t size, uint64_t window);
/* Tells that it cannot be sent. */
void payload_out_refuse(PayloadStreams *p, uint64_t stream, const char *error, const char *message);
