/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "pair.h"

/* How a pair ends: the task first, then the init with what is left, then the lines in the journal and the
 * unit. For pair.c alone, and what is beside it. */

/* Counts and lists follow the state. */
void pair_set_state(Pair *pair, PairState state);

/* Told, not killed: it kills and waits for what still lives, and so has its figures. */
void pair_end_init(Pair *pair);

/* One that ends lingers, if no answer can come any more. */
void pair_linger_if_empty(Pair *pair);

/* What fails is not tried again at once for ever. */
void pair_refill_put_off(Zygote *zygote);

/* The last use of it, and perhaps of its zygote. */
void pair_free(Pair *pair);

/* Waits, each 10 ms, until journald has read what there is of one that lingers. Returns 0, -errno. */
int pair_linger_wait(Manager *manager, Pair *pair);

int pair_on_init_exit(sd_event_source *source, int fd, uint32_t events, void *userdata);
/* What its timer is for, once it runs. */
sd_event_time_handler_t pair_end_timer(const Pair *pair);
