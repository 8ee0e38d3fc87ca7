/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "agent-tls.h"
#include "agent.h"
#include "daemon.h"
#include "join.h"
#include "launcher/launcher-protocol.h"
#include "log.h"
#include "server-config.h"

static int parse_join(const char *argument, void *userdata) {
        *(const char **) userdata = argument;
        return isempty(argument) ? -EINVAL : 0;
}

static const DaemonOption options[] = {
        { "join", "MASTER", "Make this machine a node of that master's cluster, with a token, and exit",
          parse_join },
};

static const DaemonProgram program = {
        .name = "clupy-agent",
        .summary =
                "Runs a node of a CluPy cluster: connects it to the master and has its launcher run tasks.",
        .manual = "clupy-agent(8)",
        .config_name = SERVER_CONFIG_NAME,
        .options = options,
        .n_options = ELEMENTSOF(options),
};

static void on_reload(Daemon *d, void *userdata) {
        log_notice("The configuration is read at the start only: restart clupy-agent, its tasks go on "
                   "meanwhile");
}

/* Nothing is told to anybody on the way out: the tasks go on, and the next agent finds them. */
static const DaemonHandlers handlers = { .reload = on_reload };

/* A result is a descriptor until the master releases it. */
static void raise_descriptors(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= limit.rlim_max)
                return;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                log_warning_errno(errno, "Cannot raise the limit of open files");
}

static int print_checked(const ServerConfig *config) {
        if (!config->files || !config->files[0])
                printf("no configuration file, all defaults: ok\n");
        for (char **file = config->files; file && *file; file++)
                printf("%s: ok\n", *file);
        return EXIT_SUCCESS;
}

/* Given by systemd; started by hand it has no place for it. */
static void keep_epoch(Agent *agent) {
        const char *directory = getenv("STATE_DIRECTORY");
        int r;

        if (isempty(directory))
                return;
        r = agent_keep_epoch(agent, directory);
        if (r < 0)
                log_warning_errno(
                        r,
                        "Cannot use %s: that no master of a past epoch is obeyed is forgotten at each start",
                        directory);
}

static void server_config_donep(ServerConfig *config) {
        server_config_done(config);
}

int main(int argc, char *argv[]) {
        _cleanup_(server_config_donep) ServerConfig config = { 0 };
        _cleanup_(daemon_freep) Daemon *daemon = NULL;
        _cleanup_(agent_tls_freep) AgentTls *tls = NULL;
        _cleanup_(agent_freep) Agent *agent = NULL;
        _cleanup_(freep) char *message = NULL;
        const char *join = NULL;
        DaemonArguments arguments;
        int r;

        r = daemon_parse_arguments(&program, argc, argv, &join, &arguments);
        if (r != DAEMON_GO_ON)
                return r;
        r = server_config_load(&(ServerConfigSources){ .explicit_path = arguments.config }, &config,
                               &message);
        if (r < 0) {
                if (message)
                        log_error("%s", message);
                else
                        log_error_errno(r, "Cannot read the configuration");
                return EX_CONFIG;
        }
        if (arguments.check_config)
                return print_checked(&config);
        if (join)
                return agent_join(&config, join);

        raise_descriptors();
        r = daemon_new(&program, &handlers, NULL, &daemon);
        if (r < 0) {
                log_error_errno(r, "Cannot start");
                return EXIT_FAILURE;
        }
        r = agent_tls_new(daemon_event(daemon), &config, &tls);
        if (r < 0)
                return EX_CONFIG;
        r = agent_new(daemon_event(daemon), daemon, &config, LAUNCHER_SOCKET, &agent);
        if (r < 0) {
                log_error_errno(r, "Cannot start");
                return EXIT_FAILURE;
        }
        keep_epoch(agent);
        master_link_set_tls(agent->master, agent_tls_context(tls));
        log_info("Node %s: %.2f CPUs, %s for tasks", config.name, config.cpus, FORMAT_BYTES(config.memory));
        daemon_ready(daemon, "Waiting for the launcher");
        return daemon_run(daemon);
}
