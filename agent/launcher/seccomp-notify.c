/* SPDX-License-Identifier: Apache-2.0 */
#include "seccomp-notify.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "attempt.h"
#include "cgroup.h"
#include "log.h"
#include "pair.h"
#include "text-file.h"

char *seccomp_call_name(int number, uint32_t architecture, char *buffer, size_t size) {
        _cleanup_(freep) char *name = seccomp_syscall_resolve_num_arch(architecture, number);

        if (name)
                (void) snprintf(buffer, size, "%s", name);
        else
                (void) snprintf(buffer, size, "system call %d", number);
        return buffer;
}

/* The task itself, or a child or thread of it: then its cgroup names the scope. */
static Pair *pair_of_pid(Zygote *zygote, pid_t pid) {
        char text[4096], token[CGROUP_TOKEN_SIZE];

        for (unsigned i = 0; i < PAIRS_MAX; i++) {
                Pair *pair = zygote->manager->pairs[i];
                if (pair && pair->zygote == zygote && pair->task_pid == pid && !pair->task_reaped)
                        return pair;
        }
        if (text_file_read(text, sizeof(text), "/proc/%d/cgroup", (int) pid) < 0 ||
            !cgroup_find_token(text, token))
                return NULL;
        Pair *pair = pair_by_token(zygote->manager, token);
        return pair && pair->zygote == zygote ? pair : NULL;
}

static int on_notification(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Zygote *zygote = userdata;
        struct seccomp_notif notification = {}; /* the kernel insists on zeros */
        char name[64], why[128];

        if (!(events & EPOLLIN)) { /* nobody is left who could call */
                zygote->on_listener = sd_event_source_disable_unref(zygote->on_listener);
                return 0;
        }
        if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &notification) < 0)
                return 0; /* ENOENT: the caller has died meanwhile */

        const int number = notification.data.nr;
        const uint32_t architecture = notification.data.arch;
        Pair *pair = pair_of_pid(zygote, (pid_t) notification.pid);
        if (ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &notification.id) < 0)
                return 0; /* gone: the pid may be another's by now */
        (void) seccomp_call_name(number, architecture, name, sizeof(name));
        if (pair) {
                log_info("%s tried %s", pair->scope.name, name);
                if (pair->attempt && pair->state == PAIR_RUNNING)
                        attempt_refused(pair->attempt, number, architecture);
                pair_kill(pair);
                return 0;
        }
        (void) snprintf(why, sizeof(why), "it tried the system call %s", name);
        zygote->environment_broken = true;
        zygote_fail(zygote, why);
        return 0;
}

int seccomp_notify_attach(Zygote *zygote) {
        return sd_event_add_io(zygote->manager->event, &zygote->on_listener, zygote->listener, EPOLLIN,
                               on_notification, zygote);
}
