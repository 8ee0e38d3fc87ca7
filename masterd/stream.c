/* SPDX-License-Identifier: Apache-2.0 */
#include "stream.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "attempt.h"
#include "detached.h"
#include "fd-util.h"
#include "job.h"
#include "json-util.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "peer.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

typedef enum StreamWhat {
        STREAM_ARGS,
        STREAM_CODE,
        STREAM_RESULT,
        STREAM_WHEEL, /* only the master asks for these */
        _STREAM_WHAT_MAX,
} StreamWhat;

static const char *const what_table[_STREAM_WHAT_MAX] = {
        [STREAM_ARGS] = "args",
        [STREAM_CODE] = "code",
        [STREAM_RESULT] = "result",
        [STREAM_WHEEL] = "wheel",
};

struct Stream {
        Streams *streams;
        ListLink link;
        Peer *asker; /* NULL: the master itself, through `sink` */
        uint64_t asker_number;
        const StreamSink *sink;
        void *userdata;
        Peer *owner; /* NULL: not asked (again) yet */
        uint64_t owner_number;
        StreamWhat what;
        Id task, wire; /* the latter: of the attempt that has the result */
        uint32_t attempt;
        char code[DIGEST_HEX_SIZE];
        uint64_t size;            /* as the asker expects it */
        Session *session;         /* has arguments and code */
        Node *node;               /* has the result */
        uint64_t allowed;         /* bytes the asker still takes */
        uint64_t granted;         /* bytes the owner may still send */
        uint64_t relayed;         /* bytes passed on */
        uint64_t skip;            /* bytes that come a second time, after the owner's connection broke */
        uint64_t moved_at, moved; /* when, and the bytes since */
        int file;                 /* the owner is a file, -EBADF: a peer */
};

static void streams_start(Streams *streams);

void streams_init(Streams *streams, Manager *manager) {
        *streams = (Streams){ .manager = manager };
        list_init(&streams->all);
}

static int send_number(Peer *peer, FrameType type, uint64_t number, const char *key, uint64_t value) {
        _cleanup_(json_putp) json_object *json = NULL;

        if (json_new_object(&json) < 0 || json_add_uint64(json, "stream", number) < 0)
                return -ENOMEM;
        if (key && json_add_uint64(json, key, value) < 0)
                return -ENOMEM;
        return connection_send(peer->connection, type, json, NULL, 0);
}

static void send_end(Peer *peer, uint64_t number, const char *error, const char *message) {
        _cleanup_(json_putp) json_object *json = NULL;

        if (json_new_object(&json) < 0 || json_add_uint64(json, "stream", number) < 0)
                return;
        if (error)
                (void) json_add_string(json, "error", error);
        if (message)
                (void) json_add_string(json, "message", message);
        (void) connection_send(peer->connection, FRAME_END, json, NULL, 0);
}

static bool stream_is_flowing(const Stream *s) {
        return s->owner || s->file >= 0;
}

/* Off the owner. It begins anew when asked again. */
static void stream_unhook(Stream *s) {
        if (!stream_is_flowing(s))
                return;
        if (s->owner)
                (void) hashmap_remove_u64(s->owner->owned, s->owner_number);
        if (s->owner && !s->asker)
                s->owner->n_own--;
        s->owner = NULL;
        s->file = close_fd(s->file);
        s->granted = 0;
        s->skip = s->relayed;
        s->streams->n_flowing--;
        s->streams->n_waiting++;
        if (s->asker)
                s->asker->n_flowing--;
}

static void stream_free(Stream *s) {
        Streams *streams = s->streams;

        stream_unhook(s);
        streams->n_waiting--;
        if (s->asker)
                (void) hashmap_remove_u64(s->asker->asked, s->asker_number);
        list_remove(&s->link);
        free(s);
        if (streams->n_waiting > 0)
                streams_start(streams);
}

/* Tells both ends and frees it. error NULL: it is complete. */
static void stream_finish(Stream *s, bool tell_owner, const char *error, const char *message) {
        const StreamSink *sink = s->sink;
        void *userdata = s->userdata;

        if (tell_owner && s->owner)
                send_end(s->owner, s->owner_number, error ?: "cancelled", message);
        if (s->asker)
                send_end(s->asker, s->asker_number, error, message);
        stream_free(s);
        if (sink)
                sink->done(error ? -EIO : 0, userdata);
}

