/* SPDX-License-Identifier: Apache-2.0 */
#include "request-check.h"

#include <errno.h>
#include <string.h>

#include "device-set.h"
#include "macros.h"
#include "parse-util.h"

/* Ended by a NUL, and nothing but NULs behind it: no two packets then mean the same. */
static bool text_is_padded(const char *text, size_t size) {
        const char *end = memchr(text, 0, size);

        for (; end && end < text + size; end++)
                if (*end != '\0')
                        return false;
        return end != NULL;
}

/* Goes into a unit's description: one line of UTF-8. */
static bool task_name_is_valid(const char *name) {
        if (!utf8_is_valid(name, strlen(name)))
                return false;
        for (; *name; name++)
                if ((unsigned char) *name < ' ' || *name == 127)
                        return false;
        return true;
}

static const char *key_check(const LauncherKey *key) {
        if (!text_is_padded(key->owner, sizeof(key->owner)) || !owner_name_is_valid(key->owner))
                return "The owner's name is not valid.";
        if (!text_is_padded(key->environment, sizeof(key->environment)) ||
            !environment_name_is_valid(key->environment))
                return "The environment's name is not valid.";
        if (!text_is_padded(key->policy, sizeof(key->policy)) ||
            !name_is_valid(key->policy, POLICY_NAME_MAX - 1))
                return "The policy's name is not valid.";
        if (key->host_network > 1 || key->reserved != 0)
                return "The network is not valid.";
        return NULL;
}

/* Lines "NAME=0,2": what a program that the task starts would take to heart in other values is none of them.
 */
static bool variables_are_valid(const char *text) {
        while (*text) {
                size_t name = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

                if (name == 0 || (*text >= '0' && *text <= '9') || text[name] != '=')
                        return false;
                text += name + 1;
                text += strspn(text, "0123456789,");
                if (*text++ != '\n')
                        return false;
        }
        return true;
}

static const char *start_check(const LauncherStart *start) {
        const char *why = key_check(&start->key);

        if (why)
                return why;
        if (!text_is_padded(start->name, sizeof(start->name)) || !task_name_is_valid(start->name))
                return "The task's name is not valid.";
        if (start->memory_max < REQUEST_MEMORY_MIN || start->memory_max > REQUEST_BYTES_MAX)
                return "The memory limit is out of bounds.";
        if (start->cpu_quota_usec < REQUEST_CPU_QUOTA_MIN || start->cpu_quota_usec > REQUEST_CPU_QUOTA_MAX)
                return "The CPU quota is out of bounds.";
        if (start->cpu_time_max_usec > REQUEST_DURATION_MAX || start->timeout_usec > REQUEST_DURATION_MAX ||
            start->deadline_usec > REQUEST_DURATION_MAX)
                return "A time limit is out of bounds.";
        if (start->tmp_max != 0 && (start->tmp_max < KIB(64) || start->tmp_max > REQUEST_BYTES_MAX))
                return "The size of /tmp is out of bounds.";
        if (start->tasks_max < 1 || start->tasks_max > REQUEST_TASKS_MAX)
                return "The number of processes is out of bounds.";
        if (start->cpus < 1 || start->cpus > REQUEST_CPUS_MAX)
                return "The number of threads is out of bounds.";
        if (device_set_count(&start->devices) > DEVICES_OF_TASK_MAX)
                return "The number of devices is out of bounds.";
        if (!text_is_padded(start->variables, sizeof(start->variables)) ||
            !variables_are_valid(start->variables))
                return "The environment variables are not valid.";
        return NULL;
}

static const char *stop_check(const LauncherStop *stop) {
        if (stop->why != OUTCOME_CANCELLED && stop->why != OUTCOME_DEADLINE &&
            stop->why != OUTCOME_SUPERSEDED)
                return "The reason to stop is not one.";
        if (stop->reserved != 0 || stop->grace_usec > REQUEST_DURATION_MAX)
                return "The time to stop is out of bounds.";
        if (!text_is_padded(stop->by, sizeof(stop->by)) || !task_name_is_valid(stop->by))
                return "The name of who stops it is not valid.";
        return NULL;
}

