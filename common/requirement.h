/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* What Python packages are asked for, and which ones exactly were found. Nothing is resolved here: that is
 * an installer's affair. These look only as far as is needed to tell requirements from an installer's
 * options, to know which project a requirement is about, and to read what a lock has in it. */

enum {
        REQUIREMENT_MAX = 1024, /* bytes of one */
        PROJECT_NAME_MAX = 128, /* bytes, without the NUL */
        PROJECT_VERSION_MAX = 128,
        MODULE_NAME_MAX = 255,
        LOCK_MAX = 1 << 20, /* bytes of a lock */
        LOCK_ENTRIES_MAX = 10000,
};

/* Whether it looks as PEP 508 says: a name, extras, versions, markers. No options, no addresses: a build
 * reaches the master's index only. One printable line. */
bool requirement_is_valid(const char *s);

/* The project's name as PEP 503 normalises it ("Ruamel_Yaml[x]>=1" is ruamel-yaml). Returns 0, -EINVAL. */
int requirement_project(const char *s, char ret[static PROJECT_NAME_MAX + 1]);

/* Likewise the one that a wheel's file name begins with. */
int wheel_project(const char *name, char ret[static PROJECT_NAME_MAX + 1]);

/* "numpy", "os.path": a module that can be imported. */
bool module_name_is_valid(const char *s);

/* "x-1.0-py3-none-any.whl": a wheel's file name, without a folder. */
bool wheel_name_is_valid(const char *s);

/* One requirement of a lock. */
typedef struct LockEntry {
        char project[PROJECT_NAME_MAX + 1];
        char version[PROJECT_VERSION_MAX + 1];
        bool conditional; /* there are markers: it may be installed or not */
        size_t line;      /* from 1 */
} LockEntry;

/* Called for each entry. Returns 0, or a negative errno to end there. */
typedef int (*LockVisit)(const LockEntry *entry, void *userdata);

/* Reads a lock: requirements as pip takes them with --require-hashes, each pinned by == and with at least
 * one SHA-256 (--hash=sha256:…), on lines that a '\' may join; comments; nothing else. visit may be NULL.
 * Returns 0, -EINVAL with the line (from 1) and what was expected there, -EFBIG over LOCK_MAX, -E2BIG over
 * LOCK_ENTRIES_MAX, what visit returned. */
int lock_parse(const char *text, size_t size, LockVisit visit, void *userdata, size_t *ret_line,
               const char **ret_expected);
