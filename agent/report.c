/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <errno.h>
#include <unistd.h>

#include "json-util.h"
#include "log.h"
#include "parse-util.h"
#include "receipt.h"
#include "time-util.h"

#define STARTED_HOLD (20 * USEC_PER_MSEC)

enum {
        REPORT_BATCH = 400, /* attempts a frame: far below the bound of its JSON */
        NEWS_BATCH = 200,
        INLINE_MAX = 64 << 10,      /* bytes of a result that travels with the news of its end */
        INLINE_TOTAL_MAX = 1 << 20, /* of all in one frame: half of what it may hold */
};

/* A frame that is being filled: an array of attempts, and payloads. */
typedef struct Batch {
        json_object *json, *array; /* array is borrowed */
        size_t n, inline_bytes;
        struct iovec payloads[NEWS_BATCH];
        size_t n_payloads;
} Batch;

static int batch_begin(Batch *b, const char *array_name) {
        int r;

        *b = (Batch){ 0 };
        r = json_new_object(&b->json);
        return r < 0 ? r : json_add_new_array(b->json, array_name, &b->array);
}

static void batch_done(Batch *b) {
        b->json = json_put(b->json);
        for (size_t i = 0; i < b->n_payloads; i++)
                free(b->payloads[i].iov_base);
        b->n_payloads = 0;
}

static int batch_append(Batch *b, Id task, uint32_t attempt, json_object **ret) {
        json_object *object;
        int r;

        r = json_append_new_object(b->array, &object);
        if (r >= 0)
                r = json_add_id(object, "id", task);
        if (r >= 0)
                r = json_add_uint64(object, "attempt", attempt);
        if (r < 0)
                return r;
        b->n++;
        *ret = object;
        return 0;
}

static int add_end(const Attempt *a, json_object *object) {
        _cleanup_(json_putp) json_object *outcome = NULL, *receipt = NULL;
        int r;

        r = attempt_end_to_json(a->end, &outcome);
        if (r >= 0)
                r = receipt_to_json(a->end->ran ? &a->end->receipt : NULL, a->warm, a->agent->cgroup_v2,
                                    &receipt);
        if (r >= 0)
                r = json_add(object, "outcome", TAKE_PTR(outcome));
        if (r >= 0)
                r = json_add(object, "receipt", TAKE_PTR(receipt));
        if (r >= 0)
                r = json_add_uint64(object, "size", a->result_size);
        return r < 0 ? r : json_add_string(object, "unit", a->unit);
}

/* A small result goes along. What cannot be read is fetched, and fails, on its own. */
static int batch_add_result(Batch *b, const Attempt *a, json_object *object) {
        _cleanup_(freep) void *buffer = NULL;
        ssize_t n;
        int r;

        if (a->result_fd < 0 || a->result_size == 0 || a->result_size > INLINE_MAX)
                return 0;
        buffer = malloc((size_t) a->result_size);
        if (!buffer)
                return -ENOMEM;
        n = pread(a->result_fd, buffer, (size_t) a->result_size, 0);
        if (n < 0 || (uint64_t) n != a->result_size)
                return 0;
        r = json_add_uint64(object, "payload", b->n_payloads);
        if (r < 0)
                return r;
        b->payloads[b->n_payloads++] = (struct iovec){ .iov_base = TAKE_PTR(buffer), .iov_len = (size_t) n };
        b->inline_bytes += (size_t) n;
        return 0;
}

static int batch_add_started(Batch *b, const Attempt *a) {
        json_object *object;
        int r;

        r = batch_append(b, a->task, a->attempt, &object);
        if (r >= 0)
                r = json_add_string(object, "unit", a->unit);
        if (r >= 0)
                r = json_add_uint64(object, "pid", a->pid);
        return r < 0 ? r : json_add_uint64(object, "uid", a->uid);
}

static int batch_add_ended(Batch *b, const Attempt *a) {
        json_object *object;
        int r;

        r = batch_append(b, a->task, a->attempt, &object);
        if (r >= 0)
                r = add_end(a, object);
        return r < 0 ? r : batch_add_result(b, a, object);
}

static int batch_add_progress(Batch *b, const Attempt *a) {
        _cleanup_(freep) char *note = text_for_message(a->progress->note, NOTE_MAX);
        json_object *object;
        int r;

        if (!note)
                return -ENOMEM;
        r = batch_append(b, a->task, a->attempt, &object);
        if (r >= 0)
                r = json_add_double(object, "done", a->progress->done);
        if (r >= 0)
                r = json_add_double(object, "total", a->progress->total);
        return r < 0 ? r : json_add_string(object, "note", note);
}

/* That a task runs is told a little later, and most often together with its end: to hear of both costs the
 * master, and the client, as much as the rest of a short call. */
void attempt_news(Attempt *a, AttemptNews news) {
        if (news == ATTEMPT_NEWS_STARTED && a->state == ATTEMPT_RUNNING)
                a->hold_usec = now_usec(CLOCK_MONOTONIC) + STARTED_HOLD;
        else
                a->hold_usec = 0;
        a->news |= news;
        if (news == ATTEMPT_NEWS_ENDED)
                a->news = ATTEMPT_NEWS_ENDED; /* tells all that there was to tell */
        if (!list_is_linked(&a->news_queue))
                list_append(&a->agent->news_queue, &a->news_queue);
}

static void attempt_news_told(Attempt *a, unsigned news) {
        a->news &= ~news;
        if (a->news == 0)
                list_remove(&a->news_queue);
}

