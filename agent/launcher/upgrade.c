/* SPDX-License-Identifier: Apache-2.0 */
#include "upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent-link.h"
#include "attempt.h"
#include "build.h"
#include "fd-util.h"
#include "lease.h"
#include "log.h"
#include "pair.h"
#include "parse-util.h"
#include "spawner.h"
#include "time-util.h"
#include "verify.h"
#include "zygote.h"

#define STATE_VARIABLE "CLUPY_UPGRADE_FD"
#define STATE_SIZE_MAX (64 << 20)
#define QUIET_TIMEOUT (10 * USEC_PER_SEC)

enum { PATH_SIZE = 4096 }; /* a page */

struct Upgrade {
        sd_event_source *on_quiet, *timer;
        uint64_t begun_usec;
};

static char *const path = (char *) (uintptr_t) BPF_LAUNCHER_PATH; /* once upgrade_prepare() has made it */
static char **arguments;
static uint64_t programs; /* which ones this process and what it starts are */

/* ---- in the former version */

/* Programs are replaced as files, never written to. */
static uint64_t identify_programs(void) {
        static const char *const names[] = { "clupy-launcher", "clupy-sandbox", "clupy-zygote" };
        const char *slash = strrchr(path, '/');
        char file[PATH_SIZE + 32];
        struct stat st;
        uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a, by words */

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                (void) snprintf(file, sizeof(file), "%.*s/%s", (int) (slash - path), path, names[i]);
                if (stat(file, &st) < 0)
                        continue;
                const uint64_t words[] = { st.st_dev, st.st_ino, (uint64_t) st.st_size,
                                           (uint64_t) st.st_mtim.tv_sec, (uint64_t) st.st_mtim.tv_nsec };
                for (size_t w = 0; w < ELEMENTSOF(words); w++)
                        hash = (hash ^ words[w]) * UINT64_C(0x100000001b3);
        }
        return hash;
}

int upgrade_prepare(char *argv[]) {
        char program[PATH_SIZE];
        ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);

        if (n < 0)
                return -errno;
        program[n] = '\0';
        void *page = mmap(path, PATH_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (page == MAP_FAILED)
                return -errno;
        memcpy(path, program, (size_t) n + 1);
        arguments = argv;
        programs = identify_programs();
        return mprotect(page, PATH_SIZE, PROT_READ) < 0 ? -errno : 0;
}

uint64_t upgrade_timer_save(sd_event_source *timer) {
        int enabled = SD_EVENT_OFF;
        uint64_t usec;

        if (!timer || sd_event_source_get_enabled(timer, &enabled) < 0 || enabled == SD_EVENT_OFF ||
            sd_event_source_get_time(timer, &usec) < 0)
                return USEC_INFINITY;
        return usec;
}

int upgrade_timer_restore(sd_event *event, sd_event_source **ret, uint64_t usec,
                          sd_event_time_handler_t handler, void *userdata) {
        if (usec == USEC_INFINITY)
                return 0;
        return sd_event_add_time(event, ret, CLOCK_MONOTONIC, usec, 0, handler, userdata);
}

static int manager_save(const Manager *manager, ManagerRecord *record) {
        BpfList list;
        int r = bpf_launcher_make(&list);

        if (r < 0)
                return r;
        record->frozen = manager->frozen;
        record->protocol_version = LAUNCHER_PROTOCOL_VERSION;
        memcpy(record->instance, manager->instance, sizeof(record->instance));
        record->network_empty = manager->network_empty;
        record->network_host = manager->network_host;
        record->base_filters = manager->base_filters;
        record->lease_until_usec = manager->lease_until_usec;
        record->frozen_at_usec = manager->frozen_at_usec;
        record->begun_usec = manager->upgrade->begun_usec;
        record->programs = programs;
        record->settings = manager->settings;
        record->filter_size = list.n;
        memcpy(record->filter, list.instructions, sizeof(record->filter));
        spawner_save(manager->spawner, record);
        agent_link_save(manager->link, record);
        return 0;
}

