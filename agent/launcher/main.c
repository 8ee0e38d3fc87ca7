/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "daemon.h"
#include "log.h"
#include "manager.h"
#include "sandbox-switch.h"

static const DaemonProgram program = {
        .name = "clupy-launcher",
        .summary = "Builds the sandboxes that CluPy's tasks run in, and says why they ended",
        .manual = "clupy-launcher(8)",
};

static void stop(Daemon *daemon, void *userdata) {
        manager_stop(userdata);
}

int main(int argc, char *argv[]) {
        _cleanup_(daemon_freep) Daemon *daemon = NULL;
        _cleanup_(manager_freep) Manager *manager = NULL;
        const DaemonHandlers handlers = { .stop = stop };
        DaemonArguments arguments;
        int r = daemon_parse_arguments(&program, argc, argv, NULL, &arguments);

        if (r != DAEMON_GO_ON)
                return r;
        if (SANDBOX_IS_OFF)
                log_warning("This is the launcher of the tests: its tasks run as root, without any sandbox");
        r = manager_new(&manager);
        if (r < 0)
                return log_oom(), EXIT_FAILURE;
        r = manager_prepare(manager);
        if (r < 0)
                return EXIT_FAILURE;
        r = daemon_new(&program, &handlers, manager, &daemon);
        if (r < 0)
                return log_error_errno(r, "Cannot make the event loop"), EXIT_FAILURE;
        r = manager_start(manager, daemon);
        if (r < 0)
                return EXIT_FAILURE;
        daemon_ready(daemon, "Waiting for an agent");
        return daemon_run(daemon);
}
