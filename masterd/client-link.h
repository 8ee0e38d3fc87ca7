/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <sys/uio.h>

#include "batch.h"
#include "frame.h"
#include "id.h"
#include "types.h"

/* What clients and operators say, and what is said to them. */

/* Returns <0 to close the connection. */
int client_link_frame(Peer *peer, const Frame *frame);

/* Into the session's next RESULT frame. The payload is borrowed until client_link_send(). */
int client_link_result(Session *session, Task *task, const struct iovec *payload);
void client_link_send(Session *session);

/* Into a STATUS frame, which is sent when it is full. */
void client_link_status(Session *session, Task *task, Batch *batch);

/* A task printed something: whoever follows it is told. ended: there will be no more. */
void client_link_log(Owner *owner, Id id, LogTail *tail, bool ended);

typedef struct Follow Follow;
Follow *follow_free(Follow *follow);
