/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent.h"
#include "fd-util.h"
#include "json-util.h"
#include "listener.h"
#include "resolver.h"
#include "time-util.h"

/* The whole agent between a launcher and a master that are this test. */

enum { REQUESTS_MAX = 256, FRAMES_MAX = 512, REPLAY_MAX = 16 };

static sd_event *event;
static char *directory;

/* The launcher. */
static struct {
        int listening, fd;
        sd_event_source *listen_source, *source;
        uint8_t instance;
        char environment[ENVIRONMENT_NAME_MAX]; /* that there is, or "" */
        struct {
                LauncherRequest request;
                int fds[2];
        } requests[REQUESTS_MAX];
        size_t n_requests;
        struct {
                LauncherEvent event;
                const char *result;
        } replay[REPLAY_MAX];
        size_t n_replay;
} launcher;

/* The master. */
static struct {
        Listener *listener;
        Connection *connection, *former; /* the agent's last one; the one before, not owned */
        uint64_t epoch;
        bool silent; /* answers no heartbeats */
        bool no_reconcile;
        const char *stop_task; /* to be named in RECONCILE */
        struct {
                FrameType type;
                json_object *json;
                char *payload; /* the first one */
                size_t payload_size;
        } frames[FRAMES_MAX];
        size_t n_frames;
        unsigned n_connections;
} master;

static ServerConfig config;
static Agent *agent;

#define TASK "00112233445566778899aabbccddeeff"
#define OTHER "ffeeddccbbaa99887766554433221100"

static void launcher_send(LauncherEvent *e, const char *result) {
        _cleanup_(close_fdp) int fd = -EBADF;

        e->version = LAUNCHER_PROTOCOL_VERSION;
        if (result) {
                fd = memfd_new_sealed("result", result, strlen(result));
                e->info.result_size = strlen(result);
        }
        assert_ok(fd_send_with_fds(launcher.fd, e, sizeof(*e), &fd, result ? 1 : 0));
}

static int on_launcher_request(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        size_t n_fds = 0;
        ssize_t n;
        size_t i = launcher.n_requests;

        assert_true(i < REQUESTS_MAX);
        launcher.requests[i].fds[0] = launcher.requests[i].fds[1] = -EBADF;
        n = fd_receive_with_fds(fd, &launcher.requests[i].request, sizeof(LauncherRequest),
                                launcher.requests[i].fds, 2, &n_fds);
        if (n < 0) {
                launcher.source = sd_event_source_disable_unref(launcher.source);
                launcher.fd = close_fd(launcher.fd);
                return 0;
        }
        assert_int_equal(n, sizeof(LauncherRequest));
        assert_int_equal(launcher.requests[i].request.version, LAUNCHER_PROTOCOL_VERSION);
        launcher.n_requests++;
        if (launcher.requests[i].request.op == LAUNCHER_HELLO) {
                LauncherEvent welcome = { .op = LAUNCHER_WELCOME };

                welcome.welcome.instance[0] = launcher.instance;
                launcher_send(&welcome, NULL);
        } else if (launcher.requests[i].request.op == LAUNCHER_ENVIRONMENTS) {
                if (launcher.environment[0]) {
                        LauncherEvent there = { .op = LAUNCHER_ENVIRONMENT };

                        strcpy(there.environment.environment, launcher.environment);
                        strcpy(there.environment.python, "3.11");
                        launcher_send(&there, NULL);
                }
                launcher_send(&(LauncherEvent){ .op = LAUNCHER_ENVIRONMENTS_END }, NULL);
        } else if (launcher.requests[i].request.op == LAUNCHER_LIST) {
                for (size_t j = 0; j < launcher.n_replay; j++)
                        launcher_send(&launcher.replay[j].event, launcher.replay[j].result);
                launcher_send(&(LauncherEvent){ .op = LAUNCHER_LIST_END }, NULL);
        }
        return 0;
}

static int on_launcher_connection(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        assert_ok(accepted);
        launcher.source = sd_event_source_disable_unref(launcher.source);
        close_fd(launcher.fd);
        launcher.fd = accepted;
        assert_ok(sd_event_add_io(event, &launcher.source, accepted, EPOLLIN, on_launcher_request, NULL));
        return 0;
}

static void launcher_open(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        snprintf(address.sun_path, sizeof(address.sun_path), "%s/launcher.sock", directory);
        launcher.fd = -EBADF;
        launcher.listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        assert_ok(launcher.listening);
        assert_ok(bind(launcher.listening, (struct sockaddr *) &address, sizeof(address)));
        assert_ok(listen(launcher.listening, 4));
        assert_ok(sd_event_add_io(event, &launcher.listen_source, launcher.listening, EPOLLIN,
                                  on_launcher_connection, NULL));
}

static void launcher_hang_up(void) {
        launcher.source = sd_event_source_disable_unref(launcher.source);
        launcher.fd = close_fd(launcher.fd);
}

static void launcher_forget(void) {
        for (size_t i = 0; i < launcher.n_requests; i++)
                close_many(launcher.requests[i].fds, 2);
        launcher.n_requests = 0;
}

/* Requests of a kind; the last one's position in ret. */
static size_t launcher_count(LauncherOp op, size_t *ret) {
        size_t n = 0;

        for (size_t i = 0; i < launcher.n_requests; i++)
                if (launcher.requests[i].request.op == op) {
                        n++;
                        if (ret)
                                *ret = i;
                }
        return n;
}

static json_object *parse(const char *text) {
        char quoted[4096];
        json_object *json;
        size_t i = 0;

        /* Single quotes, for readability. */
        for (; text[i]; i++)
                quoted[i] = text[i] == '\'' ? '"' : text[i];
        assert_ok(json_parse_strict(quoted, i, JSON_DEPTH_MAX, &json));
        return json;
}

