/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "environment-report.h"
#include "environments-internal.h"
#include "fd-util.h"
#include "log.h"
#include "outcome.h"
#include "parse-util.h"
#include "time-util.h"

enum {
        TRIES_MAX = 3,
        REFUSALS_MAX = 60, /* by a launcher that is busy, one a second */
        WHY_SIZE = 512,
};
#define TRY_AGAIN_USEC USEC_PER_SEC
#define LIBRARIES_UNKNOWN "the builder does not report what it made"

void environment_try_again(Environment *e, uint64_t pause_usec, const char *why) {
        if (e->unwanted) {
                environment_set_state(e, ENVIRONMENT_REMOVED);
                return;
        }
        if (e->tries >= TRIES_MAX) {
                environment_fail(e, "infrastructure", why);
                return;
        }
        log_notice("Environment %s is tried again: %s", e->name, why);
        e->not_before = now_usec(CLOCK_MONOTONIC) + pause_usec;
        environment_set_state(e, ENVIRONMENT_WAITING);
}

static void fill_request(const Environment *e, LauncherRequest *request) {
        const ServerConfig *config = e->table->config;
        LauncherBuild *build = &request->build;

        request->op = LAUNCHER_BUILD;
        memcpy(build->environment, e->name, sizeof(build->environment));
        memcpy(build->owner, e->order->owner, sizeof(build->owner));
        memcpy(build->python, e->order->python, sizeof(build->python));
        build->flags = (e->order->resolve ? BUILD_FLAG_RESOLVE : 0) |
                       (environment_order_needs_index(e->order) ? BUILD_FLAG_INDEX : 0);
        build->tasks_max = (uint32_t) config->environments.processes;
        build->memory_max = config->environments.memory;
        build->cpu_quota_usec = (uint64_t) (config->environments.cpus * 1e6 + 0.5);
        build->timeout_usec = config->environments.timeout;
        build->disk_max = config->environments.disk;
        build->files_max = config->environments.files;
}

/* Returns 0, also when it has failed already; -ENOTCONN when there is no launcher. */
static int environment_start(Environment *e) {
        _cleanup_(close_fdp) int fd = -EBADF;
        LauncherRequest request = { 0 };
        char why[WHY_SIZE];
        int r;

        if (!environments_have_room(e->table, e->order)) {
                snprintf(why, sizeof(why),
                         "what is in use leaves no room for it (environments.size is %s, of which a build "
                         "may need %s)",
                         FORMAT_BYTES(e->table->config->environments.size),
                         FORMAT_BYTES(e->table->config->environments.disk));
                environment_fail(e, "infrastructure", why);
                return 0;
        }
        fd = environment_order_to_memfd(e->order);
        if (fd == -EMSGSIZE) {
                environment_fail(e, "infrastructure",
                                 "its packages and their lock are more than a builder takes");
                return 0;
        }
        r = fd;
        if (r >= 0) {
                fill_request(e, &request);
                r = environments_ask(e->table, &request, &fd, 1);
        }
        if (r == -ENOTCONN)
                return r;
        if (r < 0) {
                snprintf(why, sizeof(why), "the launcher cannot be asked: %s", strerror(-r));
                environment_fail(e, "infrastructure", why);
                return 0;
        }
        e->tries++;
        environment_set_state(e, e->order->resolve ? ENVIRONMENT_RESOLVING : ENVIRONMENT_BUILDING);
        return 0;
}

void environments_queue(Environment *e) {
        Environments *t = e->table;
        uint64_t last = t->turn;
        const Environment *other;

        HASHMAP_FOREACH(other, t->all)
                if (other != e && streq(other->owner, e->owner) &&
                    (other->state == ENVIRONMENT_WAITING || environment_is_being_made(other)))
                        last = MAX(last, other->turn);
        e->turn = last + 1;
        list_append(&t->waiting, &e->waiting);
}

unsigned environments_waiting_of(const Environments *t, const char *owner) {
        const Environment *e;
        unsigned n = 0;

        HASHMAP_FOREACH(e, t->all)
                n += e->state == ENVIRONMENT_WAITING && streq(e->owner, owner);
        return n;
}

static bool owner_has_build(const Environments *t, const char *owner) {
        const Environment *e;

        HASHMAP_FOREACH(e, t->all)
                if (environment_is_being_made(e) && streq(e->owner, owner))
                        return true;
        return false;
}

/* Whether it is, though it has waited for less long. Of equal turns, whoever had the last one is behind. */
static bool is_before(const Environment *e, const Environment *other) {
        const char *last = e->table->last_owner;

        if (!*e->owner || !*other->owner)
                return *other->owner;
        return e->turn < other->turn ||
               (e->turn == other->turn && streq(other->owner, last) && !streq(e->owner, last));
}

