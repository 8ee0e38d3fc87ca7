/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "macros.h"

/* The small text files of /proc and /sys/fs/cgroup. */

/* Reads one whole (it must fit) and ends it with NUL. Returns its length, -EFBIG, -errno. */
int text_file_read(char *buffer, size_t size, const char *format, ...) _printf_(3, 4);

/* One that is read again: it stays open from the first time on, since to find such a file costs several
 * times as much as to read it. Of a process it goes on to mean that very process. All zeros: not open yet.
 */
typedef struct KeptFile {
        bool is_open;
        int fd;
} KeptFile;

/* As text_file_read(); the name counts the first time. */
int kept_file_read(KeptFile *file, char *buffer, size_t size, const char *format, ...) _printf_(4, 5);
/* Opens it for later, if that is possible. */
void kept_file_open(KeptFile *file, const char *format, ...) _printf_(2, 3);
void kept_file_close(KeptFile *file);

/* Writes the text with one write(2), as these files want it. Returns 0, -errno. */
int text_file_write(const char *text, const char *format, ...) _printf_(2, 3);

/* Writes a decimal number. Returns 0, -errno. */
int text_file_write_number(uint64_t number, const char *format, ...) _printf_(2, 3);

/* The number behind "key" and spaces, tabs or a colon, at the start of a line. */
bool text_field(const char *text, const char *key, uint64_t *ret);

/* The rest of the line that begins with prefix, with or without an end of line behind it in text; NULL when
 * there is no such line. */
const char *text_line(const char *text, const char *prefix, size_t *ret_size);

/* A number on its own, perhaps with an end of line. "max" and other words are none. */
bool text_number(const char *text, uint64_t *ret);

/* The path of a v1 controller, or with NULL of the unified hierarchy, in the text of /proc/PID/cgroup.
 * Returns 0, -ENOENT, -ENAMETOOLONG. */
int text_cgroup_path(const char *text, const char *controller, char *ret, size_t size);

/* The sum of the "some … total=" figures of a pressure file, microseconds. */
bool text_pressure_total(const char *text, uint64_t *ret);
