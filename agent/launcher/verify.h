/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The launcher believes nothing that a zygote or its children say about themselves. */

enum { VERIFY_NAMESPACES = 4 };
/* In the order in which a zygote is given them: "pid", "mnt", "ipc", "net". */
extern const char *const verify_namespaces[VERIFY_NAMESPACES];

typedef struct Expected {
        uint32_t uid; /* on the node */
        ino_t namespaces[VERIFY_NAMESPACES];
        uint64_t filters; /* number of seccomp filters */
} Expected;

/* Does the text of /proc/PID/status show that uid and gid and no groups, no capabilities, no_new_privs, one
 * thread, that many filters? Returns NULL, or what is wrong. */
const char *verify_status(const char *text, uint32_t uid, uint64_t filters);

/* Does the text of /proc/PID/limits forbid core files? */
bool verify_limits(const char *text);

/* Is this process, a child of ours that has not been reaped, as ordered? Returns NULL, or what is wrong. */
const char *verify_task(pid_t pid, const Expected *expected);

/* Is what the pidfd names a child of ours, dead or alive? A dead one must be taken too, or nobody reaps it
 * and the init of its namespace waits for it for ever. */
bool verify_is_child(int pidfd);

/* The pid, in our namespace, of a process that a pidfd names. Returns -ESRCH when it is reaped, -errno. */
pid_t pidfd_to_pid(int pidfd);

/* Is a process on its way out? For an init, whose end waits for all others. */
bool process_is_exiting(pid_t pid);
/* The same of the text of /proc/PID/stat. */
bool stat_is_exiting(const char *text);
