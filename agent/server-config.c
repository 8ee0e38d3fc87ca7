/* SPDX-License-Identifier: Apache-2.0 */
#include "server-config.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "fd-util.h"
#include "time-util.h"

enum {
        UID_START_DEFAULT = 1879048192,
        UID_COUNT_DEFAULT = 65536,
        UID_COUNT_MAX = 1 << 24,
        UID_LEAST = 65536, /* below live the system's own ids, people and nobody */
        MEMORY_PERCENT = 90,
        SUBUID_FILE_MAX = 1 << 20,
        LABEL_NAME_MAX = 32,
};
#define MASTER_DEFAULT "clupy://localhost:7878"
#define UID_END (UINT64_C(1) << 31) /* ids above are negative for some programs */

/* Into the two fields `masters` and `n_masters`, which `field` is the first of. */
static int parse_masters(const ConfigItem *item, const char *name, const char *value, void *field) {
        ServerConfig *config = CONTAINER_OF(field, ServerConfig, masters);
        _cleanup_(freep) Address *addresses = NULL;
        size_t n;
        int r;

        if (!value)
                return -EINVAL;
        r = parse_address_list(value, ADDRESS_DEFAULT_PORT, &addresses, &n);
        if (r < 0)
                return r;
        free_and_replace(config->masters, addresses);
        config->n_masters = n;
        return 0;
}

static int parse_node_name(const ConfigItem *item, const char *name, const char *value, void *field) {
        if (!value || !node_name_is_valid(value))
                return -EINVAL;
        return free_and_strdup(field, value);
}

/* "first-last". */
static int parse_uid_range(const ConfigItem *item, const char *name, const char *value, void *field) {
        ServerConfig *config = CONTAINER_OF(field, ServerConfig, uid_start);
        _cleanup_(freep) char *first = NULL;
        const char *dash;
        uint64_t start, last;

        dash = value ? strchr(value, '-') : NULL;
        if (!dash)
                return -EINVAL;
        first = memdup_nul(value, (size_t) (dash - value));
        if (!first)
                return -ENOMEM;
        if (parse_uint64(first, &start) < 0 || parse_uint64(dash + 1, &last) < 0)
                return -EINVAL;
        if (start < UID_LEAST || last < start || last >= UID_END || last - start >= UID_COUNT_MAX)
                return -ERANGE;
        config->uid_start = (uint32_t) start;
        config->uid_count = (uint32_t) (last - start + 1);
        return 0;
}

/* What a call can ask for in a node: short, and nothing that would have to be quoted. */
static int parse_labels(const ConfigItem *item, const char *name, const char *value, void *field) {
        if (value && (!name_is_valid(name, LABEL_NAME_MAX) || !owner_name_is_valid(value)))
                return -EINVAL;
        return config_parse_map(item, name, value, field);
}

#define FIELD(name) offsetof(ServerConfig, name)
#define AGENT_PKI "/etc/clupy/pki"

