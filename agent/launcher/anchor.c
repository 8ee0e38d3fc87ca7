/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox.h"

/* PID 1 of the zygote's PID namespace. Its death ends builder, zygote and all tasks at once, and nobody
 * inside can kill it. socket: the stage's; launcher: a socket whose other end the launcher holds. */
void anchor_main(int socket, int launcher) {
        char c = 0;

        sandbox_title_set("clupy-anchor");
        /* Until proc is mounted and the ids are mapped: only then may the mount namespace become the user
         * namespace's, which locks all mounts in it. */
        if (message_receive(socket, &c, sizeof(c), NULL, 0) < 0 || unshare(CLONE_NEWNS | CLONE_NEWIPC) < 0 ||
            capabilities_set(0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            die_with_launcher(launcher) < 0 || message_send(socket, &c, sizeof(c), NULL, 0) < 0)
                _exit(EXIT_FAILURE);
        (void) close_range(0, ~0U, 0);

        /* Orphans of the zygote. Without any child the wait is for the signal that the next one brings. */
        sigset_t set;
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGCHLD);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        for (;;) {
                while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
                        ;
                (void) sigwaitinfo(&set, NULL);
        }
}