static void master_send_to(Connection *c, FrameType type, const char *text, const void *payload,
                           size_t payload_size) {
        struct iovec iov = { .iov_base = (void *) payload, .iov_len = payload_size };
        json_object *json = parse(text);

        assert_non_null(c);
        assert_ok(connection_send(c, type, json, &iov, payload ? 1 : 0));
        json_object_put(json);
}

static void master_send(FrameType type, const char *text, const void *payload, size_t payload_size) {
        master_send_to(master.connection, type, text, payload, payload_size);
}

static size_t master_count(FrameType type, size_t *ret) {
        size_t n = 0;

        for (size_t i = 0; i < master.n_frames; i++)
                if (master.frames[i].type == type) {
                        n++;
                        if (ret)
                                *ret = i;
                }
        return n;
}

static void master_forget(void) {
        for (size_t i = 0; i < master.n_frames; i++) {
                json_object_put(master.frames[i].json);
                free(master.frames[i].payload);
        }
        master.n_frames = 0;
}

static int on_master_frame(Connection *c, const Frame *frame, void *userdata) {
        size_t i = master.n_frames;
        char text[256];
        uint64_t seq;
        bool more;

        if (frame->type == FRAME_HEARTBEAT) {
                if (master.silent)
                        return 0;
                assert_ok(json_get_uint64(frame->json, "seq", UINT64_MAX, &seq));
                snprintf(text, sizeof(text), "{'seq':%llu}", (unsigned long long) seq);
                master_send_to(c, FRAME_HEARTBEAT_ACK, text, NULL, 0);
                return 0;
        }
        assert_true(i < FRAMES_MAX);
        master.frames[i].type = frame->type;
        master.frames[i].json = json_object_get(frame->json);
        master.frames[i].payload =
                frame->n_payloads ? memdup_nul(frame->payloads[0].iov_base, frame->payloads[0].iov_len)
                                  : NULL;
        master.frames[i].payload_size = frame->n_payloads ? frame->payloads[0].iov_len : 0;
        master.n_frames++;
        if (frame->type == FRAME_HELLO) {
                const char *role;

                assert_ok(json_get_string(frame->json, "role", 100, &role));
                if (streq(role, "index"))
                        master.connection = master.former;
                connection_established(c);
                snprintf(text, sizeof(text),
                         "{'protocol':1,'epoch':%llu,'heartbeat_ms':100,'lease_ms':15000}",
                         (unsigned long long) master.epoch);
                master_send_to(c, FRAME_WELCOME, text, NULL, 0);
        } else if (frame->type == FRAME_REPORT && !master.no_reconcile) {
                assert_ok(json_get_bool(frame->json, "more", &more));
                if (more)
                        return 0;
                if (master.stop_task)
                        snprintf(text, sizeof(text), "{'epoch':%llu,'stop':[{'id':'%s','attempt':1}]}",
                                 (unsigned long long) master.epoch, master.stop_task);
                else
                        snprintf(text, sizeof(text), "{'epoch':%llu,'stop':[]}",
                                 (unsigned long long) master.epoch);
                master_send_to(c, FRAME_RECONCILE, text, NULL, 0);
        }
        return 0;
}

static void on_master_closed(Connection *c, int error, const char *why, void *userdata) {
        if (c == master.connection)
                master.connection = NULL;
        connection_unref(c);
}

static const ConnectionHandlers master_handlers = { .frame = on_master_frame, .closed = on_master_closed };

static int on_master_accept(Listener *l, Connection *c, void *userdata) {
        master.former = master.connection;
        master.connection = connection_ref(c);
        connection_set_handlers(c, &master_handlers, NULL);
        master.n_connections++;
        return 0;
}

static void run_for(uint64_t usec) {
        uint64_t until = now_usec(CLOCK_MONOTONIC) + usec, now;

        while ((now = now_usec(CLOCK_MONOTONIC)) < until)
                assert_ok(sd_event_run(event, until - now));
}