/* Whose turn it is: everybody's first, then the owners' one after the other, and of none two at a time. */
static Environment *next_build(Environments *t) {
        const uint64_t now = now_usec(CLOCK_MONOTONIC);
        Environment *next = NULL;

        LIST_FOREACH(Environment, e, waiting, &t->waiting) {
                /* Its packages come through the master. */
                if (!t->master_up && environment_order_needs_index(e->order))
                        continue;
                if (e->not_before > now) {
                        environments_look_at(t, e->not_before);
                        continue;
                }
                if (next && !is_before(e, next))
                        continue;
                if (*e->owner && owner_has_build(t, e->owner))
                        continue;
                next = e;
        }
        return next;
}

void environments_start_builds(Environments *t) {
        Environment *e;

        while (t->counts[ENVIRONMENT_RESOLVING] + t->counts[ENVIRONMENT_BUILDING] <
                       t->config->environments.builds &&
               (e = next_build(t))) {
                t->turn = MAX(t->turn, e->turn);
                if (*e->owner)
                        memcpy(t->last_owner, e->owner, sizeof(t->last_owner));
                if (environment_start(e) < 0)
                        return;
        }
}

/* The one that an event about a build is of. */
static Environment *event_environment(Environments *t, const char field[static ENVIRONMENT_NAME_MAX]) {
        char name[ENVIRONMENT_NAME_MAX];
        Environment *e;

        snprintf(name, sizeof(name), "%.*s", ENVIRONMENT_NAME_MAX - 1, field);
        e = hashmap_get(t->all, name);
        return e && environment_is_being_made(e) ? e : NULL;
}

void environments_build_started(Environments *t, const LauncherEvent *event, int *fds, size_t n_fds) {
        Environment *e = event_environment(t, event->environment.environment);
        LauncherRequest stop = { .op = LAUNCHER_BUILD_STOP };
        char why[WHY_SIZE];
        int r;

        if (!e || e->index)
                return;
        snprintf(e->unit, sizeof(e->unit), "%.*s", UNIT_NAME_MAX - 1, event->environment.unit);
        log_info("Environment %s is being %s in %s", e->name,
                 e->state == ENVIRONMENT_RESOLVING ? "resolved" : "built", e->unit);
        if (n_fds == 0)
                return;
        r = index_port_new(t->event, fds[0], t->config->name, e->name,
                           MAX(INDEX_LINKS_MAX / t->config->environments.builds, 1U), &t->index_rate,
                           t->handlers->dial, t->userdata, &e->index);
        if (r >= 0) {
                fds[0] = -EBADF;
                return;
        }
        /* Without it all that it asks for would hang. */
        memcpy(stop.environment.environment, e->name, sizeof(stop.environment.environment));
        (void) environments_ask(t, &stop, NULL, 0);
        snprintf(why, sizeof(why), "its requests to the index cannot be taken: %s", strerror(-r));
        environment_try_again(e, TRY_AGAIN_USEC, why);
}

void environments_build_refused(Environment *e, int error, const char *text) {
        switch (error) {
        case -EEXIST: /* it is there already: how large it is, the next list says */
                environment_ready(e);
                environments_list_at(e->table, 0);
                break;
        case -EALREADY: /* that of a former connection has not quite ended */
        case -EAGAIN:
        case -EBUSY:
                if (++e->refusals <= REFUSALS_MAX)
                        e->tries--;
                environment_try_again(e, TRY_AGAIN_USEC, text);
                break;
        default:
                environment_fail(e, "infrastructure", text);
        }
}

/* Takes over what the builder reports. Returns 0, a negative errno when it is nothing that makes sense. */
static int take_report(Environment *e, const int *fds, size_t n_fds) {
        EnvironmentReport report;
        int r;

        if (n_fds < 2)
                return -ENODATA;
        r = environment_report_read(fds[1], &report);
        if (r < 0)
                return r;
        if (e->state == ENVIRONMENT_RESOLVING) {
                free(e->text);
                e->text = TAKE_PTR(report.lock);
                e->text_size = report.lock_size;
        }
        json_object_put(e->libraries);
        e->libraries = TAKE_PTR(report.libraries);
        free(e->installer);
        e->installer = TAKE_PTR(report.installer);
        environment_report_done(&report);
        return e->state == ENVIRONMENT_RESOLVING && !e->text ? -ENODATA : 0;
}

