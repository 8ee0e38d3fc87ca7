/* SPDX-License-Identifier: Apache-2.0 */
/* clupy-index-keys: what clupy.master.dependency.yaml says of the package index, as JSON, for
 * clupy-index-config. One reader of that file for all who need it: what the master refuses is refused here
 * with the same words. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "dependency-config.h"
#include "json-util.h"

static int add_strings(json_object *object, const char *key, char **strings) {
        json_object *array; /* borrowed */
        int r = json_add_new_array(object, key, &array);

        for (char **string = strings; r == 0 && string && *string; string++)
                r = json_append_string(array, *string);
        return r;
}

static int describe(const DependencyConfig *config, json_object **ret) {
        _cleanup_(json_putp) json_object *object = NULL;
        int r = json_new_object(&object);

        if (r == 0)
                r = json_add_string(object, "index", config->no_index ? "none" : config->index);
        if (r == 0)
                r = add_strings(object, "index_files", config->index_files);
        if (r == 0)
                r = add_strings(object, "wheels", config->wheels);
        if (r == 0)
                *ret = TAKE_PTR(object);
        return r;
}

int main(int argc, char *argv[]) {
        _cleanup_(dependency_config_freep) DependencyConfig *config = NULL;
        _cleanup_(json_putp) json_object *object = NULL;
        _cleanup_(freep) char *message = NULL;
        const char *path = argc > 1 ? argv[1] : DEPENDENCY_CONFIG_PATH;
        const char *text;
        int r;

        r = dependency_config_load(path, &config, &message);
        if (r == -ENOENT && argc <= 1) {
                /* Without the file: what pip uses, for what clients ask for. */
                puts("{}");
                return EXIT_SUCCESS;
        }
        if (r < 0) {
                fprintf(stderr, "%s\n", message ? message : strerror(-r));
                return EX_CONFIG;
        }
        r = describe(config, &object);
        text = r == 0 ? json_text(object, NULL) : NULL;
        if (!text || puts(text) == EOF || fflush(stdout) == EOF) {
                fprintf(stderr, "%s: %s\n", path, strerror(r < 0 ? -r : EIO));
                return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}
