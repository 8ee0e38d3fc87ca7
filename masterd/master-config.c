/* SPDX-License-Identifier: Apache-2.0 */
#include "master-config.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "config.h"
#include "dependency-config.h"
#include "log.h"
#include "parse-util.h"
#include "resolver.h"
#include "time-util.h"

#define FIELD(name) offsetof(MasterConfig, name)
#define MASTER_PKI "/etc/clupy/pki"

static const ConfigName log_levels[] = {
        { "error", LOG_ERR }, { "warning", LOG_WARNING }, { "notice", LOG_NOTICE },
        { "info", LOG_INFO }, { "debug", LOG_DEBUG },     { NULL, 0 },
};

static const ConfigItem items[] = {
        { "listen", CONFIG_LIST, config_parse_strv, FIELD(listen),
          "a list of numeric addresses such as 127.0.0.1:7878 or [::]:7878", .max = 64 },
        { "insecure", CONFIG_LIST, config_parse_strv, FIELD(insecure),
          "a list of addresses that are in 'listen' too, such as 127.0.0.1:7878", .max = 64 },
        { "tls.certificate", CONFIG_SCALAR, config_parse_path, FIELD(tls_certificate), "an absolute path" },
        { "tls.key", CONFIG_SCALAR, config_parse_path, FIELD(tls_key), "an absolute path" },
        { "tls.authority", CONFIG_SCALAR, config_parse_path, FIELD(tls_authority), "an absolute path" },
        { "tls.revoked", CONFIG_SCALAR, config_parse_path, FIELD(tls_revoked), "an absolute path" },
        { "socket", CONFIG_SCALAR, config_parse_path, FIELD(socket), "an absolute path" },
        { "state_directory", CONFIG_SCALAR, config_parse_path, FIELD(state_directory), "an absolute path" },
        { "dependencies", CONFIG_SCALAR, config_parse_path, FIELD(dependencies), "an absolute path" },
        { "index_socket", CONFIG_SCALAR, config_parse_path, FIELD(index_socket), "an absolute path" },
        { "wheels.size", CONFIG_SCALAR, config_parse_size, FIELD(wheels_size),
          "a size from 1M to 1T, such as 2G", .min = MIB(1), .max = GIB(1024) },
        { "wheels.total", CONFIG_SCALAR, config_parse_size, FIELD(wheels_total),
          "a size from 1M to 1024T, such as 10G", .min = MIB(1), .max = GIB(1024) * 1024 },
        { "lease", CONFIG_SCALAR, config_parse_duration, FIELD(lease),
          "a duration from 3s to 1h, such as 15s", .min = 3 * USEC_PER_SEC, .max = USEC_PER_HOUR },
        { "lease_margin", CONFIG_SCALAR, config_parse_duration, FIELD(lease_margin),
          "a duration from 100ms to 1min, such as 2s", .min = 100 * USEC_PER_MSEC, .max = USEC_PER_MINUTE },
        { "client_timeout", CONFIG_SCALAR, config_parse_duration, FIELD(client_timeout),
          "a duration from 1s to 1 day, such as 60s", .min = USEC_PER_SEC, .max = USEC_PER_DAY },
        { "heartbeat_timeout", CONFIG_SCALAR, config_parse_duration, FIELD(heartbeat_timeout),
          "a duration from 1500ms to 1min, such as 3s", .min = 1500 * USEC_PER_MSEC,
          .max = USEC_PER_MINUTE },
        { "overcommit_memory", CONFIG_SCALAR, config_parse_double, FIELD(overcommit_memory),
          "a factor from 1 to 100, such as 1.0", .min = 1, .max = 100 },
        { "log_tail", CONFIG_SCALAR, config_parse_size, FIELD(log_tail),
          "a size from 1K to 16M, such as 64K", .min = KIB(1), .max = MIB(16) },
        { "log_memory", CONFIG_SCALAR, config_parse_size, FIELD(log_memory),
          "a size from 64K to 1G, such as 16M", .min = KIB(64), .max = GIB(1) },
        { "task_window", CONFIG_SCALAR, config_parse_unsigned, FIELD(task_window),
          "a number from 1 to 1000000, such as 20000", .min = 1, .max = 1000000 },
        { "history", CONFIG_SCALAR, config_parse_unsigned, FIELD(history),
          "a number from 0 to 1000000, such as 10000", .min = 0, .max = 1000000 },
        { "policies", CONFIG_LIST, config_parse_strv, FIELD(policies), "a list of policy names", .max = 64 },
        { "max_retries", CONFIG_SCALAR, config_parse_unsigned, FIELD(max_retries),
          "a number from 0 to 10000, such as 100", .min = 0, .max = 10000 },
        { "detached.keep", CONFIG_SCALAR, config_parse_duration, FIELD(detached_keep),
          "a duration from 1min to 1 year, such as 7d", .min = USEC_PER_MINUTE, .max = 366 * USEC_PER_DAY },
        { "detached.size", CONFIG_SCALAR, config_parse_size, FIELD(detached_memory),
          "a size from 64K to 1T, such as 1G", .min = KIB(64), .max = GIB(1024) },
        { "detached.share", CONFIG_SCALAR, config_parse_double, FIELD(detached_share),
          "a factor from 0.01 to 1, such as 0.5", .min = 0.01, .max = 1 },
        { "detached.total", CONFIG_SCALAR, config_parse_size, FIELD(detached_total),
          "a size from 1M to 1024T, such as 10G", .min = MIB(1), .max = GIB(1024) * 1024 },
        { "log_level", CONFIG_SCALAR, config_parse_enum, FIELD(log_level),
          "one of error, warning, notice, info and debug", .data = log_levels },
        { "access", CONFIG_TREE, access_parse, FIELD(access), "a group of keys", .explain = access_explain },
        { "limits.unproven", CONFIG_SCALAR, config_parse_unsigned, FIELD(limit_unproven),
          "a number from 1 to 4096, such as 512", .min = 1, .max = 4096 },
        { "limits.unproven_per_address", CONFIG_SCALAR, config_parse_unsigned, FIELD(limit_per_address),
          "a number from 1 to 4096, such as 64", .min = 1, .max = 4096 },
        { "limits.hello_timeout", CONFIG_SCALAR, config_parse_duration, FIELD(hello_timeout),
          "a duration from 100ms to 1min, such as 5s", .min = 100 * USEC_PER_MSEC, .max = USEC_PER_MINUTE },
        { "limits.hello_size", CONFIG_SCALAR, config_parse_size, FIELD(hello_size),
          "a size from 4K to 1M, such as 16K", .min = KIB(4), .max = MIB(1) },
        { "limits.rate", CONFIG_SCALAR, config_parse_unsigned, FIELD(limit_rate),
          "a number from 1 to 1000000, such as 100", .min = 1, .max = 1000000 },
        { "limits.burst", CONFIG_SCALAR, config_parse_unsigned, FIELD(limit_burst),
          "a number from 1 to 1000000, such as 200", .min = 1, .max = 1000000 },
};

