/* SPDX-License-Identifier: Apache-2.0 */
#include "manager.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>

#include "client-link.h"
#include "detached.h"
#include "environment-link.h"
#include "environments.h"
#include "history.h"
#include "json-util.h"
#include "log.h"
#include "master-bus.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "peer.h"
#include "recovery.h"
#include "scheduler.h"
#include "session.h"
#include "time-util.h"

enum {
        STATUS_DELAY_MS = 50, /* what ends within it needs no STATUS */
        NOTIFY_INTERVAL_MS = 1000,
        TRIM_AFTER = 1000, /* ended tasks */
};

static int on_work(sd_event_source *source, void *userdata);

int manager_new(sd_event *event, MasterConfig *config, Manager **ret) {
        _cleanup_(manager_freep) Manager *m = new0(Manager);
        int r;

        if (!m)
                return -ENOMEM;
        m->event = sd_event_ref(event);
        m->started_at = now_usec(CLOCK_REALTIME);
        list_init(&m->peers);
        list_init(&m->waiting);
        list_init(&m->detached);
        list_init(&m->detached_due);
        log_tails_init(&m->logs, config->log_tail, config->log_memory);
        streams_init(&m->streams, m);
        r = hashmap_new(HASHMAP_STRING, &m->nodes);
        if (r >= 0)
                r = hashmap_new(HASHMAP_ID, &m->kept);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &m->sessions);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &m->owners);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &m->detached_codes);
        if (r >= 0)
                r = history_new(m, config->history, &m->history);
        if (r >= 0)
                r = environments_new(m, &m->environments);
        if (r >= 0)
                r = prioq_new(owner_compare, offsetof(Owner, runnable_index), &m->runnable);
        if (r >= 0)
                r = prioq_new(task_deadline_compare, offsetof(Task, deadline_index), &m->deadlines);
        if (r >= 0)
                r = prioq_new(task_delay_compare, offsetof(Task, delay_index), &m->delayed);
        if (r >= 0)
                r = sd_event_add_defer(event, &m->work, on_work, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->work, SD_EVENT_OFF);
        if (r < 0)
                return r;
        m->config = config;
        m->task_window = config->task_window; /* reload.c */
        *ret = TAKE_PTR(m);
        return 0;
}

Manager *manager_free(Manager *m) {
        Session *session;
        Node *node;

        if (!m)
                return NULL;
        m->stopping = true;
        master_bus_free(m->bus);
        entrance_close(&m->entrance);
        LIST_FOREACH(Peer, peer, link, &m->peers)
                peer_free(peer);
        environments_stop(m->environments);
        HASHMAP_FOREACH(session, m->sessions)
                session_free(session);
        HASHMAP_FOREACH(node, m->nodes)
                node_free(node);
        m->environments = environments_free(m->environments);
        hashmap_free(m->sessions);
        hashmap_free(m->nodes);
        hashmap_free(m->kept);
        history_free(m->history);
        hashmap_free(m->detached_codes);
        reload_done(&m->reload);
        hashmap_free(m->owners); /* nothing refers to any by now */
        prioq_free(m->runnable);
        prioq_free(m->deadlines);
        prioq_free(m->delayed);
        sd_event_source_disable_unref(m->work);
        sd_event_source_disable_unref(m->deadline_timer);
        sd_event_source_disable_unref(m->delay_timer);
        sd_event_source_disable_unref(m->status_timer);
        sd_event_source_disable_unref(m->orphan_timer);
        sd_event_source_disable_unref(m->rest_timer);
        sd_event_source_disable_unref(m->tell_timer);
        sd_event_source_disable_unref(m->detached_timer);
        sd_event_source_disable_unref(m->detached_work);
        sd_event_source_disable_unref(m->notify_timer);
        entrance_done(&m->entrance);
        master_tls_done(&m->tls);
        why_file_close(m->failures);
        state_store_close(m->store);
        master_config_free(m->config);
        sd_event_unref(m->event);
        return mfree(m);
}

uint64_t manager_now(const Manager *m) {
        return m->test_clock ?: now_usec(CLOCK_BOOTTIME);
}

Task *manager_task(Manager *m, const char *owner, Id id) {
        return owner_task(owner_find(m, owner), id);
}

/* Timers */

