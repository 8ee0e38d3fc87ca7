/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-auth.h"

#include <errno.h>
#include <string.h>

#include "list.h"
#include "macros.h"
#include "time-util.h"

/* polkit's CheckAuthorizationFlags. */
enum { POLKIT_ALLOW_USER_INTERACTION = 1 };

struct BusAuth {
        sd_bus *bus;
        ListLink questions;
        unsigned n_questions;
};

typedef struct Question {
        BusAuth *auth;
        ListLink link;
        sd_bus_message *call;
        sd_bus_slot *slot; /* of the call that waits for its answer */
        const char *action;
        bool interactive;
        uid_t uid;
        BusAuthCallback callback;
        void *userdata;
} Question;

static void question_end(Question *q, int error, BusVerdict verdict) {
        list_remove(&q->link);
        q->auth->n_questions--;
        q->callback(q->call, error, q->uid, verdict, q->userdata);
        sd_bus_slot_unref(q->slot);
        sd_bus_message_unref(q->call);
        free(q);
}

int bus_auth_new(sd_bus *bus, BusAuth **ret) {
        BusAuth *auth = new0(BusAuth);

        if (!auth)
                return -ENOMEM;
        auth->bus = bus;
        list_init(&auth->questions);
        *ret = auth;
        return 0;
}

BusAuth *bus_auth_free(BusAuth *auth) {
        if (!auth)
                return NULL;
        LIST_FOREACH(Question, q, link, &auth->questions)
                question_end(q, -ECANCELED, BUS_UNASKED);
        return mfree(auth);
}

static int on_polkit(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Question *q = userdata;
        int authorized = 0, challenge = 0;

        if (sd_bus_message_is_method_error(reply, NULL) ||
            sd_bus_message_read(reply, "(bba{ss})", &authorized, &challenge, 0) < 0)
                question_end(q, 0, BUS_NO_POLKIT);
        else
                question_end(q, 0, authorized ? BUS_GRANTED : BUS_REFUSED);
        return 1;
}

static int ask_polkit(Question *q) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *query = NULL;
        int r;

        r = sd_bus_message_new_method_call(q->auth->bus, &query, "org.freedesktop.PolicyKit1",
                                           "/org/freedesktop/PolicyKit1/Authority",
                                           "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization");
        if (r >= 0)
                r = sd_bus_message_append(query, "(sa{sv})sa{ss}us", "system-bus-name", 1, "name", "s",
                                          sd_bus_message_get_sender(q->call), q->action, 0,
                                          q->interactive ? (uint32_t) POLKIT_ALLOW_USER_INTERACTION : 0, "");
        if (r < 0)
                return r;
        q->slot = sd_bus_slot_unref(q->slot);
        return sd_bus_call_async(
                q->auth->bus, &q->slot, query, on_polkit, q,
                (uint64_t) (q->interactive ? BUS_AUTH_INTERACTIVE_TIMEOUT_S : BUS_AUTH_TIMEOUT_S) *
                        USEC_PER_SEC);
}

static int on_caller(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Question *q = userdata;
        uint32_t uid;

        if (sd_bus_message_is_method_error(reply, NULL) || sd_bus_message_read(reply, "u", &uid) < 0) {
                question_end(q, -ESRCH, BUS_UNASKED);
                return 1;
        }
        q->uid = uid;
        if (!q->action)
                question_end(q, 0, BUS_UNASKED);
        else if (uid == 0)
                question_end(q, 0, BUS_GRANTED);
        else if (ask_polkit(q) < 0)
                question_end(q, 0, BUS_NO_POLKIT);
        return 1;
}

static bool has_room(const BusAuth *auth, const char *sender) {
        unsigned n = 0;

        LIST_FOREACH(Question, q, link, &auth->questions)
                n += streq(sd_bus_message_get_sender(q->call), sender);
        return auth->n_questions < BUS_AUTH_PENDING_MAX && n < BUS_AUTH_PENDING_SENDER_MAX;
}

int bus_auth_ask(BusAuth *auth, sd_bus_message *call, const char *action, bool interactive,
                 BusAuthCallback callback, void *userdata) {
        const char *sender = sd_bus_message_get_sender(call);
        Question *q;
        int r;

        if (!sender)
                return -ESRCH;
        if (!has_room(auth, sender))
                return -EBUSY;
        q = new0(Question);
        if (!q)
                return -ENOMEM;
        *q = (Question){
                .auth = auth, .action = action, .uid = (uid_t) -1, .callback = callback, .userdata = userdata
        };
        r = sd_bus_call_method_async(auth->bus, &q->slot, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                     "org.freedesktop.DBus", "GetConnectionUnixUser", on_caller, q, "s",
                                     sender);
        if (r < 0) {
                free(q);
                return r;
        }
        q->call = sd_bus_message_ref(call);
        list_append(&auth->questions, &q->link);
        auth->n_questions++;
        return 0;
}
