/* SPDX-License-Identifier: Apache-2.0 */
#include "why.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "detached.h"
#include "environment-job.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "parse-util.h"
#include "recovery.h"
#include "scheduler.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

enum { TEXT_MAX = 400, COUNT_MAX = 1000 };

/* "2", "0.5" */
static const char *cpus_text(uint32_t mcpus, char buffer[static 16]) {
        snprintf(buffer, 16, "%g", mcpus / 1000.0);
        return buffer;
}
#define CPUS_TEXT(mcpus) cpus_text((mcpus), (char[16]){ 0 })

static const char *s_if_many(uint64_t n) {
        return n == 1 ? "" : "s";
}

typedef struct Largest {
        unsigned n, n_ready, n_suspect, n_lost, n_drained, n_resting;
        Node *cpus, *memory;
        bool fits; /* one node could hold it when empty */
} Largest;

static Largest nodes_for(Manager *m, const Job *job) {
        Largest l = { 0 };
        Node *node;

        HASHMAP_FOREACH(node, m->nodes) {
                l.n++;
                switch (node->state) {
                case NODE_READY:
                        l.n_ready++;
                        break;
                case NODE_LOST:
                        l.n_lost++;
                        continue;
                case NODE_DRAINING:
                case NODE_DRAINED:
                        l.n_drained++;
                        break;
                default:
                        l.n_suspect++;
                        break;
                }
                if (node->rest_until > manager_now(m))
                        l.n_resting++;
                if (!l.cpus || node->mcpus > l.cpus->mcpus)
                        l.cpus = node;
                if (!l.memory || node_memory_capacity(node) > node_memory_capacity(l.memory))
                        l.memory = node;
                if (job_mcpus(job, node) <= node->mcpus &&
                    job_memory(job, node) <= node_memory_capacity(node))
                        l.fits = true;
        }
        return l;
}

/* The user's quota is used up. NULL: it is not. */
static char *why_quota(const Task *task, const Largest *l) {
        const Owner *owner = task->session->owner;
        const AccessLimits *limits = &owner->limits;
        uint32_t mcpus = job_mcpus(task->job, l->cpus);
        uint64_t memory = job_memory(task->job, l->memory);

        if (limits->running > 0 && owner->n_running >= limits->running)
                return strformat("%s has %u call%s running, which is the limit for this user", owner->name,
                                 owner->n_running, s_if_many(owner->n_running));
        if (limits->mcpus > 0 && owner->mcpus_running + mcpus > limits->mcpus)
                return strformat(
                        "the running calls of %s have %g CPUs, of the %g that this user may have at "
                        "one time, and this one needs %s",
                        owner->name, (double) owner->mcpus_running / 1000.0, (double) limits->mcpus / 1000.0,
                        CPUS_TEXT(mcpus));
        if (limits->memory > 0 && owner->memory_running + memory > limits->memory)
                return strformat("the running calls of %s have %s of memory, of the %s that this user may "
                                 "have at one time, and this one needs %s",
                                 owner->name, FORMAT_BYTES(owner->memory_running),
                                 FORMAT_BYTES(limits->memory), FORMAT_BYTES(memory));
        return NULL;
}

/* The nodes are large enough, but none has room now. */
static char *why_busy(Manager *m, const Task *task, const Largest *l) {
        const Job *job = task->job;
        uint64_t ahead = 0, counted = 0;
        Node *node;
        bool cpus = false, memory = false, unreleased = false;
        Job *other;

        HASHMAP_FOREACH(node, m->nodes) {
                if (node->state != NODE_READY)
                        continue;
                if (job_mcpus(job, node) > node_mcpus_free(node))
                        cpus = true;
                if (job_memory(job, node) > node_memory_free(node)) {
                        memory = true;
                        unreleased = unreleased || node->unreleased > 0;
                }
        }
        if (job->server_count > 0 && job_places_held((Job *) job) >= job->server_count && !cpus && !memory)
                return strformat("its job is bound to %u node%s (server_count), which have no room",
                                 job->server_count, s_if_many(job->server_count));
        HASHMAP_FOREACH(other, task->session->jobs)
                if (other != job && other->priority >= job->priority)
                        ahead += other->n_queued;
        /* A list of many tasks asks this for each: not all of a long queue is counted. */
        LIST_FOREACH(Task, t, in_queue, &job->queue) {
                if (t == task || ++counted > COUNT_MAX)
                        break;
                ahead++;
        }
        if (ahead > 0)
                return strformat("%s of the %u ready node%s is taken, and %s%" PRIu64
                                 " call%s of %s go%s first",
                                 cpus ? "every CPU" : "the memory", l->n_ready, s_if_many(l->n_ready),
                                 counted > COUNT_MAX ? "more than " : "", ahead, s_if_many(ahead),
                                 task->session->user, ahead == 1 ? "es" : "");
        return strformat("%s enough %s free%s; it is next in its queue",
                         l->n_ready == 1 ? "the only ready node has not" : "none of the ready nodes has",
                         memory && !cpus ? "memory" : "CPUs",
                         unreleased && !cpus ? " (results that wait to be fetched take some of it)" : "");
}

