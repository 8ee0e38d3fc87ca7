/* SPDX-License-Identifier: Apache-2.0 */
#include "log-tail.h"

#include <errno.h>
#include <string.h>

#include "memory-util.h"

void log_tails_init(LogTails *tails, uint64_t tail_max, uint64_t bytes_max) {
        *tails = (LogTails){ .tail_max = tail_max, .bytes_max = bytes_max };
        list_init(&tails->lru);
}

static void tail_empty(LogTails *tails, LogTail *tail) {
        tails->bytes -= tail->capacity;
        tail->data = mfree(tail->data);
        tail->size = tail->capacity = 0;
        list_remove(&tail->lru);
}

static int tail_reserve(LogTails *tails, LogTail *tail, size_t need) {
        size_t capacity = MAX(tail->capacity, (size_t) 256);
        char *data;

        while (capacity < need)
                capacity *= 2;
        capacity = MIN(capacity, (size_t) tails->tail_max);
        if (capacity <= tail->capacity)
                return 0;
        data = realloc(tail->data, capacity);
        if (!data)
                return -ENOMEM;
        tails->bytes += capacity - tail->capacity;
        tail->data = data;
        tail->capacity = capacity;
        return 0;
}

int log_tail_append(LogTails *tails, LogTail **tail, const char *data, size_t size) {
        LogTail *t = *tail;
        int r;

        if (!t) {
                t = *tail = new0(LogTail);
                if (!t)
                        return -ENOMEM;
        }
        t->end += size;
        if (size > tails->tail_max) {
                data += size - tails->tail_max;
                size = tails->tail_max;
        }
        r = tail_reserve(tails, t, t->size + size);
        if (r < 0)
                return r;
        if (t->size + size > t->capacity) {
                /* A quarter more than needed makes room, so that not every line moves the whole tail. */
                size_t excess = t->size + size - t->capacity;
                size_t drop = MIN(t->size, excess + t->capacity / 4);

                memmove(t->data, t->data + drop, t->size - drop);
                t->size -= drop;
        }
        memcpy(t->data + t->size, data, size);
        t->size += size;
        list_remove(&t->lru);
        list_append(&tails->lru, &t->lru);
        while (tails->bytes > tails->bytes_max) {
                LogTail *oldest = LIST_FIRST(LogTail, lru, &tails->lru);

                if (!oldest || oldest == t)
                        break;
                tail_empty(tails, oldest);
        }
        return 0;
}

LogTail *log_tail_free(LogTails *tails, LogTail *tail) {
        if (!tail)
                return NULL;
        tail_empty(tails, tail);
        return mfree(tail);
}

size_t log_tail_read(const LogTail *tail, uint64_t offset, const char **ret_data, uint64_t *ret_end) {
        uint64_t first, skip;

        *ret_data = "";
        *ret_end = tail ? tail->end : 0;
        if (!tail || tail->size == 0 || offset >= tail->end)
                return 0;
        first = tail->end - tail->size;
        skip = offset > first ? offset - first : 0;
        *ret_data = tail->data + skip;
        return tail->size - skip;
}