#define wait_for(condition)                                                                                 \
        do {                                                                                                \
                uint64_t _until = now_usec(CLOCK_MONOTONIC) + 10 * USEC_PER_SEC;                            \
                while (!(condition)) {                                                                      \
                        assert_ok(sd_event_run(event, 100 * USEC_PER_MSEC));                                \
                        if (now_usec(CLOCK_MONOTONIC) > _until)                                             \
                                fail_msg("never: %s", #condition);                                          \
                }                                                                                           \
        } while (0)

static int setup(void **state) {
        static const ListenerOptions options = { .handlers = &master_handlers };
        struct sockaddr_storage address;
        socklen_t size;

        directory = test_directory();
        assert_ok(sd_event_new(&event));
        memset(&launcher, 0, sizeof(launcher));
        memset(&master, 0, sizeof(master));
        launcher.instance = 1;
        master.epoch = 5;
        launcher_open();
        assert_ok(sockaddr_from_numeric("127.0.0.1", 0, &address, &size));
        assert_ok(listener_new(event, (struct sockaddr *) &address, size, &options, on_master_accept, NULL,
                               &master.listener));
        assert_ok(server_config_load(&(ServerConfigSources){ .directory = directory, .subuid = "/dev/null" },
                                     &config, NULL));
        strcpy(config.masters[0].host, "127.0.0.1");
        config.masters[0].port = listener_port(master.listener);
        config.warm = 2;
        config.cache_code = MIB(1);
        return 0;
}

static void start_agent(void) {
        char path[128];

        snprintf(path, sizeof(path), "%s/launcher.sock", directory);
        assert_ok(agent_new(event, NULL, &config, path, &agent));
}

static int teardown(void **state) {
        agent = agent_free(agent);
        if (master.connection)
                master.connection = connection_unref(master.connection);
        listener_free(master.listener);
        master_forget();
        launcher_hang_up();
        launcher_forget();
        sd_event_source_disable_unref(launcher.listen_source);
        close_fd(launcher.listening);
        server_config_done(&config);
        event = sd_event_unref(event);
        test_directory_remove(directory);
        return 0;
}

static void connect_up(void) {
        start_agent();
        wait_for(master_link_state(agent->master) == MASTER_LINK_UP &&
                 launcher_count(LAUNCHER_LEASE, NULL) > 0);
}

static const char *outcome_of(size_t frame, const char **ret_message) {
        const char *kind, *message = "";
        json_object *tasks, *outcome;

        assert_ok(json_get_array(master.frames[frame].json, "tasks", 1000, &tasks));
        assert_ok(json_get_object(json_object_array_get_idx(tasks, 0), "outcome", &outcome));
        assert_ok(json_get_string(outcome, "kind", 100, &kind));
        assert_ok(json_get_string_optional(outcome, "message", 1000, "", &message));
        if (ret_message)
                *ret_message = message;
        return kind;
}

#define CODE "the code"
static const char *code_hash(void) {
        static char hex[DIGEST_HEX_SIZE];
        Digest digest;

        assert_ok(digest_sha256(CODE, strlen(CODE), &digest));
        return digest_to_hex(&digest, hex);
}

/* Orders a task with inline arguments. */
static void dispatch(const char *id, const char *more) {
        char text[1024];

        snprintf(text, sizeof(text),
                 "{'epoch':%llu,'tasks':[{'id':'%s','attempt':1,'owner':'alice','session':'%s','job':'%s',"
                 "'name':'f','code':'%s','code_size':%zu,'cpus':1.5,'memory':67108864,'tasks_max':9,"
                 "'timeout_ms':4000,'policy':'default','isolation':'task','network':'none',"
                 "'environment':'default','size':4,'payload':0%s}]}",
                 (unsigned long long) master.epoch, id, id, id, code_hash(), strlen(CODE), more);
        master_send(FRAME_DISPATCH, text, "args", 4);
}

/* Answers the FETCH of code. */
static void send_code(const char *code) {
        size_t i;
        uint64_t stream;
        char text[64];

        wait_for(master_count(FRAME_FETCH, NULL) > 0);
        master_count(FRAME_FETCH, &i);
        assert_ok(json_get_uint64(master.frames[i].json, "stream", UINT64_MAX, &stream));
        snprintf(text, sizeof(text), "{'stream':%llu}", (unsigned long long) stream);
        master_send(FRAME_DATA, text, code, strlen(code));
        master_send(FRAME_END, text, NULL, 0);
}

static LauncherEvent attempt_event(LauncherOp op, const char *id) {
        LauncherEvent e = { .op = op, .attempt = 1 };
        Id task;

        assert_ok(id_from_hex(id, &task));
        memcpy(e.task, task.bytes, sizeof(e.task));
        strcpy(e.info.owner, "alice");
        strcpy(e.info.name, "f");
        strcpy(e.info.unit, "clupy-task-1.scope");
        e.info.pid = 42;
        e.info.uid = 1879048192;
        e.info.epoch = 5;
        e.info.memory_max = 1 << 26;
        e.info.cpu_quota_usec = 1000000;
        return e;
}

static void started(const char *id) {
        LauncherEvent e = attempt_event(LAUNCHER_STARTED, id);

        launcher_send(&e, NULL);
}

static void ended(const char *id, OutcomeKind kind, const char *result) {
        LauncherEvent e = attempt_event(LAUNCHER_ENDED, id);

        e.info.outcome = kind;
        e.info.receipt.run_usec = 1000;
        launcher_send(&e, result);
}

static void run_to_start(const char *id) {
        size_t n = launcher_count(LAUNCHER_START, NULL);

        dispatch(id, "");
        if (code_cache_bytes(agent->code) == 0)
                send_code(CODE);
        wait_for(launcher_count(LAUNCHER_START, NULL) == n + 1);
}

/* Tests. */

static void test_hello(void **state) {
        const char *text;
        size_t i;
        Id id;

        connect_up();
        assert_int_equal(master_count(FRAME_HELLO, &i), 1);
        assert_ok(json_get_string(master.frames[i].json, "role", 100, &text));
        assert_string_equal(text, "agent");
        assert_ok(json_get_string(master.frames[i].json, "name", 100, &text));
        assert_string_equal(text, config.name);
        assert_ok(json_get_id(master.frames[i].json, "instance", &id));
        assert_int_equal(id.bytes[0], 1);
        assert_ok(json_get_id(master.frames[i].json, "boot_id", &id));
        assert_false(id_is_null(id));
        assert_int_equal(master_count(FRAME_REPORT, NULL), 1);
        assert_int_equal(agent->epoch, 5);
}

/* What calls can ask for in a node. */
static void test_hello_offers(void **state) {
        ServerResource resources[] = { { .name = "gpu", .count = 2 }, { .name = "licence", .count = 4 } };
        json_object *array, *object;
        const char *text, *python;
        uint64_t count;
        size_t i;

        assert_ok(strv_extend(&config.labels, "zone=a=b"));
        config.resources = resources;
        config.n_resources = ELEMENTSOF(resources);
        connect_up();
        master_count(FRAME_HELLO, &i);
        assert_ok(json_get_string(master.frames[i].json, "python", 100, &python));
        assert_ok(json_get_array(master.frames[i].json, "pythons", 100, &array));
        assert_true(json_object_array_length(array) >= 1);
        text = json_object_get_string(json_object_array_get_idx(array, 0));
        assert_memory_equal(python, text, strlen(text)); /* "3.11.2", "3.11" */
        assert_ok(json_get_string(master.frames[i].json, "platform", 100, &text));
        assert_memory_equal(text, "linux-", 6);
        assert_ok(json_get_object(master.frames[i].json, "labels", &object));
        assert_ok(json_get_string(object, "zone", 100, &text));
        assert_string_equal(text, "a=b");
        assert_ok(json_get_object(master.frames[i].json, "resources", &object));
        assert_ok(json_get_uint64(object, "gpu", 100, &count));
        assert_int_equal(count, 2);
        assert_ok(json_get_uint64(object, "licence", 100, &count));
        assert_int_equal(count, 4);
        config.resources = NULL;
        config.n_resources = 0;
}

static void test_a_task(void **state) {
        char content[64];
        const char *unit;
        json_object *tasks;
        uint64_t size;
        size_t i;

        connect_up();
        run_to_start(TASK);
        launcher_count(LAUNCHER_START, &i);
        assert_string_equal(launcher.requests[i].request.start.key.owner, "alice");
        assert_string_equal(launcher.requests[i].request.start.key.policy, "default");
        assert_int_equal(launcher.requests[i].request.start.memory_max, 67108864);
        assert_int_equal(launcher.requests[i].request.start.cpu_quota_usec, 1500000);
        assert_int_equal(launcher.requests[i].request.start.cpus, 1);
        assert_int_equal(launcher.requests[i].request.start.tasks_max, 9);
        assert_int_equal(launcher.requests[i].request.start.timeout_usec, 4 * USEC_PER_SEC);
        assert_int_equal(launcher.requests[i].request.start.deadline_usec, 0);
        assert_int_equal(launcher.requests[i].request.start.tmp_max, config.task_tmp);
        assert_int_equal(launcher.requests[i].request.start.epoch, 5);
        assert_ok(memfd_check_sealed(launcher.requests[i].fds[0], &size));
        assert_int_equal(size, strlen(CODE));
        assert_ok(memfd_check_sealed(launcher.requests[i].fds[1], &size));
        assert_int_equal(size, 4);
        assert_int_equal(pread(launcher.requests[i].fds[1], content, 4, 0), 4);
        assert_memory_equal(content, "args", 4);
        wait_for(launcher_count(LAUNCHER_POOL, &i) == 1);
        assert_int_equal(launcher.requests[i].request.pool.count, 2);

        started(TASK);
        wait_for(agent->counts[ATTEMPT_RUNNING] == 1);
        assert_int_equal(master_count(FRAME_STARTED, NULL), 0); /* it may end before that is told */
        wait_for(master_count(FRAME_STARTED, &i) == 1);
        assert_ok(json_get_array(master.frames[i].json, "tasks", 10, &tasks));
        assert_ok(json_get_string(json_object_array_get_idx(tasks, 0), "unit", 100, &unit));
        assert_string_equal(unit, "clupy-task-1.scope");
        assert_int_equal(agent->arguments_bytes, 0);

        ended(TASK, OUTCOME_VALUE, "the value");
        wait_for(master_count(FRAME_ENDED, &i) == 1);
        assert_string_equal(outcome_of(i, NULL), "value");
        assert_string_equal(master.frames[i].payload, "the value");
        assert_int_equal(agent->unreleased, 9);

        master_send(FRAME_RELEASE, "{'tasks':[{'id':'" TASK "','attempt':1}]}", NULL, 0);
        wait_for(launcher_count(LAUNCHER_RELEASE, &i) == 1);
        assert_int_equal(hashmap_size(agent->attempts), 0);
        assert_int_equal(agent->unreleased, 0);
}

/* A task finds its environment, or is sent back. */
static void test_environment_of_a_task(void **state) {
        const char *message, *name;
        json_object *array;
        bool complete;
        size_t i;

        strcpy(launcher.environment, "abc");
        connect_up();
        wait_for(master_count(FRAME_ENVIRONMENT_STATE, &i) == 1);
        assert_ok(json_get_bool(master.frames[i].json, "complete", &complete));
        assert_true(complete);
        assert_ok(json_get_array(master.frames[i].json, "environments", 10, &array));
        assert_ok(json_get_string(json_object_array_get_idx(array, 0), "name", 100, &name));
        assert_string_equal(name, "abc");

        dispatch(TASK, ",'environment':'abd'");
        wait_for(master_count(FRAME_ENDED, &i) == 1);
        assert_string_equal(outcome_of(i, &message), "infrastructure");
        assert_non_null(strstr(message, "does not have its environment, abd"));
        dispatch(OTHER, ",'environment':'abc'");
        send_code(CODE);
        wait_for(launcher_count(LAUNCHER_START, &i) == 1);
        assert_string_equal(launcher.requests[i].request.start.key.environment, "abc");
}

/* A build: ordered by the master, made by the launcher, with a way to the index over the same master. */
static void test_environment_is_built(void **state) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
        LauncherEvent e = { .op = LAUNCHER_BUILD_STARTED };
        socklen_t size = sizeof(address);
        json_object *array;
        const char *text;
        int listening, fd;
        size_t i;

        connect_up();
        master_send(FRAME_ENVIRONMENT,
                    "{'build':[{'name':'abc','python':'3.11','index':true}],'keep':['abc']}", NULL, 0);
        wait_for(launcher_count(LAUNCHER_BUILD, &i) == 1);
        assert_int_equal(launcher.requests[i].request.build.flags, BUILD_FLAG_INDEX);
        assert_ok(memfd_check_sealed(launcher.requests[i].fds[0], NULL));

        listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_ok(bind(listening, (struct sockaddr *) &address, size));
        assert_ok(listen(listening, 4));
        assert_ok(getsockname(listening, (struct sockaddr *) &address, &size));
        strcpy(e.environment.environment, "abc");
        e.version = LAUNCHER_PROTOCOL_VERSION;
        assert_ok(fd_send_with_fds(launcher.fd, &e, sizeof(e), &listening, 1));
        close_fd(listening);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_ok(connect(fd, (struct sockaddr *) &address, size));
        wait_for(master_count(FRAME_HELLO, &i) == 2);
        assert_ok(json_get_string(master.frames[i].json, "role", 100, &text));
        assert_string_equal(text, "index");
        assert_ok(json_get_string(master.frames[i].json, "name", 100, &text));
        assert_string_equal(text, config.name);
        assert_int_equal(close(fd), 0);
        wait_for(master_count(FRAME_END, NULL) == 1);
        master_forget();
        e = (LauncherEvent){ .version = LAUNCHER_PROTOCOL_VERSION, .op = LAUNCHER_BUILD_ENDED };
        strcpy(e.build_ended.environment, "abc");
        e.build_ended.outcome = OUTCOME_VALUE;
        assert_ok(fd_send_with_fds(launcher.fd, &e, sizeof(e), NULL, 0));
        wait_for(master_count(FRAME_ENVIRONMENT_STATE, &i) == 1);
        assert_ok(json_get_array(master.frames[i].json, "environments", 10, &array));
        assert_ok(json_get_string(json_object_array_get_idx(array, 0), "state", 100, &text));
        assert_string_equal(text, "ready");
}

