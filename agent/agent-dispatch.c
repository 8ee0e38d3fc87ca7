/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-dispatch.h"

#include <errno.h>
#include <inttypes.h>

#include "fd-util.h"
#include "json-util.h"
#include "launcher/device-set.h"
#include "log.h"
#include "parse-util.h"
#include "report.h"
#include "time-util.h"

enum {
        TASKS_MAX = 65536, /* entries of one frame: its JSON is bounded anyway */
        PROCESSES_MAX = 32768,
        ISOLATION_MAX = 32,
        NETWORK_MAX = 32,
        WHY_MAX = 32,
        TEXT_SIZE = 256,
};
#define MEMORY_LEAST MIB(16)
#define BYTES_MOST (UINT64_C(1) << 50)
#define MSEC_MOST (UINT64_C(1) << 41) /* 69 years */
#define CPUS_LEAST 0.01
#define CPUS_MOST 4096.0
#define CANCEL_GRACE_USEC (5 * USEC_PER_SEC)

/* One code on its way, and the attempts that wait for it. */
struct CodeFetch {
        char key[CODE_KEY_SIZE];
        Agent *agent;
        char owner[OWNER_NAME_MAX];
        Digest digest;
        uint64_t size;
        PayloadIn *in;
        ListLink waiters; /* of Attempt; the first is the one in whose name it is fetched */
};

/* An order as it comes, with what it does not say filled in. Strings are borrowed from the frame. */
typedef struct Order {
        Id task, job, session;
        uint64_t attempt, epoch;
        const char *owner, *name, *policy, *isolation, *network, *environment;
        Digest code;
        uint64_t code_size, size;
        double cpus;
        uint64_t memory, tasks_max, timeout_ms, deadline_ms; /* the last two: 0 and UINT64_MAX for none */
        const struct iovec *payload;                         /* the arguments, if they came along */
        json_object *devices;                                /* counts by resource, or NULL */
        const char *refusal;                                 /* why it can never run, or NULL */
} Order;

static const char *copy_name(char *field, size_t size, const char *value) {
        size_t n = strnlen(value, size);

        /* The whole field is compared as a part of the zygote's key: no rests behind the end. */
        memset(field, 0, size);
        if (n == size) {
                n--;
                while (n > 0 && ((unsigned char) value[n] & 0xc0) == 0x80)
                        n--; /* not in the middle of a character */
        }
        memcpy(field, value, n);
        return field;
}

/* What is missing or of the wrong type breaks the protocol; what is only too much is refused. */
static int order_check(Order *o, int r, const char *refusal) {
        if (r == -ERANGE) {
                o->refusal = o->refusal ?: refusal;
                return 0;
        }
        return r == -ENOMEM ? r : r < 0 ? -EBADMSG : 0;
}

static int order_parse_limits(Order *o, json_object *json, const ServerConfig *config) {
        int r;

        r = order_check(
                o,
                json_get_double_optional(json, "cpus", CPUS_LEAST, CPUS_MOST, config->task_cpus, &o->cpus),
                "cpus must be from 0.01 to 4096");
        if (r >= 0)
                r = order_check(o,
                                json_get_uint64_optional(json, "memory", BYTES_MOST, config->task_memory,
                                                         &o->memory),
                                "memory is more than any node has");
        if (r >= 0)
                r = order_check(o,
                                json_get_uint64_optional(json, "tasks_max", PROCESSES_MAX,
                                                         config->task_tasks_max, &o->tasks_max),
                                "tasks_max must be at most 32768");
        if (r >= 0)
                r = order_check(o,
                                json_get_uint64_optional(json, "timeout_ms", MSEC_MOST, 0, &o->timeout_ms),
                                "the timeout is too long");
        if (r >= 0)
                r = order_check(o,
                                json_get_uint64_optional(json, "deadline_ms", MSEC_MOST, UINT64_MAX,
                                                         &o->deadline_ms),
                                "the deadline is too far away");
        if (r < 0)
                return r;
        if (!o->refusal && o->memory < MEMORY_LEAST)
                o->refusal = "memory is less than 16M, the least that a task can start with";
        if (!o->refusal && o->tasks_max < 1)
                o->refusal = "tasks_max must be at least 1";
        return 0;
}

