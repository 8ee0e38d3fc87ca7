/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-request.h"

#include <errno.h>

#include "access.h"
#include "account.h"
#include "json-util.h"
#include "parse-util.h"

/* A call that is being answered. */
typedef struct Request {
        Manager *m;
        BusAuth *auth;
        sd_bus_message *call;
        char *user;
        char *verb;
        json_object *args;
        BusReply reply;
        bool views; /* asks only */
        /* What came of it without polkit's help. */
        QueryError error;
        json_object *result;
        char *message;
} Request;

static Request *request_free(Request *request) {
        if (!request)
                return NULL;
        sd_bus_message_unref(request->call);
        free(request->user);
        free(request->verb);
        json_put(request->args);
        json_put(request->result);
        free(request->message);
        return mfree(request);
}
DEFINE_CLEANUP(Request, request_free);

const char *bus_error_name(QueryError error) {
        switch (error) {
        case QUERY_NOT_FOUND:
                return "org.clupy.Error.NotFound";
        case QUERY_INVALID_ARGUMENT:
                return "org.clupy.Error.InvalidArgument";
        case QUERY_NOT_ALLOWED:
                return "org.clupy.Error.NotAllowed";
        default:
                return "org.clupy.Error.Failed";
        }
}

const char *bus_owner(uid_t uid) {
        const char *name = uid == 0 ? "root" : account_name(uid);

        return name && owner_name_is_valid(name) ? name : "";
}

static int request_answer(Request *request) {
        if (request->error != QUERY_OK)
                return sd_bus_reply_method_errorf(request->call, bus_error_name(request->error), "%s",
                                                  strempty(request->message));
        if (request->reply)
                return request->reply(request->call, request->result);
        return sd_bus_reply_method_return(request->call, NULL);
}

static void request_query(Request *request, bool privileged, unsigned granted) {
        const QueryAsker asker = {
                .user = request->user, .privileged = privileged, .granted = granted, .from = "D-Bus"
        };

        json_put(request->result);
        request->result = NULL;
        request->message = mfree(request->message);
        request->error = query_run(request->m, &asker, request->verb, request->args, &request->result,
                                   &request->message);
}

/* Who may do more could get more out of it: others' tasks are not found by those who may not see them. */
static bool is_short_of_rights(const Request *request) {
        json_object *cancelled;

        if (request->error == QUERY_OK)
                return json_get_array_optional(request->result, "cancelled", SIZE_MAX, &cancelled) >= 0 &&
                       cancelled && json_object_array_length(cancelled) == 0;
        return request->error == QUERY_NOT_ALLOWED || request->error == QUERY_NOT_FOUND;
}

static void request_refused(Request *request, BusVerdict verdict) {
        const QueryAsker asker = { .user = request->user, .from = "D-Bus" };
        char *message;

        if (request->error == QUERY_NOT_FOUND)
                query_log_not_found(request->m, &asker, request->verb, request->args);
        if (request->error != QUERY_NOT_ALLOWED)
                return;
        message = strformat("%s%s", strempty(request->message),
                            verdict == BUS_REFUSED ? "; polkit does not grant you " BUS_ACTION_MANAGE
                                                   : "; there is no polkit here that could grant it");
        if (message) {
                free(request->message);
                request->message = message;
        }
        query_log_refusal(&asker, request->verb, request->message);
}

static void on_polkit(sd_bus_message *call, int error, uid_t uid, BusVerdict verdict, void *userdata) {
        _cleanup_(request_freep) Request *request = userdata;

        if (error == -ECANCELED)
                return;
        if (error >= 0 && verdict == BUS_GRANTED)
                request_query(request, false, ACCESS_VIEW_ALL | ACCESS_MANAGE_ALL);
        else
                request_refused(request, verdict);
        (void) request_answer(request);
}

static void on_caller(sd_bus_message *call, int error, uid_t uid, BusVerdict verdict, void *userdata) {
        _cleanup_(request_freep) Request *request = userdata;

        if (error == -ECANCELED)
                return;
        if (error < 0) {
                (void) sd_bus_reply_method_errorf(call, bus_error_name(QUERY_NOT_ALLOWED),
                                                  "The bus does not say who you are");
                return;
        }
        request->user = strdup(bus_owner(uid));
        if (!request->user) {
                (void) sd_bus_reply_method_errno(call, -ENOMEM, NULL);
                return;
        }
        request_query(request, uid == 0, request->views && verdict == BUS_GRANTED ? ACCESS_VIEW_ALL : 0);
        if (uid != 0 && !request->views && is_short_of_rights(request) &&
            bus_auth_ask(request->auth, call, BUS_ACTION_MANAGE, true, on_polkit, request) >= 0) {
                TAKE_PTR(request);
                return;
        }
        if (request->error == QUERY_NOT_FOUND)
                query_log_not_found(request->m, &(QueryAsker){ .user = request->user, .from = "D-Bus" },
                                    request->verb, request->args);
        (void) request_answer(request);
}

/* Verbs that ask after tasks and change nothing. */
static bool is_view(const char *verb) {
        return streq(verb, "tasks") || streq(verb, "task") || streq(verb, "why") ||
               streq(verb, "environments") || streq(verb, "environment");
}

int bus_request_run(Manager *m, BusAuth *auth, sd_bus_message *call, const char *verb, json_object *args,
                    BusReply reply) {
        _cleanup_(request_freep) Request *request = new0(Request);
        int r;

        if (!request) {
                json_put(args);
                return -ENOMEM;
        }
        *request = (Request){ .m = m,
                              .auth = auth,
                              .call = sd_bus_message_ref(call),
                              .verb = strdup(verb),
                              .args = args,
                              .reply = reply,
                              .views = is_view(verb) };
        if (!request->verb)
                return -ENOMEM;
        if (query_is_public(verb)) {
                request_query(request, false, 0);
                return request_answer(request);
        }
        r = bus_auth_ask(auth, call, request->views ? BUS_ACTION_VIEW : NULL, false, on_caller, request);
        if (r == -EBUSY)
                return sd_bus_reply_method_errorf(
                        call, "org.freedesktop.DBus.Error.LimitsExceeded",
                        "Too many calls wait for an answer: wait for some of them");
        if (r < 0)
                return r;
        TAKE_PTR(request);
        return 1;
}