/* Those that wait come last, in their order. */
static void attempts_save(const Manager *manager, AttemptRecord *records) {
        Attempt *attempt;
        size_t n = 0;

        HASHMAP_FOREACH(attempt, manager->attempts)
                if (!attempt->is_waiting)
                        attempt_save(attempt, records + n++);
        LIST_FOREACH(Attempt, waiting, waiting, &manager->waiting)
                attempt_save(waiting, records + n++);
}

static size_t count_zygotes(const Manager *manager) {
        size_t n = 0;

        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                n++;
        return n;
}

static int collect(const Manager *manager, UpgradeState **ret) {
        _cleanup_(upgrade_state_freep) UpgradeState *state = NULL;
        size_t n = 0;
        int r;

        r = upgrade_state_new(count_zygotes(manager), manager->n_pairs, hashmap_size(manager->attempts),
                              &state);
        if (r >= 0)
                r = manager_save(manager, state->manager);
        if (r < 0)
                return r;
        LIST_FOREACH(Zygote, zygote, zygotes, &manager->zygotes)
                zygote_save(zygote, state->zygotes + n++);
        n = 0;
        for (size_t i = 0; i < PAIRS_MAX; i++)
                if (manager->pairs[i])
                        pair_save(manager->pairs[i], state->pairs + n++);
        attempts_save(manager, state->attempts);
        *ret = TAKE_PTR(state);
        return 0;
}

/* The same look that the next version takes at it: what that would refuse is not handed over. */
static int check_own(const UpgradeState *state) {
        _cleanup_(upgrade_state_freep) UpgradeState *parsed = NULL;
        const char *why;
        void *copy = memdup(state->buffer, state->size);
        int r = copy ? upgrade_state_parse(copy, state->size, &parsed, &why) : -ENOMEM;

        if (r < 0 && copy)
                log_error_errno(r, "The launcher's state would not be taken: %s", why);
        return r;
}

static int program_check(void) {
        struct stat st;

        if (stat(path, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022) != 0 || !(st.st_mode & 0100))
                return -EPERM;
        return 0;
}

static int set_inherited(const int *fds, size_t n, bool inherited) {
        int r = 0;

        for (size_t i = 0; i < n; i++) {
                int r2 = fd_set_cloexec(fds[i], !inherited);
                r = r < 0 ? r : r2;
        }
        return r;
}

/* What is listed in the state is inherited, and it in that memory. Returns only when it fails. */
static int execute_with(const UpgradeState *state, int memory) {
        int *fds = NULL;
        char number[16];
        ssize_t n = upgrade_state_fds(state, &fds);
        int r;

        if (n < 0)
                return (int) n;
        (void) snprintf(number, sizeof(number), "%d", memory);
        r = setenv(STATE_VARIABLE, number, true) < 0 ? -ENOMEM : 0;
        if (r >= 0)
                r = set_inherited(fds, (size_t) n, true);
        if (r >= 0)
                r = fd_set_cloexec(memory, false);
        if (r >= 0) {
                (void) execve(path, arguments, environ);
                r = -errno;
        }
        (void) set_inherited(fds, (size_t) n, false);
        (void) unsetenv(STATE_VARIABLE);
        free(fds);
        return r;
}

/* Returns only when it fails. */
static int execute(Manager *manager) {
        _cleanup_(upgrade_state_freep) UpgradeState *state = NULL;
        int r = program_check();

        if (r >= 0)
                r = collect(manager, &state);
        if (r >= 0)
                r = check_own(state);
        if (r < 0)
                return r;
        _cleanup_(close_fdp) int memory =
                memfd_new_sealed("clupy-launcher-state", state->buffer, state->size);
        return memory < 0 ? memory : execute_with(state, memory);
}

