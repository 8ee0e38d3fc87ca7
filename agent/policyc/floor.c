/* SPDX-License-Identifier: Apache-2.0 */
#include "floor.h"

#include <stddef.h>

#include "macros.h"

/* Ways out of the sandbox, into the kernel's rarely visited corners, or into another process. Where a
 * capability guards a call as well, it is here because a task lives in a user namespace, and a mistake there
 * would be enough. */
static const char *const forbidden[] = {
        /* namespaces and mounts */
        "unshare",
        "setns",
        "mount",
        "umount",
        "umount2",
        "pivot_root",
        "chroot",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsmount",
        "fspick",
        "fsconfig",
        "mount_setattr",
        /* clone3's flags are behind a pointer, so is openat2's mode */
        "clone3",
        "openat2",
        /* other processes' memory, descriptors, identity */
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "process_madvise",
        "pidfd_getfd",
        "kcmp",
        /* the kernel itself */
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "create_module",
        "get_kernel_syms",
        "query_module",
        "iopl",
        "ioperm",
        "modify_ldt",
        "vm86",
        "vm86old",
        "personality",
        "lookup_dcookie",
        "syslog",
        "_sysctl",
        "uselib",
        "nfsservctl",
        /* files by handle, the key rings */
        "open_by_handle_at",
        "name_to_handle_at",
        "add_key",
        "request_key",
        "keyctl",
        /* the machine */
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "quotactl",
        "quotactl_fd",
        "sethostname",
        "setdomainname",
        "settimeofday",
        "stime",
        "clock_settime",
        "clock_adjtime",
        "adjtimex",
        "vhangup",
        "fanotify_init",
};

const char *const floor_needed[] = {
        "brk",
        "clone",
        "close",
        "dup2",
        "execve",
        "exit",
        "exit_group",
        "fcntl",
        "fstat",
        "futex",
        "getpid",
        "lseek",
        "madvise",
        "memfd_create",
        "mmap",
        "mprotect",
        "munmap",
        "openat",
        "poll",
        "prctl",
        "pread64",
        "read",
        "recvmsg",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sendmsg",
        "set_robust_list",
        "prlimit64",
        "umask",
        "write",
        "close_range",
        NULL,
};

const char *const floor_zygote_calls[] = {
        "setns",    "setuid",   "setgid",    "setreuid", "setregid", "setresuid", "setresgid",
        "setfsuid", "setfsgid", "setgroups", "capset",   "seccomp",  NULL,
};

bool floor_forbids(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(forbidden); i++)
                if (streq(forbidden[i], name))
                        return true;
        return false;
}

bool floor_is_zygotes(const char *name) {
        for (size_t i = 0; floor_zygote_calls[i]; i++)
                if (streq(floor_zygote_calls[i], name))
                        return true;
        return false;
}
