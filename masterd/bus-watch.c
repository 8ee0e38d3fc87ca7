/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "hashmap.h"
#include "job.h"
#include "manager.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

typedef struct Watcher {
        BusWatch *watch;
        char *name;
        char *owner; /* NULL: sees everybody's */
        sd_bus_slot *match, *asked;
} Watcher;

/* What is to be told of a task. Not the task itself, which may be gone by then. */
typedef struct Change {
        ListLink link;
        char *key; /* owner/id */
        Id id;
        TaskState state;
        uint32_t attempt;
        OutcomeKind outcome;
        char *owner, *name, *node;
} Change;

struct BusWatch {
        Manager *m;
        sd_bus *bus;
        const char *path, *interface;
        Hashmap *watchers; /* name → Watcher */
        Hashmap *changes;  /* key → Change */
        ListLink pending;  /* of Change, the oldest first */
        uint64_t lost;
        sd_event_source *timer;
};

static Change *change_free(Change *change) {
        if (!change)
                return NULL;
        list_remove(&change->link);
        free(change->key);
        free(change->owner);
        free(change->name);
        free(change->node);
        return mfree(change);
}
DEFINE_CLEANUP(Change, change_free);

static Watcher *watcher_free(Watcher *watcher) {
        if (!watcher)
                return NULL;
        sd_bus_slot_unref(watcher->match);
        sd_bus_slot_unref(watcher->asked);
        free(watcher->name);
        free(watcher->owner);
        return mfree(watcher);
}
DEFINE_CLEANUP(Watcher, watcher_free);

int bus_watch_new(Manager *m, sd_bus *bus, const char *path, const char *interface, BusWatch **ret) {
        _cleanup_(bus_watch_freep) BusWatch *w = new0(BusWatch);
        int r;

        if (!w)
                return -ENOMEM;
        *w = (BusWatch){ .m = m, .bus = bus, .path = path, .interface = interface };
        list_init(&w->pending);
        r = hashmap_new(HASHMAP_STRING, &w->watchers);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &w->changes);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(w);
        return 0;
}

static void forget_changes(BusWatch *w) {
        hashmap_clear(w->changes);
        LIST_FOREACH(Change, change, link, &w->pending)
                change_free(change);
        w->lost = 0;
}

BusWatch *bus_watch_free(BusWatch *w) {
        Watcher *watcher;

        if (!w)
                return NULL;
        forget_changes(w);
        HASHMAP_FOREACH(watcher, w->watchers)
                watcher_free(watcher);
        hashmap_free(w->watchers);
        hashmap_free(w->changes);
        sd_event_source_disable_unref(w->timer);
        return mfree(w);
}

/* Who watches */

static int on_gone(sd_bus_message *message, void *userdata, sd_bus_error *ret_error) {
        Watcher *watcher = userdata;

        (void) bus_watch_remove(watcher->watch, watcher->name);
        return 0;
}

/* Whether it was still there when the bus began to watch it. */
static int on_asked(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Watcher *watcher = userdata;
        int there = 0;

        if (sd_bus_message_is_method_error(reply, NULL) || sd_bus_message_read(reply, "b", &there) < 0 ||
            !there)
                (void) bus_watch_remove(watcher->watch, watcher->name);
        return 1;
}

/* Not sd_bus_track, which waits for an answer of the bus. */
static int watcher_track(Watcher *watcher) {
        sd_bus *bus = watcher->watch->bus;
        _cleanup_(freep) char *match = NULL;
        int r;

        match = strformat("type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                          "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='%s',arg2=''",
                          watcher->name);
        if (!match)
                return -ENOMEM;
        r = sd_bus_add_match_async(bus, &watcher->match, match, on_gone, NULL, watcher);
        if (r < 0)
                return r;
        return sd_bus_call_method_async(bus, &watcher->asked, "org.freedesktop.DBus",
                                        "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner",
                                        on_asked, watcher, "s", watcher->name);
}

int bus_watch_add(BusWatch *w, const char *name, const char *owner) {
        _cleanup_(watcher_freep) Watcher *watcher = NULL;
        Watcher *known = hashmap_get(w->watchers, name);
        int r;

        if (known)
                return free_and_strdup(&known->owner, owner);
        if (hashmap_size(w->watchers) >= BUS_WATCHERS_MAX)
                return -ENOSPC;
        watcher = new0(Watcher);
        if (!watcher)
                return -ENOMEM;
        watcher->watch = w;
        watcher->name = strdup(name);
        if (!watcher->name || free_and_strdup(&watcher->owner, owner) < 0)
                return -ENOMEM;
        r = hashmap_put(w->watchers, watcher->name, watcher);
        if (r < 0)
                return r;
        r = watcher_track(watcher);
        if (r < 0) {
                (void) hashmap_remove(w->watchers, watcher->name);
                return r;
        }
        TAKE_PTR(watcher);
        return 0;
}

