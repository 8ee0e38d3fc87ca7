/* SPDX-License-Identifier: Apache-2.0 */
#include "client-config.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "config.h"

#define MACHINE_PKI "/etc/clupy/pki"

enum { UNSET = -1 };

typedef struct ClientFile {
        char *master, *certificate, *key, *authority;
        int insecure; /* or UNSET */
} ClientFile;

static int parse_insecure(const ConfigItem *item, const char *name, const char *value, void *field) {
        bool insecure = false;
        int r = value ? config_parse_bool(item, name, value, &insecure) : -EINVAL;

        if (r >= 0)
                *(int *) field = insecure;
        return r;
}

#define FIELD(name) offsetof(ClientFile, name)

static const ConfigItem items[] = {
        { "master", CONFIG_SCALAR, config_parse_string, FIELD(master),
          "a master's address such as clupy://host:7878", .min = 1, .max = 4096 },
        { "insecure", CONFIG_SCALAR, parse_insecure, FIELD(insecure), "true or false" },
        { "tls.certificate", CONFIG_SCALAR, config_parse_string, FIELD(certificate), "the path of a file",
          .min = 1, .max = 4096 },
        { "tls.key", CONFIG_SCALAR, config_parse_string, FIELD(key), "the path of a file", .min = 1,
          .max = 4096 },
        { "tls.authority", CONFIG_SCALAR, config_parse_string, FIELD(authority), "the path of a file",
          .min = 1, .max = 4096 },
};

static void client_file_done(ClientFile *file) {
        free(file->master);
        free(file->certificate);
        free(file->key);
        free(file->authority);
}

/* Where a user's own configuration and certificate are: an absolute path, or NULL when there is no such
 * place. */
static char *user_folder(void) {
        const char *folder = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

        if (!isempty(folder))
                return strformat("%s/clupy", folder);
        return isempty(home) ? NULL : strformat("%s/.config/clupy", home);
}

/* What a file says of paths is meant from its own folder; "~/" is the user's home. Returns 0, -ENOMEM. */
static int make_absolute(char **path, const char *file) {
        _cleanup_(freep) char *folder = NULL, *absolute = NULL, *here = NULL;
        const char *slash = strrchr(file, '/'), *home = getenv("HOME");

        if (!*path || **path == '/')
                return 0;
        if (startswith(*path, "~/") && !isempty(home))
                absolute = strformat("%s%s", home, *path + 1);
        else {
                folder = slash ? memdup_nul(file, (size_t) (slash - file)) : NULL;
                if (slash && !folder)
                        return -ENOMEM;
                here = folder && *folder == '/' ? strdup("") : getcwd(NULL, 0);
                if (!here)
                        return -ENOMEM;
                absolute = strformat("%s%s%s/%s", here, folder && *here ? "/" : "", strempty(folder), *path);
        }
        return absolute ? free_and_replace(*path, absolute) : -ENOMEM;
}

/* What the file says that no former one has said. Each key counts alone but the paths, which belong
 * together. */
static int load_file(const char *path, ClientConfig *config, int *insecure, char **ret_message) {
        ClientFile file = { .insecure = UNSET };
        int r = config_load_file(path, items, ELEMENTSOF(items), &file, ret_message);

        if (r >= 0)
                r = make_absolute(&file.certificate, path);
        if (r >= 0)
                r = make_absolute(&file.key, path);
        if (r >= 0)
                r = make_absolute(&file.authority, path);
        if (r < 0) {
                client_file_done(&file);
                if (r != -ENOENT && r != -ENOTDIR)
                        return r;
                *ret_message = mfree(*ret_message);
                return 0;
        }
        if (!config->master)
                config->master = TAKE_PTR(file.master);
        if (*insecure == UNSET)
                *insecure = file.insecure;
        if (!config->certificate && !config->key && !config->authority) {
                config->certificate = TAKE_PTR(file.certificate);
                config->key = TAKE_PTR(file.key);
                config->authority = TAKE_PTR(file.authority);
        }
        client_file_done(&file);
        return 0;
}

/* The environment before the files, the usual places behind them. sign: the file that shows whether the user
 * has a certificate of their own. */
static int settle(char **path, const char *variable, const char *folder, const char *name,
                  const char *sign) {
        const char *given = getenv(variable);
        _cleanup_(freep) char *own = NULL, *there = NULL;

        if (!isempty(given))
                return free_and_strdup(path, given);
        if (*path)
                return 0;
        if (folder) {
                there = strformat("%s/%s", folder, sign);
                if (!there)
                        return -ENOMEM;
        }
        /* Where there is neither, the user's own place is the one to be told of. */
        if (folder && (access(there, F_OK) == 0 || access(MACHINE_PKI "/user.crt", F_OK) < 0))
                own = strformat("%s/%s", folder, name);
        else
                own = strformat(MACHINE_PKI "/%s", name);
        return own ? free_and_replace(*path, own) : -ENOMEM;
}

int client_config_load(ClientConfig *ret, char **ret_message) {
        _cleanup_(freep) char *folder = user_folder(), *path = NULL;
        ClientConfig config = { 0 };
        int insecure = UNSET, r;

        *ret_message = NULL;
        r = load_file(CLIENT_CONFIG_NAME, &config, &insecure, ret_message);
        if (r >= 0 && folder) {
                path = strformat("%s/" CLIENT_CONFIG_NAME, folder);
                r = path ? load_file(path, &config, &insecure, ret_message) : -ENOMEM;
        }
        if (r >= 0)
                r = settle(&config.certificate, "CLUPY_TLS_CERTIFICATE", folder, "user.crt", "user.crt");
        if (r >= 0)
                r = settle(&config.key, "CLUPY_TLS_KEY", folder, "user.key", "user.crt");
        if (r >= 0)
                r = settle(&config.authority, "CLUPY_TLS_AUTHORITY", folder, "ca.crt", "ca.crt");
        if (r < 0) {
                client_config_done(&config);
                return r;
        }
        config.insecure = insecure == true;
        *ret = config;
        return 0;
}

void client_config_done(ClientConfig *config) {
        config->master = mfree(config->master);
        config->certificate = mfree(config->certificate);
        config->key = mfree(config->key);
        config->authority = mfree(config->authority);
}
