/* SPDX-License-Identifier: Apache-2.0 */
#include "master-request.h"

#include <errno.h>
#include <systemd/sd-event.h>

#include "connection.h"
#include "json-util.h"
#include "resolver.h"
#include "time-util.h"

typedef struct MasterRequest {
        sd_event *event;
        TlsContext *tls;
        const Address *master; /* the present one */
        FrameType type, answer;
        json_object *json;

        Resolver *resolver;
        ResolvedAddress addresses[RESOLVER_ADDRESSES_MAX];
        size_t n_addresses, next; /* of the present master */
        Connection *connection;
        bool connected;

        bool done;
        int error;
        char *message;
        json_object *result;
} MasterRequest;

static void attempt(MasterRequest *q);

static void finish(MasterRequest *q, int error, const char *message) {
        q->done = true;
        q->error = error;
        if (message)
                (void) free_and_strdup(&q->message, message);
}

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        MasterRequest *q = userdata;
        _cleanup_(freep) char *harmless = NULL;
        const char *message = NULL;

        if (q->done)
                return 0;
        if (frame->type == q->answer && frame->json) {
                q->result = json_object_get(frame->json);
                finish(q, 0, NULL);
        } else if (frame->type == FRAME_REFUSED && frame->json) {
                (void) json_get_string(frame->json, "message", 1024, &message);
                harmless = text_for_message(message ?: "the master refused without saying why", 600);
                finish(q, -EACCES, harmless);
        } else {
                finish(q, -EPROTO, "the master answers something else: is it of another version?");
                return -EPROTO;
        }
        return 0;
}

static void on_connected(Connection *c, void *userdata) {
        MasterRequest *q = userdata;
        int r;

        q->connected = true;
        /* What comes back may be larger than a hello. */
        connection_established(c);
        r = connection_send(c, q->type, q->json, NULL, 0);
        if (r < 0)
                connection_close(c, r, NULL);
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        MasterRequest *q = userdata;
        char text[ADDRESS_STRING_SIZE];
        _cleanup_(freep) char *message = NULL;

        q->connection = connection_unref(q->connection);
        if (q->done)
                return;
        message = strformat("%s: %s", address_to_string(q->master, text), why);
        free(q->message);
        q->message = TAKE_PTR(message);
        q->error = error < 0 ? error : -ECONNRESET;
        /* Once the master has the frame another attempt could find a token used: this one's. */
        if (q->connected)
                finish(q, q->error, NULL);
        else
                attempt(q);
}

static const ConnectionHandlers handlers = { .frame = on_frame,
                                             .connected = on_connected,
                                             .closed = on_closed };

/* The next address of the present master, if there is one. */
static void attempt(MasterRequest *q) {
        int r;

        if (q->next >= q->n_addresses) {
                q->done = true;
                return;
        }
        r = connection_new_outgoing_tls(q->event, (struct sockaddr *) &q->addresses[q->next].address,
                                        q->addresses[q->next].size, q->tls, q->master->host, &handlers, q,
                                        &q->connection);
        q->next++;
        if (r < 0)
                finish(q, r, strerrordesc_np(-r));
}

static void on_resolved(Resolver *resolver, int error, const ResolvedAddress *addresses, size_t n,
                        void *userdata) {
        MasterRequest *q = userdata;

        if (error < 0) {
                _cleanup_(freep) char *message =
                        strformat("%s: %s", q->master->host,
                                  error == -ENOENT ? "there is no such host" : strerrordesc_np(-error));

                finish(q, error, message);
                return;
        }
        q->n_addresses = MIN(n, ELEMENTSOF(q->addresses));
        for (size_t i = 0; i < q->n_addresses; i++)
                q->addresses[i] = addresses[i];
        attempt(q);
}

/* One master, all of its addresses. */
static int ask(MasterRequest *q, uint64_t until) {
        int r;

        q->done = false;
        q->n_addresses = q->next = 0;
        r = resolver_start(q->event, q->master->host, q->master->port, on_resolved, q, &q->resolver);
        if (r < 0)
                finish(q, r, strerrordesc_np(-r));
        while (!q->done) {
                uint64_t now = now_usec(CLOCK_MONOTONIC);

                if (now >= until) {
                        char text[ADDRESS_STRING_SIZE];
                        _cleanup_(freep) char *message =
                                strformat("%s: no answer", address_to_string(q->master, text));

                        finish(q, -ETIMEDOUT, message);
                        break;
                }
                r = sd_event_run(q->event, until - now);
                if (r < 0)
                        finish(q, r, strerrordesc_np(-r));
        }
        q->resolver = resolver_free(q->resolver);
        q->connection = connection_unref(q->connection);
        return q->error;
}

int master_request(const Address *masters, size_t n_masters, TlsContext *tls, FrameType type,
                   json_object *json, FrameType answer, json_object **ret, char **ret_message) {
        MasterRequest q = { .tls = tls, .type = type, .answer = answer, .json = json };
        uint64_t until = now_usec(CLOCK_MONOTONIC) + MASTER_REQUEST_TIMEOUT_S * USEC_PER_SEC;
        int r;

        r = sd_event_new(&q.event);
        if (r < 0)
                return r;
        r = -EINVAL;
        for (size_t i = 0; i < n_masters; i++) {
                q.master = masters + i;
                r = ask(&q, until);
                if (r >= 0 || q.connected)
                        break;
        }
        sd_event_unref(q.event);
        if (r < 0)
                *ret_message = q.message;
        else {
                free(q.message);
                *ret = q.result;
        }
        return r;
}