static void test_a_short_task(void **state) {
        connect_up();
        run_to_start(TASK);
        started(TASK);
        ended(TASK, OUTCOME_VALUE, "the value");
        wait_for(master_count(FRAME_ENDED, NULL) == 1);
        assert_int_equal(master_count(FRAME_STARTED, NULL), 0);
        run_to_start(OTHER);
        started(OTHER);
        wait_for(master_count(FRAME_STARTED, NULL) == 1); /* nothing else is there to be told */
}

static void test_code_is_fetched_once(void **state) {
        connect_up();
        dispatch(TASK, "");
        dispatch(OTHER, "");
        send_code(CODE);
        wait_for(launcher_count(LAUNCHER_START, NULL) == 2);
        assert_int_equal(master_count(FRAME_FETCH, NULL), 1);
}

static void test_wrong_code(void **state) {
        const char *message;
        size_t i;

        connect_up();
        dispatch(TASK, "");
        send_code("THE CODE");
        wait_for(master_count(FRAME_ENDED, &i) == 1);
        assert_string_equal(outcome_of(i, &message), "infrastructure");
        assert_non_null(strstr(message, "does not match its hash"));
        assert_int_equal(launcher_count(LAUNCHER_START, NULL), 0);
}

/* The one in whose name the code was asked for goes; the other one asks itself. */
static void test_code_of_a_lost_client(void **state) {
        size_t i;

        connect_up();
        dispatch(TASK, "");
        dispatch(OTHER, "");
        wait_for(master_count(FRAME_FETCH, NULL) == 1);
        master_send(FRAME_END, "{'stream':1,'error':'gone','message':'the client is gone'}", NULL, 0);
        wait_for(master_count(FRAME_ENDED, &i) == 1 && master_count(FRAME_FETCH, NULL) == 2);
        assert_string_equal(outcome_of(i, NULL), "infrastructure");
        send_code(CODE);
        wait_for(launcher_count(LAUNCHER_START, NULL) == 1);

        master_forget();
        master_send(FRAME_STOP, "{'tasks':[{'id':'" TASK "','attempt':1,'why':'cancelled','by':'alice'}]}",
                    NULL, 0);
        run_for(100 * USEC_PER_MSEC);
        assert_int_equal(master_count(FRAME_ENDED, NULL), 0);
}