MasterConfig *master_config_free(MasterConfig *config) {
        if (!config)
                return NULL;
        strv_free(config->listen);
        strv_free(config->insecure);
        free(config->tls_certificate);
        free(config->tls_key);
        free(config->tls_authority);
        free(config->tls_revoked);
        strv_free(config->policies);
        strv_free(config->warnings);
        free(config->socket);
        free(config->state_directory);
        free(config->dependencies);
        free(config->index_socket);
        access_free(config->access);
        return mfree(config);
}

int master_config_new(MasterConfig **ret) {
        _cleanup_(master_config_freep) MasterConfig *config = new0(MasterConfig);

        if (!config)
                return -ENOMEM;
        config->lease = 15 * USEC_PER_SEC;
        config->lease_margin = 2 * USEC_PER_SEC;
        config->client_timeout = 60 * USEC_PER_SEC;
        config->heartbeat_timeout = 3 * USEC_PER_SEC;
        config->overcommit_memory = 1.0;
        config->log_tail = KIB(64);
        config->log_memory = MIB(16);
        config->task_window = 20000;
        config->history = 10000;
        config->max_retries = 100;
        config->detached_keep = 7 * USEC_PER_DAY;
        config->detached_memory = GIB(1);
        config->detached_total = GIB(10);
        config->detached_share = 0.5;
        config->dependencies = strdup(DEPENDENCY_CONFIG_PATH);
        config->index_socket = strdup("/run/clupy-index/index.sock");
        if (!config->dependencies || !config->index_socket)
                return -ENOMEM;
        config->wheels_size = GIB(2);
        config->wheels_total = GIB(10);
        config->log_level = -1;
        config->limit_unproven = 512;
        config->limit_per_address = 64;
        config->limit_rate = 100;
        config->limit_burst = 200;
        config->hello_timeout = 5 * USEC_PER_SEC;
        config->hello_size = KIB(16);
        *ret = TAKE_PTR(config);
        return 0;
}

