/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>

#include "query.h"
#include "types.h"

/* The queries about environments, see the protocol. */

typedef struct EnvironmentAsker {
        const char *user; /* NULL: nobody in particular */
        bool view_all, manage_all;
} EnvironmentAsker;

/* Each fills result, or returns an error and (perhaps) a sentence. */
typedef QueryError (*EnvironmentQuery)(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                       json_object *result, char **ret_message);

QueryError environment_query_list(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message);
QueryError environment_query_show(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message);
QueryError environment_query_sync(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message);
QueryError environment_query_remove(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                    json_object *result, char **ret_message);
QueryError environment_query_lock(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message);

typedef struct EnvironmentCounts {
        uint32_t known, resolving, building, ready, failed;
        uint64_t bytes; /* on all nodes that are there */
} EnvironmentCounts;

EnvironmentCounts environment_counts(const Manager *m);

/* Figures for `status`, and a warning for people when there is something to do. Returns 0, -ENOMEM. */
int environment_status_add(const Manager *m, json_object *status, json_object *warnings);