Upgrade *upgrade_free(Upgrade *upgrade) {
        if (!upgrade)
                return NULL;
        sd_event_source_disable_unref(upgrade->on_quiet);
        sd_event_source_disable_unref(upgrade->timer);
        free(upgrade);
        return NULL;
}

static void give_up(Manager *manager, int error, const char *why) {
        log_error_errno(error, "%s is not executed, going on as before: %s", path, why);
        manager->upgrade = upgrade_free(manager->upgrade);
        daemon_reloaded(manager->daemon);
        manager_kick(manager);
}

/* After each round of the loop: whether everything is such as can be handed over. */
static int on_round(sd_event_source *source, void *userdata) {
        Manager *manager = userdata;

        if (manager->stopping) {
                give_up(manager, -ECANCELED, "it is stopping");
                return 0;
        }
        if (!builds_are_over(manager->builds) || !scope_bus_is_quiet(manager->bus) ||
            !agent_link_is_flushed(manager->link))
                return 0;
        int r = execute(manager);
        give_up(manager, r, "it cannot be");
        return 0;
}

static int on_quiet_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *manager = userdata;

        if (agent_link_is_flushed(manager->link)) {
                give_up(manager, -ETIMEDOUT, "systemd does not answer");
                return 0;
        }
        agent_link_drop(manager->link, "it does not read what it is told");
        (void) sd_event_source_set_time_relative(source, QUIET_TIMEOUT);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

void upgrade_begin(Manager *manager) {
        if (manager->upgrade)
                return;
        Upgrade *upgrade = new0(Upgrade);
        int r = upgrade ? 0 : -ENOMEM;

        manager->upgrade = upgrade;
        if (r >= 0)
                r = program_check();
        if (r >= 0) {
                builds_end_all(manager->builds, OUTCOME_INFRASTRUCTURE, "The launcher is being upgraded.");
                upgrade->begun_usec = now_usec(CLOCK_MONOTONIC);
                r = sd_event_add_post(manager->event, &upgrade->on_quiet, on_round, manager);
        }
        if (r >= 0)
                r = sd_event_add_time_relative(manager->event, &upgrade->timer, CLOCK_MONOTONIC,
                                               QUIET_TIMEOUT, 0, on_quiet_late, manager);
        if (r < 0)
                give_up(manager, r, "it cannot be");
}

/* ---- in the next version */

/* Everything but the standard streams and these, which are sorted. */
static int close_others(const int *fds, size_t n) {
        unsigned first = STDERR_FILENO + 1;

        for (size_t i = 0; i < n; i++) {
                if ((unsigned) fds[i] > first && close_range(first, (unsigned) fds[i] - 1, 0) < 0)
                        return -errno;
                first = (unsigned) fds[i] + 1;
        }
        return close_range(first, ~0U, 0) < 0 ? -errno : 0;
}

static int compare_fds(const void *left, const void *right) {
        int a = *(const int *) left, b = *(const int *) right;

        return (a > b) - (a < b);
}

static bool link_is(int fd, const char *wanted) {
        char name[64], target[64];

        (void) snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(name, target, sizeof(target) - 1);
        return n > 0 && (size_t) n == strlen(wanted) && memcmp(target, wanted, (size_t) n) == 0;
}

