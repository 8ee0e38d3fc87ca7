/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "daemon.h"
#include "fd-util.h"
#include "log.h"

static int parse_listen(const char *argument, void *userdata) {
        if (!*argument)
                return -EINVAL;
        *(const char **) userdata = argument;
        return 0;
}

static const DaemonOption options[] = { { "listen", "ADDRESS", "Listen there", parse_listen } };

static const DaemonProgram program = {
        .name = "clupy-test",
        .summary = "A test",
        .config_name = "clupy.test.yaml",
        .options = options,
        .n_options = 1,
};

static int parse(const char *const *arguments, const char **listen, DaemonArguments *ret) {
        char *argv[8] = { (char *) "clupy-test" };
        int argc = 1;

        for (; arguments[argc - 1]; argc++)
                argv[argc] = (char *) arguments[argc - 1];
        return daemon_parse_arguments(&program, argc, argv, listen, ret);
}
#define PARSE(...) parse((const char *const[]){ __VA_ARGS__, NULL }, &listening, &arguments)

static void test_arguments(void **state) {
        const char *listening = NULL;
        DaemonArguments arguments;
        int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);

        assert_ok(saved);
        assert_ok(null);
        assert_int_equal(PARSE(NULL), DAEMON_GO_ON);
        assert_null(arguments.config);
        assert_false(arguments.check_config);
        assert_int_equal(PARSE("--config=/x", "--check-config", "--listen", "a:1", "--log-level=debug"),
                         DAEMON_GO_ON);
        assert_string_equal(arguments.config, "/x");
        assert_true(arguments.check_config);
        assert_string_equal(listening, "a:1");
        assert_int_equal(log_get_level(), LOG_DEBUG);
        assert_ok(dup2(null, STDERR_FILENO));
        assert_int_equal(PARSE("--log-level=loud"), EX_USAGE);
        assert_int_equal(PARSE("--no-such-option"), EX_USAGE);
        assert_int_equal(PARSE("operand"), EX_USAGE);
        assert_int_equal(PARSE("--listen="), EX_USAGE);
        assert_ok(dup2(saved, STDERR_FILENO));
        assert_int_equal(PARSE("--version"), EXIT_SUCCESS);
        assert_int_equal(PARSE("--help"), EXIT_SUCCESS);
        close_fd(saved);
        close_fd(null);
}

static unsigned reloads;

static void on_stop(Daemon *d, void *userdata) {
        daemon_status(d, "Stopping\nnow");
        daemon_exit(d, (int) reloads);
}

static void on_reload(Daemon *d, void *userdata) {
        reloads++;
}

/* What the daemon says to systemd, up to one message that has this text in it. */
static void expect_message(int fd, const char *text) {
        char buffer[512];

        for (;;) {
                ssize_t n = recv(fd, buffer, sizeof(buffer) - 1, 0);

                if (n < 0) {
                        fail_msg("no message with '%s': %s", text, strerror(errno));
                        return;
                }
                buffer[n] = '\0';
                if (strstr(buffer, text))
                        return;
        }
}

static void test_life(void **state) {
        static const DaemonHandlers handlers = { .stop = on_stop, .reload = on_reload };
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        const struct timeval patience = { .tv_sec = 10 };
        char *directory = test_directory();
        int fd, status;
        pid_t pid;

        assert_ok(fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/notify", directory);
        assert_ok(bind(fd, (struct sockaddr *) &address, sizeof(address)));
        assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
        pid = fork();
        assert_ok(pid);
        if (pid == 0) {
                Daemon *d;

                setenv("NOTIFY_SOCKET", address.sun_path, 1);
                setenv("WATCHDOG_USEC", "100000", 1);
                unsetenv("WATCHDOG_PID");
                if (daemon_new(&program, &handlers, NULL, &d) < 0)
                        _exit(99);
                daemon_ready(d, "Serving %d", 7);
                status = daemon_run(d);
                daemon_free(d);
                _exit(status);
        }
        expect_message(fd, "READY=1\nSTATUS=Serving 7");
        expect_message(fd, "WATCHDOG=1");
        expect_message(fd, "WATCHDOG=1");
        assert_ok(kill(pid, SIGHUP));
        expect_message(fd, "RELOADING=1");
        expect_message(fd, "READY=1");
        assert_ok(kill(pid, SIGTERM));
        expect_message(fd, "STOPPING=1");
        expect_message(fd, "STATUS=Stopping now");
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 1);
        close_fd(fd);
        test_directory_remove(directory);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_arguments), cmocka_unit_test(test_life) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
