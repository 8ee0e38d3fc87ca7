/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-report.h"

#include <errno.h>
#include <unistd.h>

#include "environment-order.h"
#include "fd-util.h"
#include "json-util.h"
#include "launcher/launcher-protocol.h"
#include "parse-util.h"

enum {
        REPORT_DEPTH = 4,
        LIBRARIES_MAX = 4096,
        LIBRARY_SIZE_MAX = 128,
        LIBRARY_OVERHEAD = sizeof("\"\":\"\",") - 1,
        INSTALLER_MAX = 64,
};

void environment_report_done(EnvironmentReport *report) {
        report->lock = mfree(report->lock);
        report->libraries = json_put(report->libraries);
        report->installer = mfree(report->installer);
}

/* Characters of projects' names and of versions. */
static bool library_text_is_valid(const char *s) {
        size_t size = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+!*");

        return size >= 1 && size <= LIBRARY_SIZE_MAX && s[size] == '\0';
}

static int copy_libraries(json_object *from, json_object *to) {
        size_t n = 0, total = 2;

        json_object_object_foreach(from, name, value) {
                const char *version = json_object_get_string(value);
                int r;

                if (!json_object_is_type(value, json_type_string) || !library_text_is_valid(name) ||
                    !library_text_is_valid(version))
                        return -EBADMSG;
                total += strlen(name) + strlen(version) + LIBRARY_OVERHEAD;
                if (++n > LIBRARIES_MAX || total > ENVIRONMENT_LIBRARIES_SIZE_MAX)
                        return -EBADMSG;
                r = json_add_string(to, name, version);
                if (r < 0)
                        return r;
        }
        return 0;
}

int environment_report_parse(const char *text, size_t size, EnvironmentReport *ret) {
        _cleanup_(json_putp) json_object *json = NULL, *libraries = NULL;
        _cleanup_(freep) char *lock_copy = NULL, *installer_copy = NULL;
        json_object *reported = NULL;
        const char *installer, *lock;
        int r;

        r = json_parse_strict_object(text, size, REPORT_DEPTH, &json);
        if (r < 0)
                return r;
        if (json_get_string_optional(json, "lock", ENVIRONMENT_LOCK_MAX, NULL, &lock) < 0 ||
            json_get_string_optional(json, "installer", BUILD_REPORT_MAX, NULL, &installer) < 0 ||
            json_get_object_optional(json, "libraries", &reported) < 0)
                return -EBADMSG;
        r = json_new_object(&libraries);
        if (r >= 0 && reported)
                r = copy_libraries(reported, libraries);
        if (r < 0)
                return r;
        lock_copy = lock ? strdup(lock) : NULL;
        installer_copy = installer ? text_for_message(installer, INSTALLER_MAX) : NULL;
        if ((lock && !lock_copy) || (installer && !installer_copy))
                return -ENOMEM;
        *ret = (EnvironmentReport){ .lock = TAKE_PTR(lock_copy),
                                    .lock_size = lock ? strlen(lock) : 0,
                                    .libraries = TAKE_PTR(libraries),
                                    .installer = TAKE_PTR(installer_copy) };
        return 0;
}

/* All of a memfd; of one with more than max bytes the last ones, or -EFBIG. */
static int read_memfd(int fd, uint64_t max, bool last, char **ret, size_t *ret_size) {
        _cleanup_(freep) char *buffer = NULL;
        uint64_t size, offset = 0;
        size_t got = 0;
        int r;

        r = memfd_check_sealed(fd, &size);
        if (r < 0)
                return r;
        if (size > max) {
                if (!last)
                        return -EFBIG;
                offset = size - max;
                size = max;
        }
        buffer = malloc((size_t) size + 1);
        if (!buffer)
                return -ENOMEM;
        while (got < size) {
                ssize_t n = pread(fd, buffer + got, (size_t) size - got, (off_t) (offset + got));

                if (n < 0)
                        return -errno;
                if (n == 0)
                        return -EIO;
                got += (size_t) n;
        }
        buffer[got] = '\0';
        *ret = TAKE_PTR(buffer);
        *ret_size = got;
        return 0;
}

int environment_report_read(int fd, EnvironmentReport *ret) {
        _cleanup_(freep) char *text = NULL;
        size_t size = 0;
        int r;

        r = read_memfd(fd, BUILD_REPORT_MAX, false, &text, &size);
        return r < 0 ? r : environment_report_parse(text, size, ret);
}

int environment_log_read(int fd, char **ret, size_t *ret_size) {
        return read_memfd(fd, BUILD_LOG_MAX, true, ret, ret_size);
}
