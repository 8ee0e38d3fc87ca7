/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "daemon.h"
#include "dependency-config.h"
#include "log.h"
#include "manager.h"
#include "master-config.h"

static const DaemonProgram program = {
        .name = "clupy-masterd",
        .summary = "Takes calls from clients and has the nodes of the cluster run them.",
        .manual = "clupy-masterd(8)",
        .config_name = "clupy.master.yaml",
};

static void on_stop(Daemon *d, void *userdata) {
        Manager **manager = userdata;

        manager_stop(*manager);
        daemon_exit(d, EXIT_SUCCESS);
}

/* What --config named. */
static const char *config_path;

static void on_reload(Daemon *d, void *userdata) {
        Manager **manager = userdata;

        (void) manager_reload(*manager, config_path);
}

static const DaemonHandlers handlers = { .stop = on_stop, .reload = on_reload };

/* The packages that tasks have. A missing file is a good one. */
static int check_dependencies(const MasterConfig *config, bool say) {
        _cleanup_(dependency_config_freep) DependencyConfig *dependencies = NULL;
        _cleanup_(freep) char *message = NULL, *lock = NULL;
        size_t size;
        int r;

        r = dependency_config_load(config->dependencies, &dependencies, &message);
        if (r == -ENOENT)
                return 0;
        if (r >= 0 && dependencies->lock)
                r = dependency_config_read_lock(dependencies, &lock, &size, &message);
        if (r < 0 && message)
                log_error("%s", message);
        else if (r < 0)
                log_error_errno(r, "Cannot read %s", config->dependencies);
        else if (say)
                printf("%s: ok\n", config->dependencies);
        return r;
}

int main(int argc, char *argv[]) {
        _cleanup_(daemon_freep) Daemon *daemon = NULL;
        _cleanup_(manager_freep) Manager *manager = NULL;
        _cleanup_(master_config_freep) MasterConfig *config = NULL;
        _cleanup_(freep) char *message = NULL;
        DaemonArguments arguments;
        int r;

        r = daemon_parse_arguments(&program, argc, argv, NULL, &arguments);
        if (r != DAEMON_GO_ON)
                return r;
        config_path = arguments.config;
        r = master_config_load(config_path, &config, &message);
        if (r < 0) {
                if (message)
                        log_error("%s", message);
                else
                        log_error_errno(r, "Cannot read the configuration");
                if (!arguments.check_config) /* which stays in `systemctl status` */
                        (void) sd_notifyf(false, "STATUS=The configuration is wrong: %s",
                                          message ?: strerrordesc_np(-r));
                return EX_CONFIG;
        }
        if (arguments.check_config) {
                printf("%s: ok\n", arguments.config ?: "/etc/clupy/clupy.master.yaml");
                return check_dependencies(config, true) < 0 ? EX_CONFIG : EXIT_SUCCESS;
        }
        if (check_dependencies(config, false) < 0)
                return EX_CONFIG;
        if (config->log_level >= 0)
                log_set_level(config->log_level);

        r = daemon_new(&program, &handlers, &manager, &daemon);
        if (r < 0)
                return log_error_errno(r, "Cannot set up the event loop") < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
        r = manager_new(daemon_event(daemon), config, &manager);
        if (r < 0)
                return log_error_errno(r, "Cannot set up the manager") < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
        TAKE_PTR(config);
        manager->daemon = daemon;
        r = master_tls_open(manager);
        if (r < 0)
                return EX_CONFIG;
        r = manager_start(manager);
        if (r < 0)
                return EXIT_FAILURE;
        manager_notify(manager);
        /* What starting took is given back. */
        (void) malloc_trim(0);
        return daemon_run(daemon);
}