static bool is_socket(int fd, int type) {
        int found, domain;
        socklen_t size = sizeof(found);

        return getsockopt(fd, SOL_SOCKET, SO_TYPE, &found, &size) == 0 && found == type &&
               getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

static bool is_packets(int fd) {
        return fd < 0 || is_socket(fd, SOCK_SEQPACKET);
}

static bool is_memory(int fd) {
        return fd < 0 || fcntl(fd, F_GET_SEALS) >= 0;
}

static bool is_network(int fd) {
        return ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET;
}

/* A child of ours that is not reaped, or was. */
static bool is_process(int fd, pid_t pid, bool reaped) {
        if (fd < 0)
                return true;
        return reaped ? link_is(fd, "anon_inode:[pidfd]") || link_is(fd, "anon_inode:pidfd")
                      : pidfd_to_pid(fd) == pid && verify_is_child(fd);
}

/* Is each file descriptor what it is said to be? Returns NULL, or what is not. */
static const char *kinds_check(const UpgradeState *state) {
        const ManagerRecord *m = state->manager;

        if (!is_network(m->network_empty) || !is_network(m->network_host))
                return "a network namespace";
        if (!is_process(m->spawner_pidfd, m->spawner_pid, false) || !is_packets(m->spawner_socket))
                return "the spawner";
        if (!is_packets(m->listener) || !is_packets(m->connection))
                return "the agent's socket";
        for (size_t i = 0; i < m->n_zygotes; i++) {
                const ZygoteRecord *z = state->zygotes + i;
                for (size_t p = 0; p < ELEMENTSOF(z->pids); p++)
                        if (!is_process(z->pidfds[p], z->pids[p], false))
                                return "a zygote's process";
                if (!is_packets(z->stage_socket) || !is_packets(z->builder_socket) ||
                    !is_packets(z->zygote_socket) || !is_packets(z->child_fds[0]) ||
                    !is_packets(z->child_fds[1]) ||
                    (z->child_fds[2] >= 0 && !is_socket(z->child_fds[2], SOCK_STREAM)))
                        return "a zygote's socket";
                if (!is_memory(z->outer) || !is_memory(z->final) ||
                    (z->listener >= 0 && !link_is(z->listener, "anon_inode:seccomp notify")))
                        return "a zygote's filter";
        }
        for (size_t i = 0; i < m->n_pairs; i++) {
                const PairRecord *p = state->pairs + i;
                if (!is_process(p->init_pidfd, p->init_pid, false) ||
                    !is_process(p->task_pidfd, p->task_pid, p->flags & PAIR_TASK_REAPED))
                        return "a sandbox's process";
                if (!is_packets(p->init_socket) || !is_packets(p->task_socket) ||
                    !is_socket(p->journal, SOCK_STREAM))
                        return "a sandbox's socket";
        }
        for (size_t i = 0; i < m->n_attempts; i++) {
                const AttemptRecord *a = state->attempts + i;
                if (!is_memory(a->fds[0]) || !is_memory(a->fds[1]) || !is_memory(a->result_fd))
                        return "an attempt's memory";
        }
        return NULL;
}

static int read_memory(int memory, void **ret, size_t *ret_size) {
        uint64_t size;
        int r = memfd_check_sealed(memory, &size);

        if (r < 0)
                return r;
        if (size > STATE_SIZE_MAX)
                return -EFBIG;
        _cleanup_(freep) char *buffer = malloc(size + 1);
        if (!buffer)
                return -ENOMEM;
        if (lseek(memory, 0, SEEK_SET) < 0)
                return -errno;
        ssize_t n = fd_read_full(memory, buffer, size);
        if (n < 0)
                return (int) n;
        *ret = TAKE_PTR(buffer);
        *ret_size = (size_t) n;
        return 0;
}

int upgrade_receive(UpgradeState **ret, const char **ret_why) {
        _cleanup_(upgrade_state_freep) UpgradeState *state = NULL;
        _cleanup_(freep) int *fds = NULL;
        const char *text = getenv(STATE_VARIABLE);
        uint64_t number;
        void *buffer = NULL;
        size_t size = 0;
        int r;

        if (!text)
                return 0;
        r = parse_uint64(text, &number);
        (void) unsetenv(STATE_VARIABLE);
        *ret_why = "no state came with it";
        if (r < 0 || number <= STDERR_FILENO || number > INT32_MAX)
                return -EBADF;
        int memory = (int) number;
        r = read_memory(memory, &buffer, &size);
        if (r < 0)
                return r;
        r = upgrade_state_parse(buffer, size, &state, ret_why);
        if (r < 0)
                return r;
        ssize_t n = upgrade_state_fds(state, &fds);
        if (n < 0)
                return (int) n;
        qsort(fds, (size_t) n, sizeof(*fds), compare_fds);
        *ret_why = "a file descriptor of its state is not there";
        r = set_inherited(fds, (size_t) n, false);
        if (r >= 0)
                r = close_others(fds, (size_t) n);
        if (r < 0)
                return r;
        const char *wrong = kinds_check(state);
        if (wrong) {
                *ret_why = wrong;
                return -ESTALE;
        }
        *ret = TAKE_PTR(state);
        return 1;
}

int upgrade_restore(Manager *manager, const UpgradeState *state, const char **ret_why) {
        const ManagerRecord *m = state->manager;
        int r = 0;

        memcpy(manager->instance, m->instance, sizeof(manager->instance));
        *ret_why = "zygotes";
        for (size_t i = 0; i < m->n_zygotes && r >= 0; i++)
                r = zygote_restore(manager, state->zygotes + i);
        if (r < 0)
                return r;
        *ret_why = "sandboxes";
        for (size_t i = 0; i < m->n_pairs && r >= 0; i++)
                r = pair_restore(manager, state->pairs + i);
        if (r < 0)
                return r;
        *ret_why = "attempts";
        for (size_t i = 0; i < m->n_attempts && r >= 0; i++)
                r = attempt_restore(manager, state->attempts + i);
        if (r < 0)
                return r;
        /* Only now does it matter whose each pair is. */
        *ret_why = "sandboxes";
        for (size_t i = 0; i < m->n_pairs && r >= 0; i++)
                r = pair_resume(manager->pairs[state->pairs[i].slot], state->pairs + i);
        if (r < 0)
                return r;
        *ret_why = "the lease";
        r = lease_restore(manager, m->lease_until_usec, m->frozen, m->frozen_at_usec);
        if (r < 0)
                return r;
        manager_kick(manager);
        return 0;
}

/* What lives was made by the former version's programs. What runs goes on with them; what comes is not to.
 */
static void renew(Manager *manager) {
        const size_t n = count_zygotes(manager);
        Attempt *attempt;

        log_notice("The programs are others: zygotes are made anew");
        spawner_renew(manager->spawner);
        HASHMAP_FOREACH(attempt, manager->attempts)
                if (attempt->is_waiting)
                        attempt->tries = 0; /* that its zygote goes now is not its fault */
        for (size_t i = 0; i < n; i++) {
                Zygote *zygote = LIST_FIRST(Zygote, zygotes, &manager->zygotes), *next;
                if (!zygote)
                        break;
                const LauncherKey key = zygote->key;
                const unsigned pool = zygote->pool_target;

                list_remove(&zygote->zygotes); /* behind those that are still to be looked at */
                list_append(&manager->zygotes, &zygote->zygotes);
                if (zygote->state > ZYGOTE_WARM)
                        continue;
                zygote_end(zygote, "its program is another one now");
                if (pool > 0 && zygote_get(manager, &key, &next) >= 0)
                        next->pool_target = pool;
        }
}

void upgrade_finish(Manager *manager, const UpgradeState *state) {
        const ManagerRecord *m = state->manager;

        if (m->programs != programs)
                renew(manager);

        log_notice("Took over %" PRIu32 " zygotes, %" PRIu32 " sandboxes and %" PRIu32
                   " attempts; that took %s",
                   m->n_zygotes, m->n_pairs, m->n_attempts,
                   FORMAT_DURATION(usec_sub(now_usec(CLOCK_MONOTONIC), m->begun_usec)));
}

int upgrade_filter_install(const UpgradeState *state) {
        BpfList list;
        int r = bpf_launcher_make(&list);

        if (r < 0)
                return r;
        /* Filters stay, and each costs with every call: the same one is not needed twice. */
        if (state && state->manager->filter_size == list.n &&
            memcmp(state->manager->filter, list.instructions, sizeof(list.instructions)) == 0)
                return 0;
        return bpf_install(list.instructions, list.n, 0);
}
