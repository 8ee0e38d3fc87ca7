/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "memory-util.h"

/* Who calls a method on D-Bus, and whether polkit lets that one. Everything is asked asynchronously and with
 * a time limit: a bus or a polkit that does not answer keeps nobody waiting but the caller. */
typedef struct BusAuth BusAuth;

typedef enum BusVerdict {
        BUS_UNASKED,
        BUS_GRANTED,
        BUS_REFUSED,
        BUS_NO_POLKIT, /* it is not there, does not answer in time or does not know the action */
} BusVerdict;

enum {
        BUS_AUTH_PENDING_MAX = 256, /* questions under way */
        BUS_AUTH_PENDING_SENDER_MAX = 16,
        BUS_AUTH_TIMEOUT_S = 10,
        BUS_AUTH_INTERACTIVE_TIMEOUT_S = 120, /* when polkit may ask a person for a password */
};

/* Exactly once, from the event loop, never from within a bus_auth_*() call. error: 0, or a negative errno
 * when the bus does not say who it is (uid is not valid then), -ECANCELED from bus_auth_free(). */
typedef void (*BusAuthCallback)(sd_bus_message *call, int error, uid_t uid, BusVerdict verdict,
                                void *userdata);

/* Returns 0, -ENOMEM. */
int bus_auth_new(sd_bus *bus, BusAuth **ret);
/* Whoever waits for an answer is told that there will be none. */
BusAuth *bus_auth_free(BusAuth *auth);
DEFINE_CLEANUP(BusAuth, bus_auth_free);

/* Asks who has sent the call; with an action also whether polkit lets it: root is let without being asked
 * about (BUS_GRANTED). The call is referenced. It may ask a person if the caller has allowed that. Returns
 * 0, -EBUSY when too many questions of this caller or in all are under way, -ENOMEM, -errno. */
int bus_auth_ask(BusAuth *auth, sd_bus_message *call, const char *action, bool interactive,
                 BusAuthCallback callback, void *userdata);
