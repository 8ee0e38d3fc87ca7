/* SPDX-License-Identifier: Apache-2.0 */

/* The bare limit: how many calls a second this machine can give when each has a forked CPython and a systemd
 * scope with three limits of its own, and nothing else: no sandbox beyond a mount and an IPC namespace, no
 * launcher, no network, no queue. CluPy's own figure is a share of this one.
 *
 * usage: bare-limit CALLS IN_FLIGHT; prints one JSON object. Root, inside a node that systemd runs. */
#include <Python.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

typedef struct Child {
        pid_t pid;
        int socket;
        double begin; /* seconds */
        char scope[64];
} Child;

static Child children[256];
static unsigned in_flight, finished, total, started, width;
static sd_bus *bus;
static double *took; /* milliseconds each, in the order of their ends */

static double now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void fail(const char *what, int error) {
        fprintf(stderr, "bare-limit: %s: %s\n", what, strerror(error < 0 ? -error : error));
        exit(1);
}

static _Noreturn void child_run(int socket) {
        char byte = 0;
        if (unshare(CLONE_NEWNS | CLONE_NEWIPC) < 0)
                _exit(2);
        PyOS_AfterFork_Child();
        if (read(socket, &byte, 1) != 1)
                _exit(3);
        PyObject *result = PyRun_String("[n for n in range(2, 100) if all(n % d for d in range(2, n))]",
                                        Py_eval_input, PyModule_GetDict(PyImport_AddModule("__main__")),
                                        PyModule_GetDict(PyImport_AddModule("__main__")));
        if (!result || write(socket, "r", 1) != 1)
                _exit(4);
        _exit(0);
}

static void child_start(Child *child) {
        sd_bus_message *message = NULL;
        int pair[2], r;

        child->begin = now();
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                fail("socketpair", errno);
        PyOS_BeforeFork();
        child->pid = fork();
        if (child->pid == 0) {
                close(pair[0]);
                child_run(pair[1]);
        }
        PyOS_AfterFork_Parent();
        if (child->pid < 0)
                fail("fork", errno);
        close(pair[1]);
        child->socket = pair[0];
        snprintf(child->scope, sizeof child->scope, "bare-%d-%u.scope", getpid(), started++);

        r = sd_bus_message_new_method_call(bus, &message, "org.freedesktop.systemd1",
                                           "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                                           "StartTransientUnit");
        if (r >= 0)
                r = sd_bus_message_append(message, "ssa(sv)a(sa(sv))", child->scope, "fail", 6, "PIDs", "au",
                                          1, (uint32_t) child->pid, "Slice", "s", "bare.slice",
                                          "CollectMode", "s", "inactive-or-failed", "MemoryMax", "t",
                                          (uint64_t) 512 << 20, "CPUQuotaPerSecUSec", "t",
                                          (uint64_t) 1000000, "TasksMax", "t", (uint64_t) 64, 0);
        if (r >= 0)
                r = sd_bus_send(bus, message, NULL);
        if (r < 0)
                fail("StartTransientUnit", r);
        sd_bus_message_unref(message);
        in_flight++;
}

static int on_job_removed(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        const char *job, *unit, *result;
        uint32_t id;
        char byte;

        if (sd_bus_message_read(message, "uoss", &id, &job, &unit, &result) < 0)
                return 0;
        for (unsigned i = 0; i < width; i++) {
                Child *child = &children[i];
                if (child->pid <= 0 || strcmp(child->scope, unit) != 0)
                        continue;
                if (strcmp(result, "done") != 0)
                        fail(unit, EIO);
                if (write(child->socket, "g", 1) != 1 || read(child->socket, &byte, 1) != 1 ||
                    waitpid(child->pid, NULL, 0) != child->pid)
                        fail("child", errno);
                close(child->socket);
                child->pid = 0;
                in_flight--;
                took[finished++] = (now() - child->begin) * 1000;
                if (started < total)
                        child_start(child);
                break;
        }
        return 0;
}

static int compare(const void *left, const void *right) {
        double l = *(const double *) left, r = *(const double *) right;
        return l < r ? -1 : l > r;
}

int main(int argc, char **argv) {
        if (argc != 3)
                return fprintf(stderr, "usage: bare-limit CALLS IN_FLIGHT\n"), 2;
        total = (unsigned) atoi(argv[1]);
        width = (unsigned) atoi(argv[2]);
        if (width == 0 || width > 256 || total < width)
                return fprintf(stderr, "bare-limit: 1 to 256 in flight, at least as many calls\n"), 2;

        took = calloc(total, sizeof *took);
        if (!took)
                fail("calloc", errno);
        Py_Initialize();
        PyRun_SimpleString("import gc; gc.collect(); gc.freeze()");
        int r = sd_bus_new(&bus);
        if (r >= 0)
                r = sd_bus_set_address(bus, "unix:path=/run/systemd/private");
        if (r >= 0)
                r = sd_bus_start(bus);
        if (r >= 0)
                r = sd_bus_match_signal(bus, NULL, NULL, "/org/freedesktop/systemd1",
                                        "org.freedesktop.systemd1.Manager", "JobRemoved", on_job_removed,
                                        NULL);
        if (r < 0)
                fail("systemd", r);

        double begin = now();
        for (unsigned i = 0; i < width; i++)
                child_start(&children[i]);
        while (finished < total) {
                r = sd_bus_process(bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(bus, UINT64_MAX);
                if (r < 0)
                        fail("bus", r);
        }
        double seconds = now() - begin;
        qsort(took, total, sizeof *took, compare);
        printf("{\"calls\": %u, \"in_flight\": %u, \"calls_per_second\": %.1f, \"p50_ms\": %.3f, "
               "\"p99_ms\": %.3f}\n",
               total, width, total / seconds, took[total / 2], took[total * 99UL / 100]);
        return 0;
}
