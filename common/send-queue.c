/* SPDX-License-Identifier: Apache-2.0 */
#include "send-queue.h"

#include <errno.h>

struct SendChunk {
        SendChunk *next;
        size_t begin, end, capacity;
        uint8_t data[];
};

enum { CHUNK_MIN = 4096 - sizeof(SendChunk) };

int send_queue_append(SendQueue *queue, const struct iovec *iov, size_t n_iov, size_t skip) {
        SendChunk *into = queue->last;
        size_t total = 0;

        for (size_t i = 0; i < n_iov; i++)
                total += iov[i].iov_len;
        if (total <= skip)
                return 0;
        total -= skip;
        if (!into || total > into->capacity - into->end) {
                size_t capacity = MAX(total, (size_t) CHUNK_MIN);
                SendChunk *chunk = malloc(sizeof(SendChunk) + capacity);

                if (!chunk)
                        return -ENOMEM;
                *chunk = (SendChunk){ .capacity = capacity };
                if (into)
                        into->next = chunk;
                else
                        queue->first = chunk;
                into = queue->last = chunk;
        }
        for (size_t i = 0; i < n_iov; i++) {
                const uint8_t *p = iov[i].iov_base;
                size_t left = iov[i].iov_len;

                if (skip >= left) {
                        skip -= left;
                        continue;
                }
                p += skip;
                left -= skip;
                skip = 0;
                memcpy(into->data + into->end, p, left);
                into->end += left;
        }
        queue->size += total;
        return 0;
}

size_t send_queue_peek(const SendQueue *queue, struct iovec *iov, size_t max) {
        size_t n = 0;

        for (SendChunk *chunk = queue->first; chunk && n < max; chunk = chunk->next)
                iov[n++] = (struct iovec){ chunk->data + chunk->begin, chunk->end - chunk->begin };
        return n;
}

void send_queue_consume(SendQueue *queue, size_t n) {
        queue->size -= n;
        while (queue->first) {
                SendChunk *chunk = queue->first;
                size_t there = chunk->end - chunk->begin;

                if (n < there) {
                        chunk->begin += n;
                        return;
                }
                n -= there;
                queue->first = chunk->next;
                free(chunk);
        }
        queue->last = NULL;
}

void send_queue_clear(SendQueue *queue) {
        send_queue_consume(queue, queue->size);
}