static void test_cancelled_while_code_comes(void **state) {
        size_t i;

        connect_up();
        dispatch(TASK, "");
        dispatch(OTHER, "");
        wait_for(master_count(FRAME_FETCH, NULL) == 1);
        master_send(FRAME_STOP, "{'tasks':[{'id':'" TASK "','attempt':1,'why':'cancelled','by':'bob'}]}",
                    NULL, 0);
        wait_for(master_count(FRAME_ENDED, &i) == 1 && master_count(FRAME_FETCH, NULL) == 2);
        assert_string_equal(outcome_of(i, NULL), "cancelled");
        send_code(CODE);
        wait_for(launcher_count(LAUNCHER_START, NULL) == 1);
}

static void test_refusals(void **state) {
        static const struct {
                const char *more, *expected;
        } cases[] = {
                { ",'policy':'No Such'", "policy" },       { ",'isolation':'job'", "isolation" },
                { ",'network':'cluster'", "network" },     { ",'memory':1000", "less than 16M" },
                { ",'cpus':0", "cpus must be" },           { ",'tasks_max':0", "tasks_max" },
                { ",'code_size':99999999", "cache.code" }, { ",'environment':'../x'", "environment" },
        };
        const char *message;
        char id[ID_HEX_SIZE];
        size_t i;

        connect_up();
        for (size_t k = 0; k < ELEMENTSOF(cases); k++) {
                snprintf(id, sizeof(id), "%032zx", k + 1);
                dispatch(id, cases[k].more);
                wait_for(master_count(FRAME_ENDED, &i) == k + 1);
                assert_string_equal(outcome_of(i, &message), "refused");
                if (!strstr(message, cases[k].expected))
                        fail_msg("expected '%s' in: %s", cases[k].expected, message);
        }
        assert_int_equal(launcher_count(LAUNCHER_START, NULL), 0);
}

static void test_broken_order_closes(void **state) {
        connect_up();
        master_send(FRAME_DISPATCH, "{'epoch':5,'tasks':[{'id':'" TASK "'}]}", NULL, 0);
        wait_for(master.n_connections == 2);
        wait_for(master_link_state(agent->master) == MASTER_LINK_UP);
        assert_int_equal(hashmap_size(agent->attempts), 0);
}