static int order_parse_names(Order *o, json_object *json) {
        int r;

        r = json_get_string(json, "owner", FRAME_JSON_MAX, &o->owner);
        if (r < 0 || !owner_name_is_valid(o->owner))
                return -EBADMSG;
        if (strlen(o->owner) >= OWNER_NAME_MAX)
                o->refusal = "its owner's name is longer than 63 bytes";
        r = json_get_string_optional(json, "name", FRAME_JSON_MAX, "task", &o->name);
        if (r >= 0)
                r = json_get_string_optional(json, "policy", FRAME_JSON_MAX, "default", &o->policy);
        if (r >= 0)
                r = json_get_string_optional(json, "environment", FRAME_JSON_MAX, "default",
                                             &o->environment);
        if (r >= 0)
                r = json_get_string_optional(json, "isolation", FRAME_JSON_MAX, "task", &o->isolation);
        if (r >= 0)
                r = json_get_string_optional(json, "network", FRAME_JSON_MAX, "none", &o->network);
        if (r < 0)
                return -EBADMSG;
        /* One byte less than the launcher's fields: they end with a NUL. */
        if (!name_is_valid(o->policy, POLICY_NAME_MAX - 1))
                o->refusal = "that is no name of a policy";
        else if (!environment_name_is_valid(o->environment))
                o->refusal = "that is no name of an environment";
        else if (!streq(o->isolation, "task"))
                o->refusal = "this node knows no isolation but 'task'";
        else if (!streq(o->network, "none") && !streq(o->network, "host"))
                o->refusal = "this node knows no network but 'none' and 'host'";
        return 0;
}

static int order_parse(const Agent *agent, const Frame *frame, json_object *json, uint64_t epoch,
                       Order *ret) {
        Order o = { .epoch = epoch };
        uint64_t payload;
        const char *hex;
        int r;

        if (!json_object_is_type(json, json_type_object))
                return -EBADMSG;
        if (json_get_id(json, "id", &o.task) < 0 ||
            json_get_uint64(json, "attempt", UINT32_MAX, &o.attempt) < 0 ||
            json_get_id_optional(json, "job", ID_NULL, &o.job) < 0 ||
            json_get_id_optional(json, "session", ID_NULL, &o.session) < 0 ||
            json_get_string(json, "code", DIGEST_HEX_SIZE, &hex) < 0 || digest_from_hex(hex, &o.code) < 0)
                return -EBADMSG;
        r = order_parse_names(&o, json);
        if (r < 0)
                return r;
        r = order_check(&o, json_get_uint64(json, "code_size", agent->config->cache_code, &o.code_size),
                        "its code is larger than the node's cache for code (cache.code in "
                        "clupy.server.yaml)");
        if (r >= 0)
                r = order_check(&o, json_get_uint64(json, "size", BYTES_MOST, &o.size),
                                "its arguments are too large");
        if (r >= 0)
                r = order_parse_limits(&o, json, agent->config);
        if (r < 0)
                return r;
        if (json_get_object_optional(json, "devices", &o.devices) < 0)
                return -EBADMSG;
        if (o.code_size == 0 && !o.refusal)
                o.refusal = "it has no code";
        r = json_get_uint64(json, "payload", FRAME_PAYLOAD_COUNT_MAX, &payload);
        if (r != -ENOENT) {
                if (r < 0 || payload >= frame->n_payloads || frame->payloads[payload].iov_len != o.size)
                        return -EBADMSG;
                o.payload = frame->payloads + payload;
        }
        *ret = o;
        return 0;
}

static int attempt_fill(Attempt *a, const Order *o) {
        LauncherStart *start;

        a->job = o->job;
        a->session = o->session;
        a->epoch = o->epoch;
        a->memory_max = o->memory;
        a->cpu_quota_usec = (uint64_t) (o->cpus * 1e6 + 0.5);

        start = a->start = new0(LauncherStart);
        if (!start)
                return -ENOMEM;
        copy_name(start->key.owner, sizeof(start->key.owner), o->owner);
        copy_name(start->key.environment, sizeof(start->key.environment), o->environment);
        copy_name(start->key.policy, sizeof(start->key.policy), o->policy);
        start->key.host_network = streq(o->network, "host");
        memcpy(start->job, o->job.bytes, sizeof(start->job));
        memcpy(start->session, o->session.bytes, sizeof(start->session));
        copy_name(start->name, sizeof(start->name), a->name);
        start->epoch = o->epoch;
        start->memory_max = o->memory;
        start->cpu_quota_usec = a->cpu_quota_usec;
        start->timeout_usec = o->timeout_ms * USEC_PER_MSEC;
        if (o->deadline_ms != UINT64_MAX) {
                a->deadline_usec = o->deadline_ms * USEC_PER_MSEC;
                start->deadline_usec = now_usec(CLOCK_BOOTTIME) + a->deadline_usec;
        }
        start->tmp_max = a->agent->config->task_tmp;
        start->tasks_max = (uint32_t) o->tasks_max;
        start->cpus = (uint32_t) MAX(o->cpus, 1.0);
        return 0;
}

