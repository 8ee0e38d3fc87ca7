/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "build-config.h"
#include "log.h"
#include "time-util.h"

enum { OPTIONS_MAX = 32, OPTION_OWN = 256 };

static void help(const DaemonProgram *program) {
        printf("%s [OPTIONS…]\n\n%s\n\n", program->name, program->summary);
        printf("  -h --help               Show this help\n"
               "     --version            Show the version\n");
        if (program->config_name)
                printf("     --config=FILE        Read this file after those in /etc/clupy (%s)\n"
                       "     --check-config       Read the configuration, say whether it is good, and "
                       "exit\n",
                       program->config_name);
        printf("     --log-level=LEVEL    error, warning, notice, info or debug\n");
        for (size_t i = 0; i < program->n_options; i++) {
                const DaemonOption *option = program->options + i;
                char left[64];

                snprintf(left, sizeof(left), "--%s%s%s", option->name, option->argument ? "=" : "",
                         strempty(option->argument));
                printf("     %-20s %s\n", left, option->help);
        }
        if (program->manual)
                printf("\nSee the %s manual page for details.\n", program->manual);
}

int daemon_parse_arguments(const DaemonProgram *program, int argc, char *argv[], void *userdata,
                           DaemonArguments *ret) {
        enum {
                OPTION_VERSION = 'V',
                OPTION_CONFIG = 'c',
                OPTION_CHECK = 'k',
                OPTION_LEVEL = 'l',
                OPTION_HELP = 'h'
        };
        struct option options[OPTIONS_MAX + 6] = { { "help", no_argument, NULL, OPTION_HELP },
                                                   { "version", no_argument, NULL, OPTION_VERSION },
                                                   { "log-level", required_argument, NULL, OPTION_LEVEL } };
        DaemonArguments arguments = { 0 };
        size_t n = 3;
        int c;

        log_open(program->name);
        if (program->config_name) {
                options[n++] = (struct option){ "config", required_argument, NULL, OPTION_CONFIG };
                options[n++] = (struct option){ "check-config", no_argument, NULL, OPTION_CHECK };
        }
        for (size_t i = 0; i < program->n_options && i < OPTIONS_MAX; i++)
                options[n++] =
                        (struct option){ program->options[i].name,
                                         program->options[i].argument ? required_argument : no_argument,
                                         NULL, OPTION_OWN + (int) i };

        optind = 0; /* from the start, also the second time */
        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
                if (c >= OPTION_OWN) {
                        const DaemonOption *option = program->options + (c - OPTION_OWN);

                        if (option->parse(optarg, userdata) < 0) {
                                fprintf(stderr, "%s: --%s: not valid: '%s'\n", program->name, option->name,
                                        strempty(optarg));
                                return EX_USAGE;
                        }
                        continue;
                }
                switch (c) {
                case OPTION_HELP:
                        help(program);
                        return EXIT_SUCCESS;
                case OPTION_VERSION:
                        printf("%s %s\n", program->name, CLUPY_VERSION);
                        return EXIT_SUCCESS;
                case OPTION_CONFIG:
                        arguments.config = optarg;
                        break;
                case OPTION_CHECK:
                        arguments.check_config = true;
                        break;
                case OPTION_LEVEL: {
                        int level = log_level_from_string(optarg);

                        if (level < 0) {
                                fprintf(stderr,
                                        "%s: --log-level: expected error, warning, notice, info or debug, "
                                        "got '%s'\n",
                                        program->name, optarg);
                                return EX_USAGE;
                        }
                        log_set_level(level);
                        break;
                }
                default:
                        fprintf(stderr, "Try '%s --help'.\n", program->name);
                        return EX_USAGE;
                }
        }
        if (optind < argc) {
                fprintf(stderr, "%s: unexpected argument '%s'\nTry '%s --help'.\n", program->name,
                        argv[optind], program->name);
                return EX_USAGE;
        }
        *ret = arguments;
        return DAEMON_GO_ON;
}

struct Daemon {
        sd_event *event;
        sd_event_source *signals[3], *watchdog;
        uint64_t watchdog_usec;
        const DaemonHandlers *handlers;
        void *userdata;
        bool ready, stopping;
        char *status;
};

Daemon *daemon_free(Daemon *d) {
        if (!d)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(d->signals); i++)
                sd_event_source_disable_unref(d->signals[i]);
        sd_event_source_disable_unref(d->watchdog);
        sd_event_unref(d->event);
        free(d->status);
        return mfree(d);
}

static int on_stop_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        Daemon *d = userdata;

        if (d->stopping || !d->handlers || !d->handlers->stop) {
                daemon_exit(d, EXIT_SUCCESS);
                return 0;
        }
        d->stopping = true;
        (void) sd_notify(false, "STOPPING=1");
        d->handlers->stop(d, d->userdata);
        return 0;
}