static void test_launcher_refuses(void **state) {
        LauncherEvent e = { .op = LAUNCHER_REFUSED, .attempt = 1, .error = -EINVAL };
        const char *message;
        size_t i;
        Id id;

        connect_up();
        run_to_start(TASK);
        assert_ok(id_from_hex(TASK, &id));
        memcpy(e.task, id.bytes, sizeof(e.task));
        strcpy(e.refused.text, "there is no policy 'x'");
        launcher_send(&e, NULL);
        wait_for(master_count(FRAME_ENDED, &i) == 1);
        assert_string_equal(outcome_of(i, &message), "refused");
        assert_string_equal(message, "there is no policy 'x'");

        run_to_start(OTHER);
        assert_ok(id_from_hex(OTHER, &id));
        memcpy(e.task, id.bytes, sizeof(e.task));
        e.error = -ENOMEM;
        launcher_send(&e, NULL);
        wait_for(master_count(FRAME_ENDED, &i) == 2);
        assert_string_equal(outcome_of(i, NULL), "infrastructure");
        /* The launcher does not have it: nothing to release there. */
        master_send(FRAME_RELEASE, "{'tasks':[{'id':'" OTHER "','attempt':1}]}", NULL, 0);
        wait_for(hashmap_size(agent->attempts) == 1);
        assert_int_equal(launcher_count(LAUNCHER_RELEASE, NULL), 0);
}

static void test_dispatched_twice(void **state) {
        connect_up();
        run_to_start(TASK);
        started(TASK);
        wait_for(master_count(FRAME_STARTED, NULL) == 1);
        dispatch(TASK, "");
        wait_for(master_count(FRAME_STARTED, NULL) == 2);
        ended(TASK, OUTCOME_VALUE, "v");
        wait_for(master_count(FRAME_ENDED, NULL) == 1);
        dispatch(TASK, "");
        wait_for(master_count(FRAME_ENDED, NULL) == 2);
        assert_int_equal(launcher_count(LAUNCHER_START, NULL), 1);
        /* The same id from another owner is refused: the master is told that there is no such attempt. */
        dispatch(TASK, ",'owner':'mallory'");
        wait_for(master_count(FRAME_ENDED, NULL) == 3);
        assert_int_equal(launcher_count(LAUNCHER_START, NULL), 1);
}

static void test_stop(void **state) {
        size_t i;

        connect_up();
        run_to_start(TASK);
        started(TASK);
        master_send(FRAME_STOP, "{'tasks':[{'id':'" TASK "','attempt':1,'why':'cancelled','by':'bob'}]}",
                    NULL, 0);
        wait_for(launcher_count(LAUNCHER_STOP, &i) == 1);
        assert_int_equal(launcher.requests[i].request.stop.why, OUTCOME_CANCELLED);
        assert_int_equal(launcher.requests[i].request.stop.grace_usec, 5 * USEC_PER_SEC);
        assert_string_equal(launcher.requests[i].request.stop.by, "bob");
        master_send(FRAME_STOP, "{'tasks':[{'id':'" TASK "','attempt':1,'why':'superseded'}]}", NULL, 0);
        wait_for(launcher_count(LAUNCHER_STOP, &i) == 2);
        assert_int_equal(launcher.requests[i].request.stop.grace_usec, 0);
        ended(TASK, OUTCOME_SUPERSEDED, NULL);
        wait_for(launcher_count(LAUNCHER_RELEASE, NULL) == 1);
        assert_int_equal(master_count(FRAME_ENDED, NULL), 0);
        assert_int_equal(hashmap_size(agent->attempts), 0);
        /* One that is not here: the master must not wait for it. */
        master_send(FRAME_STOP, "{'tasks':[{'id':'" OTHER "','attempt':1,'why':'cancelled','by':'bob'}]}",
                    NULL, 0);
        wait_for(master_count(FRAME_ENDED, &i) == 1);
        assert_string_equal(outcome_of(i, NULL), "infrastructure");
}

static void test_new_agent_finds_everything(void **state) {
        json_object *attempts;
        const char *text;
        size_t i;

        launcher.replay[0].event = attempt_event(LAUNCHER_STARTED, TASK);
        launcher.replay[0].event.flags = LAUNCHER_FLAG_REPLAYED | LAUNCHER_FLAG_FROZEN;
        launcher.replay[1].event = attempt_event(LAUNCHER_ENDED, OTHER);
        launcher.replay[1].event.info.outcome = OUTCOME_VALUE;
        launcher.replay[1].result = "kept";
        launcher.n_replay = 2;
        connect_up();
        master_count(FRAME_REPORT, &i);
        assert_ok(json_get_array(master.frames[i].json, "attempts", 10, &attempts));
        assert_int_equal(json_object_array_length(attempts), 2);
        for (size_t k = 0; k < 2; k++) {
                json_object *entry = json_object_array_get_idx(attempts, k);

                assert_ok(json_get_string(entry, "owner", 100, &text));
                assert_string_equal(text, "alice");
                assert_ok(json_get_string(entry, "id", 100, &text));
                if (streq(text, TASK)) {
                        assert_ok(json_get_string(entry, "state", 100, &text));
                        assert_string_equal(text, "frozen");
                } else {
                        assert_ok(json_get_string(entry, "state", 100, &text));
                        assert_string_equal(text, "ended");
                        assert_true(json_object_object_get_ex(entry, "receipt", NULL));
                        assert_true(json_object_object_get_ex(entry, "outcome", NULL));
                }
        }
        assert_int_equal(launcher_count(LAUNCHER_START, NULL), 0);

        /* The kept result can still be had. */
        master_send(FRAME_FETCH,
                    "{'stream':2,'task':'" OTHER "','attempt':1,'what':'result','size':4,'window':65536}",
                    NULL, 0);
        wait_for(master_count(FRAME_END, NULL) == 1);
        assert_int_equal(master_count(FRAME_DATA, &i), 1);
        assert_string_equal(master.frames[i].payload, "kept");
        master_send(FRAME_FETCH,
                    "{'stream':4,'task':'" TASK "','attempt':1,'what':'result','size':4,'window':65536}",
                    NULL, 0);
        wait_for(master_count(FRAME_END, &i) == 2);
        assert_ok(json_get_string(master.frames[i].json, "error", 100, &text));
        assert_string_equal(text, "gone");
}

