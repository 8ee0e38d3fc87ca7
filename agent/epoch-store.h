/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "memory-util.h"
#include "parse-util.h"

/* The highest epoch of a master that this node's agents have obeyed, in a file: an agent that starts anew
 * must not obey a master of the past either. Epochs are a cluster's own, so it holds for the masters that
 * are configured: with others it begins anew. */
typedef struct EpochStore EpochStore;

/* directory: absolute, made if it is not there. Returns 0 and the epoch (0: none is known), -EBUSY when
 * another agent has it open, -EBADMSG when what is stored is damaged, -errno. */
int epoch_store_open(const char *directory, const Address *masters, size_t n_masters, EpochStore **ret,
                     uint64_t *ret_epoch);
/* Takes as long as a disk flush. Returns 0, -errno. */
int epoch_store_write(EpochStore *store, uint64_t epoch);
/* Takes NULL, returns NULL. */
EpochStore *epoch_store_close(EpochStore *store);
DEFINE_CLEANUP(EpochStore, epoch_store_close);