int bus_watch_remove(BusWatch *w, const char *name) {
        Watcher *watcher = hashmap_remove(w->watchers, name);

        if (!watcher)
                return -ENOENT;
        watcher_free(watcher);
        if (hashmap_size(w->watchers) == 0)
                forget_changes(w);
        return 0;
}

unsigned bus_watch_count(const BusWatch *w) {
        return (unsigned) hashmap_size(w->watchers);
}

/* What they are told */

static int new_signal(const BusWatch *w, const Watcher *watcher, const char *member, sd_bus_message **ret) {
        int r = sd_bus_message_new_signal(w->bus, ret, w->path, w->interface, member);

        return r < 0 ? r : sd_bus_message_set_destination(*ret, watcher->name);
}

static void tell(const BusWatch *w, const Change *change) {
        const char *outcome = change->state == TASK_ENDED ? outcome_kind_to_string(change->outcome) : "";
        Watcher *watcher;

        HASHMAP_FOREACH(watcher, w->watchers) {
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL;

                if (watcher->owner && !streq(watcher->owner, change->owner))
                        continue;
                if (new_signal(w, watcher, "TaskChanged", &message) >= 0 &&
                    sd_bus_message_append(message, "sssssus", ID_HEX(change->id), change->owner,
                                          change->name, task_state_to_string(change->state),
                                          strempty(change->node), change->attempt, outcome) >= 0)
                        (void) sd_bus_send(w->bus, message, NULL);
        }
}

static void tell_lost(const BusWatch *w) {
        Watcher *watcher;

        HASHMAP_FOREACH(watcher, w->watchers) {
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *message = NULL;

                if (new_signal(w, watcher, "ChangesLost", &message) >= 0 &&
                    sd_bus_message_append(message, "t", w->lost) >= 0)
                        (void) sd_bus_send(w->bus, message, NULL);
        }
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

static void arm(BusWatch *w) {
        manager_timer(w->m, &w->timer, now_usec(CLOCK_BOOTTIME) + BUS_WATCH_INTERVAL_MS * USEC_PER_MSEC,
                      on_timer, w);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        unsigned left = BUS_WATCH_RATE * BUS_WATCH_INTERVAL_MS / 1000;
        BusWatch *w = userdata;
        uint64_t queued = 0;

        /* A bus that takes nothing is not given more to hold. */
        if (sd_bus_get_n_queued_write(w->bus, &queued) >= 0 && queued > BUS_WATCH_QUEUE_MAX)
                left = 0;
        LIST_FOREACH(Change, change, link, &w->pending) {
                if (left == 0)
                        break;
                left--;
                (void) hashmap_remove(w->changes, change->key);
                tell(w, change);
                change_free(change);
        }
        if (w->lost > 0 && left > 0) {
                tell_lost(w);
                w->lost = 0;
        }
        if (!list_is_empty(&w->pending) || w->lost > 0)
                arm(w);
        return 0;
}

static int change_set(Change *change, const Task *task) {
        change->state = task->state;
        change->attempt = task->attempt;
        change->outcome = task->outcome_kind;
        return free_and_strdup(&change->node, task->node_name);
}

static int change_new(BusWatch *w, const Task *task, char *key) {
        _cleanup_(change_freep) Change *change = new0(Change);
        int r;

        if (!change) {
                free(key);
                return -ENOMEM;
        }
        change->key = key;
        change->id = task->id;
        change->owner = strdup(task->session->user);
        change->name = strdup(task->job->name);
        if (!change->owner || !change->name || change_set(change, task) < 0)
                return -ENOMEM;
        r = hashmap_put(w->changes, change->key, change);
        if (r < 0)
                return r;
        list_append(&w->pending, &change->link);
        TAKE_PTR(change);
        return 0;
}

void bus_watch_task(BusWatch *w, const Task *task) {
        bool first;
        Change *change;
        char *key;

        /* That a client has its result changes nothing for others. */
        if (!w || hashmap_size(w->watchers) == 0 || task->state == TASK_DELIVERED)
                return;
        first = list_is_empty(&w->pending) && w->lost == 0;
        key = strformat("%s/%s", task->session->user, ID_HEX(task->id));
        change = key ? hashmap_get(w->changes, key) : NULL;
        if (change) {
                free(key);
                (void) change_set(change, task);
                return;
        }
        if (!key || hashmap_size(w->changes) >= BUS_WATCH_PENDING) {
                free(key);
                w->lost++;
        } else if (change_new(w, task, key) < 0)
                w->lost++;
        if (first)
                arm(w);
}