void manager_timer(Manager *m, sd_event_source **source, uint64_t usec, sd_event_time_handler_t handler,
                   void *userdata) {
        int r;

        if (m->stopping)
                return; /* the loop has ended */
        if (usec == USEC_INFINITY) {
                if (*source)
                        (void) sd_event_source_set_enabled(*source, SD_EVENT_OFF);
                return;
        }
        if (!*source) {
                r = sd_event_add_time(m->event, source, CLOCK_BOOTTIME, usec, 20 * USEC_PER_MSEC, handler,
                                      userdata);
                if (r < 0)
                        log_error_errno(r, "Cannot make a timer");
                return;
        }
        (void) sd_event_source_set_time(*source, usec);
        (void) sd_event_source_set_enabled(*source, SD_EVENT_ONESHOT);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        uint64_t now = manager_now(m);
        Task *task;

        while ((task = prioq_peek(m->deadlines)) && task->deadline <= now) {
                (void) prioq_pop(m->deadlines);
                task_expire(task);
        }
        manager_deadlines_changed(m);
        return 0;
}

static int on_orphans(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;

        m->orphans_due = 0;
        manager_orphan_until(m, recovery_expire_orphans(m, manager_now(m)));
        return 0;
}

/* Only the timer is set: all of them are looked at when it fires, and not each time that one is added. */
void manager_orphan_until(Manager *m, uint64_t usec) {
        if (usec == USEC_INFINITY || (m->orphans_due != 0 && m->orphans_due <= usec))
                return;
        m->orphans_due = usec;
        manager_timer(m, &m->orphan_timer, usec, on_orphans, m);
}

void manager_deadlines_changed(Manager *m) {
        Task *task = prioq_peek(m->deadlines);

        manager_timer(m, &m->deadline_timer, task ? task->deadline : USEC_INFINITY, on_deadline, m);
}

static int on_delay(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        uint64_t now = manager_now(m);
        Task *task;

        while ((task = prioq_peek(m->delayed)) && task->not_before <= now) {
                (void) prioq_pop(m->delayed);
                task_queue(task);
        }
        manager_delays_changed(m);
        return 0;
}

void manager_delays_changed(Manager *m) {
        Task *task = prioq_peek(m->delayed);

        manager_timer(m, &m->delay_timer, task ? task->not_before : USEC_INFINITY, on_delay, m);
}

static int on_rest(sd_event_source *source, uint64_t usec, void *userdata) {
        manager_schedule(userdata);
        return 0;
}

void manager_rest_until(Manager *m, uint64_t usec) {
        manager_timer(m, &m->rest_timer, usec, on_rest, m);
}

static int on_tell(sd_event_source *source, uint64_t usec, void *userdata) {
        scheduler_tell(userdata);
        manager_schedule(userdata);
        return 0;
}

void manager_tell_at(Manager *m, uint64_t usec) {
        uint64_t at = 0;
        int enabled = SD_EVENT_OFF;

        if (m->tell_timer)
                (void) sd_event_source_get_enabled(m->tell_timer, &enabled);
        if (enabled == SD_EVENT_ONESHOT && sd_event_source_get_time(m->tell_timer, &at) >= 0 && at <= usec)
                return;
        manager_timer(m, &m->tell_timer, usec, on_tell, m);
}

/* Work that is done once however many events asked for it */

void manager_schedule(Manager *m) {
        if (m->stopping)
                return;
        m->schedule_due = true;
        (void) sd_event_source_set_enabled(m->work, SD_EVENT_ONESHOT);
}

void manager_flush(Manager *m) {
        if (!m->stopping)
                (void) sd_event_source_set_enabled(m->work, SD_EVENT_ONESHOT);
}

void manager_send_results(Manager *m) {
        Session *session;

        HASHMAP_FOREACH(session, m->sessions)
                if (!batch_is_empty(&session->results))
                        client_link_send(session);
}

void manager_work(Manager *m) {
        Session *session;
        Node *node;

        if (m->schedule_due) {
                m->schedule_due = false;
                scheduler_run(m);
        }
        HASHMAP_FOREACH(node, m->nodes)
                if (node->flush_due)
                        node_flush(node);
        HASHMAP_FOREACH(session, m->sessions)
                if (session->flush_due) {
                        session->flush_due = false;
                        session_flush_results(session);
                        client_link_send(session);
                }
}

static int on_work(sd_event_source *source, void *userdata) {
        manager_work(userdata);
        return 0;
}

static int on_status(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        Session *session;

        HASHMAP_FOREACH(session, m->sessions)
                session_flush_status(session);
        return 0;
}

