/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"

#include <errno.h>
#include <inttypes.h>

#include "agent-bus.h"
#include "agent-dispatch.h"
#include "agent-environments.h"
#include "fd-util.h"
#include "json-util.h"
#include "launcher/pythons.h"
#include "log.h"
#include "node-hello.h"
#include "parse-util.h"
#include "report.h"
#include "task-log.h"
#include "time-util.h"

enum { FETCH_WHAT_MAX = 16 };

/* A launcher that replaces itself or is started again is back long before. */
#define LAUNCHER_AWAY_USEC (5 * USEC_PER_SEC)

Attempt *agent_attempt(Agent *agent, Id task, uint32_t attempt) {
        char key[ATTEMPT_KEY_SIZE];

        return hashmap_get(agent->attempts, attempt_key(task, attempt, key));
}

void agent_attempts_changed(Agent *agent) {
        task_log_active(agent->task_log, agent_running(agent) > 0);
}

static void agent_update_status(Agent *agent) {
        const Environment *building;

        if (!agent->daemon)
                return;
        building = environments_current(agent->environments);
        if (!agent->launcher_listed)
                daemon_status(agent->daemon, "Waiting for the launcher");
        else if (master_link_state(agent->master) != MASTER_LINK_UP)
                daemon_status(agent->daemon, "No connection to the master%s%s; %u tasks go on",
                              *master_link_peer(agent->master) ? " at " : "",
                              master_link_peer(agent->master), agent_running(agent));
        else
                daemon_status(
                        agent->daemon, "Connected to the master at %s; %u tasks run, %u results kept%s%s",
                        master_link_peer(agent->master), agent_running(agent), agent->counts[ATTEMPT_ENDED],
                        building ? "; makes environment " : "", building ? building->name : "");
}

void agent_release_attempt(Attempt *a) {
        LauncherRequest request = { .op = LAUNCHER_RELEASE, .attempt = a->attempt };
        int r;

        if (a->in_launcher) {
                memcpy(request.task, a->task.bytes, sizeof(request.task));
                r = a->agent->launcher_listed ? launcher_link_send(a->agent->launcher, &request, NULL, 0)
                                              : -ENOTCONN;
                if (r < 0) {
                        a->released = true; /* said when the launcher has listed what it has */
                        return;
                }
        }
        attempt_free(a);
}

/* The launcher. */

static void agent_send_lease(Agent *agent) {
        LauncherRequest request = { .op = LAUNCHER_LEASE };

        if (agent->lease_until == 0)
                return;
        request.lease.until_usec = agent->lease_until;
        (void) launcher_link_send(agent->launcher, &request, NULL, 0);
}

static void on_pool(const LauncherKey *key, unsigned count, void *userdata) {
        Agent *agent = userdata;
        LauncherRequest request = { .op = LAUNCHER_POOL };

        request.pool.key = *key;
        request.pool.count = count;
        (void) launcher_link_send(agent->launcher, &request, NULL, 0);
}

static void on_launcher_welcome(const LauncherEvent *event, void *userdata) {
        Agent *agent = userdata;
        Attempt *a;
        Id instance;

        memcpy(instance.bytes, event->welcome.instance, sizeof(instance.bytes));
        agent->cgroup_v2 = event->welcome.cgroup_v2;
        if (!id_equal(instance, agent->instance)) {
                if (!id_is_null(agent->instance)) {
                        log_warning("The launcher is another one: all %zu attempts of the former are over",
                                    hashmap_size(agent->attempts));
                        master_link_stop(agent->master, "the launcher has started anew");
                        HASHMAP_FOREACH(a, agent->attempts)
                                attempt_free(a);
                        agent_attempts_changed(agent);
                }
                agent->instance = instance;
        }
        HASHMAP_FOREACH(a, agent->attempts)
                a->listed = false;
        devices_begin(agent->devices);
}