static bool address_equal(const char *left, const char *right) {
        Address l, r;

        return parse_address(left, ADDRESS_DEFAULT_PORT, &l) >= 0 &&
               parse_address(right, ADDRESS_DEFAULT_PORT, &r) >= 0 && streq(l.host, r.host) &&
               l.port == r.port;
}

static bool list_has_address(char *const *list, const char *address) {
        for (; list && *list; list++)
                if (address_equal(*list, address))
                        return true;
        return false;
}

bool master_config_is_insecure(const MasterConfig *config, const char *address) {
        return list_has_address(config->insecure, address);
}

bool master_config_needs_tls(const MasterConfig *config) {
        for (char **s = config->listen; *s; s++)
                if (!master_config_is_insecure(config, *s))
                        return true;
        return false;
}

/* An address without TLS is warned of; one that is nowhere listened on is a mistake, and a dangerous one: it
 * was meant for another. */
static int check_insecure(MasterConfig *config, const char *text, char **ret_message) {
        _cleanup_(freep) char *warning = NULL;
        struct sockaddr_storage storage;
        Address address;
        socklen_t size;

        if (!list_has_address(config->listen, text)) {
                *ret_message = strformat(
                        "key 'insecure': expected addresses that are in 'listen' too, got '%s'", text);
                return -EINVAL;
        }
        if (parse_address(text, ADDRESS_DEFAULT_PORT, &address) < 0 ||
            sockaddr_from_numeric(address.host, address.port, &storage, &size) < 0)
                return -EINVAL;
        warning =
                strformat("%s is open to %s without authentication: whoever reaches it can run code on the "
                          "cluster, in anybody's name",
                          text,
                          sockaddr_is_loopback((struct sockaddr *) &storage) ? "everybody on this machine"
                                                                             : "the network");
        return warning ? strv_extend(&config->warnings, warning) : -ENOMEM;
}

