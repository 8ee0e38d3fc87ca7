/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "attempt.h"

/* How an attempt ends, and how its state is told. */

void attempt_set_state(Attempt *attempt, AttemptState state);

/* Marks what it is killed for. */
void attempt_order(Attempt *attempt, uint32_t why, const char *by);

/* Ends one whose function never ran. */
void attempt_end_unstarted(Attempt *attempt, uint32_t outcome, const char *detail);

/* Tells its state under that operation: STARTED, FROZEN, THAWED. */
void attempt_tell_as(Attempt *attempt, uint32_t op, uint32_t flags);