bool why_is_hopeless(Manager *m, const Job *job) {
        Largest l = nodes_for(m, job);
        _cleanup_(freep) char *unfit = environment_job_why_unfit(m, job);

        if (unfit)
                return true;

        return !l.fits;
}

char *why_waiting(Manager *m, const Task *task) {
        const Job *job = task->job;
        Largest l = nodes_for(m, job);
        char *quota, *why;

        if (task->state == TASK_WAITING && detached_is_held(task))
                return strdup("it is detached, and its argument and code are on their way to the master's "
                              "disk: it is queued when they are there");
        if (task->state == TASK_WAITING) {
                uint64_t until, now = manager_now(m);

                (void) recovery_is_pending(m, &until);
                return strformat("the master restarted or a node is out of reach: it waits up to %s for the "
                                 "nodes to say "
                                 "whether one of them runs it already",
                                 FORMAT_DURATION(usec_sub(until, now)));
        }
        if (task->state != TASK_QUEUED)
                return NULL;
        if (l.n == 0)
                return strdup("no node has ever connected: start clupy-agent on a machine, with `master:` "
                              "naming this "
                              "one");
        if (l.n_lost == l.n)
                return strformat("all %u known nodes are lost: look at clupy-agent on them", l.n);
        why = environment_job_why_unfit(m, job);
        if (why)
                return why;
        if (!l.fits && job->mcpus > 0 && job->mcpus > l.cpus->mcpus)
                return strformat("no node has %s CPUs: the largest, %s, has %s", CPUS_TEXT(job->mcpus),
                                 l.cpus->name, CPUS_TEXT(l.cpus->mcpus));
        if (!l.fits && job->memory > node_memory_capacity(l.memory))
                return strformat("no node has %s of memory: the largest, %s, has %s",
                                 FORMAT_BYTES(job->memory), l.memory->name,
                                 FORMAT_BYTES(node_memory_capacity(l.memory)));
        if (!l.fits)
                return strformat("no node has both %s CPUs and %s of memory",
                                 CPUS_TEXT(job_mcpus(job, l.cpus)), FORMAT_BYTES(job_memory(job, l.memory)));
        if (l.n_ready == 0)
                return strformat("no node is ready (%u suspect, %u drained, %u lost)", l.n_suspect,
                                 l.n_drained, l.n_lost);
        if (task->delay_index != PRIOQ_NONE)
                return strformat(
                        "it failed %u times because of the infrastructure and waits %s before it is tried "
                        "again",
                        task->failures, FORMAT_DURATION(usec_sub(task->not_before, manager_now(m))));
        if (l.n_resting == l.n_ready)
                return strdup("the ready nodes failed to run several tasks in a row and are given a rest: "
                              "look at their "
                              "clupy-launcher");
        why = environment_job_why(m, job);
        if (why)
                return why;
        quota = why_quota(task, &l);
        return quota ?: why_busy(m, task, &l);
}

static uint64_t number(json_object *object, const char *key) {
        uint64_t value = 0;

        (void) json_get_uint64_optional(object, key, UINT64_MAX / 2, 0, &value);
        return value;
}

static char *text(json_object *object, const char *key) {
        const char *value = NULL;

        (void) json_get_string_optional(object, key, TASK_OUTCOME_MAX, NULL, &value);
        return value ? text_for_message(value, TEXT_MAX) : NULL;
}