void stream_cancel(Stream *s) {
        if (s->owner)
                send_end(s->owner, s->owner_number, "cancelled", NULL);
        s->sink = NULL;
        stream_free(s);
}

/* A byte a minute does not hold a place. */
static void stream_note_progress(Stream *s, size_t bytes) {
        s->moved += bytes;
        if (s->moved < STREAM_MOVE_MIN)
                return;
        s->moved = 0;
        s->moved_at = manager_now(s->streams->manager);
}

static void stream_fill(Stream *s);

/* Lets the owner send as much as the asker takes, and its connection is not full. */
static void stream_grant(Stream *s) {
        uint64_t target;

        if (s->file >= 0) {
                stream_fill(s);
                return;
        }
        if (!s->owner)
                return;
        if (s->asker && connection_is_congested(s->asker->connection))
                return;
        target = MIN(usec_add(s->allowed, s->skip), (uint64_t) STREAM_WINDOW);
        if (target <= s->granted || (s->granted > 0 && target - s->granted < STREAM_WINDOW / 2))
                return;
        if (send_number(s->owner, FRAME_CREDIT, s->owner_number, "bytes", target - s->granted) >= 0)
                s->granted = target;
}

static int stream_pass(Stream *s, const struct iovec *piece);

/* From the file as far as the asker takes it. */
static void stream_fill(Stream *s) {
        _cleanup_(freep) void *buffer = malloc(FRAME_PAYLOAD_SIZE_MAX);

        if (!buffer) {
                stream_finish(s, false, "busy", "Out of memory");
                return;
        }
        while (s->allowed > 0 && !(s->asker && connection_is_congested(s->asker->connection))) {
                ssize_t n = read(s->file, buffer, MIN(s->allowed, (uint64_t) FRAME_PAYLOAD_SIZE_MAX));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        stream_finish(s, false, n < 0 ? "gone" : NULL, n < 0 ? "It cannot be read" : NULL);
                        return;
                }
                if (stream_pass(s, &(struct iovec){ buffer, (size_t) n }) < 0)
                        return;
                stream_note_progress(s, (size_t) n);
        }
}

static Task *stream_task(const Stream *s) {
        return owner_task(s->session->owner, s->task);
}

static bool stream_start_file(Stream *s) {
        Task *task = stream_task(s);
        int fd;

        if (s->sink || !task || !task->detached)
                return false;
        fd = detached_open(task, what_table[s->what], s->relayed);
        if (fd < 0)
                return false;
        s->file = fd;
        s->skip = 0;
        s->streams->n_flowing++;
        s->streams->n_waiting--;
        if (s->asker)
                s->asker->n_flowing++;
        stream_fill(s);
        return true;
}

static Peer *stream_find_owner(const Stream *s) {
        if (s->what == STREAM_RESULT)
                return s->node && s->node->peer && s->node->reconciled ? s->node->peer : NULL;
        return s->session->peer;
}

/* Asks the owner. Returns whether it could. */
static bool stream_start(Stream *s) {
        _cleanup_(json_putp) json_object *json = NULL;
        Peer *owner = stream_find_owner(s);
        uint64_t number, window;

        if (s->streams->n_flowing >= STREAM_FLOWING_MAX ||
            (s->asker && s->asker->n_flowing >= STREAM_FLOWING_PEER_MAX))
                return false;
        if (stream_start_file(s))
                return true;
        if (!owner || !connection_is_open(owner->connection) ||
            (!s->asker && owner->n_own >= STREAM_FLOWING_PEER_MAX))
                return false;
        number = owner->next_stream;
        window = MIN(usec_add(s->allowed, s->skip), (uint64_t) STREAM_WINDOW);
        if (json_new_object(&json) < 0 || json_add_uint64(json, "stream", number) < 0 ||
            json_add_id(json, "task", s->what == STREAM_RESULT ? s->wire : s->task) < 0 ||
            json_add_uint64(json, "attempt", s->attempt) < 0 ||
            json_add_string(json, "what", what_table[s->what]) < 0 ||
            json_add_uint64(json, "size", s->size) < 0 || json_add_uint64(json, "window", window) < 0)
                return false;
        if (s->code[0])
                (void) json_add_string(json, "code", s->code);
        if (hashmap_put_u64(owner->owned, number, s) < 0)
                return false;
        owner->next_stream += 2;
        s->owner = owner;
        s->owner_number = number;
        s->granted = window;
        s->moved_at = manager_now(s->streams->manager);
        s->streams->n_flowing++;
        s->streams->n_waiting--;
        if (s->asker)
                s->asker->n_flowing++;
        else
                owner->n_own++;
        (void) connection_send(owner->connection, FRAME_FETCH, json, NULL, 0);
        return true;
}

