/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"
#include "json-util.h"
#include "parse-util.h"

/* A stranger's bytes at an accepted connection, from its first one: everything that a peer without a name
 * can reach in common/. A hello that is good establishes the connection and is answered, so that what
 * follows it meets the larger bounds. */

static int hello(Connection *c, json_object *json) {
        _cleanup_(json_putp) json_object *welcome = NULL;
        const char *role, *software, *python, *user, *name;
        json_object *range;
        uint64_t memory;
        double cpus;
        Id session;
        int r;

        if ((r = json_get_string(json, "role", 16, &role)) < 0 ||
            (r = json_get_array(json, "protocol", 2, &range)) < 0 ||
            (r = json_get_string(json, "software", 64, &software)) < 0 ||
            (r = json_get_string_optional(json, "python", 32, "", &python)) < 0 ||
            (r = json_get_string_optional(json, "user", 64, "nobody", &user)) < 0 ||
            (r = json_get_string_optional(json, "name", 64, "node", &name)) < 0 ||
            (r = json_get_id_optional(json, "session", ID_NULL, &session)) < 0 ||
            (r = json_get_double_optional(json, "cpus", 0.01, 4096, 1, &cpus)) < 0 ||
            (r = json_get_uint64_optional(json, "memory", UINT64_MAX, 0, &memory)) < 0)
                return r;
        if (!owner_name_is_valid(user) || !node_name_is_valid(name))
                return -EINVAL;
        connection_established(c);
        CHECK(json_new_object(&welcome) >= 0);
        CHECK(json_add_string(welcome, "python", python) >= 0);
        CHECK(json_add_id(welcome, "session", session) >= 0);
        return connection_send(c, FRAME_WELCOME, welcome, NULL, 0);
}

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        if (connection_is_established(c))
                return connection_send(c, frame->type, frame->json, frame->payloads, frame->n_payloads);
        CHECK(frame->n_payloads == 0);
        if (frame->type != FRAME_HELLO)
                return -EPROTO;
        return hello(c, frame->json);
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        Connection **mine = userdata;

        CHECK(*mine == c && why && *why);
        *mine = connection_unref(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const ConnectionHandlers handlers = { .frame = on_frame, .closed = on_closed };
        static sd_event *event;
        uint8_t answer[4096];
        Connection *c = NULL;
        int pair[2];

        if (!event)
                CHECK(sd_event_new(&event) >= 0);
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) >= 0);
        CHECK(connection_new_accepted(event, pair[0], &handlers, &c, &c) >= 0);
        for (size_t at = 0; at < size && c;) {
                ssize_t n = send(pair[1], data + at, size - at, MSG_NOSIGNAL);

                if (n < 0)
                        break;
                at += (size_t) n;
                while (sd_event_run(event, 0) > 0)
                        ;
                while (recv(pair[1], answer, sizeof(answer), 0) > 0)
                        ;
        }
        close(pair[1]);
        for (int i = 0; i < 1000 && c; i++)
                CHECK(sd_event_run(event, 1000) >= 0);
        CHECK(!c);
        return 0;
}
