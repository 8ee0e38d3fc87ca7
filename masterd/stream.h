/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "frame.h"
#include "id.h"
#include "list.h"
#include "types.h"

/* Large payloads on their way through: an agent asks for arguments and code of a client, a client for a
 * result of an agent. The master holds no more of a stream than its window, and asks the owner for more only
 * as the asker takes it: one slow asker fills nothing, and a heartbeat waits behind a window at most. */

enum {
        STREAM_WINDOW = 512 << 10,   /* bytes of one stream that are on their way */
        STREAM_FLOWING_MAX = 48,     /* streams that flow at the same time; others wait */
        STREAM_FLOWING_PEER_MAX = 8, /* likewise to one asker, and from one owner to the master itself */
        STREAM_PEER_MAX = 4096,      /* streams one asker may have open */
        STREAM_STALL_S = 60,         /* one that moves less than this in that time ends if others wait */
        STREAM_MOVE_MIN = 64 << 10,
};

typedef struct Streams {
        Manager *manager;
        ListLink all; /* in order of their asking */
        unsigned n_flowing, n_waiting;
        bool starting;
} Streams;

void streams_init(Streams *streams, Manager *manager);

/* For what the master itself fetches. error: 0, or a negative errno. Called once; the stream is gone then.
 */
typedef int (*StreamSinkData)(const void *data, size_t size, void *userdata);
typedef void (*StreamSinkDone)(int error, void *userdata);
typedef struct StreamSink {
        StreamSinkData data; /* <0 ends the stream with that error */
        StreamSinkDone done;
} StreamSink;
int stream_fetch_own(Streams *streams, Task *task, const char *what, const StreamSink *sink, void *userdata,
                     Stream **ret);
/* A wheel that a client offered, by its digest. */
int stream_fetch_wheel(Streams *streams, Session *session, const char *digest, uint64_t size,
                       const StreamSink *sink, void *userdata, Stream **ret);
/* Ends one without calling its sink. */
void stream_cancel(Stream *stream);

/* The frames. Return <0 to close the connection they came over. */
int stream_frame_fetch(Peer *peer, json_object *json);
int stream_frame_data(Peer *peer, const Frame *frame);
int stream_frame_credit(Peer *peer, json_object *json);
int stream_frame_end(Peer *peer, json_object *json);

/* A connection is gone, has room again; an owner has come back, is gone for good. */
void streams_peer_gone(Streams *streams, Peer *peer);
void streams_peer_drained(Streams *streams, Peer *peer);
void streams_session_connected(Streams *streams, Session *session);
void streams_session_gone(Streams *streams, Session *session);
void streams_node_connected(Streams *streams, Node *node);
/* It belongs to another session now. */
void streams_task_moved(Streams *streams, Task *task);
void streams_task_gone(Streams *streams, Task *task);