static void test_superseded(void **state) {
        size_t i;

        launcher.replay[0].event = attempt_event(LAUNCHER_STARTED, TASK);
        launcher.n_replay = 1;
        master.stop_task = TASK;
        connect_up();
        wait_for(launcher_count(LAUNCHER_STOP, &i) == 1);
        assert_int_equal(launcher.requests[i].request.stop.why, OUTCOME_SUPERSEDED);
        assert_int_equal(launcher.requests[i].request.stop.grace_usec, 0);
}

static void test_no_lease_before_reconciling(void **state) {
        master.no_reconcile = true;
        start_agent();
        wait_for(master_count(FRAME_REPORT, NULL) == 1);
        run_for(400 * USEC_PER_MSEC);
        assert_int_equal(launcher_count(LAUNCHER_LEASE, NULL), 0);
        master_send(FRAME_RECONCILE, "{'epoch':5,'stop':[]}", NULL, 0);
        wait_for(launcher_count(LAUNCHER_LEASE, NULL) > 0);
        assert_true(agent->lease_until > now_usec(CLOCK_BOOTTIME) + 14 * USEC_PER_SEC);
        assert_true(agent->lease_until < now_usec(CLOCK_BOOTTIME) + 15 * USEC_PER_SEC);
}

static void test_unanswered_heartbeats_renew_nothing(void **state) {
        uint64_t until;

        connect_up();
        master.silent = true;
        run_for(200 * USEC_PER_MSEC);
        until = agent->lease_until;
        run_for(300 * USEC_PER_MSEC);
        assert_int_equal(agent->lease_until, until);
}

static void test_past_epoch(void **state) {
        connect_up();
        assert_int_equal(agent->epoch, 5);
        run_to_start(TASK);
        /* An order from the past. */
        master.epoch = 4;
        dispatch(OTHER, "");
        wait_for(master.n_connections >= 2);
        /* And a master from the past: it never gets further than its welcome. */
        wait_for(master.n_connections >= 4);
        assert_int_not_equal(master_link_state(agent->master), MASTER_LINK_UP);
        assert_int_equal(agent->epoch, 5);
        assert_int_equal(master_count(FRAME_REPORT, NULL), 1);
        assert_int_equal(launcher_count(LAUNCHER_START, NULL), 1);
        master.epoch = 6;
        wait_for(master_link_state(agent->master) == MASTER_LINK_UP);
        assert_int_equal(agent->epoch, 6);
}

static void test_epoch_is_kept(void **state) {
        char path[128];

        snprintf(path, sizeof(path), "%s/state", directory);
        start_agent();
        assert_ok(agent_keep_epoch(agent, path));
        assert_int_equal(agent->epoch, 0);
        wait_for(master_link_state(agent->master) == MASTER_LINK_UP);
        assert_int_equal(agent->epoch, 5);

        /* The next agent, on a node where nothing runs that could tell. */
        agent = agent_free(agent);
        master.epoch = 4;
        master.n_connections = 0;
        start_agent();
        assert_ok(agent_keep_epoch(agent, path));
        assert_int_equal(agent->epoch, 5);
        wait_for(master.n_connections >= 2);
        assert_int_not_equal(master_link_state(agent->master), MASTER_LINK_UP);
        master.epoch = 5;
        wait_for(master_link_state(agent->master) == MASTER_LINK_UP);
}

static void test_epoch_of_the_former_agent(void **state) {
        launcher.replay[0].event = attempt_event(LAUNCHER_STARTED, TASK);
        launcher.replay[0].event.info.epoch = 9;
        launcher.n_replay = 1;
        start_agent();
        wait_for(master.n_connections >= 2);
        assert_int_equal(agent->epoch, 9);
        assert_int_equal(master_count(FRAME_REPORT, NULL), 0);
}

static void test_master_restarts(void **state) {
        json_object *attempts;
        size_t i;

        connect_up();
        run_to_start(TASK);
        started(TASK);
        wait_for(master_count(FRAME_STARTED, NULL) == 1);
        master_forget();
        master.epoch = 6;
        connection_close(master.connection, 0, "restart");
        wait_for(master_count(FRAME_REPORT, &i) == 1);
        assert_ok(json_get_array(master.frames[i].json, "attempts", 10, &attempts));
        assert_int_equal(json_object_array_length(attempts), 1);
        wait_for(master_link_state(agent->master) == MASTER_LINK_UP);
        assert_int_equal(agent->epoch, 6);
        /* What has just been reported is not told twice. */
        assert_int_equal(master_count(FRAME_STARTED, NULL), 0);
}

/* It replaces itself: same instance, some requests lost. */
static void test_launcher_upgrade(void **state) {
        size_t i;

        connect_up();
        run_to_start(TASK);
        run_to_start(OTHER);
        started(TASK);
        wait_for(master_count(FRAME_STARTED, NULL) == 1);
        master_send(FRAME_STOP, "{'tasks':[{'id':'" TASK "','attempt':1,'why':'cancelled','by':'bob'}]}",
                    NULL, 0);
        wait_for(launcher_count(LAUNCHER_STOP, NULL) == 1);
        launcher.replay[0].event = attempt_event(LAUNCHER_STARTED, TASK);
        launcher.replay[0].event.flags = LAUNCHER_FLAG_REPLAYED;
        launcher.n_replay = 1;
        launcher_forget();
        launcher_hang_up();
        wait_for(launcher_count(LAUNCHER_STOP, NULL) == 1);
        wait_for(launcher_count(LAUNCHER_START, &i) == 1);
        assert_true(launcher.requests[i].fds[0] >= 0 && launcher.requests[i].fds[1] >= 0);
        wait_for(launcher_count(LAUNCHER_LEASE, NULL) > 0 && launcher_count(LAUNCHER_POOL, NULL) == 1);
        assert_int_equal(master.n_connections, 1);
}