static int on_reload_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        Daemon *d = userdata;

        if (!d->handlers || (!d->handlers->reload && !d->handlers->reload_begin))
                return 0;
        (void) sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%llu",
                          (unsigned long long) now_usec(CLOCK_MONOTONIC));
        if (d->handlers->reload_begin) {
                d->handlers->reload_begin(d, d->userdata);
                return 0;
        }
        d->handlers->reload(d, d->userdata);
        daemon_reloaded(d);
        return 0;
}

void daemon_reloaded(Daemon *d) {
        (void) sd_notify(false, "READY=1");
}

static int on_watchdog(sd_event_source *source, uint64_t usec, void *userdata) {
        Daemon *d = userdata;

        if (!d->handlers || !d->handlers->healthy || d->handlers->healthy(d, d->userdata))
                (void) sd_notify(false, "WATCHDOG=1");
        (void) sd_event_source_set_time_relative(source, d->watchdog_usec / 2);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

/* Descriptors 0 to 2 are written to by libraries: they must never be a connection. */
static int streams_open(void) {
        int fd;

        do
                fd = open("/dev/null", O_RDWR);
        while (fd >= 0 && fd <= STDERR_FILENO);
        if (fd < 0)
                return -errno;
        (void) close(fd);
        return 0;
}

int daemon_new(const DaemonProgram *program, const DaemonHandlers *handlers, void *userdata, Daemon **ret) {
        static const int numbers[] = { SIGTERM, SIGINT, SIGHUP };
        _cleanup_(daemon_freep) Daemon *d = NULL;
        sigset_t set;
        int r;

        /* Without these glibc raises its own thresholds with the first large payload and then keeps the
         * memory of all later ones. */
        (void) mallopt(M_MMAP_THRESHOLD, 128 << 10);
        (void) mallopt(M_TRIM_THRESHOLD, 256 << 10);
        (void) mallopt(M_ARENA_MAX, 1);

        r = streams_open();
        if (r < 0)
                return r;
        d = new0(Daemon);
        if (!d)
                return -ENOMEM;
        d->handlers = handlers;
        d->userdata = userdata;
        (void) signal(SIGPIPE, SIG_IGN);
        sigemptyset(&set);
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                sigaddset(&set, numbers[i]);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        r = sd_event_default(&d->event);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
                r = sd_event_add_signal(d->event, &d->signals[i], numbers[i],
                                        numbers[i] == SIGHUP ? on_reload_signal : on_stop_signal, d);
                if (r < 0)
                        return r;
        }
        r = sd_watchdog_enabled(false, &d->watchdog_usec);
        if (r < 0)
                return r;
        if (r > 0) {
                /* Now too: the clock goes on over an execve(), and one may come soon after the other. */
                (void) sd_notify(false, "WATCHDOG=1");
                r = sd_event_add_time_relative(d->event, &d->watchdog, CLOCK_MONOTONIC, d->watchdog_usec / 2,
                                               d->watchdog_usec / 8, on_watchdog, d);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(d);
        return 0;
}

sd_event *daemon_event(const Daemon *d) {
        return d->event;
}

static void _printf_(3, 0) daemon_notify(Daemon *d, bool ready, const char *format, va_list arguments) {
        _cleanup_(freep) char *status = NULL;
        bool changed;

        if (vasprintf(&status, format, arguments) < 0) {
                status = NULL;
                return;
        }
        for (char *p = status; *p; p++)
                if (*p == '\n')
                        *p = ' ';
        changed = !streq_ptr(status, d->status);
        if (ready && !d->ready)
                (void) sd_notifyf(false, "READY=1\nSTATUS=%s", status);
        else if (changed)
                (void) sd_notifyf(false, "STATUS=%s", status);
        d->ready = d->ready || ready;
        if (changed)
                free_and_replace(d->status, status);
}

void daemon_ready(Daemon *d, const char *status_format, ...) {
        va_list arguments;

        va_start(arguments, status_format);
        daemon_notify(d, true, status_format, arguments);
        va_end(arguments);
}

void daemon_status(Daemon *d, const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        daemon_notify(d, false, format, arguments);
        va_end(arguments);
}

void daemon_exit(Daemon *d, int status) {
        (void) sd_event_exit(d->event, status);
}

int daemon_run(Daemon *d) {
        int r;

        if (!d->ready)
                daemon_ready(d, "Running");
        r = sd_event_loop(d->event);
        if (!d->stopping)
                (void) sd_notify(false, "STOPPING=1");
        if (r < 0) {
                log_error_errno(r, "The event loop failed");
                return EXIT_FAILURE;
        }
        return r;
}