/* A stream that nobody moves must not keep the others waiting. */
static void streams_end_stalled(Streams *streams) {
        uint64_t now = manager_now(streams->manager);

        LIST_FOREACH(Stream, s, link, &streams->all)
                if (stream_is_flowing(s) && usec_sub(now, s->moved_at) > STREAM_STALL_S * USEC_PER_SEC) {
                        stream_finish(s, true, "stalled",
                                      "Too little of it was taken for a minute while others waited");
                        return;
                }
}

static void streams_start(Streams *streams) {
        if (streams->starting)
                return;
        streams->starting = true;
        if (streams->n_waiting > 0 && streams->n_flowing >= STREAM_FLOWING_MAX)
                streams_end_stalled(streams);
        LIST_FOREACH(Stream, s, link, &streams->all) {
                if (streams->n_flowing >= STREAM_FLOWING_MAX)
                        break;
                if (!stream_is_flowing(s))
                        (void) stream_start(s);
        }
        streams->starting = false;
}

static void stream_add(Streams *streams, Stream *s) {
        s->streams = streams;
        s->moved_at = manager_now(streams->manager);
        streams->n_waiting++;
        list_append(&streams->all, &s->link);
        if (!stream_start(s) && streams->n_flowing >= STREAM_FLOWING_MAX)
                streams_start(streams);
}

int stream_fetch_own(Streams *streams, Task *task, const char *what, const StreamSink *sink, void *userdata,
                     Stream **ret) {
        int i = name_table_find(what_table, _STREAM_WHAT_MAX, what);
        Stream *s;

        if (i < 0)
                return i;
        if (i == STREAM_WHEEL)
                return -EINVAL;
        if (i == STREAM_RESULT && !task->current)
                return -ENOENT;
        s = new0(Stream);
        if (!s)
                return -ENOMEM;
        s->file = -EBADF;
        s->what = (StreamWhat) i;
        s->task = task->id;
        s->wire = task->wire;
        s->attempt = task->attempt;
        s->session = task->session;
        s->node = task->current ? task->current->node : NULL;
        s->size = i == STREAM_RESULT ? task->result_size
                  : i == STREAM_CODE ? task->job->code_size
                                     : task->size;
        if (i == STREAM_CODE)
                memcpy(s->code, task->job->code, sizeof(s->code));
        s->allowed = UINT64_MAX;
        s->sink = sink;
        s->userdata = userdata;
        *ret = s;
        stream_add(streams, s);
        return 0;
}

int stream_fetch_wheel(Streams *streams, Session *session, const char *digest, uint64_t size,
                       const StreamSink *sink, void *userdata, Stream **ret) {
        Stream *s = new0(Stream);

        if (!s)
                return -ENOMEM;
        *s = (Stream){ .file = -EBADF,
                       .what = STREAM_WHEEL,
                       .session = session,
                       .size = size,
                       .allowed = UINT64_MAX,
                       .sink = sink,
                       .userdata = userdata };
        snprintf(s->code, sizeof(s->code), "%s", digest);
        *ret = s;
        stream_add(streams, s);
        return 0;
}

/* What lies in memory goes at once. */
static int answer_inline(Peer *peer, uint64_t number, const void *data, size_t size) {
        _cleanup_(json_putp) json_object *json = NULL;
        int r;

        if (json_new_object(&json) < 0 || json_add_uint64(json, "stream", number) < 0)
                return -ENOMEM;
        r = connection_send(peer->connection, FRAME_DATA, json, &(struct iovec){ (void *) data, size }, 1);
        if (r >= 0)
                send_end(peer, number, NULL, NULL);
        return r == -ENOTCONN ? 0 : r;
}

/* A client's own, by its id; a node's present one, by its attempt's. */
static Task *asked_task(Peer *peer, Id id) {
        Attempt *attempt;
        Task *task;

        if (peer->role == PEER_AGENT) {
                attempt = peer->node ? hashmap_get(peer->node->attempts, &id) : NULL;
                return attempt ? attempt->task : NULL;
        }
        task = peer->session ? owner_task(peer->session->owner, id) : NULL;
        return task && task->session == peer->session ? task : NULL;
}

