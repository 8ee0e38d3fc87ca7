/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf-list.h"

#include <assert.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "macros.h"

#define X32_BIT 0x40000000u

#ifndef __x86_64__
#error "the filters are for x86-64"
#endif

int bpf_list_make(BpfList *list, const int *numbers, size_t n_numbers, uint32_t action) {
        const struct sock_filter head[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                /* -1 is what a tracer puts there; everything else with that bit is of the x32 table. */
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UINT32_MAX, 2, 0),
                BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        };
        unsigned short n = 0;

        if (n_numbers * 2 + ELEMENTSOF(head) + 1 > BPF_LIST_MAX)
                return -E2BIG;
        for (size_t i = 0; i < ELEMENTSOF(head); i++)
                list->instructions[n++] = head[i];
        for (size_t i = 0; i < n_numbers; i++) {
                list->instructions[n++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                                                        (uint32_t) numbers[i], 0, 1);
                list->instructions[n++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, action);
        }
        list->instructions[n++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        list->n = n;
        return 0;
}

static void append_rule(BpfList *list, const struct sock_filter *rule, size_t n) {
        assert(n <= BPF_LIST_SPARE + 1);
        list->n--; /* the last one allows all that is left */
        for (size_t i = 0; i < n; i++)
                list->instructions[list->n++] = rule[i];
}

/* SO_LINGER makes the last close() of a TCP socket wait for its peer, and that may be the close of whom the
 * socket was passed to: a task could stop launcher and journald for as long as it likes. Timers of linger
 * are of no use where one's own process ends a moment later, so nobody in a sandbox has them. Arguments are
 * looked at as the kernel does, their lower halves only. */
void bpf_list_refuse_linger(BpfList *list) {
        const struct sock_filter rule[] = {
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_setsockopt, 0, 5),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SOL_SOCKET, 0, 3),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SO_LINGER, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };

        append_rule(list, rule, ELEMENTSOF(rule));
}

int bpf_install(const struct sock_filter *instructions, unsigned short n, unsigned flags) {
        struct sock_fprog program = { .len = n, .filter = (struct sock_filter *) instructions };
        long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);

        return r < 0 ? -errno : (int) r;
}

/* What neither a sandbox nor the launcher ever needs. */
static const int denied_everywhere[] = {
        /* mounts and namespaces */
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_chroot,
        SYS_move_mount,
        SYS_open_tree,
        SYS_fsopen,
        SYS_fsconfig,
        SYS_fsmount,
        SYS_fspick,
        SYS_mount_setattr,
        SYS_unshare,
        SYS_clone3,
        SYS_name_to_handle_at,
        SYS_open_by_handle_at,
        /* other processes */
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_pidfd_getfd,
        SYS_kcmp,
        /* parts of the kernel with a large surface */
        SYS_bpf,
        SYS_perf_event_open,
        SYS_userfaultfd,
        SYS_io_uring_setup,
        SYS_io_uring_enter,
        SYS_io_uring_register,
        SYS_keyctl,
        SYS_add_key,
        SYS_request_key,
        SYS_modify_ldt,
        SYS_lookup_dcookie,
        SYS_nfsservctl,
        SYS_uselib,
        /* the machine */
        SYS_kexec_load,
        SYS_kexec_file_load,
        SYS_init_module,
        SYS_finit_module,
        SYS_delete_module,
        SYS_reboot,
        SYS_swapon,
        SYS_swapoff,
        SYS_acct,
        SYS_quotactl,
        SYS_quotactl_fd,
        SYS_iopl,
        SYS_ioperm,
        SYS_syslog,
        SYS_sethostname,
        SYS_setdomainname,
        SYS_settimeofday,
        SYS_clock_settime,
        SYS_clock_adjtime,
        SYS_adjtimex,
        SYS_vhangup,
};

/* The answer is USER_NOTIF without a listener, which the kernel turns into ENOSYS. It is the weakest of all
 * refusals: a policy that refuses with an errno, or that notifies (what must die is notified by the outer
 * filter, which is younger and so is the one that the kernel asks), keeps its say; only one that would
 * *allow* is overruled. */
int bpf_floor_install(void) {
        BpfList list;
        int r = bpf_list_make(&list, denied_everywhere, ELEMENTSOF(denied_everywhere),
                              SECCOMP_RET_USER_NOTIF);

        if (r < 0)
                return r;
        bpf_list_refuse_linger(&list);
        return bpf_install(list.instructions, list.n, 0);
}

/* As on a file system that has none: libc writes zeros then. */
int bpf_build_install(void) {
        static const int denied[] = { SYS_fallocate };
        BpfList list;
        int r = bpf_list_make(&list, denied, ELEMENTSOF(denied), SECCOMP_RET_ERRNO | EOPNOTSUPP);

        return r < 0 ? r : bpf_install(list.instructions, list.n, 0);
}

/* A list of what is denied: libsystemd and libc differ between distributions in what they call, and a root
 * daemon that dies of a harmless call takes all tasks with it. What it must never do is few things: it makes
 * no process (the spawner does), no namespace and no mount after its start, and nothing to the kernel. */
static const int denied_to_launcher[] = {
        SYS_fork,        SYS_vfork,    SYS_clone,    SYS_execveat, SYS_setns,     SYS_process_madvise,
        SYS_setuid,      SYS_setgid,   SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
        SYS_setgroups,   SYS_setfsuid, SYS_setfsgid, SYS_capset,   SYS_mknod,     SYS_mknodat,
        SYS_personality,
};

/* execve(2) of one path alone, that of its upgrade: it is known by its address, which is all that a filter
 * sees of it. The memory there is read-only; who can write it could run any code here anyway. */
static void allow_own_program(BpfList *list) {
        const struct sock_filter rule[] = {
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 5),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, BPF_LAUNCHER_PATH, 0, 2),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]) + 4),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };

        append_rule(list, rule, ELEMENTSOF(rule));
}

int bpf_launcher_make(BpfList *ret) {
        int numbers[ELEMENTSOF(denied_everywhere) + ELEMENTSOF(denied_to_launcher)];
        int r;

        memcpy(numbers, denied_everywhere, sizeof(denied_everywhere));
        memcpy(numbers + ELEMENTSOF(denied_everywhere), denied_to_launcher, sizeof(denied_to_launcher));
        memset(ret, 0, sizeof(*ret)); /* two of them can be compared */
        r = bpf_list_make(ret, numbers, ELEMENTSOF(numbers), SECCOMP_RET_ERRNO | EPERM);
        if (r < 0)
                return r;
        allow_own_program(ret);
        return 0;
}

int bpf_launcher_install(void) {
        BpfList list;
        int r = bpf_launcher_make(&list);

        return r < 0 ? r : bpf_install(list.instructions, list.n, 0);
}