void manager_status_soon(Manager *m) {
        int enabled = SD_EVENT_OFF;

        if (m->status_timer)
                (void) sd_event_source_get_enabled(m->status_timer, &enabled);
        if (enabled == SD_EVENT_OFF)
                manager_timer(m, &m->status_timer, manager_now(m) + STATUS_DELAY_MS * USEC_PER_MSEC,
                              on_status, m);
}

/* What systemctl shows */

static void notify(Manager *m) {
        unsigned n = 0, ready = 0;
        uint64_t running;
        Node *node;

        HASHMAP_FOREACH(node, m->nodes) {
                n++;
                ready += node->state == NODE_READY;
        }
        running = m->n_state[TASK_RUNNING] + m->n_state[TASK_STARTING] + m->n_state[TASK_FROZEN];
        daemon_status(m->daemon, "%u of %u nodes ready, %" PRIu64 " running, %" PRIu64 " queued%s", ready, n,
                      running, m->n_state[TASK_QUEUED] + m->n_state[TASK_WAITING],
                      m->config->insecure ? "; INSECURE: open without authentication" : "");
}

static int on_notify(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;

        if (!m->notify_due)
                return 0;
        m->notify_due = false;
        notify(m);
        master_bus_counts_changed(m->bus);
        /* What many tasks took is given back once they are gone. */
        if (m->n_ended - m->trimmed_at >= TRIM_AFTER && m->n_tasks == 0) {
                m->trimmed_at = m->n_ended;
                (void) malloc_trim(0);
        }
        manager_timer(m, &m->notify_timer, manager_now(m) + NOTIFY_INTERVAL_MS * USEC_PER_MSEC, on_notify,
                      m);
        return 0;
}

/* At once after a quiet second, else when the second is over: the last change is always told. */
void manager_notify(Manager *m) {
        int enabled = SD_EVENT_OFF;

        if (!m->daemon || m->stopping || m->notify_due)
                return;
        m->notify_due = true;
        if (m->notify_timer)
                (void) sd_event_source_get_enabled(m->notify_timer, &enabled);
        if (enabled == SD_EVENT_OFF)
                manager_timer(m, &m->notify_timer, manager_now(m) + USEC_PER_MSEC, on_notify, m);
}

void manager_log_ended(Manager *m, Task *task) {
        client_link_log(task->session->owner, task->id, task->log, false);
}

/* What is written down */

void manager_store_node(Manager *m, const Node *node) {
        _cleanup_(json_putp) json_object *json = NULL;
        char key[STATE_KEY_PART_MAX * 2];
        json_object *pythons;
        const char *text;
        size_t size;
        int r;

        if (!m->store)
                return;
        snprintf(key, sizeof(key), "nodes/%s", node->name);
        if (json_new_object(&json) < 0)
                return;
        (void) json_add_id(json, "boot_id", node->boot_id);
        (void) json_add_id(json, "instance", node->instance);
        (void) json_add_uint64(json, "seen_at", now_usec(CLOCK_REALTIME) / USEC_PER_SEC);
        if (json_add_new_array(json, "pythons", &pythons) < 0)
                return;
        for (char **s = node->pythons; s && *s; s++)
                (void) json_append_string(pythons, *s);
        text = json_text(json, &size);
        r = text ? state_store_set(m->store, key, text, size) : -ENOMEM;
        if (r < 0)
                log_error_errno(r, "Cannot write down node %s", node->name);
}

int manager_store_drain(Manager *m, const Node *node, bool drain) {
        char key[STATE_KEY_PART_MAX * 2];
        int r;

        if (!m->store)
                return 0;
        snprintf(key, sizeof(key), "drained/%s", node->name);
        r = drain ? state_store_set(m->store, key, "1", 1) : state_store_remove(m->store, key, 0);
        return r == -ENOENT ? 0 : r;
}

/* The master does not start without its disk, and starts by itself as soon as it can. */
static int state_error(Manager *m, int error, const char *what) {
        if (error == -ENOSPC || error == -EDQUOT)
                return log_error_errno(
                        error,
                        "Cannot %s in %s, the disk is full: make room there (results of detached "
                        "calls are in %s/.detached); the master starts as soon as there is some",
                        what, m->config->state_directory, m->config->state_directory);
        return log_error_errno(error, "Cannot %s in %s", what, m->config->state_directory);
}

