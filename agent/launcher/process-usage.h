/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "text-file.h"

/* What one process used, as the kernel tells it of the process and not of its cgroup. */

typedef struct ProcessBytes {
        bool known;
        uint64_t read_chars, write_chars, read_bytes, write_bytes;
} ProcessBytes;

/* Its files, which are kept open between what is asked when it is ready and when it has ended. */
typedef struct ProcessFiles {
        KeptFile stat, io, schedstat;
} ProcessFiles;

/* Ahead of the moment when somebody waits for the answers. */
void process_files_open(ProcessFiles *files, pid_t pid);
void process_files_close(ProcessFiles *files);

/* Adds what the process, and the children it has waited for, read and wrote. Also of a zombie. */
void process_bytes_add(ProcessBytes *bytes, ProcessFiles *files, pid_t pid);

/* The CPU time of the process's first thread, of a live process. Returns false when it is not told. */
bool process_cpu_read(ProcessFiles *files, pid_t pid, uint64_t *ret_usec);

/* It has one thread and has never waited for a child: then process_cpu_read() is all it used. */
bool process_is_single(ProcessFiles *files, pid_t pid);

/* Reaps a child that has ended, and tells the CPU time of all its threads and of the children it has waited
 * for. Returns 0, -errno. */
int process_reap(int pidfd, siginfo_t *ret, uint64_t *ret_cpu_usec);
