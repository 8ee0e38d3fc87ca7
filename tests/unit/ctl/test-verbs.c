/* SPDX-License-Identifier: Apache-2.0 */
/* Every verb against a master that gives canned answers: what it asks, what it prints, how it exits. */
#include "test.h"

#include <fcntl.h>
#include <locale.h>

#include "ctl.h"
#include "fd-util.h"
#include "json-util.h"

#define ID_1 "0123456789abcdef0123456789abcdef"
#define ID_2 "01234567aaaaaaaa0123456789abcdef"

typedef struct Canned {
        const char *verb, *answer; /* answer NULL: no such thing */
} Canned;

typedef struct FakeTransport {
        Transport transport;
        const Canned *answers; /* in the order they are asked for, ends with a NULL verb */
        char asked[4096];
} FakeTransport;

static int fake_query(Transport *t, const char *verb, json_object *args, json_object **ret,
                      QueryError *ret_error) {
        FakeTransport *f = (FakeTransport *) t;
        const Canned *canned = f->answers++;
        size_t used = strlen(f->asked);

        snprintf(f->asked + used, sizeof(f->asked) - used, "%s%s %s", used ? "\n" : "", verb,
                 json_text(args, NULL));
        assert_non_null(canned->verb);
        assert_string_equal(canned->verb, verb);
        if (!canned->answer)
                return query_error_set(ret_error, CTL_NOT_FOUND, "not-found", "no task has the id");
        assert_ok(json_parse_strict_object(canned->answer, strlen(canned->answer), JSON_DEPTH_MAX, ret));
        return 0;
}

static void fake_free(Transport *t) {
}

static const TransportOperations fake_operations = { .query = fake_query, .free = fake_free };

/* Runs a command line (words at single spaces) and compares status, output and, unless NULL, questions. */
static void assert_run(const char *line, const Canned *answers, int status, const char *output,
                       const char *asked) {
        FakeTransport fake = { .transport = { &fake_operations, NULL }, .answers = answers };
        _cleanup_(freep) char *copy = strdup(line), *message = NULL, *printed = NULL;
        char *argv[16], *rest = copy;
        int argc = 0, saved, file, r;
        Ctl ctl = { .transport = &fake.transport };

        while (argc < 15 && (argv[argc] = strsep(&rest, " ")))
                argc++;
        argv[argc] = NULL;
        fake.transport.peer = (char *) "a test";
        assert_ok(ctl_parse(&ctl, argc, argv, &message));

        fflush(stdout);
        saved = dup(STDOUT_FILENO);
        file = memfd_new("stdout");
        assert_true(saved >= 0 && file >= 0);
        assert_true(dup2(file, STDOUT_FILENO) >= 0);
        r = ctl.verb->run(&ctl);
        fflush(stdout);
        assert_true(dup2(saved, STDOUT_FILENO) >= 0);
        assert_true(lseek(file, 0, SEEK_SET) == 0);
        assert_ok(read_fd_full(file, 1 << 20, &printed, NULL));
        close_fd(file);
        close_fd(saved);

        assert_string_equal(printed, output);
        if (asked)
                assert_string_equal(fake.asked, asked);
        assert_int_equal(r, status);
        assert_null(fake.answers->verb); /* nothing is left unasked */
}
#define ANSWERS(...) ((const Canned[]){ __VA_ARGS__, { NULL, NULL } })
#define NOT_ASKED ((const Canned[]){ { NULL, NULL } })