static const char *environment_name_check(const char *name) {
        if (!text_is_padded(name, ENVIRONMENT_NAME_MAX) || !environment_name_is_valid(name))
                return "The environment's name is not valid.";
        /* Those that come with a Python are not built, and not removed. */
        if (startswith(name, "python-") || startswith(name, "system-") || streq(name, "default"))
                return "The environment is not one that is built.";
        return NULL;
}

static const char *build_check(const LauncherBuild *build) {
        const char *why = environment_name_check(build->environment);

        if (why)
                return why;
        if (!text_is_padded(build->owner, sizeof(build->owner)) ||
            (build->owner[0] && !owner_name_is_valid(build->owner)))
                return "The owner's name is not valid.";
        if (!text_is_padded(build->python, sizeof(build->python)) || !python_series_is_valid(build->python))
                return "The Python is not valid.";
        if (build->flags & ~(uint32_t) (BUILD_FLAG_RESOLVE | BUILD_FLAG_INDEX))
                return "The flags are not valid.";
        if (build->memory_max < REQUEST_MEMORY_MIN || build->memory_max > REQUEST_BYTES_MAX)
                return "The memory limit is out of bounds.";
        if (build->cpu_quota_usec < REQUEST_CPU_QUOTA_MIN || build->cpu_quota_usec > REQUEST_CPU_QUOTA_MAX)
                return "The CPU quota is out of bounds.";
        if (build->tasks_max < REQUEST_BUILD_TASKS_MIN || build->tasks_max > REQUEST_TASKS_MAX)
                return "The number of processes is out of bounds.";
        if (build->timeout_usec < 1 || build->timeout_usec > REQUEST_DURATION_MAX)
                return "The time limit is out of bounds.";
        if (build->disk_max < REQUEST_BUILD_DISK_MIN || build->disk_max > REQUEST_BYTES_MAX ||
            build->files_max < 1 || build->files_max > REQUEST_BUILD_FILES_MAX)
                return "The limit of the disk is out of bounds.";
        return NULL;
}

static const char *lease_check(uint64_t until_usec) {
        return until_usec > REQUEST_DURATION_MAX ? "The lease is out of bounds." : NULL;
}

static size_t fds_of(uint32_t op) {
        return op == LAUNCHER_START ? 2 : op == LAUNCHER_BUILD ? 1 : 0;
}

int request_check(const void *packet, size_t size, size_t n_fds, const char **ret_why) {
        LauncherRequest request;
        const char *why = NULL;

        *ret_why = "The request is not one.";
        if (size != sizeof(request))
                return -EBADMSG;
        memcpy(&request, packet, sizeof(request));
        if (request.version != LAUNCHER_PROTOCOL_VERSION) {
                *ret_why = "The protocol's version is another one.";
                return -EPROTONOSUPPORT;
        }
        if (n_fds != fds_of(request.op) || request.reserved != 0)
                return -EBADMSG;

        switch (request.op) {
        case LAUNCHER_HELLO:
        case LAUNCHER_LIST:
        case LAUNCHER_RELEASE:
                break;
        case LAUNCHER_START:
                why = start_check(&request.start);
                break;
        case LAUNCHER_STOP:
                why = stop_check(&request.stop);
                break;
        case LAUNCHER_LEASE:
                why = lease_check(request.lease.until_usec);
                break;
        case LAUNCHER_POOL:
                why = key_check(&request.pool.key);
                if (!why && request.pool.count > REQUEST_POOL_MAX)
                        why = "The number of waiting pairs is out of bounds.";
                break;
        case LAUNCHER_BUILD:
                why = build_check(&request.build);
                break;
        case LAUNCHER_BUILD_STOP:
        case LAUNCHER_ENVIRONMENT_REMOVE:
                why = environment_name_check(request.environment.environment);
                break;
        case LAUNCHER_ENVIRONMENTS:
                break;
        default:
                return -EBADMSG;
        }
        if (!why)
                return 0;
        *ret_why = why;
        return -EINVAL;
}
