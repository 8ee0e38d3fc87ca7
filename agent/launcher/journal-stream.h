/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>

/* A stream to journald whose lines are credited to a unit. The unit in its header, which journald believes
 * only root, keeps the last lines of a process that is gone before they are read. Returns the fd (blocking,
 * CLOEXEC), -EAGAIN when journald has a full queue, -errno. */
int journal_stream_open(const char *identifier, const char *unit);

/* Has journald take what was printed without an end of line, while it still knows whose it is. An empty line
 * by itself is not logged. Returns 0, -EAGAIN while the stream is full, -errno. */
int journal_stream_end_line(int fd);

/* Has journald read everything? Also true when that cannot be known. */
bool journal_stream_is_drained(int fd);

/* Fields that journald adds to each line of the unit, as NULL-terminated "KEY=value". They must be there
 * before the unit prints, until journald has read all of it. Returns 0, -errno. */
int journal_fields_write(const char *unit, const char *const *fields);
void journal_fields_remove(const char *unit);
/* Removes those of units with that prefix whose unit is not known any more. */
void journal_fields_sweep(const char *prefix, bool (*known)(const char *unit, void *userdata),
                          void *userdata);
