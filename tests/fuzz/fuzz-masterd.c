/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "build-config.h"
#include "connection.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "master-config.h"
#include "peer.h"

/* Everything that peers with a good hello can say to the master: the real manager, with a client and an
 * agent that are connected, and whatever frames the input names. One line of the input is one frame: '0'
 * (client), '1' (agent) or '2' (nobody yet), two hexadecimal digits of its type, then JSON; "@" in place of
 * the JSON closes that connection. A frame of a type that has payloads brings one of three bytes. */

enum { N_PEERS = 3 };

static const char client_hello[] =
        "{\"role\":\"client\",\"protocol\":[1,1],\"software\":\"0\",\"python\":\"" CLUPY_PYTHON_VERSION
        ".1\",\"session\":"
        "\"00000000000000000000000000000001\",\"user\":\"alice\",\"host\":\"h\",\"pid\":1}";
static const char agent_hello[] =
        "{\"role\":\"agent\",\"protocol\":[1,1],\"software\":\"0\",\"python\":\"" CLUPY_PYTHON_VERSION
        ".1\",\"session\":"
        "\"00000000000000000000000000000002\",\"name\":\"agent1\",\"boot_id\":"
        "\"00000000000000000000000000000003\","
        "\"instance\":\"00000000000000000000000000000004\",\"cpus\":2.0,\"memory\":4294967296,\"epoch\":0,"
        "\"host\":\"h\",\"pid\":1}";

static sd_event *event;

static void turn(int other[static N_PEERS]) {
        static uint8_t answer[65536];

        for (int i = 0; i < 100 && sd_event_run(event, 0) > 0; i++)
                ;
        for (int i = 0; i < N_PEERS; i++)
                while (other[i] >= 0 && recv(other[i], answer, sizeof(answer), MSG_DONTWAIT) > 0)
                        ;
}

static void say(int fd, unsigned type, const char *json, size_t size) {
        static const uint8_t payload[] = "abc";
        const bool with_payload = type == FRAME_SUBMIT || type == FRAME_ENDED || type == FRAME_LOG ||
                                  type == FRAME_DATA || type == FRAME_ENVIRONMENT_STATE ||
                                  type == FRAME_INDEX;
        uint8_t head[FRAME_HEADER_SIZE + 4] = { 'C', 'L', 'P', 'Y', 1 };
        size_t head_size = FRAME_HEADER_SIZE;

        head[5] = (uint8_t) type;
        for (int i = 0; i < 4; i++)
                head[8 + i] = (uint8_t) (size >> 8 * i);
        if (with_payload) {
                head[12] = 1;
                head[16] = head[24] = sizeof(payload) - 1;
                head_size += 4;
        }
        if (send(fd, head, head_size, MSG_NOSIGNAL) < 0 || send(fd, json, size, MSG_NOSIGNAL) < 0)
                return;
        if (with_payload)
                (void) send(fd, payload, sizeof(payload) - 1, MSG_NOSIGNAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        int other[N_PEERS] = { -1, -1, -1 };
        MasterConfig *config;
        Manager *manager;

        log_set_level(0);
        if (!event)
                CHECK(sd_event_new(&event) >= 0);
        CHECK(master_config_new(&config) >= 0);
        CHECK(manager_new(event, config, &manager) >= 0);
        manager->epoch = 1;
        for (int i = 0; i < N_PEERS; i++) {
                Connection *connection;
                Peer *peer;
                int pair[2];

                CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) >= 0);
                CHECK(connection_new_accepted(event, pair[0], &PEER_HANDLERS, NULL, &connection) >= 0);
                CHECK(peer_new(manager, connection, &peer) >= 0);
                connection_unref(connection);
                other[i] = pair[1];
        }
        say(other[0], FRAME_HELLO, client_hello, sizeof(client_hello) - 1);
        say(other[1], FRAME_HELLO, agent_hello, sizeof(agent_hello) - 1);
        turn(other);
        say(other[1], FRAME_REPORT, "{\"attempts\":[],\"more\":false}", 28);
        turn(other);

        const char *text = (const char *) data, *end = text + size;
        while (text < end) {
                const char *line_end = memchr(text, '\n', (size_t) (end - text));
                char digits[3] = {};

                if (!line_end)
                        line_end = end;
                if (line_end - text >= 3 && text[0] >= '0' && text[0] < '0' + N_PEERS &&
                    other[text[0] - '0'] >= 0) {
                        int *fd = &other[text[0] - '0'];

                        memcpy(digits, text + 1, 2);
                        if (line_end - text == 4 && text[3] == '@') {
                                close(*fd);
                                *fd = -1;
                        } else
                                say(*fd, (unsigned) strtoul(digits, NULL, 16), text + 3,
                                    (size_t) (line_end - text - 3));
                        turn(other);
                }
                text = line_end + 1;
        }
        for (int i = 0; i < N_PEERS; i++)
                if (other[i] >= 0)
                        close(other[i]);
        memset(other, -1, sizeof(other));
        turn(other);
        manager_free(manager);
        turn(other);
        return 0;
}