static int check_listen(MasterConfig *config, char **ret_message) {
        int r;

        for (char **s = config->listen; *s; s++) {
                struct sockaddr_storage storage;
                socklen_t size;
                Address address;

                if (parse_address(*s, ADDRESS_DEFAULT_PORT, &address) < 0 ||
                    sockaddr_from_numeric(address.host, address.port, &storage, &size) < 0) {
                        *ret_message = strformat("key 'listen': expected a numeric address such as "
                                                 "127.0.0.1:7878 or [::]:7878, got '%s'",
                                                 *s);
                        return -EINVAL;
                }
        }
        for (char **s = config->insecure; s && *s; s++) {
                r = check_insecure(config, *s, ret_message);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* The key comes from systemd, which reads it as root; started by hand it is where that would read it. */
static int default_key(char **key) {
        const char *directory = getenv("CREDENTIALS_DIRECTORY");

        if (*key)
                return 0;
        *key = isempty(directory) ? strdup(MASTER_PKI "/master.key") : strformat("%s/master.key", directory);
        return *key ? 0 : -ENOMEM;
}

static int default_path(char **path, const char *value) {
        return *path ? 0 : free_and_strdup(path, value);
}

int master_config_finish(MasterConfig *config, char **ret_message) {
        static const char *const everywhere[] = { "0.0.0.0:7878", "[::]:7878" };
        int r;

        *ret_message = NULL;
        if (strv_length(config->listen) == 0)
                for (size_t i = 0; i < 2; i++)
                        if (strv_extend(&config->listen, everywhere[i]) < 0)
                                return -ENOMEM;
        if (default_key(&config->tls_key) < 0 ||
            default_path(&config->tls_certificate, MASTER_PKI "/master.crt") < 0 ||
            default_path(&config->tls_authority, MASTER_PKI "/ca.crt") < 0 ||
            default_path(&config->tls_revoked, MASTER_PKI "/ca.crl") < 0)
                return -ENOMEM;
        r = check_listen(config, ret_message);
        if (r < 0)
                return r;
        if (!config->state_directory) {
                const char *given = getenv("STATE_DIRECTORY");

                /* systemd gives a list when there are several; ours has one. */
                config->state_directory = given && given[0] == '/' ? strndup(given, strcspn(given, ":"))
                                                                   : strdup("/var/lib/clupy-master");
                if (!config->state_directory)
                        return -ENOMEM;
        }
        if (!config->policies && strv_extend(&config->policies, "default") < 0)
                return -ENOMEM;
        for (char **s = config->policies; *s; s++)
                if (!name_is_valid(*s, 32)) {
                        *ret_message = strformat("key 'policies': expected names of a-z, 0-9 and '-', at "
                                                 "most 32 long, got '%s'",
                                                 *s);
                        return -EINVAL;
                }
        return 0;
}

int master_config_load(const char *explicit_path, MasterConfig **ret, char **ret_message) {
        _cleanup_(master_config_freep) MasterConfig *config = NULL;
        const char *name = "clupy.master.yaml";
        int r;

        *ret_message = NULL;
        r = master_config_new(&config);
        if (r < 0)
                return r;
        /* Run by hand, beside its file. */
        if (!explicit_path && access("/etc/clupy/clupy.master.yaml", F_OK) < 0 && access(name, F_OK) == 0)
                explicit_path = name;
        r = config_load(NULL, name, explicit_path, items, ELEMENTSOF(items), config, NULL, ret_message);
        if (r < 0)
                return r;
        r = master_config_finish(config, ret_message);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(config);
        return 0;
}

/* Reading it again (reload) */

static const char *const live_keys[] = {
        "access",        "client_timeout",  "detached.keep",     "detached.share",
        "detached.size", "detached.total",  "limits.burst",      "limits.unproven_per_address",
        "limits.rate",   "limits.unproven", "log_level",         "log_memory",
        "log_tail",      "max_retries",     "overcommit_memory", "policies",
        "task_window",   "wheels.size",     "wheels.total",
};

static bool key_is_live(const char *key) {
        return name_table_find(live_keys, ELEMENTSOF(live_keys), key) >= 0;
}

/* Bytes of the item's field. */
static size_t field_size(const ConfigItem *item) {
        if (item->parse == config_parse_bool)
                return sizeof(bool);
        if (item->parse == config_parse_unsigned)
                return sizeof(unsigned);
        if (item->parse == config_parse_enum)
                return sizeof(int);
        /* Whole numbers of 64 bit, doubles and pointers. */
        return sizeof(uint64_t);
}

static bool strv_equal(char *const *left, char *const *right) {
        if (strv_length((char **) left) != strv_length((char **) right))
                return false;
        for (; left && *left; left++, right++)
                if (!streq(*left, *right))
                        return false;
        return true;
}

static bool field_equal(const ConfigItem *item, const void *left, const void *right) {
        if (item->parse == config_parse_strv)
                return strv_equal(*(char *const *const *) left, *(char *const *const *) right);
        if (item->parse == config_parse_path || item->parse == config_parse_string)
                return streq_ptr(*(char *const *) left, *(char *const *) right);
        return memcmp(left, right, field_size(item)) == 0;
}

int master_config_reload(MasterConfig *config, MasterConfig *again, char ***ret_waiting) {
        _cleanup_(strv_freep) char **waiting = NULL;
        char *fields = (char *) config, *others = (char *) again;

        for (size_t i = 0; i < ELEMENTSOF(items); i++)
                if (!key_is_live(items[i].key) &&
                    !field_equal(items + i, fields + items[i].offset, others + items[i].offset) &&
                    strv_extend(&waiting, items[i].key) < 0)
                        return -ENOMEM;
        for (size_t i = 0; i < ELEMENTSOF(items); i++) {
                size_t size = field_size(items + i);
                char kept[sizeof(uint64_t)];

                if (!key_is_live(items[i].key))
                        continue;
                memcpy(kept, fields + items[i].offset, size);
                memcpy(fields + items[i].offset, others + items[i].offset, size);
                memcpy(others + items[i].offset, kept, size);
        }
        *ret_waiting = TAKE_PTR(waiting);
        return 0;
}
