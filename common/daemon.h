/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sysexits.h>
#include <systemd/sd-event.h>

#include "memory-util.h"

/* What the main() of every daemon shares:
 *
 *     int main(int argc, char *argv[]) {
 *             DaemonArguments arguments;
 *             int r = daemon_parse_arguments(&program, argc, argv, NULL, &arguments);
 *             if (r != DAEMON_GO_ON)
 *                     return r;
 *             … load the configuration; if (arguments.check_config) return EXIT_SUCCESS …
 *             r = daemon_new(&program, &handlers, manager, &daemon);
 *             … start; on failure log and return EXIT_FAILURE …
 *             return daemon_run(daemon);
 *     } */

typedef struct DaemonOption {
        const char *name;     /* "listen" for --listen */
        const char *argument; /* "ADDRESS" in the help, NULL: takes none */
        const char *help;
        /* Returns 0, <0 when the argument is not valid. argument is NULL for an option without. */
        int (*parse)(const char *argument, void *userdata);
} DaemonOption;

typedef struct DaemonProgram {
        const char *name;        /* "clupy-masterd" */
        const char *summary;     /* one line for --help */
        const char *manual;      /* "clupy-masterd(8)" or NULL */
        const char *config_name; /* "clupy.master.yaml", NULL: no --config, --check-config */
        const DaemonOption *options;
        size_t n_options;
} DaemonProgram;

typedef struct DaemonArguments {
        const char *config; /* --config FILE, else NULL */
        bool check_config;  /* --check-config: load the configuration, say whether it is good, exit */
} DaemonArguments;

enum { DAEMON_GO_ON = -1 };

/* Opens the log and handles --help, --version, --config FILE, --check-config, --log-level LEVEL and the
 * program's own options; operands are refused. Returns DAEMON_GO_ON, or the exit status: EXIT_SUCCESS after
 * --help or --version, EX_USAGE (64) after a message on stderr. */
int daemon_parse_arguments(const DaemonProgram *program, int argc, char *argv[], void *userdata,
                           DaemonArguments *ret);

typedef struct Daemon Daemon;

typedef struct DaemonHandlers {
        /* SIGTERM or SIGINT: begin to stop, call daemon_exit() when that is done. Once; a second signal
         * exits at once. NULL: exit at once. */
        void (*stop)(Daemon *d, void *userdata);
        /* SIGHUP: read the configuration again. NULL: the signal is ignored. Logs what is wrong by itself.
         */
        void (*reload)(Daemon *d, void *userdata);
        /* SIGHUP, for who needs longer or replaces itself: to call daemon_reloaded() in the end. Instead of
         * reload. */
        void (*reload_begin)(Daemon *d, void *userdata);
        /* Each half watchdog interval: whether the daemon is well; false withholds the keep-alive. NULL:
         * well while the loop turns. */
        bool (*healthy)(Daemon *d, void *userdata);
} DaemonHandlers;

/* Blocks SIGTERM, SIGINT, SIGHUP (and SIGPIPE is ignored) and makes the event loop (sd_event_default) with
 * them and the watchdog that systemd asked for; tunes malloc for a small resident set; opens /dev/null for
 * missing standard streams. Returns 0, -errno. */
int daemon_new(const DaemonProgram *program, const DaemonHandlers *handlers, void *userdata, Daemon **ret);
Daemon *daemon_free(Daemon *d);
DEFINE_CLEANUP(Daemon, daemon_free);

sd_event *daemon_event(const Daemon *d);

/* READY=1 with a STATUS. To be called once the daemon serves; daemon_run() does it if nobody has. */
void daemon_ready(Daemon *d, const char *status_format, ...) _printf_(2, 3);
/* What reload_begin() has begun is done, or given up. */
void daemon_reloaded(Daemon *d);
/* STATUS=, one line a person can read. Sent only when it has changed. */
void daemon_status(Daemon *d, const char *format, ...) _printf_(2, 3);
/* Ends daemon_run() with that exit status. */
void daemon_exit(Daemon *d, int status);
/* Runs the loop. Returns the exit status. */
int daemon_run(Daemon *d);
