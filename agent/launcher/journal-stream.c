/* SPDX-License-Identifier: Apache-2.0 */
#include "journal-stream.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fd-util.h"

#define JOURNAL_SOCKET "/run/systemd/journal/stdout"
#define UNITS_FOLDER "/run/systemd/units"
#define FIELDS_PREFIX "log-extra-fields:"
#define TEMPORARY_PREFIX ".#clupy-"

enum { STREAM_BUFFER = 4 << 20, PRIORITY_INFO = 6 };

int journal_stream_open(const char *identifier, const char *unit) {
        const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET };
        _cleanup_(close_fdp) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int size = STREAM_BUFFER, r;
        char header[256];

        if (fd < 0)
                return -errno;
        if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
                (void) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ||
            shutdown(fd, SHUT_RD) < 0)
                return -errno;
        /* identifier, unit, priority, then four switches: "<N>" prefixes are read, not sent on to syslog,
         * kmsg, console. */
        int n = snprintf(header, sizeof(header), "%s\n%s\n%d\n1\n0\n0\n0\n", identifier, unit,
                         PRIORITY_INFO);
        if (n < 0 || (size_t) n >= sizeof(header))
                return -ENAMETOOLONG;
        r = fd_write_all(fd, header, (size_t) n);
        if (r >= 0)
                r = fd_set_nonblock(fd, false); /* print() in a task is meant to wait, not to fail */
        return r < 0 ? r : TAKE_FD(fd);
}

int journal_stream_end_line(int fd) {
        return send(fd, "\n", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

bool journal_stream_is_drained(int fd) {
        int left = 0;

        return ioctl(fd, SIOCOUTQ, &left) < 0 || left == 0;
}

int journal_fields_write(const char *unit, const char *const *fields) {
        char path[256], temporary[256], content[2048];
        size_t size = 0;
        int r;

        for (; *fields; fields++) {
                uint64_t length = strlen(*fields), little_endian = htole64(length);
                if (size + sizeof(little_endian) + length > sizeof(content))
                        return -E2BIG;
                memcpy(content + size, &little_endian, sizeof(little_endian));
                memcpy(content + size + sizeof(little_endian), *fields, length);
                size += sizeof(little_endian) + length;
        }
        /* journald may read at any moment: the whole or nothing, hence the rename. */
        (void) snprintf(path, sizeof(path), UNITS_FOLDER "/" FIELDS_PREFIX "%s", unit);
        (void) snprintf(temporary, sizeof(temporary), UNITS_FOLDER "/" TEMPORARY_PREFIX "%s", unit);
        _cleanup_(close_fdp) int fd =
                open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0)
                return -errno;
        r = fd_write_all(fd, content, size);
        if (r >= 0 && rename(temporary, path) < 0)
                r = -errno;
        if (r < 0)
                (void) unlink(temporary);
        return r;
}

void journal_fields_remove(const char *unit) {
        char path[256];

        (void) snprintf(path, sizeof(path), UNITS_FOLDER "/" FIELDS_PREFIX "%s", unit);
        (void) unlink(path);
}

void journal_fields_sweep(const char *prefix, bool (*known)(const char *unit, void *userdata),
                          void *userdata) {
        DIR *directory = opendir(UNITS_FOLDER);

        if (!directory)
                return;
        for (struct dirent *entry; (entry = readdir(directory));) {
                const char *unit = startswith(entry->d_name, FIELDS_PREFIX);
                if (!unit)
                        unit = startswith(entry->d_name, TEMPORARY_PREFIX);
                if (unit && startswith(unit, prefix) && !known(unit, userdata))
                        (void) unlinkat(dirfd(directory), entry->d_name, 0);
        }
        (void) closedir(directory);
}