static void build_succeeded(Environment *e, const int *fds, size_t n_fds) {
        EnvironmentsStatistics *statistics = &e->table->statistics;
        bool resolved = e->state == ENVIRONMENT_RESOLVING;
        int r;

        if (resolved && e->unwanted) {
                environment_set_state(e, ENVIRONMENT_REMOVED);
                return;
        }
        r = take_report(e, fds, n_fds);
        if (r < 0 && resolved) {
                environment_fail(e, "infrastructure", LIBRARIES_UNKNOWN);
                return;
        }
        if (r < 0)
                log_warning_errno(r, "Environment %s: " LIBRARIES_UNKNOWN, e->name);
        log_info("Environment %s is %s, after %s", e->name, resolved ? "resolved" : "ready",
                 FORMAT_DURATION(e->run_usec));
        if (resolved) {
                environment_set_state(e, ENVIRONMENT_RESOLVED);
                return;
        }
        e->built_at = now_usec(CLOCK_REALTIME);
        statistics->builds++;
        statistics->build_usec += e->run_usec;
        statistics->build_bytes += e->bytes;
        environment_ready(e);
        if (e->unwanted)
                (void) environment_remove(e);
}

/* Not what the build may write has come to its end, but what there is. */
static bool disk_is_full(const LauncherEvent *event) {
        return event->build_ended.outcome == OUTCOME_DISK && event->build_ended.limit == 0;
}

/* KIND of docs/protocol.md, and a sentence. */
static const char *failure_words(const Environment *e, const LauncherEvent *event, const char *detail,
                                 const char *index_failure, char why[static WHY_SIZE]) {
        const ServerConfig *config = e->table->config;

        switch (event->build_ended.outcome) {
        case OUTCOME_EXIT:
                if (index_failure) {
                        snprintf(why, WHY_SIZE, "a request to the master's index did not get through: %s",
                                 index_failure);
                        return "infrastructure";
                }
                snprintf(why, WHY_SIZE, "the installer ended with exit status %d",
                         event->build_ended.status);
                return "installer";
        case OUTCOME_MEMORY:
                snprintf(why, WHY_SIZE, "it needed more than %s of memory (environments.memory)",
                         FORMAT_BYTES(config->environments.memory));
                return "memory";
        case OUTCOME_TIMEOUT:
                snprintf(why, WHY_SIZE, "it took longer than %s (environments.timeout)",
                         FORMAT_DURATION(config->environments.timeout));
                return "timeout";
        case OUTCOME_DISK:
                snprintf(why, WHY_SIZE, "%s",
                         *detail ? detail
                                 : "it wrote more than environments.disk or environments.files allow");
                return disk_is_full(event) ? "infrastructure" : "disk";
        case OUTCOME_SIGNAL:
                snprintf(why, WHY_SIZE, "the installer was ended by %s", *detail ? detail : "a signal");
                return "signal";
        default:
                snprintf(why, WHY_SIZE, "%s", *detail ? detail : "its sandbox broke");
                return "infrastructure";
        }
}

static void build_failed(Environment *e, const LauncherEvent *event, const int *fds, size_t n_fds) {
        _cleanup_(freep) char *detail = text_for_message(event->build_ended.detail, NOTE_MAX),
                              *failure = NULL;
        char why[WHY_SIZE];
        const char *reason;
        int r;

        if (e->index && index_port_failure(e->index))
                failure = strdup(index_port_failure(e->index));
        reason = failure_words(e, event, strempty(detail), failure, why);
        /* A full disk is not empty a second later: another node is, maybe. */
        if (streq(reason, "infrastructure") && e->tries < TRIES_MAX && !disk_is_full(event)) {
                environment_try_again(e, TRY_AGAIN_USEC, why);
                return;
        }
        if (n_fds >= 1) {
                char *log;

                r = environment_log_read(fds[0], &log, &e->text_size);
                if (r < 0)
                        log_warning_errno(r, "Environment %s: what its installer said cannot be read",
                                          e->name);
                else {
                        free(e->text);
                        e->text = log;
                }
        }
        e->table->statistics.failures++;
        environment_fail(e, reason, why);
}

void environments_build_ended(Environments *t, const LauncherEvent *event, const int *fds, size_t n_fds) {
        Environment *e = event_environment(t, event->build_ended.environment);

        if (!e)
                return;
        e->run_usec = event->build_ended.run_usec;
        e->bytes = event->build_ended.bytes;
        e->files = event->build_ended.files;
        if (event->build_ended.outcome == OUTCOME_VALUE)
                build_succeeded(e, fds, n_fds);
        else if (e->unwanted)
                environment_set_state(e, ENVIRONMENT_REMOVED);
        else if (event->build_ended.outcome == OUTCOME_CANCELLED)
                environment_try_again(e, TRY_AGAIN_USEC, "its build was stopped");
        else
                build_failed(e, event, fds, n_fds);
}