/* The last line of an installer's log says most. */
static const char *last_line(const char *s) {
        const char *line = s ? strrchr(s, '\n') : NULL;

        return line && line[1] ? line + 1 : s;
}

/* Files count as memory: who fills /tmp does not know that it is this. NULL: it is not much. */
static const char *files_place(json_object *outcome, uint64_t *ret_size) {
        uint64_t limit = number(outcome, "limit"), tmp = number(outcome, "tmp"),
                 shm = number(outcome, "shm");

        *ret_size = MAX(tmp, shm);
        if (limit == 0 || *ret_size < limit / 8)
                return NULL;
        return tmp >= shm ? "/tmp" : "/dev/shm";
}

static char *why_memory(json_object *outcome) {
        uint64_t size;
        const char *place = files_place(outcome, &size);
        _cleanup_(freep) char *files =
                place ? strformat(", %s of it for files in %s", FORMAT_BYTES(size), place) : NULL;

        return strformat("went over its memory limit of %s (peak %s%s)",
                         FORMAT_BYTES(number(outcome, "limit")), FORMAT_BYTES(number(outcome, "peak")),
                         strempty(files));
}

static bool is_out_of_files(json_object *outcome) {
        uint64_t files_limit = number(outcome, "files_limit");

        return files_limit > 0 && number(outcome, "files_used") >= files_limit &&
               number(outcome, "used") < number(outcome, "limit");
}

static char *why_disk(json_object *outcome) {
        _cleanup_(freep) char *place = text(outcome, "place");
        uint64_t limit = number(outcome, "limit"), used = number(outcome, "used");

        if (is_out_of_files(outcome))
                return strformat("used up the %" PRIu64 " files that its %s may have (%s of %s in use)",
                                 number(outcome, "files_limit"), place ?: "/tmp", FORMAT_BYTES(used),
                                 FORMAT_BYTES(limit));
        return strformat("ran out of room in its %s of %s (%s in use when it failed)", place ?: "/tmp",
                         FORMAT_BYTES(limit), FORMAT_BYTES(used));
}

static bool is_crash(const char *signal) {
        return streq_ptr(signal, "SIGSEGV") || streq_ptr(signal, "SIGABRT") || streq_ptr(signal, "SIGBUS") ||
               streq_ptr(signal, "SIGILL") || streq_ptr(signal, "SIGFPE");
}

/* What happened, without where. */
static char *why_ended(const TaskView *view, json_object *outcome, json_object *receipt) {
        _cleanup_(freep) char *name = text(outcome, "name"), *message = text(outcome, "message"),
                              *by = text(outcome, "by"), *log = text(outcome, "log");

        switch (view->kind) {
        case OUTCOME_VALUE:
                return strdup("returned a value");
        case OUTCOME_EXCEPTION:
                if (number(outcome, "tasks_max") > 0)
                        return strformat(
                                "raised an exception, which its client has with its traceback, and had "
                                "met its limit of %" PRIu64 " processes and threads before",
                                number(outcome, "tasks_max"));
                return strdup("raised an exception, which its client has with its traceback");
        case OUTCOME_EXIT:
                return strformat("ended by itself with status %" PRIu64 " before there was a result",
                                 number(outcome, "status"));
        case OUTCOME_MEMORY:
                return why_memory(outcome);
        case OUTCOME_CPU_TIME:
                return strformat("used up its CPU time of %s",
                                 FORMAT_DURATION(number(outcome, "limit_ms") * USEC_PER_MSEC));
        case OUTCOME_TIMEOUT:
                return strformat("ran longer than its timeout of %s (it had used %s of CPU)",
                                 FORMAT_DURATION(number(outcome, "limit_ms") * USEC_PER_MSEC),
                                 FORMAT_DURATION(number(receipt, "cpu_us")));
        case OUTCOME_DEADLINE:
                return strformat("had no result by its deadline of %s after it was submitted%s",
                                 FORMAT_DURATION(number(outcome, "limit_ms") * USEC_PER_MSEC),
                                 view->started_at ? "" : "; it never started, for want of room");
        case OUTCOME_DISK:
                return why_disk(outcome);
        case OUTCOME_SYSCALL:
                return strformat("made the system call %s, which its seccomp policy refuses",
                                 strempty(name));
        case OUTCOME_SIGNAL:
                return strformat("was ended by %s%s", strempty(name),
                                 is_crash(name) ? ": a crash in native code" : "");
        case OUTCOME_CANCELLED:
                return strformat("was cancelled by %s", isempty(by) ? "its client" : by);
        case OUTCOME_ENVIRONMENT:
                return strformat("never started, since its environment could not be built: %s",
                                 strempty(last_line(log)));
        case OUTCOME_RESULT_PICKLING:
                return strformat("ran well, but its result cannot be sent: %s (%s)", strempty(name),
                                 strempty(message));
        case OUTCOME_NODE_LOST:
                return strformat("was given up after %u attempt%s, none of which its node could finish%s%s",
                                 view->attempt, s_if_many(view->attempt), message ? "; the last: " : "",
                                 strempty(message));
        case OUTCOME_REFUSED:
                return strformat("was refused: %s", strempty(message));
        default:
                return strformat("ended: %s", strempty(outcome_kind_to_string(view->kind)));
        }
}