/* Code. */

static void code_fetch_free(CodeFetch *f) {
        (void) hashmap_remove(f->agent->code_fetches, f->key);
        payload_in_cancel(f->in);
        free(f);
}

static int code_fetch_begin(CodeFetch *f, const Attempt *first);

/* Asks in the name of the first waiter; who cannot be asked for, cannot run. Frees the fetch when nobody is
 * left. */
static void code_fetch_advance(CodeFetch *f) {
        Attempt *first;

        while ((first = LIST_FIRST(Attempt, code_waiters, &f->waiters))) {
                int r = code_fetch_begin(f, first);

                if (r >= 0)
                        return;
                list_remove(&first->code_waiters);
                first->code_fetch = NULL;
                attempt_finish_local(first, OUTCOME_INFRASTRUCTURE, "the node has no memory for its code");
        }
        code_fetch_free(f);
}

void code_fetch_leave(Attempt *a) {
        CodeFetch *f = a->code_fetch;
        bool was_first;

        if (!f)
                return;
        was_first = LIST_FIRST(Attempt, code_waiters, &f->waiters) == a;
        list_remove(&a->code_waiters);
        a->code_fetch = NULL;
        if (list_is_empty(&f->waiters)) {
                code_fetch_free(f);
                return;
        }
        /* It was asked for in the name of this one, and the master may know it no longer. */
        if (was_first) {
                f->in = payload_in_cancel(f->in);
                code_fetch_advance(f);
        }
}

static void on_code(PayloadIn *in, int error, int fd, const char *message, void *userdata) {
        CodeFetch *f = userdata;
        Agent *agent = f->agent;
        Attempt *first = LIST_FIRST(Attempt, code_waiters, &f->waiters);
        CodeEntry *entry = NULL;
        char text[TEXT_SIZE];

        f->in = NULL;
        if (error == -ECONNRESET) {
                /* The agent forgets all that are prepared when it loses the master. */
                close_fd(fd);
                return;
        }
        if (error == 0)
                error = code_cache_add(agent->code, f->owner, &f->digest, fd, f->size, &entry);
        if (!entry) {
                close_fd(fd);
                snprintf(text, sizeof(text), "its code could not be fetched: %s",
                         message ?: strerror(-error));
                /* Only the one in whose name it was asked for: its client may be gone, others' not. It
                 * leaves, and the next one asks. */
                attempt_finish_local(first, OUTCOME_INFRASTRUCTURE, text);
                agent_send_news(agent);
                return;
        }
        /* Each waiter holds it, and so did the fetch. */
        LIST_FOREACH(Attempt, a, code_waiters, &f->waiters) {
                list_remove(&a->code_waiters);
                a->code_fetch = NULL;
                a->code = entry;
                entry->users++;
        }
        code_fetch_free(f);
        code_entry_drop(entry);
        agent_start_prepared(agent);
        agent_send_news(agent);
}

static int code_fetch_begin(CodeFetch *f, const Attempt *first) {
        PayloadRequest request = { .task = first->task,
                                   .attempt = first->attempt,
                                   .code = &f->digest,
                                   .size = f->size,
                                   .group = first->session };

        return payload_in_start(f->agent->streams, &request, on_code, f, &f->in);
}