static void test_status(void **state) {
        static const char answer[] =
                "{\"version\":\"0.1.0\",\"epoch\":3,\"started_at\":0,\"insecure\":true,"
                "\"warnings\":[\"no encryption\"],"
                "\"python\":\"3.11.2\",\"listen\":[\"0.0.0.0:7878\",\"[::]:7878\"],"
                "\"nodes\":{\"ready\":2,\"suspect\":0,\"lost\":1,\"drained\":0},"
                "\"cpus\":6,\"cpus_used\":2.5,"
                "\"memory\":3221225472,\"memory_used\":536870912,\"clients\":1,"
                "\"tasks\":{\"queued\":7,\"starting\":0,\"running\":2,\"frozen\":0,\"unreachable\":3,"
                "\"waiting\":0,\"ended\":90,\"failed\":4},"
                "\"environments\":{\"known\":3,\"resolving\":0,\"building\":1,\"ready\":2,\"failed\":0},"
                "\"recovering\":false,\"recovering_until\":null}";
        _cleanup_(freep) char *age = format_age(0, now_ms());
        _cleanup_(freep) char *expected =
                strformat("clupy-masterd 0.1.0, epoch 3, up %s, asked through a test\n"
                          "   Listen: 0.0.0.0:7878, [::]:7878\n"
                          "   Python: 3.11.2\n"
                          "    Nodes: 2 ready, 1 lost\n"
                          "     CPUs: 2.5 of 6\n"
                          "   Memory: 512.0M of 3.0G\n"
                          "    Tasks: 2 running, 3 unreachable, 7 queued, 90 ended (4 failed)\n"
                          " Packages: 2 ready, 1 building\n"
                          "  Clients: 1\n"
                          "Warning: no encryption\n",
                          age);

        assert_run("clupyctl status", ANSWERS({ "status", answer }), CTL_OK, expected, "status {}");
        assert_run("clupyctl status --json", ANSWERS({ "status", "{\"a\":\"b/c\"}" }), CTL_OK,
                   "{\"a\":\"b/c\"}\n", NULL);
}

static void test_nodes(void **state) {
        assert_run(
                "clupyctl nodes",
                ANSWERS({ "nodes",
                          "{\"nodes\":[{\"name\":\"agent1\",\"state\":\"ready\",\"address\":\"10.0.0.2:4\","
                          "\"python\":\"3.11.2\",\"cpus\":2,\"cpus_used\":0.5,\"memory\":1073741824,"
                          "\"memory_used\":67108864,\"unreleased\":1536,\"running\":3,\"last_heartbeat_ms\":"
                          "120,"
                          "\"lease_left_ms\":14880},{\"name\":\"agent2\",\"state\":\"lost\"}]}" }),
                CTL_OK,
                "NODE    STATE  ADDRESS         CPUS         MEMORY  RUNNING  UNRELEASED  HEARTBEAT  LEASE  "
                "PYTHON  UP\n"
                "agent1  ready  10.0.0.2:4  0.5 of 2  64.0M of 1.0G        3        1.5K      120ms  14.8s  "
                "3.11.2   -\n"
                "agent2  lost                 0 of 0       0B of 0B        0          0B          -      -  "
                "         -\n",
                "nodes {}");
        assert_run(
                "clupyctl nodes", ANSWERS({ "nodes", "{\"nodes\":[]}" }), CTL_OK,
                "No node has registered. For each: `clupyctl token new` on the authority's machine (the "
                "master's), there `clupy-agent --join MASTER`, then `systemctl enable --now clupy-agent`.\n",
                NULL);
}

static void test_tasks(void **state) {
        assert_run("clupyctl tasks --owner=alice --ended -l 2",
                   ANSWERS({ "tasks", "{\"total\":9,\"tasks\":["
                                      "{\"id\":\"" ID_1
                                      "\",\"name\":\"primes\",\"owner\":\"alice\",\"state\":\"ended\","
                                      "\"node\":\"agent1\",\"attempts\":1,\"cpus\":1,\"memory\":536870912,"
                                      "\"queued_at\":1000,"
                                      "\"started_at\":2000,\"ended_at\":4500,\"outcome\":{\"kind\":\"exit\","
                                      "\"status\":3}},"
                                      "{\"id\":\"" ID_2
                                      "\",\"name\":\"e\\u001b[2J\",\"owner\":\"alice\",\"state\":\"queued\","
                                      "\"node\":null,\"attempts\":0,\"queued_at\":0,\"why_waiting\":\"no "
                                      "node has 64 CPUs\"}]}" }),
                   CTL_OK,
                   "TASK       NAME    OWNER  STATE   NODE    CPUS  MEMORY  TRY   FOR  OUTCOME          "
                   "WAITS BECAUSE\n"
                   "012345678  primes  alice  ended   agent1     1  512.0M    1  2.5s  exit (status 3)  \n"
                   "01234567a  e^[[2J  alice  queued             -       -    0     -                   no "
                   "node has 64 CPUs\n"
                   "2 of 9 tasks; more with --limit.\n",
                   "tasks {\"limit\":2,\"ended\":true,\"owner\":\"alice\"}");
        assert_run("clupyctl tasks", ANSWERS({ "tasks", "{\"tasks\":[],\"total\":0}" }), CTL_OK,
                   "No task waits or runs; --ended shows those that have ended.\n",
                   "tasks {\"limit\":100,\"ended\":false}");
        assert_run("clupyctl tasks --limit 0 --json", ANSWERS({ NULL, NULL }), CTL_USAGE,
                   "{\"error\":\"usage\",\"message\":\"--limit 0: expected a number from 1 to 10000\"}\n",
                   "");
}