/* Of what was refused: who can change it. */
static char *next_refused(json_object *outcome) {
        _cleanup_(freep) char *reason = text(outcome, "reason");

        if (streq_ptr(reason, "not-allowed"))
                return strdup("Do without it, or have an administrator allow it (`access` in "
                              "clupy.master.yaml)");
        if (streq_ptr(reason, "quota"))
                return strdup("Ask for less, or have an administrator raise the bound (`access` in "
                              "clupy.master.yaml)");
        if (streq_ptr(reason, "unknown"))
                return strdup("Ask for one that there is, or have an administrator add it (`policies` in "
                              "clupy.master.yaml)");
        return strdup("Call it again when this has been mended; `clupyctl status` shows the master's "
                      "warnings");
}

/* What to do about it. NULL: nothing is wrong. */
static char *why_next(const TaskView *view, json_object *outcome) {
        _cleanup_(freep) char *name = text(outcome, "name");
        char id[ID_HEX_SIZE];
        uint64_t size;

        id_to_hex(view->id, id);
        switch (view->kind) {
        case OUTCOME_VALUE:
                return NULL;
        case OUTCOME_EXCEPTION:
                if (number(outcome, "tasks_max") > 0)
                        return strformat("Ask for more with tasks_max=%" PRIu64
                                         ", or have it start fewer at a time",
                                         2 * number(outcome, "tasks_max"));
                return strformat("Look at failure of its future, or at what it printed: clupyctl logs %.12s",
                                 id);
        case OUTCOME_EXIT:
                return strformat("Look for sys.exit() or os._exit() in it, and at what it printed: clupyctl "
                                 "logs %.12s",
                                 id);
        case OUTCOME_MEMORY:
                return strformat("Ask for more with memory=\"%s\", or have it %s less",
                                 FORMAT_BYTES(2 * number(outcome, "limit")),
                                 files_place(outcome, &size) ? "write" : "hold");
        case OUTCOME_CPU_TIME:
                return strdup("Split the work into smaller calls, or have the limit raised");
        case OUTCOME_TIMEOUT:
                return strformat("Raise timeout=, or look where it waits: clupyctl logs %.12s", id);
        case OUTCOME_DEADLINE:
                return strdup("Give it a later deadline= or a higher priority=, or add nodes");
        case OUTCOME_DISK:
                return strdup(is_out_of_files(outcome)
                                      ? "Have it make fewer, or remove those that are done with"
                                      : "Have it write less, or raise task.tmp in the node's "
                                        "clupy.server.yaml");
        case OUTCOME_SYSCALL:
                return strdup("Do without it, or ask for a policy that has it with policy=");
        case OUTCOME_SIGNAL:
                return strformat("%s: clupyctl logs %.12s",
                                 is_crash(name) ? "Look for the native library in what it printed last"
                                                : "Look at what it printed last",
                                 id);
        case OUTCOME_CANCELLED:
                return strdup("Call it again if its value is still wanted");
        case OUTCOME_ENVIRONMENT:
                return strdup("Mend the list of its packages; failure of its future has the whole log");
        case OUTCOME_RESULT_PICKLING:
                return strdup("Have it return plain data");
        case OUTCOME_NODE_LOST:
                return strdup("Look at `clupyctl nodes`, or allow more with retries=");
        case OUTCOME_REFUSED:
                return next_refused(outcome);
        default:
                return strdup("Call it again; the journals of the master and of its node tell more");
        }
}

