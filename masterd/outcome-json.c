/* SPDX-License-Identifier: Apache-2.0 */
#include "outcome-json.h"

#include <errno.h>
#include <string.h>

#include "json-util.h"

int outcome_from_json(json_object *outcome, OutcomeKind *ret_kind, bool *ret_retry) {
        const char *name;
        bool retry;
        int kind;

        if (json_get_string(outcome, "kind", 32, &name) < 0 ||
            json_get_bool_optional(outcome, "retry", false, &retry) < 0)
                return -EINVAL;
        kind = outcome_kind_from_string(name);
        if (kind <= OUTCOME_NONE)
                return -EINVAL;
        *ret_kind = (OutcomeKind) kind;
        *ret_retry = retry && (kind == OUTCOME_EXCEPTION || kind == OUTCOME_DISK);
        return 0;
}

int outcome_parse(const char *text, OutcomeKind *ret_kind, bool *ret_retry) {
        _cleanup_(json_putp) json_object *outcome = NULL;
        int r;

        r = json_parse_strict_object(text, strlen(text), JSON_DEPTH_MAX, &outcome);
        if (r < 0)
                return r;
        return outcome_from_json(outcome, ret_kind, ret_retry);
}