/* From the cache, or from the master, or with others that wait for it. */
static int attempt_get_code(Attempt *a, const Order *o) {
        Agent *agent = a->agent;
        char key[CODE_KEY_SIZE];
        CodeFetch *f;
        int r;

        a->code = code_cache_get(agent->code, o->owner, &o->code);
        if (a->code)
                return 0;
        f = hashmap_get(agent->code_fetches, code_key(o->owner, &o->code, key));
        if (f) {
                list_append(&f->waiters, &a->code_waiters);
                a->code_fetch = f;
                return 0;
        }
        f = new0(CodeFetch);
        if (!f)
                return -ENOMEM;
        f->agent = agent;
        memcpy(f->key, key, sizeof(f->key));
        copy_name(f->owner, sizeof(f->owner), o->owner);
        f->digest = o->code;
        f->size = o->code_size;
        list_init(&f->waiters);
        r = hashmap_put(agent->code_fetches, f->key, f);
        if (r < 0) {
                free(f);
                return r;
        }
        list_append(&f->waiters, &a->code_waiters);
        a->code_fetch = f;
        return code_fetch_begin(f, a); /* the failing attempt takes it along */
}

/* Arguments. */

static void on_arguments(PayloadIn *in, int error, int fd, const char *message, void *userdata) {
        Attempt *a = userdata;
        Agent *agent = a->agent;
        char text[TEXT_SIZE];

        a->arguments_in = NULL;
        if (error == -ECONNRESET)
                return;
        if (error < 0) {
                snprintf(text, sizeof(text), "its arguments could not be fetched: %s",
                         message ?: strerror(-error));
                attempt_finish_local(a, OUTCOME_INFRASTRUCTURE, text);
        } else {
                a->arguments_fd = fd;
                attempt_try_start(a);
        }
        agent_send_news(agent);
}

static int attempt_get_arguments(Attempt *a, const Order *o) {
        PayloadRequest request = {
                .task = a->task, .attempt = a->attempt, .size = o->size, .group = o->session
        };

        if (o->payload || o->size == 0) {
                a->arguments_fd = memfd_new_sealed(
                        "clupy-arguments", o->payload ? o->payload->iov_base : NULL, (size_t) o->size);
                return a->arguments_fd < 0 ? a->arguments_fd : 0;
        }
        return payload_in_start(a->agent->streams, &request, on_arguments, a, &a->arguments_in);
}

/* Starting. */

void attempt_try_start(Attempt *a) {
        Agent *agent = a->agent;
        LauncherRequest request = { .op = LAUNCHER_START, .attempt = a->attempt };
        char text[TEXT_SIZE];
        int r;

        if (a->state != ATTEMPT_PREPARING || !a->code || a->arguments_fd < 0 || !agent->launcher_listed)
                return;
        memcpy(request.task, a->task.bytes, sizeof(request.task));
        request.start = *a->start;
        r = launcher_link_send(agent->launcher, &request, (int[]){ a->code->fd, a->arguments_fd }, 2);
        if (r == -ENOTCONN)
                return; /* as soon as it is back */
        if (r < 0) {
                snprintf(text, sizeof(text), "the launcher cannot be asked: %s", strerror(-r));
                attempt_finish_local(a, OUTCOME_INFRASTRUCTURE, text);
                return;
        }
        a->in_launcher = true;
        /* The start's particulars are kept until the launcher has confirmed: if it replaces itself before,
         * it is asked once more. */
        attempt_set_state(a, ATTEMPT_STARTING);
        if (device_set_is_empty(&a->start->devices)) /* else none of these would be for it */
                warm_pool_use(agent->warm_pool, &a->start->key);
}

void agent_start_prepared(Agent *agent) {
        Attempt *a;

        if (agent->counts[ATTEMPT_PREPARING] == 0)
                return;
        HASHMAP_FOREACH(a, agent->attempts)
                attempt_try_start(a);
}

void agent_forget_preparing(Agent *agent) {
        Attempt *a;

        if (agent->counts[ATTEMPT_PREPARING] == 0)
                return;
        HASHMAP_FOREACH(a, agent->attempts)
                if (a->state == ATTEMPT_PREPARING)
                        attempt_free(a);
}

/* A second order for what is here already: its state is told again. */
static void attempt_ordered_again(Attempt *a, const Order *o) {
        if (!streq(a->owner, o->owner)) {
                /* The master keeps them apart; this one is on its way out there. It orders the other again,
                 * under a number that is free. */
                log_warning("Refusing an order for task %s of '%s': the id is that of a task of '%s'",
                            ID_HEX(o->task), o->owner, a->owner);
                agent_send_unknown(a->agent, o->task, (uint32_t) o->attempt);
                return;
        }
        if (a->state == ATTEMPT_RUNNING || a->state == ATTEMPT_FROZEN)
                attempt_news(a, ATTEMPT_NEWS_STARTED);
        else if (a->state == ATTEMPT_ENDED)
                attempt_news(a, ATTEMPT_NEWS_ENDED);
}

