/* SPDX-License-Identifier: Apache-2.0 */
#include "spawner.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "build-config.h"
#include "build.h"
#include "device.h"
#include "fd-util.h"
#include "log.h"
#include "message-socket.h"
#include "sandbox-protocol.h"
#include "sandbox-switch.h"
#include "upgrade-record.h"
#include "zygote.h"

struct Spawner {
        Manager *manager;
        pid_t pid;
        int pidfd, socket;
        sd_event_source *on_reply, *on_exit;
};

_noreturn_ static void exec_spawner(int socket) {
        char *const arguments[] = { (char *) "clupy-sandbox", (char *) "spawner", NULL };
        char *const variables[] = { NULL };
        int kept[] = { socket };
        sigset_t set;

        (void) sigemptyset(&set);
        (void) sigprocmask(SIG_SETMASK, &set, NULL);
        if (fds_arrange(SANDBOX_CONTROL_FD, kept, 1) >= 0)
                (void) execve(CLUPY_PROGRAM_DIR "/" SANDBOX_PROGRAM, arguments, variables);
        _exit(127);
}

int spawner_new(Manager *manager, Spawner **ret) {
        _cleanup_(freep) Spawner *spawner = new0(Spawner);
        int pair[2];

        if (!spawner)
                return -ENOMEM;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        pid_t pid = fork();
        if (pid == 0)
                exec_spawner(pair[1]);
        int saved = errno;
        close_fd(pair[1]);
        if (pid < 0) {
                close_fd(pair[0]);
                return -saved;
        }
        *spawner =
                (Spawner){ .manager = manager, .pid = pid, .pidfd = pidfd_open(pid, 0), .socket = pair[0] };
        *ret = TAKE_PTR(spawner);
        return 0;
}

void spawner_save(const Spawner *spawner, ManagerRecord *record) {
        record->spawner_pid = spawner->pid;
        record->spawner_pidfd = spawner->pidfd;
        record->spawner_socket = spawner->socket;
}

int spawner_restore(Manager *manager, const ManagerRecord *record, Spawner **ret) {
        Spawner *spawner = new0(Spawner);

        if (!spawner)
                return -ENOMEM;
        *spawner = (Spawner){ .manager = manager,
                              .pid = record->spawner_pid,
                              .pidfd = record->spawner_pidfd,
                              .socket = record->spawner_socket };
        *ret = spawner;
        return 0;
}

Spawner *spawner_free(Spawner *spawner) {
        if (!spawner)
                return NULL;
        sd_event_source_disable_unref(spawner->on_reply);
        sd_event_source_disable_unref(spawner->on_exit);
        close_fd(spawner->socket);
        close_fd(spawner->pidfd);
        free(spawner);
        return NULL;
}

pid_t spawner_pid(const Spawner *spawner) {
        return spawner->pid;
}

static int on_reply(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Spawner *spawner = userdata;
        Manager *manager = spawner->manager;
        SpawnReply reply;
        int pidfd = -EBADF;
        size_t n_fds;
        ssize_t n = fd_receive_with_fds(fd, &reply, sizeof(reply), &pidfd, 1, &n_fds);

        if (n == -EAGAIN)
                return 0;
        if (n != sizeof(reply)) {
                spawner->on_reply = sd_event_source_disable_unref(spawner->on_reply);
                return 0; /* its exit tells the rest */
        }
        if (n_fds == 0)
                pidfd = -EBADF;
        if (reply.kind != SPAWN_ZYGOTE) {
                builds_process_made(manager->builds, (SpawnKind) reply.kind, reply.slot, reply.error, pidfd);
                return 0;
        }
        Zygote *zygote =
                reply.slot < manager->settings.zygotes_max ? manager->zygote_slots[reply.slot] : NULL;
        if (zygote)
                zygote_stage_made(zygote, reply.error, pidfd);
        else if (pidfd >= 0) {
                (void) pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
                close_fd(pidfd); /* reaped as one that nobody knows */
        }
        return 0;
}

static int on_exit_of_spawner(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Spawner *spawner = userdata;
        siginfo_t information = {};

        (void) waitid(P_PIDFD, (id_t) fd, &information, WEXITED);
        log_error("%s ended (status %d); nothing can be started without it",
                  CLUPY_PROGRAM_DIR "/" SANDBOX_PROGRAM, information.si_status);
        daemon_exit(spawner->manager->daemon, EXIT_FAILURE);
        return 0;
}

int spawner_attach(Spawner *spawner) {
        sd_event *event = spawner->manager->event;
        int r;

        if (spawner->pidfd < 0)
                return -ESRCH;
        r = sd_event_add_io(event, &spawner->on_reply, spawner->socket, EPOLLIN, on_reply, spawner);
        if (r >= 0)
                r = sd_event_add_io(event, &spawner->on_exit, spawner->pidfd, EPOLLIN, on_exit_of_spawner,
                                    spawner);
        return r;
}

int spawner_order(Spawner *spawner, SpawnKind kind, unsigned slot, int socket) {
        const SpawnRequest request = { .slot = slot, .kind = (uint32_t) kind };

        return fd_send_with_fds(spawner->socket, &request, sizeof(request), &socket, 1);
}

int spawner_order_devices(Spawner *spawner, const LauncherDevices *devices, int socket) {
        SpawnRequest request = { .kind = SPAWN_DEVICES };
        const char *paths[DEVICES_OF_TASK_MAX];
        size_t n = device_paths(&spawner->manager->settings, devices, paths);

        request.n_devices = (uint32_t) n;
        for (size_t i = 0; i < n; i++)
                memcpy(request.devices[i], paths[i], DEVICE_PATH_MAX); /* the settings' own fields */
        return fd_send_with_fds(spawner->socket, &request, sizeof(request), &socket, 1);
}

void spawner_renew(Spawner *spawner) {
        const SpawnRequest request = { .slot = SPAWN_AGAIN };
        int r = fd_send_with_fds(spawner->socket, &request, sizeof(request), NULL, 0);

        if (r < 0)
                log_warning_errno(r, "The spawner goes on with its former program");
}
