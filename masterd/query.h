/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "history.h"
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

/* What operators did: drained and undrained nodes, cancelled others' tasks. */
#define QUERY_ACTION_MESSAGE_ID "0b3d7c52f6a94e1b8f0e7a2c4d915e63"

/* The wire's codes: "not-found", … */
DEFINE_NAME_TABLE_DECLARATION(query_error, QueryError);

typedef struct QueryAsker {
        const char *user; /* may do to its own tasks what it likes; the access table may allow more */
        bool privileged;  /* and this one to everything */
        bool claimed;     /* nobody has proved that this is the user: the table gives it nothing of others */
        unsigned granted; /* AccessRight that it has besides those of the table */
        const char *from; /* an address for the journal, NULL */
        Session *session; /* the connection's, for `attach`; NULL */
} QueryAsker;

/* Returns QUERY_OK with the result, else a message for people. Both are the caller's. Another's task is not
 * found, unless the asker may see all. What is not allowed is for the caller to log: query_log_refusal(), or
 * to ask somebody else about. */
QueryError query_run(Manager *m, const QueryAsker *asker, const char *verb, json_object *args,
                     json_object **ret_result, char **ret_message);

/* Text from a task may be any bytes: what is not UTF-8 becomes "?". Returns 0, -ENOMEM. */
int query_add_text(json_object *object, const char *key, const char *data, size_t size);

/* The task whose log is asked for. Returns as query_run(). */
QueryError query_find_log(Manager *m, const QueryAsker *asker, json_object *args, TaskView *ret);

void query_log_refusal(const QueryAsker *asker, const char *verb, const char *message);
/* Of QUERY_NOT_FOUND: the journal is told if there is such a task, whole id given, of another owner. */
void query_log_not_found(const Manager *m, const QueryAsker *asker, const char *verb, json_object *args);

/* Whether it answers everybody alike: nothing in it is anybody's. */
bool query_is_public(const char *verb);

/* Of those of whom a task may be found by this asker: that one, or NULL for all. Returns 0, -ENOENT when
 * there is nothing to find. */
int query_scope(Manager *m, const QueryAsker *asker, const Owner **ret);