static const ConfigItem items[] = {
        { "master", CONFIG_SCALAR, parse_masters, FIELD(masters),
          "addresses such as clupy://master:7878 or clupy://master1,master2" },
        { "name", CONFIG_SCALAR, parse_node_name, FIELD(name), "a host name of at most 64 characters" },
        { "cpus", CONFIG_SCALAR, config_parse_cpus, FIELD(cpus), "a number of CPUs from 0.01 to 4096" },
        { "memory", CONFIG_SCALAR, config_parse_size, FIELD(memory), "a size such as 60G, at least 64M",
          .min = MIB(64), .max = UINT64_C(1) << 60 },
        { "uid_range", CONFIG_SCALAR, parse_uid_range, FIELD(uid_start),
          "user ids such as 1879048192-1879113727, above 65535 and below 2147483648" },
        { "warm", CONFIG_SCALAR, config_parse_unsigned, FIELD(warm), "a number from 0 to 64",
          .max = SERVER_WARM_MAX },
        { "zygotes", CONFIG_SCALAR, config_parse_unsigned, FIELD(zygotes), "a number from 1 to 256",
          .min = 1, .max = SERVER_ZYGOTES_MAX },
        { "orphan_timeout", CONFIG_SCALAR, config_parse_duration, FIELD(orphan_timeout),
          "a duration such as 24h, at least 1m", .min = USEC_PER_MINUTE, .max = 10 * 365 * USEC_PER_DAY },
        { "cache.code", CONFIG_SCALAR, config_parse_size, FIELD(cache_code),
          "a size such as 256M, from 1M to 64G", .min = MIB(1), .max = GIB(64) },
        { "task.memory", CONFIG_SCALAR, config_parse_size, FIELD(task_memory),
          "a size such as 512M, at least 16M", .min = MIB(16), .max = UINT64_C(1) << 60 },
        { "task.cpus", CONFIG_SCALAR, config_parse_cpus, FIELD(task_cpus),
          "a number of CPUs from 0.01 to 4096" },
        { "task.tasks_max", CONFIG_SCALAR, config_parse_uint64, FIELD(task_tasks_max),
          "a number of processes and threads from 1 to 32768", .min = 1, .max = 32768 },
        { "task.tmp", CONFIG_SCALAR, config_parse_size, FIELD(task_tmp), "a size such as 512M, at least 1M",
          .min = MIB(1), .max = UINT64_C(1) << 50 },
        { "insecure", CONFIG_SCALAR, config_parse_bool, FIELD(insecure), "true or false" },
        { "tls.certificate", CONFIG_SCALAR, config_parse_path, FIELD(tls_certificate), "an absolute path" },
        { "tls.key", CONFIG_SCALAR, config_parse_path, FIELD(tls_key), "an absolute path" },
        { "tls.authority", CONFIG_SCALAR, config_parse_path, FIELD(tls_authority), "an absolute path" },
        { "tls.revoked", CONFIG_SCALAR, config_parse_path, FIELD(tls_revoked), "an absolute path" },
        { "environments.size", CONFIG_SCALAR, config_parse_size, FIELD(environments.size),
          "a size such as 20G, at least 64M", .min = MIB(64), .max = UINT64_C(1) << 50 },
        { "environments.builds", CONFIG_SCALAR, config_parse_unsigned, FIELD(environments.builds),
          "a number of builds at once from 1 to 16", .min = 1, .max = SERVER_BUILDS_MAX },
        { "environments.cpus", CONFIG_SCALAR, config_parse_cpus, FIELD(environments.cpus),
          "a number of CPUs from 0.01 to 4096" },
        { "environments.memory", CONFIG_SCALAR, config_parse_size, FIELD(environments.memory),
          "a size such as 2G, at least 64M", .min = MIB(64), .max = UINT64_C(1) << 60 },
        { "environments.disk", CONFIG_SCALAR, config_parse_size, FIELD(environments.disk),
          "a size such as 10G, at least 16M", .min = MIB(16), .max = UINT64_C(1) << 50 },
        { "environments.files", CONFIG_SCALAR, config_parse_uint64, FIELD(environments.files),
          "a number of files from 1000 to 100000000", .min = 1000, .max = 100000000 },
        { "environments.processes", CONFIG_SCALAR, config_parse_uint64, FIELD(environments.processes),
          "a number of processes and threads from 8 to 32768", .min = 8, .max = 32768 },
        { "environments.timeout", CONFIG_SCALAR, config_parse_duration, FIELD(environments.timeout),
          "a duration such as 15m, from 10s to 1d", .min = 10 * USEC_PER_SEC, .max = USEC_PER_DAY },
        { "labels", CONFIG_MAP, parse_labels, FIELD(labels),
          "names of a-z, 0-9 and '-' with values of at most 64 bytes without '/'",
          .max = SERVER_LABELS_MAX },
        { "resources", CONFIG_TREE, server_resources_parse, FIELD(resources), "names of resources",
          .explain = server_resources_explain },
};

