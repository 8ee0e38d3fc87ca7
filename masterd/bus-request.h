/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <systemd/sd-bus.h>

#include "bus-auth.h"
#include "query.h"
#include "types.h"

#define BUS_ACTION_VIEW "org.clupy.view"
#define BUS_ACTION_MANAGE "org.clupy.manage"

/* Answers a call out of a query's result. Returns what sd_bus_send() does. */
typedef int (*BusReply)(sd_bus_message *call, json_object *result);

/* Runs a query for who calls, and answers the call; for sd-bus's method handlers. What is asked of tasks is
 * answered of the caller's own, of all for root and for whom polkit grants org.clupy.view. What the caller
 * may not do is put to polkit as org.clupy.manage. args is taken. reply NULL: the answer is empty. */
int bus_request_run(Manager *m, BusAuth *auth, sd_bus_message *call, const char *verb, json_object *args,
                    BusReply reply);

/* "org.clupy.Error.NotFound", …; org.clupy.Error.Failed for what has no name of its own. */
const char *bus_error_name(QueryError error);

/* The owner that an account is, "" for one without a name. */
const char *bus_owner(uid_t uid);