/* An attempt of the launcher's table: known, or told by it. */
static int agent_attempt_from_event(Agent *agent, const LauncherEvent *event, Attempt **ret) {
        _cleanup_(freep) char *owner = NULL, *name = NULL;
        Attempt *a;
        Id task;
        int r;

        memcpy(task.bytes, event->task, sizeof(task.bytes));
        a = agent_attempt(agent, task, event->attempt);
        if (!a) {
                owner = text_for_message(event->info.owner, OWNER_NAME_MAX);
                name = text_for_message(event->info.name, TASK_NAME_MAX);
                if (!owner || !name)
                        return -ENOMEM;
                r = attempt_new(agent, task, event->attempt, owner, name, &a);
                if (r < 0)
                        return r;
                memcpy(a->job.bytes, event->info.job, sizeof(a->job.bytes));
                memcpy(a->session.bytes, event->info.session, sizeof(a->session.bytes));
                a->epoch = event->info.epoch;
                a->memory_max = event->info.memory_max;
                a->cpu_quota_usec = event->info.cpu_quota_usec;
                /* Whoever ordered it was obeyed, by a former agent. */
                agent_obey(agent, MAX(agent->epoch, a->epoch));
        }
        if (event->info.unit[0] && !streq_ptr(a->unit, event->info.unit)) {
                r = free_and_strdup(&a->unit, event->info.unit);
                if (r < 0)
                        return r;
        }
        if (event->op != LAUNCHER_ENDED && a->state != ATTEMPT_ENDED)
                devices_held(agent->devices, &event->info.devices, &a->held);
        a->in_launcher = true;
        a->listed = true;
        a->pid = event->info.pid;
        a->uid = event->info.uid;
        a->warm = a->warm || event->flags & LAUNCHER_FLAG_WARM;
        *ret = a;
        return 0;
}

static int on_started(Agent *agent, const LauncherEvent *event) {
        Attempt *a;
        int r;

        r = agent_attempt_from_event(agent, event, &a);
        if (r < 0)
                return r;
        if (a->state == ATTEMPT_ENDED)
                return 0;
        attempt_set_state(a, event->op == LAUNCHER_FROZEN || event->flags & LAUNCHER_FLAG_FROZEN
                                     ? ATTEMPT_FROZEN
                                     : ATTEMPT_RUNNING);
        /* It may not have heard that before. */
        if (a->stop_why != OUTCOME_NONE && event->flags & LAUNCHER_FLAG_REPLAYED)
                agent_stop_attempt(a);
        return 0;
}

static int on_ended(Agent *agent, const LauncherEvent *event, int *fds, size_t n_fds) {
        int result_fd = n_fds > 0 ? fds[0] : -EBADF;
        AttemptEnd *end;
        Attempt *a;
        int r;

        r = agent_attempt_from_event(agent, event, &a);
        if (r < 0)
                return r;
        if (event->info.outcome == OUTCOME_SUPERSEDED) {
                agent_release_attempt(a);
                return 0;
        }
        r = attempt_end_new(event, &end);
        if (r < 0)
                return r;
        if (a->state == ATTEMPT_ENDED) { /* told again: as it was */
                free(end);
                return 0;
        }
        /* The launcher knows only a point of its machine's clock. */
        if (end->kind == OUTCOME_DEADLINE)
                end->limit = a->deadline_usec;
        attempt_finish(a, end, result_fd, result_fd >= 0 ? event->info.result_size : 0);
        if (n_fds > 0)
                fds[0] = -EBADF;
        return 0;
}

/* A START that was not taken; other refusals concern what the launcher does not have any more. */
static void on_refused(Agent *agent, const LauncherEvent *event) {
        _cleanup_(freep) char *text = text_for_message(event->refused.text, sizeof(event->refused.text));
        Attempt *a;
        Id task;
        bool never;

        memcpy(task.bytes, event->task, sizeof(task.bytes));
        a = agent_attempt(agent, task, event->attempt);
        if (!a || a->state != ATTEMPT_STARTING) {
                log_full(a || id_is_null(task) ? LOG_WARNING : LOG_DEBUG, "The launcher refused: %s",
                         strempty(text));
                return;
        }
        /* What is wrong with the order itself will be wrong on every node and next time too. */
        never = event->error == -EINVAL || event->error == -ENOENT || event->error == -ERANGE ||
                event->error == -EOPNOTSUPP;
        a->in_launcher = false;
        attempt_finish_local(a, never ? OUTCOME_REFUSED : OUTCOME_INFRASTRUCTURE, strempty(text));
}