/* A number in a file of a cgroup, UINT64_MAX for none ("max", a huge one on v1, no such file). */
static uint64_t cgroup_limit(const char *path) {
        _cleanup_(freep) char *text = NULL;
        uint64_t limit;

        if (read_file_full(path, 64, &text, NULL) < 0)
                return UINT64_MAX;
        text[strcspn(text, "\n")] = '\0';
        return parse_uint64(text, &limit) < 0 ? UINT64_MAX : limit;
}

/* What all tasks of this machine share: its memory, or less where it is a container, or where the operator
 * has set a ceiling on the slice that tasks live in. Not the limit of the calling daemon's own unit. */
static uint64_t machine_memory(void) {
        static const char *const limits[] = {
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/clupy.slice/memory.max",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/clupy.slice/memory.limit_in_bytes",
        };
        long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
        uint64_t memory = pages > 0 && page > 0 ? (uint64_t) pages * (uint64_t) page : GIB(1);

        for (size_t i = 0; i < ELEMENTSOF(limits); i++)
                memory = MIN(memory, cgroup_limit(limits[i]));
        return MAX(memory / 100 * MEMORY_PERCENT, MIB(64));
}

static double machine_cpus(void) {
        cpu_set_t set;

        if (sched_getaffinity(0, sizeof(set), &set) >= 0 && CPU_COUNT(&set) > 0)
                return CPU_COUNT(&set);
        return (double) MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
}

static int machine_name(char **ret) {
        char name[HOST_NAME_MAX + 1] = "";

        if (gethostname(name, sizeof(name) - 1) < 0 || !node_name_is_valid(name))
                return free_and_strdup(ret, "localhost");
        return free_and_strdup(ret, name);
}

/* "name:start:count" a line. A file that is not there forbids nothing. */
static int check_subuid(const ServerConfig *config, const char *path, char **ret_message) {
        _cleanup_(freep) char *text = NULL;
        uint64_t first = config->uid_start, last = first + config->uid_count - 1;
        unsigned line_number = 0;
        char *rest, *line;
        int r;

        r = read_file_full(path, SUBUID_FILE_MAX, &text, NULL);
        if (r == -ENOENT)
                return 0;
        if (r < 0) {
                *ret_message = strformat("%s: cannot be read: %s", path, strerror(-r));
                return r;
        }
        rest = text;
        while ((line = strsep(&rest, "\n"))) {
                char *name = strsep(&line, ":"), *start_text = strsep(&line, ":");
                uint64_t start, count;

                line_number++;
                if (!start_text || !line || parse_uint64(start_text, &start) < 0 ||
                    parse_uint64(line, &count) < 0 || count == 0)
                        continue;
                if (start > last || (start < first && first - start >= count))
                        continue;
                *ret_message = strformat("%s:%u: the ids of '%s' overlap uid_range %llu-%llu: "
                                         "choose another uid_range in " SERVER_CONFIG_NAME,
                                         path, line_number, name, (unsigned long long) first,
                                         (unsigned long long) last);
                return -EADDRINUSE;
        }
        return 0;
}

static int check(ServerConfig *config, const char *subuid, char **ret_message) {
        _cleanup_(freep) char *message = NULL;
        const char *file = config->files && config->files[0] ? config->files[strv_length(config->files) - 1]
                                                             : SERVER_CONFIG_NAME;
        int r;

        if (config->task_memory > config->memory) {
                *ret_message =
                        strformat("%s: key 'task.memory': expected at most the node's memory, %s, got %s",
                                  file, FORMAT_BYTES(config->memory), FORMAT_BYTES(config->task_memory));
                return -ERANGE;
        }
        if (config->environments.memory > config->memory) {
                *ret_message = strformat(
                        "%s: key 'environments.memory': expected at most the node's memory, %s, got %s",
                        file, FORMAT_BYTES(config->memory), FORMAT_BYTES(config->environments.memory));
                return -ERANGE;
        }
        r = server_resources_check(config->resources, config->n_resources, &message);
        if (r < 0) {
                *ret_message = message ? strformat("%s: %s", file, message) : NULL;
                return r;
        }
        return check_subuid(config, subuid, ret_message);
}

