/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-stamp.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "macros.h"
#include "parse-util.h"
#include "text-file.h"

#define FIRST_LINE "clupy environment 1\n"

int environment_stamp_format(const EnvironmentStamp *stamp, char *ret, size_t size) {
        int n = snprintf(ret, size,
                         FIRST_LINE "owner=%s\npython=%s\nbytes=%" PRIu64 "\nfiles=%" PRIu64
                                    "\nbuilt_at=%" PRIu64 "\n",
                         stamp->owner, stamp->python, stamp->bytes, stamp->files, stamp->built_at);

        return n < 0 || (size_t) n >= size ? -EMSGSIZE : n;
}

/* The value of a line, NUL-padded. */
static bool take(const char *text, const char *key, char *ret, size_t size) {
        size_t n;
        const char *value = text_line(text, key, &n);

        if (!value || n >= size)
                return false;
        memset(ret, 0, size);
        memcpy(ret, value, n);
        return true;
}

static bool take_number(const char *text, const char *key, uint64_t *ret) {
        char number[24];

        return take(text, key, number, sizeof(number)) && parse_uint64(number, ret) >= 0;
}

int environment_stamp_parse(const char *text, EnvironmentStamp *ret) {
        EnvironmentStamp stamp;

        if (!startswith(text, FIRST_LINE) || !take(text, "owner=", stamp.owner, sizeof(stamp.owner)) ||
            !take(text, "python=", stamp.python, sizeof(stamp.python)) ||
            !take_number(text, "bytes=", &stamp.bytes) || !take_number(text, "files=", &stamp.files) ||
            !take_number(text, "built_at=", &stamp.built_at))
                return -EBADMSG;
        if ((stamp.owner[0] && !owner_name_is_valid(stamp.owner)) || !python_series_is_valid(stamp.python))
                return -EBADMSG;
        *ret = stamp;
        return 0;
}