static const struct {
        AttemptNews news;
        FrameType type;
        int (*add)(Batch *b, const Attempt *a);
} news_kinds[] = {
        { ATTEMPT_NEWS_STARTED, FRAME_STARTED, batch_add_started },
        { ATTEMPT_NEWS_PROGRESS, FRAME_PROGRESS, batch_add_progress },
        { ATTEMPT_NEWS_ENDED, FRAME_ENDED, batch_add_ended },
};

/* One frame of one kind. Returns whether there was anything to send, -ENOMEM, -errno of sending. */
static int send_news_batch(Agent *agent, size_t kind, uint64_t now) {
        Batch b;
        int r;

        r = batch_begin(&b, "tasks");
        LIST_FOREACH(Attempt, a, news_queue, &agent->news_queue) {
                if (r < 0 || b.n >= NEWS_BATCH || b.inline_bytes > INLINE_TOTAL_MAX)
                        break;
                if (!(a->news & news_kinds[kind].news) || a->hold_usec > now)
                        continue;
                r = news_kinds[kind].add(&b, a);
                if (r >= 0)
                        attempt_news_told(a, news_kinds[kind].news);
        }
        if (r >= 0 && b.n > 0) {
                r = master_link_send(agent->master, news_kinds[kind].type, b.json, b.payloads, b.n_payloads);
                r = r < 0 ? r : 1;
        }
        batch_done(&b);
        return r;
}

void agent_send_news(Agent *agent) {
        uint64_t now, held_until = UINT64_MAX;
        unsigned news = 0;

        if (list_is_empty(&agent->news_queue) || master_link_state(agent->master) != MASTER_LINK_UP)
                return;
        now = now_usec(CLOCK_MONOTONIC);
        LIST_FOREACH(Attempt, a, news_queue, &agent->news_queue) {
                if (a->hold_usec > now)
                        held_until = MIN(held_until, a->hold_usec);
                else
                        news |= a->news;
        }
        for (size_t kind = 0; kind < ELEMENTSOF(news_kinds); kind++) {
                int r = news & news_kinds[kind].news ? 1 : 0;

                while (r > 0 && !master_link_is_congested(agent->master))
                        r = send_news_batch(agent, kind, now);
                /* What did not get out is told by the report that a new connection begins with. */
                if (r < 0 && r != -ENOTCONN) {
                        log_error_errno(r, "Cannot tell the master what became of attempts");
                        master_link_restart(agent->master, "news could not be sent");
                        return;
                }
        }
        if (held_until == UINT64_MAX) {
                (void) sd_event_source_set_enabled(agent->news_timer, SD_EVENT_OFF);
                return;
        }
        (void) sd_event_source_set_time(agent->news_timer, held_until);
        (void) sd_event_source_set_enabled(agent->news_timer, SD_EVENT_ONESHOT);
}

static int report_add(Batch *b, const Attempt *a) {
        json_object *object;
        int r;

        r = batch_append(b, a->task, a->attempt, &object);
        if (r >= 0)
                r = json_add_uint64(object, "epoch", a->epoch);
        if (r >= 0)
                r = json_add_string(object, "owner", a->owner);
        if (r >= 0)
                r = json_add_id(object, "session", a->session);
        if (r >= 0)
                r = json_add_id(object, "job", a->job);
        if (r >= 0)
                r = json_add_string(object, "name", a->name);
        if (r >= 0)
                r = json_add_string(object, "state", attempt_state_to_wire(a->state));
        if (r >= 0)
                r = json_add_double(object, "cpus", (double) a->cpu_quota_usec / 1e6);
        if (r >= 0)
                r = json_add_uint64(object, "memory", a->memory_max);
        if (r >= 0)
                r = devices_add_json(a->agent->devices, &a->held, object);
        if (r < 0)
                return r;
        return a->state == ATTEMPT_ENDED ? add_end(a, object) : json_add_string(object, "unit", a->unit);
}

static int send_report_batch(Agent *agent, Batch *b, bool more) {
        int r;

        r = json_add_bool(b->json, "more", more);
        if (r >= 0)
                r = master_link_send(agent->master, FRAME_REPORT, b->json, NULL, 0);
        batch_done(b);
        return r;
}

int agent_send_report(Agent *agent) {
        Attempt *a;
        Batch b;
        int r;

        r = batch_begin(&b, "attempts");
        HASHMAP_FOREACH(a, agent->attempts) {
                attempt_news_told(a, ~0U);
                if (r < 0 || a->released)
                        continue;
                if (b.n >= REPORT_BATCH) {
                        r = send_report_batch(agent, &b, true);
                        if (r >= 0)
                                r = batch_begin(&b, "attempts");
                }
                if (r >= 0)
                        r = report_add(&b, a);
        }
        if (r < 0) {
                batch_done(&b);
                return r;
        }
        return send_report_batch(agent, &b, false);
}

void agent_send_unknown(Agent *agent, Id task, uint32_t attempt) {
        _cleanup_(freep) AttemptEnd *end = NULL;
        Attempt stranger = { .agent = agent, .task = task, .attempt = attempt, .result_fd = -EBADF };
        Batch b;
        int r;

        r = attempt_end_new_local(OUTCOME_INFRASTRUCTURE, "the node does not have this attempt", &end);
        if (r < 0)
                return;
        stranger.end = end;
        r = batch_begin(&b, "tasks");
        if (r >= 0)
                r = batch_add_ended(&b, &stranger);
        if (r >= 0)
                (void) master_link_send(agent->master, FRAME_ENDED, b.json, NULL, 0);
        batch_done(&b);
}