static int on_progress(Agent *agent, const LauncherEvent *event) {
        Attempt *a;
        Id task;

        memcpy(task.bytes, event->task, sizeof(task.bytes));
        a = agent_attempt(agent, task, event->attempt);
        if (!a || a->state == ATTEMPT_ENDED)
                return 0;
        if (!a->progress) {
                a->progress = new0(AttemptProgress);
                if (!a->progress)
                        return -ENOMEM;
        }
        a->progress->done = event->progress.done;
        a->progress->total = event->progress.total;
        memcpy(a->progress->note, event->progress.note, sizeof(a->progress->note));
        a->progress->note[sizeof(a->progress->note) - 1] = '\0';
        attempt_news(a, ATTEMPT_NEWS_PROGRESS);
        return 0;
}

/* The launcher has told all that it holds: it and we agree from here on. */
static void on_list_end(Agent *agent) {
        Attempt *a;

        agent->launcher_listed = true;
        devices_listed(agent->devices);
        (void) sd_event_source_set_enabled(agent->launcher_away, SD_EVENT_OFF);
        HASHMAP_FOREACH(a, agent->attempts) {
                if (a->released) {
                        agent_release_attempt(a);
                        continue;
                }
                if (a->listed || !a->in_launcher)
                        continue;
                a->in_launcher = false;
                if (a->state == ATTEMPT_STARTING)
                        attempt_set_state(a, ATTEMPT_PREPARING); /* it never got the request */
                else if (a->state != ATTEMPT_ENDED)
                        attempt_finish_local(a, OUTCOME_INFRASTRUCTURE,
                                             "the launcher has lost it without a trace");
        }
        agent_send_lease(agent);
        environments_launcher_up(agent->environments);
        warm_pool_renew(agent->warm_pool);
        agent_start_prepared(agent);
        master_link_start(agent->master);
        agent_update_status(agent);
}

static void on_launcher_event(const LauncherEvent *event, int *fds, size_t n_fds, void *userdata) {
        Agent *agent = userdata;
        int r = 0;

        switch (event->op) {
        case LAUNCHER_STARTED:
        case LAUNCHER_FROZEN:
        case LAUNCHER_THAWED:
                r = on_started(agent, event);
                break;
        case LAUNCHER_ENDED:
                r = on_ended(agent, event, fds, n_fds);
                break;
        case LAUNCHER_PROGRESS:
                r = on_progress(agent, event);
                break;
        case LAUNCHER_REFUSED:
                if (event->refused.environment[0])
                        environments_launcher_event(agent->environments, event, fds, n_fds);
                else
                        on_refused(agent, event);
                break;
        case LAUNCHER_BUILD_STARTED:
        case LAUNCHER_BUILD_ENDED:
        case LAUNCHER_ENVIRONMENT:
        case LAUNCHER_ENVIRONMENTS_END:
        case LAUNCHER_ENVIRONMENT_REMOVED:
                environments_launcher_event(agent->environments, event, fds, n_fds);
                break;
        case LAUNCHER_DEVICE:
                devices_take(agent->devices, event);
                break;
        case LAUNCHER_LIST_END:
                on_list_end(agent);
                break;
        default:
                log_warning("The launcher says something unknown (%u)", event->op);
        }
        if (r < 0)
                log_error_errno(r, "Cannot follow what the launcher says");
}

static int on_news_due(sd_event_source *source, uint64_t usec, void *userdata) {
        agent_send_news(userdata);
        return 0;
}

static void on_launcher_batch_end(void *userdata) {
        agent_send_news(userdata);
}

static void on_launcher_down(int error, void *userdata) {
        Agent *agent = userdata;

        agent->launcher_listed = false;
        environments_launcher_down(agent->environments);
        log_warning_errno(error, "Lost the launcher, waiting for it");
        (void) sd_event_source_set_time_relative(agent->launcher_away, LAUNCHER_AWAY_USEC);
        (void) sd_event_source_set_enabled(agent->launcher_away, SD_EVENT_ONESHOT);
        agent_update_status(agent);
}

/* A node that can run nothing must not be given anything: to the master it is away too. */
static int on_launcher_away(sd_event_source *source, uint64_t usec, void *userdata) {
        Agent *agent = userdata;

        master_link_stop(agent->master, "there is no launcher");
        agent_update_status(agent);
        return 0;
}

static const LauncherLinkHandlers launcher_handlers = {
        .welcome = on_launcher_welcome,
        .event = on_launcher_event,
        .batch_end = on_launcher_batch_end,
        .down = on_launcher_down,
};