static void test_task_show(void **state) {
        assert_run(
                "clupyctl task show 0123",
                ANSWERS({ "task",
                          "{\"id\":\"" ID_1 "\",\"name\":\"primes\",\"owner\":\"alice\",\"state\":\"ended\","
                          "\"outcome\":{\"kind\":\"value\"},\"node\":\"agent1\",\"unit\":\"clupy-task-1."
                          "scope\","
                          "\"attempts\":2,\"priority\":0,\"queued_at\":1740837907000,\"log_bytes\":12,"
                          "\"receipt\":{\"run_us\":2500,\"cpu_us\":900,\"memory_peak\":1048576,\"read_"
                          "bytes\":null,"
                          "\"warm\":true,\"unknown\":{\"read_bytes\":\"cgroup v1 counts none\"}},"
                          "\"history\":[{\"attempt\":1,\"node\":\"agent2\",\"unit\":\"clupy-task-0.scope\","
                          "\"outcome\":{\"kind\":\"node-lost\",\"attempts\":1},\"started_at\":1740837907000,"
                          "\"ended_at\":1740837908500},{\"attempt\":2,\"node\":\"agent1\",\"outcome\":"
                          "\"value\"}]}" }),
                CTL_OK,
                "        Task: " ID_1 "\n"
                "        Name: primes\n"
                "       Owner: alice\n"
                "       State: ended\n"
                "     Outcome: value\n"
                "        Node: agent1\n"
                "        Unit: clupy-task-1.scope\n"
                "    Attempts: 2\n"
                "    Priority: 0\n"
                "      Queued: 2025-03-01 14:05:07\n"
                "         Ran: 2ms\n"
                "    CPU time: 900us\n"
                " Memory peak: 1.0M\n"
                "  From disks: not known: cgroup v1 counts none\n"
                "       Start: warm\n"
                "     Printed: 12B, see clupyctl logs 01234567\n"
                "\n"
                "TRY  NODE    OUTCOME                 STARTED              TOOK  UNIT\n"
                "  1  agent2  node-lost (1 attempts)  2025-03-01 14:05:07  1.5s  clupy-task-0.scope\n"
                "  2  agent1  value                   -                       -  \n",
                "task {\"id\":\"0123\"}");
        assert_run("clupyctl task show 0123 --json", ANSWERS({ "task", NULL }), CTL_NOT_FOUND,
                   "{\"error\":\"not-found\",\"message\":\"no task has the id\"}\n", NULL);
        assert_run("clupyctl task frob 0123", ANSWERS({ NULL, NULL }), CTL_USAGE, "", "");
        assert_run("clupyctl task show x", ANSWERS({ NULL, NULL }), CTL_USAGE, "", "");
}

static void test_why_and_logs(void **state) {
        assert_run("clupyctl why 01", ANSWERS({ "why", "{\"sentence\":\"It used\\u0007 too much.\"}" }),
                   CTL_OK, "It used^G too much.\n", "why {\"id\":\"01\"}");
        assert_run("clupyctl logs " ID_1,
                   ANSWERS({ "logs", "{\"text\":\"a\\nb\",\"offset\":3,\"ended\":true}" }), CTL_OK, "a\nb",
                   "logs {\"id\":\"" ID_1 "\"}");
        /* A short id is made a whole one first; and without streams it asks until the end. */
        assert_run("clupyctl logs -f 01",
                   ANSWERS({ "task", "{\"id\":\"" ID_1 "\"}" },
                           { "logs", "{\"text\":\"a\\n\",\"offset\":2,\"ended\":false}" },
                           { "logs", "{\"text\":\"b\\n\",\"offset\":4,\"ended\":true}" },
                           { "task", "{\"ended_at\":1000}" }),
                   CTL_OK, "a\nb\n",
                   "task {\"id\":\"01\"}\nlogs {\"id\":\"" ID_1 "\"}\nlogs {\"id\":\"" ID_1
                   "\",\"offset\":2}\ntask {\"id\":\"" ID_1 "\"}");
}

