/* SPDX-License-Identifier: Apache-2.0 */
#include "text-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd-util.h"

enum {
        PATH_SIZE = 512,
        PAGE_MIN = 2048, /* bytes; a file of /proc that has more may come in parts */
};

static int open_formatted(int flags, const char *format, va_list arguments) _printf_(2, 0);
static int open_formatted(int flags, const char *format, va_list arguments) {
        char path[PATH_SIZE];
        int n = vsnprintf(path, sizeof(path), format, arguments);

        if (n < 0 || (size_t) n >= sizeof(path))
                return -ENAMETOOLONG;
        int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW);
        return fd < 0 ? -errno : fd;
}

/* From the start. One read gives all of these files as far as there is room, up to a page. */
static int read_text(int fd, char *buffer, size_t size) {
        ssize_t n = pread(fd, buffer, size, 0);

        if (n < 0)
                return -errno;
        while (n >= PAGE_MIN && (size_t) n < size) {
                ssize_t more = pread(fd, buffer + n, size - (size_t) n, n);
                if (more < 0)
                        return -errno;
                if (more == 0)
                        break;
                n += more;
        }
        if ((size_t) n >= size)
                return -EFBIG;
        buffer[n] = '\0';
        return (int) n;
}

int text_file_read(char *buffer, size_t size, const char *format, ...) {
        _cleanup_(close_fdp) int fd = -EBADF;
        va_list arguments;

        va_start(arguments, format);
        fd = open_formatted(O_RDONLY, format, arguments);
        va_end(arguments);
        if (fd < 0)
                return fd;
        return read_text(fd, buffer, size);
}

void kept_file_open(KeptFile *file, const char *format, ...) {
        va_list arguments;

        if (file->is_open)
                return;
        va_start(arguments, format);
        int fd = open_formatted(O_RDONLY, format, arguments);
        va_end(arguments);
        if (fd >= 0)
                *file = (KeptFile){ .is_open = true, .fd = fd };
}

int kept_file_read(KeptFile *file, char *buffer, size_t size, const char *format, ...) {
        va_list arguments;

        if (!file->is_open) {
                va_start(arguments, format);
                int fd = open_formatted(O_RDONLY, format, arguments);
                va_end(arguments);
                if (fd < 0)
                        return fd;
                *file = (KeptFile){ .is_open = true, .fd = fd };
        }
        return read_text(file->fd, buffer, size);
}

void kept_file_close(KeptFile *file) {
        if (file->is_open)
                close_fd(file->fd);
        file->is_open = false;
}

static int write_text(int fd, const char *text) {
        size_t size = strlen(text);
        ssize_t n = write(fd, text, size);

        if (n < 0)
                return -errno;
        return (size_t) n == size ? 0 : -EIO;
}

int text_file_write(const char *text, const char *format, ...) {
        _cleanup_(close_fdp) int fd = -EBADF;
        va_list arguments;

        va_start(arguments, format);
        fd = open_formatted(O_WRONLY, format, arguments);
        va_end(arguments);
        return fd < 0 ? fd : write_text(fd, text);
}

int text_file_write_number(uint64_t number, const char *format, ...) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char text[24];
        va_list arguments;

        va_start(arguments, format);
        fd = open_formatted(O_WRONLY, format, arguments);
        va_end(arguments);
        if (fd < 0)
                return fd;
        (void) snprintf(text, sizeof(text), "%" PRIu64, number);
        return write_text(fd, text);
}

const char *text_line(const char *text, const char *prefix, size_t *ret_size) {
        size_t n = strlen(prefix);

        for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
                if (strncmp(line, prefix, n) == 0) {
                        *ret_size = strcspn(line + n, "\n");
                        return line + n;
                }
        return NULL;
}

/* Digits only: strtoull() alone would take signs and spaces too. */
static bool digits(const char *text, uint64_t *ret, const char **ret_end) {
        char *end;

        if (*text < '0' || *text > '9')
                return false;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 10);
        if (errno != 0)
                return false;
        *ret = value;
        *ret_end = end;
        return true;
}

bool text_field(const char *text, const char *key, uint64_t *ret) {
        const char *rest = text, *end;
        size_t size;

        while ((rest = text_line(rest, key, &size))) {
                size_t gap = strspn(rest, " \t:");
                if (gap > 0 && gap < size)
                        return digits(rest + gap, ret, &end);
                rest += size;
                if (*rest == '\0')
                        return false;
                rest++;
        }
        return false;
}

bool text_number(const char *text, uint64_t *ret) {
        const char *end;
        uint64_t value;

        if (!digits(text, &value, &end) || (*end != '\0' && *end != '\n'))
                return false;
        *ret = value;
        return true;
}

/* Is the controller one of "cpu,cpuacct"? */
static bool in_list(const char *list, size_t size, const char *word) {
        size_t n = strlen(word);

        while (size > 0) {
                const char *comma = memchr(list, ',', size);
                size_t part = comma ? (size_t) (comma - list) : size;
                if (part == n && memcmp(list, word, n) == 0)
                        return true;
                if (!comma)
                        return false;
                list += part + 1;
                size -= part + 1;
        }
        return false;
}

int text_cgroup_path(const char *text, const char *controller, char *ret, size_t size) {
        for (const char *line = text; line && *line;
             line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
                size_t length = strcspn(line, "\n");
                const char *first = memchr(line, ':', length);
                if (!first)
                        continue;
                const char *second = memchr(first + 1, ':', length - (size_t) (first + 1 - line));
                if (!second || second[1] != '/')
                        continue;
                size_t list = (size_t) (second - first - 1);
                if (controller ? !in_list(first + 1, list, controller) : list != 0)
                        continue;
                size_t path = length - (size_t) (second + 1 - line);
                if (path >= size)
                        return -ENAMETOOLONG;
                memcpy(ret, second + 1, path);
                ret[path] = '\0';
                return 0;
        }
        return -ENOENT;
}

bool text_pressure_total(const char *text, uint64_t *ret) {
        size_t size;
        const char *end, *line = text_line(text, "some ", &size);
        if (!line)
                return false;
        const char *total = strstr(line, "total=");
        if (!total || total >= line + size)
                return false;
        return digits(total + 6, ret, &end);
}
