/* SPDX-License-Identifier: Apache-2.0 */
#include "client-config.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "config.h"

#define FILE_NAME "clupy.client.yaml"

typedef struct ClientConfig {
        char *master, *certificate, *key, *authority;
        bool insecure;
} ClientConfig;

static const ConfigItem items[] = {
        { "master", CONFIG_SCALAR, config_parse_string, offsetof(ClientConfig, master),
          "a master's address such as clupy://host:7878", .min = 1, .max = 4096 },
        { "insecure", CONFIG_SCALAR, config_parse_bool, offsetof(ClientConfig, insecure), "true or false" },
        { "tls.certificate", CONFIG_SCALAR, config_parse_string, offsetof(ClientConfig, certificate),
          "the path of a file", .min = 1, .max = 4096 },
        { "tls.key", CONFIG_SCALAR, config_parse_string, offsetof(ClientConfig, key), "the path of a file",
          .min = 1, .max = 4096 },
        { "tls.authority", CONFIG_SCALAR, config_parse_string, offsetof(ClientConfig, authority),
          "the path of a file", .min = 1, .max = 4096 },
};

/* As client_config_load(), for one file. */
static int load_file(const char *path, char **ret_master, char **ret_message) {
        ClientConfig config = {};
        int r = config_load_file(path, items, ELEMENTSOF(items), &config, ret_message);

        free(config.certificate);
        free(config.key);
        free(config.authority);
        if (r < 0 || !config.master) {
                free(config.master);
                return r == -ENOENT || r == -ENOTDIR ? 0 : r;
        }
        *ret_master = config.master;
        return 1;
}

int client_config_load(char **ret_master, char **ret_message) {
        const char *folder = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
        _cleanup_(freep) char *path = NULL;
        int r = load_file(FILE_NAME, ret_master, ret_message);

        if (r != 0)
                return r;
        if (!isempty(folder))
                path = strformat("%s/clupy/" FILE_NAME, folder);
        else if (!isempty(home))
                path = strformat("%s/.config/clupy/" FILE_NAME, home);
        else
                return 0;
        return path ? load_file(path, ret_master, ret_message) : -ENOMEM;
}
