/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "outcome.h"

/* The kind of an OUTCOME object, and whether it is an exception that the call asked to run again for.
 * Returns 0, -EINVAL. */
int outcome_from_json(json_object *outcome, OutcomeKind *ret_kind, bool *ret_retry);
/* The same from text. Returns also -EBADMSG. */
int outcome_parse(const char *text, OutcomeKind *ret_kind, bool *ret_retry);
