/* SPDX-License-Identifier: Apache-2.0 */
#include "process-usage.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "text-file.h"
#include "time-util.h"

void process_files_open(ProcessFiles *files, pid_t pid) {
        kept_file_open(&files->stat, "/proc/%d/stat", (int) pid);
        kept_file_open(&files->io, "/proc/%d/io", (int) pid);
        kept_file_open(&files->schedstat, "/proc/%d/schedstat", (int) pid);
}

void process_files_close(ProcessFiles *files) {
        kept_file_close(&files->stat);
        kept_file_close(&files->io);
        kept_file_close(&files->schedstat);
}

void process_bytes_add(ProcessBytes *bytes, ProcessFiles *files, pid_t pid) {
        char text[1024];
        uint64_t value;

        if (kept_file_read(&files->io, text, sizeof(text), "/proc/%d/io", (int) pid) < 0)
                return;
        if (text_field(text, "rchar", &value)) {
                bytes->read_chars += value;
                bytes->known = true;
        }
        if (text_field(text, "wchar", &value))
                bytes->write_chars += value;
        if (text_field(text, "read_bytes", &value))
                bytes->read_bytes += value;
        if (text_field(text, "write_bytes", &value))
                bytes->write_bytes += value;
}

bool process_cpu_read(ProcessFiles *files, pid_t pid, uint64_t *ret_usec) {
        char text[128];
        uint64_t nsec;

        if (kept_file_read(&files->schedstat, text, sizeof(text), "/proc/%d/schedstat", (int) pid) < 0 ||
            sscanf(text, "%" SCNu64, &nsec) != 1)
                return false;
        *ret_usec = nsec / NSEC_PER_USEC;
        return true;
}

bool process_is_single(ProcessFiles *files, pid_t pid) {
        unsigned long child_faults;
        long threads;
        char text[1024];

        if (kept_file_read(&files->stat, text, sizeof(text), "/proc/%d/stat", (int) pid) < 0)
                return false;
        const char *fields = strrchr(text, ')'); /* the name may hold anything */
        /* proc(5): from the state, field 3, on. No child ends without a page fault. */
        return fields &&
               sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %lu %*u %*u %*u %*u %*d %*d %*d %*d %ld",
                      &child_faults, &threads) == 2 &&
               child_faults == 0 && threads == 1;
}

int process_reap(int pidfd, siginfo_t *ret, uint64_t *ret_cpu_usec) {
        struct rusage usage = {};

        /* glibc's waitid() leaves out what the kernel's has as its fifth argument. */
        if (syscall(SYS_waitid, P_PIDFD, pidfd, ret, WEXITED | __WALL, &usage) < 0)
                return -errno;
        *ret_cpu_usec =
                ((uint64_t) usage.ru_utime.tv_sec + (uint64_t) usage.ru_stime.tv_sec) * USEC_PER_SEC +
                (uint64_t) usage.ru_utime.tv_usec + (uint64_t) usage.ru_stime.tv_usec;
        return 0;
}
