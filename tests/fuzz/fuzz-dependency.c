/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <errno.h>

#include "dependency-config.h"
#include "requirement.h"

/* Whatever is let through has to be harmless as an argument and in another program's configuration. */
static void check_list(char *const *list, bool (*valid)(const char *), size_t max) {
        CHECK(strv_length(list) <= max);
        for (; list && *list; list++) {
                CHECK(!valid || valid(*list));
                CHECK((*list)[0] != '-');
                for (const char *p = *list; *p; p++)
                        CHECK((unsigned char) *p >= ' ');
        }
}

static void check_config(const DependencyConfig *config) {
        check_list(config->packages, requirement_is_valid, DEPENDENCY_PACKAGES_MAX);
        check_list(config->preload, module_name_is_valid, DEPENDENCY_PRELOAD_MAX);
        check_list(config->wheels, NULL, DEPENDENCY_FOLDERS_MAX);
        check_list(config->index_files, NULL, DEPENDENCY_FOLDERS_MAX);
        for (char **s = config->packages; s && *s; s++) {
                char project[PROJECT_NAME_MAX + 1];

                CHECK(requirement_project(*s, project) == 0 && project[0] != '\0');
        }
        CHECK(!config->index || !config->no_index);
        CHECK(!config->index || startswith(config->index, "http"));
}

static int check_entry(const LockEntry *entry, void *userdata) {
        size_t *last = userdata;

        CHECK(entry->project[0] != '\0' && entry->version[0] != '\0');
        CHECK(entry->line > *last);
        *last = entry->line;
        return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = NULL;
        char *message = NULL, *copy = memdup(data, size);
        const char *expected;
        size_t line, last = 0;
        int r;

        CHECK(copy);
        r = dependency_config_parse("/etc/fuzz.yaml", copy, size, &config, &message);
        CHECK((r < 0) == (message != NULL));
        for (const char *p = message; p && *p; p++)
                CHECK((uint8_t) *p >= ' ');
        if (config)
                check_config(config);
        free(message);
        r = lock_parse(copy, size, check_entry, &last, &line, &expected);
        CHECK(r >= 0 || (expected && line >= 1));
        free(copy);
        return 0;
}
