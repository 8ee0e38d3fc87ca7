/* SPDX-License-Identifier: Apache-2.0 */
/* The operator's end of the wire against a small master in a process of its own. */
#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "json-util.h"
#include "listener.h"
#include "transport.h"

static bool refuses;

static json_object *parse(const char *text) {
        json_object *o = NULL;

        assert_ok(json_parse_strict_object(text, strlen(text), JSON_DEPTH_MAX, &o));
        return o;
}

static void send_text(Connection *c, FrameType type, const char *text) {
        assert_ok(connection_send_text(c, type, text, strlen(text), NULL, 0));
}

static void answer(Connection *c, uint64_t id, const char *verb, json_object *args) {
        _cleanup_(freep) char *text = NULL;

        if (streq(verb, "echo"))
                text = strformat("{\"id\":%u,\"ok\":true,\"result\":%s,\"later version\":1}", (unsigned) id,
                                 json_text(args, NULL));
        else if (streq(verb, "missing"))
                text = strformat(
                        "{\"id\":%u,\"ok\":false,\"error\":\"not-found\",\"message\":\"no such task\"}",
                        (unsigned) id);
        else if (streq(verb, "odd"))
                text = strformat("{\"id\":%u,\"ok\":true,\"result\":7}", (unsigned) id);
        else if (streq(verb, "stream"))
                for (unsigned i = 0; i < 3; i++) {
                        free(text);
                        text = strformat("{\"id\":%u,\"ok\":true,\"more\":%s,\"result\":{\"i\":%u}}",
                                         (unsigned) id, i < 2 ? "true" : "false", i);
                        if (i < 2)
                                send_text(c, FRAME_ANSWER, text);
                }
        else {
                connection_close(c, 0, NULL);
                return;
        }
        send_text(c, FRAME_ANSWER, text);
}

static int on_frame(Connection *c, const Frame *frame, void *userdata) {
        const char *role, *verb;
        json_object *args;
        uint64_t id;

        if (frame->type == FRAME_HELLO) {
                assert_ok(json_get_string(frame->json, "role", 16, &role));
                assert_string_equal(role, "operator");
                assert_ok(json_get_string(frame->json, "user", 64, &role));
                if (refuses) {
                        send_text(c, FRAME_REFUSED,
                                  "{\"error\":\"not-allowed\",\"message\":\"operators stay out\"}");
                        connection_finish(c, 0, NULL);
                } else {
                        connection_established(c);
                        send_text(c, FRAME_WELCOME, "{\"protocol\":1}");
                }
                return 0;
        }
        assert_int_equal(frame->type, FRAME_QUERY);
        assert_ok(json_get_uint64(frame->json, "id", UINT64_MAX, &id));
        assert_ok(json_get_string(frame->json, "verb", 16, &verb));
        assert_ok(json_get_object(frame->json, "args", &args));
        answer(c, id, verb, args);
        return 0;
}

static void on_closed(Connection *c, int error, const char *why, void *userdata) {
        connection_unref(c);
}

static const ConnectionHandlers handlers = { .frame = on_frame, .closed = on_closed };

static int on_accept(Listener *l, Connection *c, void *userdata) {
        connection_ref(c);
        return 0;
}

/* Starts the master. Returns its pid. */
static pid_t master_start(char url[static 64]) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        ListenerOptions options = { .handlers = &handlers };
        sd_event *event = NULL;
        Listener *listener = NULL;
        pid_t parent = getpid(), pid;

        assert_ok(sd_event_new(&event));
        assert_ok(listener_new(event, (struct sockaddr *) &address, sizeof(address), &options, on_accept,
                               NULL, &listener));
        snprintf(url, 64, "clupy+insecure://%s", listener_address(listener));
        listener_free(listener);
        sd_event_unref(event);
        address.sin_port = htons((uint16_t) atoi(strrchr(url, ':') + 1));

        pid = fork();
        assert_true(pid >= 0);
        if (pid > 0) {
                int fd = -1;

                /* Until it listens. */
                for (unsigned i = 0; i < 1000 && fd < 0; i++) {
                        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
                        if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0) {
                                close(fd);
                                fd = -1;
                                usleep(10000);
                        }
                }
                assert_true(fd >= 0);
                close(fd);
                return pid;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(1);
        /* An event loop does not live through a fork: it is made anew, on the same port. */
        assert_ok(sd_event_new(&event));
        assert_ok(listener_new(event, (struct sockaddr *) &address, sizeof(address), &options, on_accept,
                               NULL, &listener));
        sd_event_loop(event);
        _exit(0);
}

