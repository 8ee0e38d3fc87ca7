/* SPDX-License-Identifier: Apache-2.0 */
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fd-util.h"
#include "sandbox-switch.h"
#include "sandbox.h"

/* Makes an init for each attempt, in namespaces of its own. It never runs anything of a stranger's, and its
 * uid is not mapped inside, so that the zygote, which may take any mapped one, can neither signal nor trace
 * it. */
void builder_main(int socket, bool host_network) {
        const uint64_t flags = CLONE_PARENT | (SANDBOX_IS_OFF ? 0
                                                              : CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC |
                                                                        (host_network ? 0 : CLONE_NEWNET));

        sandbox_title_set("clupy-builder");
        for (;;) {
                ZygoteRequest request;
                int init_socket, pidfd = -EBADF;

                if (message_receive(socket, &request, sizeof(request), &init_socket, 1) < 0)
                        _exit(EXIT_SUCCESS); /* the launcher has closed it */
                pid_t pid = sandbox_clone(flags, &pidfd);
                if (pid == 0)
                        init_main(init_socket, &request, host_network);
                ZygoteReply reply = { .op = ZYGOTE_MADE,
                                      .slot = request.slot,
                                      .error = pid < 0 ? (int32_t) pid : 0 };
                if (message_send(socket, &reply, sizeof(reply), &pidfd, pid > 0 ? 1 : 0) < 0)
                        _exit(EXIT_FAILURE);
                close_fd(pidfd);
                close_fd(init_socket);
        }
}
