/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What a task may say of itself, before anybody else is bothered with it. */

/* Numbers that all others on the way can hold: finite, and no more than 10^15. */
bool task_progress_is_valid(double done, double total);

/* A result: memory that has all four seals, for else its owner could change it under a reader, and no larger
 * than what the task could fill: a memory file with nothing in it may claim to be of any size, which would
 * be taken off the node's memory. Returns 0 with its bytes, -EPERM, -EFBIG, -errno. */
int task_result_check(int fd, uint64_t memory_max, uint64_t *ret_size);