static void master_stop(pid_t pid) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
}

static int sum_part(json_object *part, void *userdata) {
        int64_t *sum = userdata, i = 0;

        assert_ok(json_get_int64(part, "i", 0, 10, &i));
        *sum += 10 + i;
        return *sum == 21 + 10 ? 7 : 0;
}

static void test_queries(void **state) {
        _cleanup_(json_putp) json_object *args = parse("{\"x\":{\"y\":[1,2]}}"), *result = NULL, *odd = NULL;
        _cleanup_(transport_freep) Transport *t = NULL;
        QueryError e = {};
        int64_t sum = 0;
        char url[64];
        pid_t pid = master_start(url);

        assert_int_equal(transport_tcp_open(url, 5000000, &t, &e), 0);
        assert_string_equal(t->peer, url + strlen("clupy+insecure://"));
        assert_int_equal(transport_query(t, "echo", args, &result, &e), 0);
        assert_true(json_object_equal(args, result));

        assert_int_equal(transport_query(t, "missing", args, &odd, &e), -1);
        assert_int_equal(e.status, CTL_NOT_FOUND);
        assert_string_equal(e.message, "no such task");
        assert_int_equal(transport_query(t, "odd", args, &odd, &e), -1);
        assert_int_equal(e.status, CTL_FAILED);

        assert_true(transport_can_stream(t));
        assert_int_equal(transport_stream(t, "stream", args, sum_part, &sum, &e), 0);
        assert_int_equal(sum, 33);
        sum = 10;
        assert_int_equal(transport_stream(t, "stream", args, sum_part, &sum, &e), 7);
        /* What still comes of a stream that nobody wants is no answer to the next question. */
        result = json_put(result);
        assert_int_equal(transport_query(t, "echo", args, &result, &e), 0);
        assert_true(json_object_equal(args, result));

        assert_int_equal(transport_query(t, "hang up", args, &odd, &e), -1);
        assert_int_equal(e.status, CTL_NO_MASTER);
        assert_int_equal(transport_query(t, "echo", args, &odd, &e), -1);
        assert_int_equal(e.status, CTL_NO_MASTER);
        assert_null(odd);
        query_error_done(&e);
        master_stop(pid);
}

static void test_refused(void **state) {
        Transport *t = NULL;
        QueryError e = {};
        char url[64];
        pid_t pid;

        refuses = true;
        pid = master_start(url);
        refuses = false;
        assert_int_equal(transport_tcp_open(url, 5000000, &t, &e), -1);
        assert_int_equal(e.status, CTL_NOT_ALLOWED);
        assert_non_null(strstr(e.message, "operators stay out"));
        query_error_done(&e);
        master_stop(pid);
}

static void test_nobody(void **state) {
        _cleanup_(transport_freep) Transport *t = NULL;
        char url[64], both[128];
        QueryError e = {};
        pid_t pid = master_start(url);

        /* The first of two is not there. */
        snprintf(both, sizeof(both), "clupy+insecure://127.0.0.1:1,%s", url + strlen("clupy+insecure://"));
        assert_int_equal(transport_tcp_open(both, 5000000, &t, &e), 0);
        master_stop(pid);
        t = transport_free(t);

        assert_int_equal(transport_tcp_open("clupy+insecure://127.0.0.1:1", 5000000, &t, &e), -1);
        assert_int_equal(e.status, CTL_NO_MASTER);
        assert_non_null(strstr(e.message, "127.0.0.1:1"));
        assert_int_equal(transport_tcp_open("http://x", 5000000, &t, &e), -1);
        assert_int_equal(e.status, CTL_USAGE);
        query_error_done(&e);
}

/* Somebody else's port: it accepts and says nothing. */
static void test_silence(void **state) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof(address);
        Transport *t = NULL;
        QueryError e = {};
        char url[64];
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0 && bind(fd, (struct sockaddr *) &address, sizeof(address)) >= 0 &&
                    listen(fd, 8) >= 0 && getsockname(fd, (struct sockaddr *) &address, &size) >= 0);
        snprintf(url, sizeof(url), "clupy+insecure://127.0.0.1:%u", ntohs(address.sin_port));
        assert_int_equal(transport_tcp_open(url, 300000, &t, &e), -1);
        assert_int_equal(e.status, CTL_NO_MASTER);
        assert_non_null(strstr(e.message, "no answer in time"));
        query_error_done(&e);
        close(fd);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_queries),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_nobody),
                cmocka_unit_test(test_silence),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