static void test_new_launcher(void **state) {
        json_object *attempts;
        size_t i;
        Id id;

        connect_up();
        run_to_start(TASK);
        started(TASK);
        wait_for(master_count(FRAME_STARTED, NULL) == 1);
        master_forget();
        launcher.instance = 2;
        launcher_hang_up();
        wait_for(master_count(FRAME_REPORT, &i) == 1);
        assert_ok(json_get_array(master.frames[i].json, "attempts", 10, &attempts));
        assert_int_equal(json_object_array_length(attempts), 0);
        master_count(FRAME_HELLO, &i);
        assert_ok(json_get_id(master.frames[i].json, "instance", &id));
        assert_int_equal(id.bytes[0], 2);
}

static void test_no_launcher_no_node(void **state) {
        connect_up();
        sd_event_source_set_enabled(launcher.listen_source, SD_EVENT_OFF); /* it connects, nobody answers */
        launcher_hang_up();
        wait_for(!master.connection);
        assert_int_equal(master_link_state(agent->master), MASTER_LINK_STOPPED);
        sd_event_source_set_enabled(launcher.listen_source, SD_EVENT_ON);
        wait_for(master_link_state(agent->master) == MASTER_LINK_UP);
}

/* Released while the launcher is away: it hears of it. */
static void test_release_is_not_lost(void **state) {
        connect_up();
        run_to_start(TASK);
        ended(TASK, OUTCOME_VALUE, "v");
        wait_for(master_count(FRAME_ENDED, NULL) == 1);
        launcher.replay[0].event = attempt_event(LAUNCHER_ENDED, TASK);
        launcher.replay[0].event.info.outcome = OUTCOME_VALUE;
        launcher.replay[0].result = "v";
        launcher.n_replay = 1;
        launcher_hang_up();
        wait_for(!agent->launcher_listed);
        master_send(FRAME_RELEASE, "{'tasks':[{'id':'" TASK "','attempt':1}]}", NULL, 0);
        wait_for(launcher_count(LAUNCHER_RELEASE, NULL) == 1);
        assert_int_equal(hashmap_size(agent->attempts), 0);
}

/* Many ends at once, more bytes than a frame may have: all arrive, in several frames. */
static void test_many_results(void **state) {
        static char result[60000];
        unsigned n = 0;
        char id[ID_HEX_SIZE];

        memset(result, 'r', sizeof(result) - 1);
        connect_up();
        for (unsigned k = 1; k <= 100; k++) {
                snprintf(id, sizeof(id), "%032x", k);
                ended(id, OUTCOME_VALUE, result);
                if (k % 20 == 0)
                        run_for(USEC_PER_MSEC);
        }
        wait_for(agent->unreleased == 100 * (sizeof(result) - 1));
        wait_for((n = 0, ({
                          for (size_t i = 0; i < master.n_frames; i++) {
                                  json_object *tasks;

                                  if (master.frames[i].type != FRAME_ENDED)
                                          continue;
                                  assert_ok(json_get_array(master.frames[i].json, "tasks", 1000, &tasks));
                                  n += (unsigned) json_object_array_length(tasks);
                          }
                          n == 100;
                  })));
}

static void test_progress(void **state) {
        LauncherEvent e = { .op = LAUNCHER_PROGRESS, .attempt = 1 };
        json_object *tasks;
        const char *note;
        double done;
        size_t i;
        Id id;

        connect_up();
        run_to_start(TASK);
        started(TASK);
        assert_ok(id_from_hex(TASK, &id));
        memcpy(e.task, id.bytes, sizeof(e.task));
        e.progress.done = 2.5;
        e.progress.total = 10;
        memset(e.progress.note, 'n', sizeof(e.progress.note));
        launcher_send(&e, NULL);
        wait_for(master_count(FRAME_PROGRESS, &i) == 1);
        assert_ok(json_get_array(master.frames[i].json, "tasks", 10, &tasks));
        assert_ok(json_get_double(json_object_array_get_idx(tasks, 0), "done", 0, 100, &done));
        assert_true(done == 2.5);
        assert_ok(json_get_string(json_object_array_get_idx(tasks, 0), "note", 200, &note));
        assert_int_equal(strlen(note), NOTE_MAX - 1);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_hello, setup, teardown),
                cmocka_unit_test_setup_teardown(test_hello_offers, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_task, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_short_task, setup, teardown),
                cmocka_unit_test_setup_teardown(test_environment_of_a_task, setup, teardown),
                cmocka_unit_test_setup_teardown(test_environment_is_built, setup, teardown),
                cmocka_unit_test_setup_teardown(test_code_is_fetched_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_wrong_code, setup, teardown),
                cmocka_unit_test_setup_teardown(test_code_of_a_lost_client, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancelled_while_code_comes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
                cmocka_unit_test_setup_teardown(test_broken_order_closes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_launcher_refuses, setup, teardown),
                cmocka_unit_test_setup_teardown(test_dispatched_twice, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
                cmocka_unit_test_setup_teardown(test_new_agent_finds_everything, setup, teardown),
                cmocka_unit_test_setup_teardown(test_superseded, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_lease_before_reconciling, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unanswered_heartbeats_renew_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_past_epoch, setup, teardown),
                cmocka_unit_test_setup_teardown(test_epoch_is_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_epoch_of_the_former_agent, setup, teardown),
                cmocka_unit_test_setup_teardown(test_master_restarts, setup, teardown),
                cmocka_unit_test_setup_teardown(test_launcher_upgrade, setup, teardown),
                cmocka_unit_test_setup_teardown(test_new_launcher, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_launcher_no_node, setup, teardown),
                cmocka_unit_test_setup_teardown(test_release_is_not_lost, setup, teardown),
                cmocka_unit_test_setup_teardown(test_many_results, setup, teardown),
                cmocka_unit_test_setup_teardown(test_progress, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