/* The master. */

static int on_hello(json_object *hello, void *userdata) {
        return node_hello_fill(userdata, hello);
}

int agent_keep_epoch(Agent *agent, const char *directory) {
        uint64_t epoch;
        int r;

        r = epoch_store_open(directory, agent->config->masters, agent->config->n_masters, &agent->epochs,
                             &epoch);
        if (r < 0)
                return r;
        agent->epoch = MAX(agent->epoch, epoch);
        return 0;
}

void agent_obey(Agent *agent, uint64_t epoch) {
        int r;

        if (epoch == agent->epoch)
                return;
        agent->epoch = epoch;
        r = agent->epochs ? epoch_store_write(agent->epochs, epoch) : 0;
        if (r < 0)
                log_warning_errno(r,
                                  "Cannot write down that epoch %" PRIu64
                                  " is obeyed: after a restart an older master would be obeyed too",
                                  epoch);
}

static int on_welcome(const MasterWelcome *welcome, void *userdata) {
        Agent *agent = userdata;
        int r;

        if (welcome->epoch < agent->epoch) {
                log_full(agent->past_epoch == welcome->epoch ? LOG_DEBUG : LOG_ERR,
                         "The master at %s is of epoch %" PRIu64 ", but epoch %" PRIu64
                         " has been obeyed: it has been replaced and must not give orders. If it is the "
                         "right one and has lost its state, remove /var/lib/clupy-agent/epoch and restart "
                         "clupy-agent",
                         master_link_peer(agent->master), welcome->epoch, agent->epoch);
                agent->past_epoch = welcome->epoch;
                return -ESTALE;
        }
        agent_obey(agent, welcome->epoch);
        r = heartbeat_start(agent->heartbeat, welcome->heartbeat_usec, welcome->lease_usec);
        if (r >= 0)
                r = agent_send_report(agent);
        if (r >= 0)
                environments_master_up(agent->environments);
        return r;
}

static int on_reconcile(Agent *agent, const Frame *frame) {
        int r;

        r = agent_supersede_frame(agent, frame);
        if (r < 0)
                return r;
        master_link_reconciled(agent->master);
        heartbeat_renew(agent->heartbeat);
        agent_send_news(agent);
        task_log_connected(agent->task_log, true);
        agent_update_status(agent);
        agent_bus_changed(agent->bus);
        return 0;
}

static int on_fetch(Agent *agent, const Frame *frame) {
        uint64_t stream, attempt, window;
        const char *what;
        Attempt *a;
        Id task;
        int r;

        if (!frame->json || json_get_uint64(frame->json, "stream", UINT64_MAX, &stream) < 0 ||
            json_get_id(frame->json, "task", &task) < 0 ||
            json_get_uint64(frame->json, "attempt", UINT32_MAX, &attempt) < 0 ||
            json_get_string(frame->json, "what", FETCH_WHAT_MAX, &what) < 0 ||
            json_get_uint64(frame->json, "window", INT64_MAX, &window) < 0 || stream % 2 != 0)
                return -EBADMSG;
        a = agent_attempt(agent, task, (uint32_t) attempt);
        if (!streq(what, "result") || !a || a->state != ATTEMPT_ENDED || a->result_fd < 0) {
                payload_out_refuse(agent->streams, stream, "gone", "the node does not have this result");
                return 0;
        }
        r = payload_out_start(agent->streams, stream, a->result_fd, a->result_size, window);
        if (r == -EEXIST)
                return -EBADMSG;
        if (r < 0)
                payload_out_refuse(agent->streams, stream, "busy", strerror(-r));
        return 0;
}

static int on_heartbeat_ack(Agent *agent, const Frame *frame) {
        uint64_t seq;

        if (!frame->json || json_get_uint64(frame->json, "seq", UINT64_MAX, &seq) < 0)
                return -EBADMSG;
        heartbeat_answered(agent->heartbeat, seq);
        return 0;
}