int stream_frame_fetch(Peer *peer, json_object *json) {
        Manager *m = peer->manager;
        uint64_t number, window, attempt, size;
        const char *what_name, *code;
        Stream *s;
        Task *task;
        Id id;
        int what;

        if (json_get_uint64(json, "stream", UINT32_MAX, &number) < 0 ||
            json_get_uint64(json, "window", UINT64_MAX / 4, &window) < 0 || window == 0 || number % 2 == 0 ||
            json_get_id(json, "task", &id) < 0 || json_get_string(json, "what", 16, &what_name) < 0 ||
            json_get_uint64_optional(json, "attempt", UINT32_MAX, 0, &attempt) < 0 ||
            json_get_uint64_optional(json, "size", UINT64_MAX / 2, 0, &size) < 0 ||
            json_get_string_optional(json, "code", DIGEST_HEX_SIZE - 1, NULL, &code) < 0)
                return -EBADMSG;
        what = name_table_find(what_table, _STREAM_WHAT_MAX, what_name);
        if (what < 0 || what == STREAM_WHEEL || hashmap_get_u64(peer->asked, number))
                return -EBADMSG;
        /* Clients ask for results of their own, agents for what they were sent. */
        if ((peer->role == PEER_CLIENT) != (what == STREAM_RESULT))
                return -EBADMSG;
        if (hashmap_size(peer->asked) >= STREAM_PEER_MAX) {
                send_end(peer, number, "busy", "Too many streams are open on this connection");
                return 0;
        }
        task = asked_task(peer, id);
        if (!task || (what == STREAM_RESULT &&
                      (task->state != TASK_ENDED || (!task->current && !detached_has_result(task))))) {
                send_end(peer, number, "gone", "The task is not known here, or is elsewhere by now");
                return 0;
        }
        if (what == STREAM_ARGS && task->argument && task->size <= window)
                return answer_inline(peer, number, task->argument, task->size);

        s = new0(Stream);
        if (!s)
                return -ENOMEM;
        *s = (Stream){
                .asker = peer,
                .asker_number = number,
                .what = (StreamWhat) what,
                .task = task->id,
                .wire = task->wire,
                .attempt = what == STREAM_RESULT ? task->attempt : (uint32_t) attempt,
                .size = size,
                .session = task->session,
                .node = what == STREAM_RESULT && task->current ? task->current->node : NULL,
                .file = -EBADF,
                .allowed = window,
        };
        if (what == STREAM_CODE)
                memcpy(s->code, task->job->code, sizeof(s->code));
        if (hashmap_put_u64(peer->asked, number, s) < 0) {
                free(s);
                return -ENOMEM;
        }
        stream_add(&m->streams, s);
        return 0;
}

/* Passes a piece on. Returns <0 when the stream is over. */
static int stream_pass(Stream *s, const struct iovec *piece) {
        _cleanup_(json_putp) json_object *json = NULL;
        int r;

        if (s->sink)
                r = s->sink->data(piece->iov_base, piece->iov_len, s->userdata);
        else if (!s->asker || json_new_object(&json) < 0 ||
                 json_add_uint64(json, "stream", s->asker_number) < 0)
                r = -ENOMEM;
        else
                r = connection_send(s->asker->connection, FRAME_DATA, json, piece, 1);
        if (r < 0) {
                stream_finish(s, true, "too-large", "It could not be passed on");
                return r;
        }
        s->relayed += piece->iov_len;
        if (!s->sink)
                s->allowed -= piece->iov_len;
        return 0;
}

int stream_frame_data(Peer *peer, const Frame *frame) {
        struct iovec piece;
        uint64_t number;
        Stream *s;

        if (json_get_uint64(frame->json, "stream", UINT32_MAX, &number) < 0 || frame->n_payloads != 1)
                return -EBADMSG;
        s = hashmap_get_u64(peer->owned, number);
        if (!s)
                return 0; /* ended from here; the other end does not know yet */
        piece = frame->payloads[0];
        if (piece.iov_len > s->granted)
                return -EPROTO;
        s->granted -= piece.iov_len;
        stream_note_progress(s, piece.iov_len);
        if (s->skip > 0) {
                size_t n = (size_t) MIN(s->skip, (uint64_t) piece.iov_len);

                s->skip -= n;
                piece.iov_base = (char *) piece.iov_base + n;
                piece.iov_len -= n;
        }
        if (piece.iov_len > 0 && stream_pass(s, &piece) < 0)
                return 0;
        stream_grant(s);
        return 0;
}