static void test_cancel(void **state) {
        _cleanup_(freep) char *asked =
                strformat("cancel {\"by\":\"%s\",\"ids\":[\"" ID_1 "\",\"" ID_2 "\"]}", ctl_user());

        assert_run("clupyctl cancel " ID_1 " " ID_2, ANSWERS({ "cancel", "{\"cancelled\":[\"" ID_1 "\"]}" }),
                   CTL_FAILED, ID_1 " cancelled\n" ID_2 " has ended before, or is unknown\n", asked);
        assert_run("clupyctl cancel --job " ID_1, ANSWERS({ "cancel", "{\"cancelled\":[\"" ID_2 "\"]}" }),
                   CTL_OK, ID_2 " cancelled\n", NULL);
        assert_run("clupyctl cancel " ID_1 " 01", ANSWERS({ "task", NULL }), CTL_NOT_FOUND,
                   "Nothing was cancelled.\n", "task {\"id\":\"01\"}");
        assert_run("clupyctl cancel", ANSWERS({ NULL, NULL }), CTL_USAGE, "", "");
        assert_run("clupyctl cancel --job " ID_1 " " ID_2, ANSWERS({ NULL, NULL }), CTL_USAGE, "", "");
        assert_run("clupyctl cancel --job 01", ANSWERS({ NULL, NULL }), CTL_USAGE, "", "");
}

static void test_drain(void **state) {
        assert_run("clupyctl drain n1",
                   ANSWERS({ "drain", "{\"node\":\"n1\",\"state\":\"draining\",\"running\":2}" }), CTL_OK,
                   "n1 finishes what it runs (2) and gets nothing new; --wait waits for that\n",
                   "drain {\"node\":\"n1\"}");
        assert_run(
                "clupyctl drain --wait n1",
                ANSWERS({ "drain", "{\"node\":\"n1\",\"state\":\"draining\",\"running\":1}" },
                        { "nodes", "{\"nodes\":[{\"name\":\"n1\",\"state\":\"draining\",\"running\":1}]}" },
                        { "nodes", "{\"nodes\":[{\"name\":\"n1\",\"state\":\"drained\",\"running\":0}]}" }),
                CTL_OK, "n1 finishes what it runs (1) and gets nothing new\nn1 is drained\n", NULL);
        assert_run("clupyctl drain --wait n1",
                   ANSWERS({ "drain", "{\"node\":\"n1\",\"state\":\"draining\",\"running\":1}" },
                           { "nodes", "{\"nodes\":[]}" }),
                   CTL_NOT_FOUND, "n1 finishes what it runs (1) and gets nothing new\n", NULL);
        assert_run("clupyctl undrain n1", ANSWERS({ "undrain", "{\"node\":\"n1\",\"state\":\"ready\"}" }),
                   CTL_OK, "n1 is ready\n", NULL);
}

#define ENV_1 "0123456789abcdef0123456789abcdef01234567"
#define ENV_2 "0123456700000000000000000000000000000000"
#define ENVIRONMENT                                                                                         \
        "\"name\":\"" ENV_1                                                                                 \
        "\",\"default\":true,\"python\":\"3.11\",\"state\":\"building\",\"packages\":[\"numpy>=2\","        \
        "\"pandas\"],\"bytes\":1048576,\"nodes\":[{\"node\":\"agent1\",\"state\":\"ready\","                \
        "\"seconds\":2.5},{\"node\":\"agent2\",\"state\":\"failed\",\"message\":\"the disk is full\"}]"