static int on_master_frame(const Frame *frame, void *userdata) {
        Agent *agent = userdata;

        switch (frame->type) {
        case FRAME_HEARTBEAT_ACK:
                return on_heartbeat_ack(agent, frame);
        case FRAME_RECONCILE:
                return on_reconcile(agent, frame);
        case FRAME_DISPATCH:
                return agent_dispatch_frame(agent, frame);
        case FRAME_STOP:
                return agent_stop_frame(agent, frame);
        case FRAME_RELEASE:
                return agent_release_frame(agent, frame);
        case FRAME_ENVIRONMENT:
                return environments_master_frame(agent->environments, frame);
        case FRAME_FETCH:
                return on_fetch(agent, frame);
        case FRAME_DATA:
        case FRAME_CREDIT:
        case FRAME_END:
                return payload_streams_frame(agent->streams, frame);
        default:
                return -EBADMSG;
        }
}

static void on_master_down(void *userdata) {
        Agent *agent = userdata;

        heartbeat_stop(agent->heartbeat);
        environments_master_down(agent->environments);
        payload_streams_reset(agent->streams);
        agent_forget_preparing(agent);
        task_log_connected(agent->task_log, false);
        agent_update_status(agent);
        agent_bus_changed(agent->bus);
}

static void on_master_drained(void *userdata) {
        Agent *agent = userdata;

        agent_send_news(agent);
        payload_streams_writable(agent->streams);
        task_log_writable(agent->task_log);
}

static const MasterLinkHandlers master_handlers = {
        .hello = on_hello,
        .welcome = on_welcome,
        .frame = on_master_frame,
        .down = on_master_down,
        .drained = on_master_drained,
};

static int on_stream_send(FrameType type, json_object *json, const struct iovec *payloads, size_t n_payloads,
                          void *userdata) {
        Agent *agent = userdata;

        return master_link_send(agent->master, type, json, payloads, n_payloads);
}

static bool on_stream_congested(void *userdata) {
        Agent *agent = userdata;

        return master_link_is_congested(agent->master);
}

static const PayloadWire stream_wire = { .send = on_stream_send, .congested = on_stream_congested };

/* Heartbeats. */

static void on_heartbeat_send(uint64_t seq, void *userdata) {
        _cleanup_(json_putp) json_object *json = NULL;
        Agent *agent = userdata;
        double load = 0;
        int r;

        (void) getloadavg(&load, 1);
        r = json_new_object(&json);
        if (r >= 0)
                r = json_add_uint64(json, "seq", seq);
        if (r >= 0)
                r = json_add_uint64(json, "unreleased", agent->unreleased);
        if (r >= 0)
                r = json_add_double(json, "load", load);
        if (r >= 0)
                r = json_add_uint64(json, "running", agent_running(agent));
        if (r >= 0)
                r = master_link_send(agent->master, FRAME_HEARTBEAT, json, NULL, 0);
        if (r < 0)
                log_debug_errno(r, "A heartbeat could not be sent");
        agent_update_status(agent);
}

static void on_heartbeat_lease(uint64_t until_usec, void *userdata) {
        Agent *agent = userdata;

        agent->lease_until = until_usec;
        agent_send_lease(agent);
}

static void on_heartbeat_silent(void *userdata) {
        Agent *agent = userdata;

        master_link_restart(agent->master, "it answers no heartbeats");
}

static const HeartbeatHandlers heartbeat_handlers = {
        .send = on_heartbeat_send,
        .lease = on_heartbeat_lease,
        .silent = on_heartbeat_silent,
};

/* What tasks print. */

static void on_log_send(json_object *json, const struct iovec *payloads, size_t n_payloads, void *userdata) {
        Agent *agent = userdata;

        (void) master_link_send(agent->master, FRAME_LOG, json, payloads, n_payloads);
}

static int on_log_find_unit(const char *unit, Id *ret_task, uint32_t *ret_attempt, void *userdata) {
        Agent *agent = userdata;
        Attempt *a;

        HASHMAP_FOREACH(a, agent->attempts)
                if (streq_ptr(a->unit, unit)) {
                        *ret_task = a->task;
                        *ret_attempt = a->attempt;
                        return 0;
                }
        return -ENOENT;
}

static const TaskLogHandlers log_handlers = {
        .send = on_log_send,
        .congested = on_stream_congested,
        .find_unit = on_log_find_unit,
};

