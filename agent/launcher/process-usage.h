/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What one process used, as the kernel tells it of the process and not of its cgroup. */

typedef struct ProcessBytes {
        bool known;
        uint64_t read_chars, write_chars, read_bytes, write_bytes;
} ProcessBytes;

/* Adds what the process, and the children it has waited for, read and wrote. Also of a zombie. */
void process_bytes_add(ProcessBytes *bytes, pid_t pid);

/* The CPU time of the process's first thread, of a live process. Returns false when it is not told. */
bool process_cpu_read(pid_t pid, uint64_t *ret_usec);

/* It has one thread and has never waited for a child: then process_cpu_read() is all it used. */
bool process_is_single(pid_t pid);

/* Reaps a child that has ended, and tells the CPU time of all its threads and of the children it has waited
 * for. Returns 0, -errno. */
int process_reap(int pidfd, siginfo_t *ret, uint64_t *ret_cpu_usec);
