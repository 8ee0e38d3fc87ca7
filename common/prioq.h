/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

#include "memory-util.h"

/* A binary heap of pointers, smallest first. Members that must be removed or moved know their place in an
 * index field. */
typedef struct Prioq Prioq;

/* <0, 0, >0 as in qsort(). For a stable queue compare a sequence number last. */
typedef int (*PrioqCompare)(const void *left, const void *right);

#define PRIOQ_NONE ((size_t) -1)

/* index_offset: where in a member a size_t index lives; it is PRIOQ_NONE while the member is in no queue
 * (set it so at creation). Returns 0, -ENOMEM. */
int prioq_new(PrioqCompare compare, size_t index_offset, Prioq **ret);
Prioq *prioq_free(Prioq *q);
DEFINE_CLEANUP(Prioq, prioq_free);

/* Returns 0, -EEXIST when it is in a queue already, -ENOMEM. */
int prioq_put(Prioq *q, void *member);
void *prioq_peek(const Prioq *q);             /* NULL when empty */
void *prioq_pop(Prioq *q);                    /* NULL when empty */
void prioq_remove(Prioq *q, void *member);    /* nothing when it is not there */
void prioq_reshuffle(Prioq *q, void *member); /* its order has changed */
size_t prioq_size(const Prioq *q);
void *prioq_at(const Prioq *q, size_t position); /* heap order, for walking; NULL past the end */