static int agent_dispatch(Agent *agent, const Order *o) {
        _cleanup_(freep) char *name = text_for_message(o->name, TASK_NAME_MAX - 1);
        char text[TEXT_SIZE], why[ENVIRONMENTS_WHY_SIZE], no_devices[DEVICES_WHY_SIZE] = "";
        Attempt *a;
        int r;

        a = agent_attempt(agent, o->task, (uint32_t) o->attempt);
        if (a) {
                attempt_ordered_again(a, o);
                return 0;
        }
        if (!name)
                return -ENOMEM;
        r = attempt_new(agent, o->task, (uint32_t) o->attempt, o->owner, name, &a);
        if (r < 0)
                return r;
        if (o->refusal) {
                attempt_finish_local(a, OUTCOME_REFUSED, o->refusal);
                return 0;
        }
        if (environments_use(agent->environments, o->environment, why) < 0) {
                attempt_finish_local(a, OUTCOME_INFRASTRUCTURE, why);
                return 0;
        }
        if (o->size > agent->config->memory || agent->arguments_bytes > agent->config->memory - o->size) {
                snprintf(text, sizeof(text),
                         "the node has no room for its arguments: %s, beside %s of others, in %s",
                         FORMAT_BYTES(o->size), FORMAT_BYTES(agent->arguments_bytes),
                         FORMAT_BYTES(agent->config->memory));
                attempt_finish_local(a, OUTCOME_INFRASTRUCTURE, text);
                return 0;
        }
        a->arguments_size = o->size;
        agent->arguments_bytes += o->size;
        r = attempt_fill(a, o);
        if (r >= 0)
                r = devices_give(agent->devices, o->devices, a->start, &a->held, no_devices);
        if (r < 0 && no_devices[0]) {
                attempt_finish_local(a, r == -E2BIG ? OUTCOME_REFUSED : OUTCOME_INFRASTRUCTURE, no_devices);
                return 0;
        }
        if (r >= 0)
                r = attempt_get_arguments(a, o);
        if (r >= 0)
                r = attempt_get_code(a, o);
        if (r < 0) {
                snprintf(text, sizeof(text), "the node cannot prepare it: %s", strerror(-r));
                attempt_finish_local(a, OUTCOME_INFRASTRUCTURE, text);
                return 0;
        }
        attempt_try_start(a);
        return 0;
}

/* The master's epoch in an order. */
static int check_epoch(const Agent *agent, json_object *json, uint64_t *ret) {
        uint64_t epoch;

        if (!json || json_get_uint64(json, "epoch", INT64_MAX, &epoch) < 0)
                return -EBADMSG;
        if (epoch < agent->epoch) {
                log_error("Refusing an order of epoch %" PRIu64 ": epoch %" PRIu64 " has been obeyed", epoch,
                          agent->epoch);
                return -ESTALE;
        }
        *ret = epoch;
        return 0;
}

int agent_dispatch_frame(Agent *agent, const Frame *frame) {
        json_object *tasks;
        uint64_t epoch;
        int r;

        r = check_epoch(agent, frame->json, &epoch);
        if (r < 0)
                return r;
        if (json_get_array(frame->json, "tasks", TASKS_MAX, &tasks) < 0)
                return -EBADMSG;
        agent_obey(agent, epoch);
        for (size_t i = 0; i < json_object_array_length(tasks); i++) {
                Order order;

                r = order_parse(agent, frame, json_object_array_get_idx(tasks, i), epoch, &order);
                if (r >= 0)
                        r = agent_dispatch(agent, &order);
                if (r < 0)
                        return r;
        }
        agent_send_news(agent);
        return 0;
}