/* The key comes from systemd, which reads it as root; started by hand it is where that would read it. */
static int default_paths(ServerConfig *config) {
        const char *directory = getenv("CREDENTIALS_DIRECTORY");

        if (!config->tls_key)
                config->tls_key = isempty(directory) ? strdup(AGENT_PKI "/agent.key")
                                                     : strformat("%s/agent.key", directory);
        if (!config->tls_certificate)
                config->tls_certificate = strdup(AGENT_PKI "/agent.crt");
        if (!config->tls_authority)
                config->tls_authority = strdup(AGENT_PKI "/ca.crt");
        if (!config->tls_revoked)
                config->tls_revoked = strdup(AGENT_PKI "/ca.crl");
        return config->tls_key && config->tls_certificate && config->tls_authority && config->tls_revoked
                       ? 0
                       : -ENOMEM;
}

int server_config_load(const ServerConfigSources *sources, ServerConfig *ret, char **ret_message) {
        static const ServerConfigSources none = { 0 };
        ServerConfig config = { .uid_start = UID_START_DEFAULT,
                                .uid_count = UID_COUNT_DEFAULT,
                                .warm = UINT32_MAX,
                                .zygotes = 8,
                                .orphan_timeout = USEC_PER_DAY,
                                .cache_code = MIB(256),
                                .task_memory = 0,
                                .task_cpus = 1,
                                .task_tasks_max = 512,
                                .task_tmp = MIB(512),
                                .environments = { .size = GIB(20),
                                                  .builds = 1,
                                                  .disk = GIB(10),
                                                  .files = 500000,
                                                  .processes = 256,
                                                  .timeout = 15 * USEC_PER_MINUTE } };
        _cleanup_(freep) char *message = NULL;
        int r;

        if (!sources)
                sources = &none;
        config.cpus = machine_cpus();
        config.memory = machine_memory();
        r = machine_name(&config.name);
        if (r >= 0)
                r = parse_address_list(MASTER_DEFAULT, ADDRESS_DEFAULT_PORT, &config.masters,
                                       &config.n_masters);
        if (r >= 0)
                r = config_load(sources->directory, SERVER_CONFIG_NAME, sources->explicit_path, items,
                                ELEMENTSOF(items), &config, &config.files, &message);
        if (r < 0)
                goto fail;

        /* Defaults that follow from other keys. */
        if (config.warm == UINT32_MAX)
                config.warm = (unsigned) CLAMP(config.cpus * 2, 1.0, 8.0);
        if (config.task_memory == 0)
                config.task_memory = MIN((uint64_t) MIB(512), config.memory);
        if (config.environments.memory == 0)
                config.environments.memory = MIN((uint64_t) GIB(2), config.memory);
        if (config.environments.cpus == 0)
                config.environments.cpus = MIN(2.0, config.cpus);

        r = default_paths(&config);
        if (r < 0)
                goto fail;
        r = check(&config, sources->subuid ?: "/etc/subuid", &message);
        if (r < 0)
                goto fail;
        *ret = config;
        return 0;

fail:
        server_config_done(&config);
        if (ret_message)
                *ret_message = TAKE_PTR(message);
        return r;
}

void server_config_done(ServerConfig *config) {
        config->masters = mfree(config->masters);
        config->n_masters = 0;
        config->name = mfree(config->name);
        config->tls_certificate = mfree(config->tls_certificate);
        config->tls_key = mfree(config->tls_key);
        config->tls_authority = mfree(config->tls_authority);
        config->tls_revoked = mfree(config->tls_revoked);
        config->labels = strv_free(config->labels);
        config->resources = server_resources_free(config->resources, config->n_resources);
        config->n_resources = 0;
        config->files = strv_free(config->files);
}