static void test_env(void **state) {
        assert_run("clupyctl env list",
                   ANSWERS({ "environments",
                             "{\"environments\":[{" ENVIRONMENT "},{\"name\":\"" ENV_2
                             "\",\"owner\":\"alice\",\"python\":\"3.11\",\"state\":\"ready\","
                             "\"packages\":[],\"locked\":true,\"nodes\":[]},{\"name\":\"python-3.11\","
                             "\"state\":\"ready\"}]}" }),
                   CTL_OK,
                   "NAME         FOR        PYTHON  STATE     PACKAGES          SIZE   NODES  MADE\n"
                   "012345678    default    3.11    building  numpy>=2, pandas  1.0M  1 of 2     -\n"
                   "012345670    alice      3.11    ready     a lock               -       -     -\n"
                   "python-3.11  everybody          ready                          -       -     -\n",
                   "environments {}");
        assert_run("clupyctl env list --json", ANSWERS({ "environments", "{\"environments\":[]}" }), CTL_OK,
                   "{\"environments\":[]}\n", NULL);
        assert_run("clupyctl env list", ANSWERS({ "environments", "{\"environments\":[]}" }), CTL_OK,
                   "There is no environment: tasks have Python's standard library. Name packages in "
                   "/etc/clupy/clupy.master.dependency.yaml, or in calls.\n",
                   NULL);
        assert_run("clupyctl env show 0123",
                   ANSWERS({ "environment",
                             "{" ENVIRONMENT ",\"libraries\":{\"numpy\":\"2.1.0\"},\"installer\":\"uv 0.1\","
                             "\"preload\":[\"numpy\"],\"log\":\"error: no room\\u001b[2J\"}" }),
                   CTL_OK,
                   " Environment: " ENV_1 "\n"
                   "         For: default\n"
                   "       State: building\n"
                   "      Python: 3.11\n"
                   "    Packages: numpy>=2, pandas\n"
                   "     Preload: numpy\n"
                   "   Installer: uv 0.1\n"
                   "        Size: 1.0M\n"
                   "\n"
                   "NODE    STATE   TOOK  MESSAGE\n"
                   "agent1  ready   2.5s  \n"
                   "agent2  failed     -  the disk is full\n"
                   "\n"
                   "LIBRARY  VERSION\n"
                   "numpy    2.1.0\n"
                   "\n"
                   "The installer said:\n"
                   "error: no room^[[2J\n",
                   "environment {\"name\":\"0123\"}");
        assert_run("clupyctl env show 99", ANSWERS({ "environment", NULL }), CTL_NOT_FOUND, "", NULL);
        assert_run("clupyctl env show A/B", NOT_ASKED, CTL_USAGE, "", "");
        assert_run("clupyctl env show", NOT_ASKED, CTL_USAGE, "", "");
        assert_run("clupyctl env list x", NOT_ASKED, CTL_USAGE, "", "");
        assert_run("clupyctl env install x", NOT_ASKED, CTL_USAGE, "", "");
        assert_run("clupyctl env list --python=3.11", NOT_ASKED, CTL_USAGE, "", "");
        assert_run("clupyctl env sync",
                   ANSWERS({ "environment-sync", "{\"environments\":[\"" ENV_1 "\"]}" }), CTL_OK,
                   ENV_1 " is looked up anew; see clupyctl env list\n", "environment-sync {}");
        assert_run(
                "clupyctl env sync", ANSWERS({ "environment-sync", "{\"environments\":[]}" }), CTL_OK,
                "The manifest was read; there is nothing to look up: its packages are locked, or there are "
                "none.\n",
                NULL);
        assert_run("clupyctl env remove 0123", ANSWERS({ "environment-remove", "{\"name\":\"" ENV_1 "\"}" }),
                   CTL_OK, ENV_1 " is removed from each node as soon as nothing there uses it\n",
                   "environment-remove {\"name\":\"0123\"}");
        assert_run("clupyctl env lock -p 3.11", ANSWERS({ "environment-lock", "{\"lock\":\"numpy==2\"}" }),
                   CTL_OK, "numpy==2\n", "environment-lock {\"python\":\"3.11\"}");
        assert_run("clupyctl env lock", ANSWERS({ "environment-lock", "{\"lock\":\"a==1\\n\"}" }), CTL_OK,
                   "a==1\n", "environment-lock {}");
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_status),       cmocka_unit_test(test_nodes),
                cmocka_unit_test(test_tasks),        cmocka_unit_test(test_task_show),
                cmocka_unit_test(test_cancel),       cmocka_unit_test(test_drain),
                cmocka_unit_test(test_why_and_logs), cmocka_unit_test(test_env),
        };

        setlocale(LC_ALL, "C.UTF-8");
        return cmocka_run_group_tests(tests, NULL, NULL);
}
