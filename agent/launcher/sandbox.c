/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "build-config.h"
#include "fd-util.h"
#include "sandbox-switch.h"

static const struct {
        const char *name;
        void (*main)(void);
} roles[_SPAWN_KIND_MAX] = {
        [SPAWN_ZYGOTE] = { "stage", stage_main },
        [SPAWN_BUILD] = { "build", build_main },
        [SPAWN_REMOVER] = { "remove", remover_main },
};

/* A fresh exec, so that what runs in the hostile program's namespaces shares no address layout with another.
 */
_noreturn_ static void exec_stage(SpawnKind kind, int socket) {
        char *const arguments[] = { (char *) "clupy-sandbox", (char *) roles[kind].name, NULL };
        char *const variables[] = { NULL };
        int kept[] = { socket };

        if (fds_arrange(SANDBOX_CONTROL_FD, kept, ELEMENTSOF(kept)) < 0)
                _exit(EXIT_FAILURE);
        (void) execve("/proc/self/exe", arguments, variables);
        _exit(127);
}

/* The launcher has been upgraded. Whoever it is then, it has the same pid, socket and parent. Returns when
 * that is not possible, and all goes on with this one. */
static void exec_again(void) {
        char *const arguments[] = { (char *) "clupy-sandbox", (char *) "spawner", NULL };
        char *const variables[] = { NULL };

        (void) execve(CLUPY_PROGRAM_DIR "/" SANDBOX_PROGRAM, arguments, variables);
}

_noreturn_ static void spawner_main(void) {
        if (die_with_launcher(SANDBOX_CONTROL_FD) < 0)
                _exit(EXIT_FAILURE);
        for (;;) {
                SpawnRequest request;
                int socket, pidfd = -1;

                if (message_receive(SANDBOX_CONTROL_FD, &request, sizeof(request), &socket, 1) < 0)
                        _exit(EXIT_SUCCESS);
                if (request.slot == SPAWN_AGAIN) {
                        close_fd(socket);
                        exec_again();
                        continue;
                }
                if (request.kind == SPAWN_DEVICES) {
                        devices_hand_over(&request, socket);
                        close_fd(socket);
                        continue;
                }
                pid_t pid = request.kind < _SPAWN_KIND_MAX
                                    ? sandbox_clone(CLONE_PARENT | CLONE_NEWNS, &pidfd)
                                    : -EINVAL;
                if (pid == 0)
                        exec_stage(request.kind, socket);
                SpawnReply reply = { .slot = request.slot,
                                     .kind = request.kind,
                                     .error = pid < 0 ? (int32_t) pid : 0 };
                if (message_send(SANDBOX_CONTROL_FD, &reply, sizeof(reply), &pidfd, pid > 0 ? 1 : 0) < 0)
                        _exit(EXIT_FAILURE);
                close_fd(pidfd);
                close_fd(socket);
        }
}

int main(int argc, char *argv[]) {
        if (argc == 2)
                sandbox_title_prepare(argc, argv);
        if (argc == 2 && streq(argv[1], "spawner"))
                spawner_main();
        for (size_t i = 0; argc == 2 && i < ELEMENTSOF(roles); i++)
                if (streq(argv[1], roles[i].name))
                        roles[i].main();
        static const char message[] = SANDBOX_PROGRAM " is started by its launcher alone\n";
        (void) !write(STDERR_FILENO, message, sizeof(message) - 1);
        return EXIT_FAILURE;
}