int stream_frame_credit(Peer *peer, json_object *json) {
        uint64_t number, bytes;
        Stream *s;

        if (json_get_uint64(json, "stream", UINT32_MAX, &number) < 0 ||
            json_get_uint64(json, "bytes", UINT64_MAX / 4, &bytes) < 0)
                return -EBADMSG;
        s = hashmap_get_u64(peer->asked, number);
        if (!s)
                return 0;
        s->allowed = MIN(usec_add(s->allowed, bytes), UINT64_MAX / 2);
        stream_grant(s);
        return 0;
}

/* The node no longer has it: the task has to run again. */
static void result_is_gone(Task *task, uint32_t number) {
        Attempt *attempt = task ? task->current : NULL;

        if (!attempt || task->state != TASK_ENDED || attempt->number != number)
                return;
        task_retry(task, true, "its result was lost");
        attempt_free(attempt);
}

int stream_frame_end(Peer *peer, json_object *json) {
        const char *error, *message;
        uint64_t number;
        Stream *s;

        if (json_get_uint64(json, "stream", UINT32_MAX, &number) < 0 ||
            json_get_string_optional(json, "error", 64, NULL, &error) < 0 ||
            json_get_string_optional(json, "message", 4096, NULL, &message) < 0)
                return -EBADMSG;
        s = hashmap_get_u64(peer->owned, number);
        if (s) {
                Task *task = stream_task(s);
                uint32_t attempt = s->attempt;
                bool gone = s->what == STREAM_RESULT && streq_ptr(error, "gone");

                stream_finish(s, false, error, message);
                if (gone)
                        result_is_gone(task, attempt);
                return 0;
        }
        s = hashmap_get_u64(peer->asked, number);
        if (s) {
                if (s->owner)
                        send_end(s->owner, s->owner_number, error ?: "cancelled", message);
                stream_free(s);
        }
        return 0;
}

/* While a list is walked, ending one stream must not start (and so perhaps end) others. */
static void streams_hold(Streams *streams) {
        streams->starting = true;
}

static void streams_go_on(Streams *streams) {
        streams->starting = false;
        if (streams->n_waiting > 0)
                streams_start(streams);
}

void streams_peer_gone(Streams *streams, Peer *peer) {
        Stream *s;

        streams_hold(streams);
        HASHMAP_FOREACH(s, peer->asked) {
                if (s->owner)
                        send_end(s->owner, s->owner_number, "cancelled", "The asker is gone");
                stream_free(s);
        }
        HASHMAP_FOREACH(s, peer->owned)
                stream_unhook(s);
        streams_go_on(streams);
}

void streams_peer_drained(Streams *streams, Peer *peer) {
        Stream *s;

        HASHMAP_FOREACH(s, peer->asked)
                stream_grant(s);
}

void streams_session_connected(Streams *streams, Session *session) {
        if (streams->n_waiting > 0)
                streams_start(streams);
}

void streams_node_connected(Streams *streams, Node *node) {
        if (streams->n_waiting > 0)
                streams_start(streams);
}

void streams_session_gone(Streams *streams, Session *session) {
        streams_hold(streams);
        LIST_FOREACH(Stream, s, link, &streams->all)
                if (s->session == session)
                        stream_finish(s, true, "gone", "The client is gone");
        streams_go_on(streams);
}

void streams_task_moved(Streams *streams, Task *task) {
        streams_hold(streams);
        LIST_FOREACH(Stream, s, link, &streams->all)
                if (s->what != STREAM_WHEEL && id_equal(s->task, task->id) &&
                    s->session->owner == task->session->owner && s->session != task->session) {
                        if (s->what != STREAM_RESULT && s->owner) {
                                send_end(s->owner, s->owner_number, "cancelled", NULL);
                                stream_unhook(s);
                        }
                        s->session = task->session;
                }
        streams_go_on(streams);
}

void streams_task_gone(Streams *streams, Task *task) {
        if (list_is_empty(&streams->all))
                return;
        streams_hold(streams);
        LIST_FOREACH(Stream, s, link, &streams->all)
                if (s->what != STREAM_CODE && s->what != STREAM_WHEEL && id_equal(s->task, task->id) &&
                    s->session->owner == task->session->owner)
                        stream_finish(s, true, "gone", "The task is over");
        streams_go_on(streams);
}