/* Calls back for each (id, attempt) of an array. */
static int each_attempt(Agent *agent, json_object *json, const char *array_name,
                        int (*callback)(Agent *agent, Id task, uint32_t attempt, json_object *entry)) {
        json_object *array;
        int r;

        if (!json || json_get_array(json, array_name, TASKS_MAX, &array) < 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *entry = json_object_array_get_idx(array, i);
                uint64_t attempt;
                Id task;

                if (!json_object_is_type(entry, json_type_object) || json_get_id(entry, "id", &task) < 0 ||
                    json_get_uint64(entry, "attempt", UINT32_MAX, &attempt) < 0)
                        return -EBADMSG;
                r = callback(agent, task, (uint32_t) attempt, entry);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* It is to end, for that reason. May free the attempt. */
static int attempt_stop(Attempt *a, OutcomeKind why, const char *by) {
        if (a->state == ATTEMPT_ENDED)
                return 0; /* too late: its end has been told or will be */
        if (a->state == ATTEMPT_PREPARING) {
                if (why == OUTCOME_SUPERSEDED)
                        attempt_free(a);
                else
                        attempt_finish_local(a, why, by);
                return 0;
        }
        /* A stronger reason replaces a weaker one: superseded means that nobody waits for it any more. */
        if (a->stop_why == OUTCOME_SUPERSEDED)
                return 0;
        free(a->stop_by);
        a->stop_by = text_for_message(by, OWNER_NAME_MAX - 1);
        if (!a->stop_by)
                return -ENOMEM;
        a->stop_why = why;
        agent_stop_attempt(a);
        return 0;
}

void agent_stop_attempt(Attempt *a) {
        LauncherRequest request = { .op = LAUNCHER_STOP, .attempt = a->attempt };
        int r;

        memcpy(request.task, a->task.bytes, sizeof(request.task));
        request.stop.why = a->stop_why;
        /* Time to tidy up, for who was cancelled. */
        request.stop.grace_usec = a->stop_why == OUTCOME_CANCELLED ? CANCEL_GRACE_USEC : 0;
        copy_name(request.stop.by, sizeof(request.stop.by), strempty(a->stop_by));
        r = launcher_link_send(a->agent->launcher, &request, NULL, 0);
        if (r < 0 && r != -ENOTCONN) /* it will be asked when it is back */
                log_error_errno(r, "Cannot ask the launcher to stop task %s", ID_HEX(a->task));
}

static int on_stop(Agent *agent, Id task, uint32_t attempt, json_object *entry) {
        const char *why, *by;
        Attempt *a;
        int kind;

        if (json_get_string(entry, "why", WHY_MAX, &why) < 0 ||
            json_get_string_optional(entry, "by", FRAME_JSON_MAX, "", &by) < 0)
                return -EBADMSG;
        kind = outcome_kind_from_string(why);
        if (kind != OUTCOME_CANCELLED && kind != OUTCOME_SUPERSEDED && kind != OUTCOME_DEADLINE)
                return -EBADMSG;
        a = agent_attempt(agent, task, attempt);
        if (a)
                return attempt_stop(a, (OutcomeKind) kind, by);
        if (kind != OUTCOME_SUPERSEDED)
                agent_send_unknown(agent, task, attempt);
        return 0;
}

int agent_stop_frame(Agent *agent, const Frame *frame) {
        int r;

        r = each_attempt(agent, frame->json, "tasks", on_stop);
        agent_send_news(agent);
        return r;
}

static int on_supersede(Agent *agent, Id task, uint32_t attempt, json_object *entry) {
        Attempt *a = agent_attempt(agent, task, attempt);

        if (a && a->state == ATTEMPT_ENDED) {
                agent_release_attempt(a);
                return 0;
        }
        return a ? attempt_stop(a, OUTCOME_SUPERSEDED, "") : 0;
}

int agent_supersede_frame(Agent *agent, const Frame *frame) {
        uint64_t epoch;
        int r;

        r = check_epoch(agent, frame->json, &epoch);
        if (r < 0)
                return r;
        agent_obey(agent, epoch);
        return each_attempt(agent, frame->json, "stop", on_supersede);
}

static int on_release(Agent *agent, Id task, uint32_t attempt, json_object *entry) {
        Attempt *a = agent_attempt(agent, task, attempt);

        if (a && a->state == ATTEMPT_ENDED)
                agent_release_attempt(a);
        return 0;
}

int agent_release_frame(Agent *agent, const Frame *frame) {
        return each_attempt(agent, frame->json, "tasks", on_release);
}
