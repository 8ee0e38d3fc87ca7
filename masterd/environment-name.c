/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-name.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "digest.h"
#include "memory-util.h"

static int add_part(DigestContext *context, const char *key, const char *value) {
        size_t size = strlen(value);
        char line[64];
        int n, r;

        n = snprintf(line, sizeof(line), "%s %zu\n", key, size);
        r = digest_context_update(context, line, (size_t) n);
        if (r >= 0)
                r = digest_context_update(context, value, size);
        return r < 0 ? r : digest_context_update(context, "\n", 1);
}

static int add_list(DigestContext *context, const char *key, char *const *values) {
        int r = 0;

        for (; values && *values && r >= 0; values++)
                r = add_part(context, key, *values);
        return r;
}

int environment_name(const EnvironmentContent *content, char ret[static ENVIRONMENT_NAME_SIZE]) {
        static const char head[] = "clupy environment 1\n";
        _cleanup_(digest_context_freep) DigestContext *context = NULL;
        char hex[DIGEST_HEX_SIZE];
        Digest digest;
        int r;

        r = digest_context_new(&context);
        if (r >= 0)
                r = digest_context_update(context, head, sizeof(head) - 1);
        if (r >= 0)
                r = add_part(context, "python", content->python);
        if (r >= 0)
                r = add_part(context, "platform", content->platform);
        if (r >= 0)
                r = add_part(context, "index", content->index);
        if (r >= 0)
                r = add_part(context, "base", content->system_packages ? "system" : "python");
        if (r >= 0)
                r = add_part(context, "owner", content->owner);
        if (r >= 0)
                r = add_list(context, "preload", content->preload);
        if (r >= 0)
                r = add_list(context, "wheel", content->wheels);
        if (r >= 0)
                r = add_part(context, "lock", content->lock);
        if (r >= 0)
                r = digest_context_final(context, &digest);
        if (r < 0)
                return r;
        snprintf(ret, ENVIRONMENT_NAME_SIZE, "%.*s", ENVIRONMENT_DIGITS, digest_to_hex(&digest, hex));
        return 0;
}

void environment_base_name(const char *python, bool system_packages,
                           char ret[static ENVIRONMENT_NAME_SIZE]) {
        snprintf(ret, ENVIRONMENT_NAME_SIZE, "%s-%s", system_packages ? "system" : "python", python);
}

bool environment_name_is_built(const char *name) {
        return strlen(name) == ENVIRONMENT_DIGITS && strspn(name, "0123456789abcdef") == ENVIRONMENT_DIGITS;
}

int python_series(const char *version, char ret[static PYTHON_SERIES_SIZE]) {
        static const char digits[] = "0123456789";
        size_t major = strspn(version, digits), minor, size;

        if (major == 0 || version[major] != '.')
                return -EINVAL;
        minor = strspn(version + major + 1, digits);
        size = major + 1 + minor;
        if (minor == 0 || size >= PYTHON_SERIES_SIZE)
                return -EINVAL;
        if (version[size] != '\0' && version[size] != '.' && !strchr("abr+", version[size]))
                return -EINVAL;
        memcpy(ret, version, size);
        ret[size] = '\0';
        return 0;
}
