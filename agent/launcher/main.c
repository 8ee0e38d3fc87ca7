/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "daemon.h"
#include "log.h"
#include "manager.h"
#include "sandbox-switch.h"
#include "upgrade.h"

static const DaemonProgram program = {
        .name = "clupy-launcher",
        .summary = "Builds the sandboxes that CluPy's tasks run in, and says why they ended",
        .manual = "clupy-launcher(8)",
};

static void reload(Daemon *daemon, void *userdata) {
        upgrade_begin(userdata);
}

static void stop(Daemon *daemon, void *userdata) {
        manager_stop(userdata);
}

int main(int argc, char *argv[]) {
        _cleanup_(daemon_freep) Daemon *daemon = NULL;
        _cleanup_(manager_freep) Manager *manager = NULL;
        _cleanup_(upgrade_state_freep) UpgradeState *state = NULL;
        const DaemonHandlers handlers = { .stop = stop, .reload_begin = reload };
        DaemonArguments arguments;
        const char *why = "";
        const int received = upgrade_receive(&state, &why); /* before anything is opened */
        int r = daemon_parse_arguments(&program, argc, argv, NULL, &arguments);

        if (r != DAEMON_GO_ON)
                return r;
        if (SANDBOX_IS_OFF)
                log_warning("This is the launcher of the tests: its tasks run as root, without any sandbox");
        if (received < 0) {
                /* In this process nothing can be made anew: its filter is in place. The service manager
                 * starts another one, which finds what is left and ends it. */
                log_error_errno(received, "Cannot take over from the former version: %s; starting afresh",
                                why);
                return EXIT_FAILURE;
        }
        r = upgrade_prepare(argv);
        if (r < 0)
                return log_error_errno(r, "Cannot find out my own path"), EXIT_FAILURE;
        r = manager_new(&manager);
        if (r < 0)
                return log_oom(), EXIT_FAILURE;
        r = manager_prepare(manager, state);
        if (r < 0)
                return EXIT_FAILURE;
        r = daemon_new(&program, &handlers, manager, &daemon);
        if (r < 0)
                return log_error_errno(r, "Cannot make the event loop"), EXIT_FAILURE;
        r = manager_start(manager, state, daemon);
        if (r < 0)
                return EXIT_FAILURE;
        if (state) {
                upgrade_finish(manager, state);
                daemon_ready(daemon, "Upgraded");
                manager_status(manager);
        } else
                daemon_ready(daemon, "Waiting for an agent");
        state = upgrade_state_free(state);
        return daemon_run(daemon);
}
