/* SPDX-License-Identifier: Apache-2.0 */
#include "gate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "hashmap.h"
#include "macros.h"
#include "time-util.h"

/* An origin has WAYS places to be in. Its hash, which nobody outside can foresee, says which. */
enum { SETS = 1024, WAYS = 4, PLACES = SETS * WAYS };

/* What a connection takes out of its origin's bucket; what a second fills in is rate times as much. */
#define TOKEN USEC_PER_SEC

typedef struct Place {
        GateOrigin origin; /* kind 0: nobody's */
        uint64_t filled_at;
        uint64_t level; /* of the bucket at that time */
        unsigned n;     /* unproven */
} Place;

struct Gate {
        unsigned n_ref;
        GateLimits limits;
        unsigned unproven;
        uint64_t refused[_GATE_REASON_MAX];
        void (*notify)(Gate *gate, GateReason reason, void *userdata);
        void *userdata;
        ListLink waiting;
        Place *places; /* calloc()ed: memory that nobody has used yet is not there */
};

static const char *const gate_reason_table[_GATE_REASON_MAX] = {
        [GATE_OPEN] = "open", [GATE_UNPROVEN] = "unproven",   [GATE_PER_ORIGIN] = "address",
        [GATE_RATE] = "rate", [GATE_RESOURCES] = "resources", [GATE_HELLO] = "hello",
};

DEFINE_NAME_TABLE(gate_reason, GateReason, gate_reason_table);

GateOrigin gate_origin(const struct sockaddr *address, uid_t uid) {
        GateOrigin origin = { .kind = 1U + address->sa_family };

        if (address->sa_family == AF_INET) {
                const struct sockaddr_in *v4 = (const struct sockaddr_in *) address;

                origin.value = v4->sin_addr.s_addr;
        } else if (address->sa_family == AF_INET6) {
                const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *) address;

                if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
                        uint32_t mapped;

                        memcpy(&mapped, v6->sin6_addr.s6_addr + 12, sizeof(mapped));
                        return (GateOrigin){ .kind = 1U + AF_INET, .value = mapped };
                }
                memcpy(&origin.value, v6->sin6_addr.s6_addr, sizeof(origin.value));
        } else
                origin.value = uid;
        return origin;
}

int gate_new(const GateLimits *limits, Gate **ret) {
        Gate *gate = new0(Gate);

        if (!gate)
                return -ENOMEM;
        gate->places = newn0(Place, PLACES);
        if (!gate->places) {
                free(gate);
                return -ENOMEM;
        }
        gate->n_ref = 1;
        gate->limits = *limits;
        list_init(&gate->waiting);
        *ret = gate;
        return 0;
}

void gate_set_limits(Gate *gate, const GateLimits *limits) {
        gate->limits = *limits;
}

Gate *gate_ref(Gate *gate) {
        gate->n_ref++;
        return gate;
}

Gate *gate_unref(Gate *gate) {
        if (!gate || --gate->n_ref > 0)
                return NULL;
        free(gate->places);
        return mfree(gate);
}

static void place_fill(const Gate *gate, Place *place, uint64_t now) {
        uint64_t full = (uint64_t) gate->limits.burst * TOKEN,
                 since = MIN(usec_sub(now, place->filled_at), USEC_PER_HOUR);

        place->level = MIN(place->level + since * gate->limits.rate, full);
        place->filled_at = now;
}

static bool is_origin(const Place *place, const GateOrigin *origin) {
        return place->origin.kind == origin->kind && place->origin.value == origin->value;
}

/* The place of an origin. Who comes anew takes the one that can best be spared: nobody's, or the one whose
 * bucket is fullest. It inherits the level, so that changing one's address makes no bucket full, and where
 * all have connections here, the count as well. */
static Place *place_find(const Gate *gate, const GateOrigin *origin, uint64_t now) {
        Place *set = gate->places + (hash_bytes(origin, sizeof(*origin)) % SETS) * WAYS, *best = set;

        for (size_t i = 0; i < WAYS; i++)
                if (is_origin(set + i, origin)) {
                        place_fill(gate, set + i, now);
                        return set + i;
                }
        for (size_t i = 0; i < WAYS; i++) {
                Place *place = set + i;

                if (place->origin.kind == 0) {
                        place->level = (uint64_t) gate->limits.burst * TOKEN;
                        place->filled_at = now;
                        best = place;
                        break;
                }
                place_fill(gate, place, now);
                if ((place->n == 0) != (best->n == 0) ? place->n == 0 : place->level > best->level)
                        best = place;
        }
        if (best->n == 0)
                best->origin = *origin;
        return best;
}

GateReason gate_enter_instead(Gate *gate, const GateOrigin *origin, uint64_t now,
                              bool (*room)(void *userdata), void *userdata, size_t *ret_ticket) {
        Place *place = place_find(gate, origin, now);
        const GateLimits *limits = &gate->limits;
        GateReason reason = GATE_OPEN;

        /* What the bounds refuse counts for the rate as well. */
        if (limits->rate > 0 && place->level < TOKEN)
                reason = GATE_RATE;
        else {
                if (limits->rate > 0)
                        place->level -= TOKEN;
                if (limits->unproven_per_origin > 0 && place->n >= limits->unproven_per_origin)
                        reason = GATE_PER_ORIGIN;
                else if (limits->unproven > 0 && gate->unproven >= limits->unproven &&
                         (!room || !room(userdata)))
                        reason = GATE_UNPROVEN;
        }
        if (reason != GATE_OPEN) {
                gate_count(gate, reason);
                return reason;
        }
        place->n++;
        gate->unproven++;
        *ret_ticket = (size_t) (place - gate->places);
        return GATE_OPEN;
}

GateReason gate_enter(Gate *gate, const GateOrigin *origin, uint64_t now, size_t *ret_ticket) {
        return gate_enter_instead(gate, origin, now, NULL, NULL, ret_ticket);
}

ListLink *gate_waiting(Gate *gate) {
        return &gate->waiting;
}

void gate_leave(Gate *gate, size_t ticket) {
        gate->places[ticket].n--;
        gate->unproven--;
}

void gate_count(Gate *gate, GateReason reason) {
        gate->refused[reason]++;
        if (gate->notify)
                gate->notify(gate, reason, gate->userdata);
}

void gate_set_notify(Gate *gate, void (*notify)(Gate *gate, GateReason reason, void *userdata),
                     void *userdata) {
        gate->notify = notify;
        gate->userdata = userdata;
}

unsigned gate_unproven(const Gate *gate) {
        return gate->unproven;
}

uint64_t gate_refused(const Gate *gate, GateReason reason) {
        return gate->refused[reason];
}
