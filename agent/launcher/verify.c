/* SPDX-License-Identifier: Apache-2.0 */
#include "verify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "macros.h"
#include "text-file.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum { FLAG_EXITING = 0x4 }; /* PF_EXITING of the kernel's task flags */

const char *const verify_namespaces[VERIFY_NAMESPACES] = { "pid", "mnt", "ipc", "net" };

static bool line_is(const char *text, const char *key, const char *value) {
        size_t size;
        const char *rest = text_line(text, key, &size);

        while (rest && size > 0 && strchr(" \t", *rest)) {
                rest++;
                size--;
        }
        while (rest && size > 0 && strchr(" \t", rest[size - 1]))
                size--;
        return rest && size == strlen(value) && memcmp(rest, value, size) == 0;
}

const char *verify_status(const char *text, uint32_t uid, uint64_t filters) {
        static const char *const capability_sets[] = { "CapInh:", "CapPrm:", "CapEff:", "CapAmb:" };
        char ids[64];
        uint64_t n;

        (void) snprintf(ids, sizeof(ids), "%" PRIu32 "\t%" PRIu32 "\t%" PRIu32 "\t%" PRIu32, uid, uid, uid,
                        uid);
        if (!line_is(text, "Uid:", ids))
                return "uid";
        if (!line_is(text, "Gid:", ids))
                return "gid";
        if (!line_is(text, "Groups:", ""))
                return "groups";
        for (size_t i = 0; i < ELEMENTSOF(capability_sets); i++)
                if (!line_is(text, capability_sets[i], "0000000000000000"))
                        return "capabilities";
        if (!line_is(text, "NoNewPrivs:", "1"))
                return "no_new_privs";
        if (!line_is(text, "Threads:", "1"))
                return "threads";
        if (!line_is(text, "Seccomp:", "2") || !text_field(text, "Seccomp_filters", &n) || n != filters)
                return "seccomp filters";
        return NULL;
}

bool verify_limits(const char *text) {
        size_t size;
        uint64_t soft, hard;
        const char *line = text_line(text, "Max core file size", &size);
        char copy[64];

        if (!line || size >= sizeof(copy))
                return false;
        memcpy(copy, line, size);
        copy[size] = '\0';
        return sscanf(copy, "%" SCNu64 " %" SCNu64, &soft, &hard) == 2 && soft == 0 && hard == 0;
}

const char *verify_task(pid_t pid, const Expected *expected) {
        char text[4096], path[64];
        struct stat st;

        for (size_t i = 0; i < VERIFY_NAMESPACES; i++) {
                (void) snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int) pid, verify_namespaces[i]);
                if (stat(path, &st) < 0 || st.st_ino != expected->namespaces[i])
                        return verify_namespaces[i];
        }
        if (text_file_read(text, sizeof(text), "/proc/%d/status", (int) pid) < 0)
                return "status";
        const char *wrong = verify_status(text, expected->uid, expected->filters);
        if (wrong)
                return wrong;
        if (text_file_read(text, sizeof(text), "/proc/%d/limits", (int) pid) < 0 || !verify_limits(text))
                return "limits";
        return NULL;
}

bool verify_is_child(int pidfd) {
        siginfo_t information;

        return waitid((idtype_t) P_PIDFD, (id_t) pidfd, &information,
                      WEXITED | WNOHANG | WNOWAIT | __WALL) == 0;
}

pid_t pidfd_to_pid(int pidfd) {
        char text[512];
        uint64_t pid;
        int r = text_file_read(text, sizeof(text), "/proc/self/fdinfo/%d", pidfd);

        if (r < 0)
                return r;
        return text_field(text, "Pid", &pid) && pid > 0 && pid <= INT32_MAX ? (pid_t) pid : -ESRCH;
}

bool stat_is_exiting(const char *text) {
        /* Behind the name, which may hold anything: state ppid pgrp session tty tpgid flags */
        const char *rest = strrchr(text, ')');
        char state;
        int a, b, c, d, e;
        unsigned flags;

        return rest && sscanf(rest + 1, " %c %d %d %d %d %d %u", &state, &a, &b, &c, &d, &e, &flags) == 7 &&
               (flags & FLAG_EXITING);
}

bool process_is_exiting(pid_t pid) {
        char text[1024];

        return text_file_read(text, sizeof(text), "/proc/%d/stat", (int) pid) >= 0 && stat_is_exiting(text);
}
