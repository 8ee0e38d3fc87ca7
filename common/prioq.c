/* SPDX-License-Identifier: Apache-2.0 */
#include "prioq.h"

#include <errno.h>

struct Prioq {
        PrioqCompare compare;
        size_t index_offset;
        void **members;
        size_t size, capacity;
};

int prioq_new(PrioqCompare compare, size_t index_offset, Prioq **ret) {
        Prioq *q = new0(Prioq);

        if (!q)
                return -ENOMEM;
        q->compare = compare;
        q->index_offset = index_offset;
        *ret = q;
        return 0;
}

static size_t *member_index(const Prioq *q, void *member) {
        return (size_t *) ((char *) member + q->index_offset);
}

Prioq *prioq_free(Prioq *q) {
        if (!q)
                return NULL;
        for (size_t i = 0; i < q->size; i++)
                *member_index(q, q->members[i]) = PRIOQ_NONE;
        free(q->members);
        return mfree(q);
}

static void place(Prioq *q, size_t position, void *member) {
        q->members[position] = member;
        *member_index(q, member) = position;
}

static void sift_up(Prioq *q, size_t position) {
        void *member = q->members[position];

        while (position > 0) {
                size_t parent = (position - 1) / 2;

                if (q->compare(q->members[parent], member) <= 0)
                        break;
                place(q, position, q->members[parent]);
                position = parent;
        }
        place(q, position, member);
}

static void sift_down(Prioq *q, size_t position) {
        void *member = q->members[position];

        for (;;) {
                size_t child = 2 * position + 1;

                if (child >= q->size)
                        break;
                if (child + 1 < q->size && q->compare(q->members[child + 1], q->members[child]) < 0)
                        child++;
                if (q->compare(member, q->members[child]) <= 0)
                        break;
                place(q, position, q->members[child]);
                position = child;
        }
        place(q, position, member);
}

int prioq_put(Prioq *q, void *member) {
        if (*member_index(q, member) != PRIOQ_NONE)
                return -EEXIST;
        if (ARRAY_RESERVE(q->members, q->capacity, q->size + 1) < 0)
                return -ENOMEM;
        place(q, q->size, member);
        q->size++;
        sift_up(q, q->size - 1);
        return 0;
}

void *prioq_peek(const Prioq *q) {
        return q && q->size > 0 ? q->members[0] : NULL;
}

static bool is_member(const Prioq *q, void *member) {
        size_t position = *member_index(q, member);

        return position < q->size && q->members[position] == member;
}

void prioq_remove(Prioq *q, void *member) {
        size_t position;
        void *last;

        if (!q || !is_member(q, member))
                return;
        position = *member_index(q, member);
        *member_index(q, member) = PRIOQ_NONE;
        last = q->members[--q->size];
        if (last != member) {
                place(q, position, last);
                sift_up(q, position);
                sift_down(q, *member_index(q, last));
        }
        /* A queue that was long once keeps no memory for it. */
        if (q->size == 0 && q->capacity > 1024) {
                q->members = mfree(q->members);
                q->capacity = 0;
        }
}

void *prioq_pop(Prioq *q) {
        void *member = prioq_peek(q);

        if (member)
                prioq_remove(q, member);
        return member;
}

void prioq_reshuffle(Prioq *q, void *member) {
        if (!is_member(q, member))
                return;
        sift_up(q, *member_index(q, member));
        sift_down(q, *member_index(q, member));
}

size_t prioq_size(const Prioq *q) {
        return q ? q->size : 0;
}

void *prioq_at(const Prioq *q, size_t position) {
        return q && position < q->size ? q->members[position] : NULL;
}
