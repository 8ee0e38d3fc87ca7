/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "macros.h"
#include "types.h"

/* What is asked over the wire and over D-Bus alike. */

typedef enum QueryError {
        QUERY_OK,
        QUERY_NOT_FOUND,
        QUERY_INVALID_ARGUMENT,
        QUERY_NOT_ALLOWED,
        QUERY_FAILED,
        _QUERY_ERROR_MAX,
} QueryError;

/* The wire's codes: "not-found", … */
DEFINE_NAME_TABLE_DECLARATION(query_error, QueryError);

typedef struct QueryAsker {
        const char *user; /* may do to its own tasks what it likes */
        bool privileged;  /* and this one to everything */
        Session *session; /* the connection's, for `attach`; NULL */
} QueryAsker;

/* Returns QUERY_OK with the result, else a message for people. Both are the caller's. */
QueryError query_run(Manager *m, const QueryAsker *asker, const char *verb, json_object *args,
                     json_object **ret_result, char **ret_message);

/* Text from a task may be any bytes: what is not UTF-8 becomes "?". Returns 0, -ENOMEM. */
int query_add_text(json_object *object, const char *key, const char *data, size_t size);

/* Whether the verb only looks, at what anybody may see. */
bool query_is_read_only(const char *verb);