/* The kernel's UUID, without its dashes. */
static int read_boot_id(char ret[static ID_HEX_SIZE]) {
        _cleanup_(freep) char *text = NULL;
        char hex[ID_HEX_SIZE] = "";
        size_t n = 0;
        Id id;
        int r;

        r = read_file_full("/proc/sys/kernel/random/boot_id", 64, &text, NULL);
        if (r < 0)
                return r;
        for (const char *p = text; *p && *p != '\n'; p++)
                if (*p != '-' && n < ID_HEX_SIZE - 1)
                        hex[n++] = *p;
        if (id_from_hex(hex, &id) < 0)
                return -EBADMSG;
        memcpy(ret, hex, ID_HEX_SIZE);
        return 0;
}

/* The main one in any case: the launcher says what is wrong with it. */
static int find_pythons(char ***ret) {
        _cleanup_(strv_freep) char **list = NULL;

        for (size_t i = 0; i < pythons_size; i++)
                if (i == 0 || python_find(pythons[i].series)) {
                        int r = strv_extend(&list, pythons[i].series);

                        if (r < 0)
                                return r;
                }
        *ret = TAKE_PTR(list);
        return 0;
}

int agent_new(sd_event *event, Daemon *daemon, const ServerConfig *config, const char *launcher_socket,
              Agent **ret) {
        _cleanup_(agent_freep) Agent *agent = NULL;
        int r;

        agent = new0(Agent);
        if (!agent)
                return -ENOMEM;
        agent->event = sd_event_ref(event);
        agent->daemon = daemon;
        agent->config = config;
        list_init(&agent->news_queue);
        r = read_boot_id(agent->boot_id);
        if (r < 0)
                return r;
        r = find_pythons(&agent->pythons);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &agent->attempts);
        if (r >= 0)
                r = hashmap_new(HASHMAP_STRING, &agent->code_fetches);
        if (r >= 0)
                r = code_cache_new(config->cache_code, &agent->code);
        if (r >= 0)
                r = payload_streams_new(event, &stream_wire, agent, &agent->streams);
        if (r >= 0)
                r = heartbeat_new(event, &heartbeat_handlers, agent, &agent->heartbeat);
        if (r >= 0)
                r = warm_pool_new(event, config->warm, on_pool, agent, &agent->warm_pool);
        if (r >= 0)
                r = devices_new(config, &agent->devices);
        if (r >= 0)
                r = agent_environments_new(agent);
        if (r >= 0)
                r = task_log_new(event, &log_handlers, agent, &agent->task_log);
        if (r >= 0)
                r = master_link_new(event, config->masters, config->n_masters, &master_handlers, agent,
                                    &agent->master);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &agent->launcher_away, CLOCK_MONOTONIC, 0,
                                               USEC_PER_SEC, on_launcher_away, agent);
        if (r >= 0)
                r = sd_event_source_set_enabled(agent->launcher_away, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &agent->news_timer, CLOCK_MONOTONIC, 0, USEC_PER_MSEC,
                                               on_news_due, agent);
        if (r >= 0)
                r = sd_event_source_set_enabled(agent->news_timer, SD_EVENT_OFF);
        if (r >= 0)
                r = agent_bus_new(agent, &agent->bus);
        if (r >= 0)
                r = launcher_link_new(event, launcher_socket, &launcher_handlers, agent, &agent->launcher);
        if (r < 0)
                return r;
        agent_update_status(agent);
        *ret = TAKE_PTR(agent);
        return 0;
}

Agent *agent_free(Agent *agent) {
        Attempt *a;

        if (!agent)
                return NULL;
        /* The streams' ends and the links first: what they would still tell, nobody needs any more. */
        if (agent->streams)
                payload_streams_reset(agent->streams);
        agent->master = master_link_free(agent->master);
        agent->launcher = launcher_link_free(agent->launcher);
        agent->bus = agent_bus_free(agent->bus);
        agent->epochs = epoch_store_close(agent->epochs);
        HASHMAP_FOREACH(a, agent->attempts)
                attempt_free(a);
        hashmap_free(agent->attempts);
        hashmap_free(agent->code_fetches);
        payload_streams_free(agent->streams);
        code_cache_free(agent->code);
        heartbeat_free(agent->heartbeat);
        environments_free(agent->environments);
        warm_pool_free(agent->warm_pool);
        devices_free(agent->devices);
        task_log_free(agent->task_log);
        sd_event_source_disable_unref(agent->launcher_away);
        sd_event_source_disable_unref(agent->news_timer);
        strv_free(agent->pythons);
        sd_event_unref(agent->event);
        return mfree(agent);
}
