/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memory-util.h"

/* Bytes that wait to be written, in chunks that are filled one after the other. Holds no memory while it is
 * empty. */
typedef struct SendChunk SendChunk;

typedef struct SendQueue {
        SendChunk *first, *last;
        size_t size; /* bytes */
} SendQueue;

/* Copies what the vectors hold from `skip` bytes on to the end. Returns 0, -ENOMEM (queue unchanged). */
int send_queue_append(SendQueue *queue, const struct iovec *iov, size_t n_iov, size_t skip);
/* Fills iov with the first up to max pieces. Returns their number. */
size_t send_queue_peek(const SendQueue *queue, struct iovec *iov, size_t max);
/* Drops n ≤ size bytes from the front. */
void send_queue_consume(SendQueue *queue, size_t n);
void send_queue_clear(SendQueue *queue);
