/* SPDX-License-Identifier: Apache-2.0 */
#include "node-hello.h"

#include <errno.h>
#include <sys/utsname.h>

#include "agent.h"
#include "json-util.h"

/* "linux-x86_64": what files with machine code in them must be made for. */
static int add_platform(json_object *hello) {
        _cleanup_(freep) char *platform = NULL;
        struct utsname name;

        if (uname(&name) < 0)
                return -errno;
        platform = strformat("%s-%s", name.sysname, name.machine);
        if (!platform)
                return -ENOMEM;
        for (char *p = platform; *p; p++)
                if (*p >= 'A' && *p <= 'Z')
                        *p += 'a' - 'A';
        return json_add_string(hello, "platform", platform);
}

static int add_pythons(const Agent *agent, json_object *hello) {
        json_object *array;
        int r;

        r = json_add_new_array(hello, "pythons", &array);
        for (char **python = agent->pythons; *python && r >= 0; python++)
                r = json_append_string(array, *python);
        return r;
}

/* Of "name=value"; a name has no '='. */
static int add_labels(const Agent *agent, json_object *hello) {
        json_object *object;
        int r;

        r = json_add_new_object(hello, "labels", &object);
        for (char **label = agent->config->labels; label && *label && r >= 0; label++) {
                const char *value = strchr(*label, '=');
                _cleanup_(freep) char *name = memdup_nul(*label, (size_t) (value - *label));

                r = name ? json_add_string(object, name, value + 1) : -ENOMEM;
        }
        return r;
}

static int add_resources(const Agent *agent, json_object *hello) {
        const ServerConfig *config = agent->config;
        json_object *object;
        int r;

        r = json_add_new_object(hello, "resources", &object);
        for (size_t i = 0; i < config->n_resources && r >= 0; i++)
                r = json_add_uint64(object, config->resources[i].name, devices_count(agent->devices, i));
        return r;
}

/* For calls that do not say. */
static int add_defaults(const Agent *agent, json_object *hello) {
        json_object *object;
        int r;

        r = json_add_new_object(hello, "defaults", &object);
        if (r >= 0)
                r = json_add_uint64(object, "memory", agent->config->task_memory);
        if (r >= 0)
                r = json_add_double(object, "cpus", agent->config->task_cpus);
        return r < 0 ? r : json_add_uint64(object, "tasks_max", agent->config->task_tasks_max);
}

int node_hello_fill(const Agent *agent, json_object *hello) {
        int r;

        r = json_add_string(hello, "name", agent->config->name);
        if (r >= 0)
                r = json_add_string(hello, "boot_id", agent->boot_id);
        if (r >= 0)
                r = json_add_id(hello, "instance", agent->instance);
        if (r >= 0)
                r = json_add_double(hello, "cpus", agent->config->cpus);
        if (r >= 0)
                r = json_add_uint64(hello, "memory", agent->config->memory);
        if (r >= 0)
                r = json_add_uint64(hello, "epoch", agent->epoch);
        if (r >= 0)
                r = add_defaults(agent, hello);
        if (r >= 0)
                r = add_platform(hello);
        if (r >= 0)
                r = add_pythons(agent, hello);
        if (r >= 0)
                r = add_labels(agent, hello);
        return r < 0 ? r : add_resources(agent, hello);
}