/* Each start has an epoch of its own, on disk before anything is obeyed. */
static int count_epoch(Manager *m) {
        _cleanup_(freep) char *value = NULL;
        char text[32];
        uint64_t epoch = 0;
        int r, n;

        r = state_store_get(m->store, "epoch", (void **) &value, NULL, NULL);
        if (r >= 0)
                r = parse_uint64(value, &epoch);
        if (r < 0 && r != -ENOENT)
                return log_error_errno(r, "Cannot read the epoch in %s", m->config->state_directory);
        m->epoch = epoch + 1;
        n = snprintf(text, sizeof(text), "%" PRIu64, m->epoch);
        r = state_store_set(m->store, "epoch", text, (size_t) n);
        if (r < 0)
                return state_error(m, r, "write the epoch");
        return 0;
}

enum { NODE_FORGET_DAYS = 7 };

/* A node that has been away for a week is no reason to wait for after a start. */
static bool is_forgotten(Manager *m, const char *key, json_object *json) {
        uint64_t seen_at;

        return json_get_uint64(json, "seen_at", UINT64_MAX / 4, &seen_at) >= 0 &&
               seen_at + NODE_FORGET_DAYS * USEC_PER_DAY / USEC_PER_SEC <
                       now_usec(CLOCK_REALTIME) / USEC_PER_SEC &&
               state_store_remove(m->store, key, 0) >= 0;
}

static int register_node(Manager *m, const char *key, const char *name) {
        _cleanup_(json_putp) json_object *json = NULL;
        _cleanup_(freep) char *value = NULL;
        size_t size;
        Node *node;
        int r;

        if (!node_name_is_valid(name))
                return 0;
        r = state_store_get(m->store, key, (void **) &value, &size, NULL);
        if (r >= 0)
                r = json_parse_strict_object(value, size, JSON_DEPTH_MAX, &json);
        if (r < 0) {
                log_warning_errno(r, "Cannot read what is known of node %s; it is waited for all the same",
                                  name);
        } else if (is_forgotten(m, key, json))
                return 0;
        r = node_new(m, name, &node);
        if (r < 0)
                return r;
        if (json) {
                (void) json_get_id(json, "boot_id", &node->boot_id);
                (void) json_get_id(json, "instance", &node->instance);
                (void) environment_link_remembered(node, json);
        }
        node_check(node); /* its clock runs */
        return 0;
}

static int load_nodes(Manager *m) {
        _cleanup_(strv_freep) char **nodes = NULL, **drained = NULL;
        int r;

        r = state_store_list(m->store, "nodes", &nodes);
        if (r >= 0)
                r = state_store_list(m->store, "drained", &drained);
        if (r < 0)
                return log_error_errno(r, "Cannot read the registry of nodes");
        for (char **key = nodes; key && *key; key++) {
                r = register_node(m, *key, *key + strlen("nodes/"));
                if (r < 0)
                        return log_error_errno(r, "Cannot register node %s", *key);
        }
        for (char **key = drained; key && *key; key++) {
                Node *node = hashmap_get(m->nodes, *key + strlen("drained/"));

                if (node)
                        node->drain = true;
                else if (node_name_is_valid(*key + strlen("drained/")) &&
                         node_new(m, *key + strlen("drained/"), &node) >= 0) {
                        node->drain = node->lost = true;
                        node_update(node);
                }
        }
        return 0;
}

int manager_start(Manager *m) {
        int r;

        r = state_store_file_open(m->config->state_directory, &m->store);
        if (r == -EBUSY)
                return log_error_errno(r, "Another clupy-masterd uses %s", m->config->state_directory);
        if (r < 0)
                return state_error(m, r, "open the state store");
        r = count_epoch(m);
        if (r < 0)
                return r;
        r = load_nodes(m);
        if (r < 0)
                return r;
        r = why_file_open(m->config->state_directory, WHY_FILE_RECORDS, &m->failures);
        if (r < 0)
                log_warning_errno(r, "Why tasks failed will be known until the next restart only");
        r = environments_open(m);
        if (r < 0)
                return r;
        r = detached_load(m);
        if (r < 0)
                return r;
        r = entrance_open(m);
        if (r < 0)
                return r;
        master_tls_warn(m);
        r = master_bus_new(m, &m->bus);
        if (r < 0)
                log_notice_errno(r, "No system bus: going on without D-Bus");
        log_info("Epoch %" PRIu64 ", %zu known nodes", m->epoch, hashmap_size(m->nodes));
        return 0;
}

void manager_stop(Manager *m) {
        m->stopping = true;
        entrance_close(&m->entrance);
}