char *why_sentence(Manager *m, const TaskView *view) {
        _cleanup_(json_putp) json_object *outcome = NULL, *receipt = NULL;
        _cleanup_(freep) char *what = NULL, *where = NULL, *next = NULL, *receipt_text = NULL;

        if (view->task && task_is_unfinished(view->task)) {
                _cleanup_(freep) char *reason = why_waiting(m, view->task);
                Attempt *attempt = view->task->current;

                if (reason)
                        return strformat("%s of %s is %s: %s.", view->name, view->owner, view->state,
                                         reason);
                if (attempt && !attempt->node->peer)
                        return strformat(
                                "%s of %s was running on %s, which is out of reach; if it stays away it is "
                                "run "
                                "elsewhere in %s.",
                                view->name, view->owner, attempt->node->name,
                                FORMAT_DURATION(usec_sub(attempt->node->heartbeat_at + m->config->lease +
                                                                 m->config->lease_margin,
                                                         manager_now(m))));
                return strformat("%s of %s is %s on %s%s%s%s.", view->name, view->owner, view->state,
                                 strempty(view->node), view->unit ? " in " : "", strempty(view->unit),
                                 view->task->cancelled_by ? " and being cancelled" : "");
        }
        if (view->outcome)
                (void) json_parse_strict_object(view->outcome, strlen(view->outcome), JSON_DEPTH_MAX,
                                                &outcome);
        receipt_text = task_view_receipt(view);
        if (receipt_text)
                (void) json_parse_strict_object(receipt_text, strlen(receipt_text), JSON_DEPTH_MAX,
                                                &receipt);
        if (!outcome && json_new_object(&outcome) < 0)
                return NULL;
        if (!receipt && json_new_object(&receipt) < 0)
                return NULL;
        what = why_ended(view, outcome, receipt);
        if (!what)
                return NULL;
        if (view->node)
                where = strformat(" It ran on %s%s%s.", view->node, view->unit ? " in " : "",
                                  strempty(view->unit));
        next = why_next(view, outcome);
        return strformat("%s of %s %s.%s%s%s%s", view->name, view->owner, what, strempty(where),
                         next ? " " : "", strempty(next), next ? "." : "");
}

/* A disk that is full is no reason to say so for each task. */
static void write_down(Manager *m, const Task *task, const char *sentence) {
        int r;

        if (!m->failures)
                return;
        r = why_file_add(m->failures, task->id, task->session->user,
                         strempty(outcome_kind_to_string(task->outcome_kind)), task->ended_at, sentence);
        if (r < 0 && !m->failures_lost)
                log_warning_errno(r, "Why tasks fail cannot be written down in %s",
                                  m->config->state_directory);
        m->failures_lost = r < 0;
}

void why_log(Task *task) {
        _cleanup_(freep) char *sentence = NULL;
        TaskView view;

        task_view(task, &view);
        sentence = why_sentence(task->manager, &view);
        write_down(task->manager, task, strempty(sentence));
        log_struct(LOG_NOTICE, log_field("MESSAGE=%s", strempty(sentence)),
                   log_field("MESSAGE_ID=" WHY_MESSAGE_ID), log_field("CLUPY_TASK_ID=%s", ID_HEX(task->id)),
                   log_field("CLUPY_JOB_ID=%s", ID_HEX(task->job->id)),
                   log_field("CLUPY_OWNER=%s", task->session->user),
                   log_field("CLUPY_OUTCOME=%s", outcome_kind_to_string(task->outcome_kind)),
                   log_field("CLUPY_NODE=%s", strempty(task->node_name)),
                   log_field("CLUPY_UNIT=%s", strempty(task->unit)),
                   log_field("CLUPY_ATTEMPT=%u", task->attempt));
}
