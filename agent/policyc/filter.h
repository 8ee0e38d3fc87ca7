/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <linux/filter.h>
#include <stddef.h>

#include "profile.h"

/* The two filters of a profile. They stack, and the kernel takes the strictest answer: a task has both, and
 * both together are the profile. The final one is as small as can be, since the kernel compiles it anew for
 * each task. */
typedef enum FilterKind {
        FILTER_OUTER, /* zygote and everything below it: the profile, what the zygote needs, and the watched
                         calls as USER_NOTIF */
        FILTER_FINAL, /* a task: what the zygote needs and the profile does not allow; all else is let
                         through, watched calls too, since ERRNO here would win over the outer one's
                         USER_NOTIF */
        _FILTER_KIND_MAX,
} FilterKind;

const char *filter_kind_to_string(FilterKind kind);

/* Compiles, for the machine this runs on. What the profile does not name gives its default error, numbers
 * that libseccomp does not know ENOSYS (so that libraries fall back), other system call tables kill the
 * process: the outer one by itself, the final one together with it. The instructions are to be freed.
 * Returns 0, -ENOMEM, -E2BIG when the kernel would not take a program that long, and libseccomp's errors. */
int filter_compile(const Profile *profile, FilterKind kind, struct sock_filter **ret, size_t *ret_n);

/* Writes DIRECTORY/NAME.KIND.bpf, read-only for all, by way of a temporary file. Returns 0, -errno. */
int filter_write(const char *directory, const char *name, FilterKind kind,
                 const struct sock_filter *instructions, size_t n);
