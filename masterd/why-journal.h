/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "id.h"

/* What the journal remembers of a task that the master no longer does: why_log() wrote it, perhaps under a
 * former process. One look-up in the journal's index; it reads files, so only a question for one whole id
 * gets here, and that at most once in 100 ms. owner: only what is this one's, NULL: anybody's. ret_outcome:
 * the kind's name. Both from malloc. Returns 0, -ENOENT, -EAGAIN, -errno. */
int why_from_journal(const char *owner, Id id, char **ret_sentence, char **ret_outcome);
