/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

/* Seccomp filters written by hand, for the two that no policy can change. */

enum { BPF_LIST_MAX = 300, BPF_LIST_SPARE = 8 };

typedef struct BpfList {
        struct sock_filter instructions[BPF_LIST_MAX + BPF_LIST_SPARE];
        unsigned short n;
} BpfList;

/* A filter that answers these system calls with action and allows all others, for x86-64 alone: what comes
 * from another architecture's table kills. Returns 0, -E2BIG. */
int bpf_list_make(BpfList *list, const int *numbers, size_t n_numbers, uint32_t action);

/* Besides, setsockopt(SO_LINGER) is EPERM. For a list that was just made. */
void bpf_list_refuse_linger(BpfList *list);

/* seccomp(2) SECCOMP_SET_MODE_FILTER. Returns 0 (with SECCOMP_FILTER_FLAG_NEW_LISTENER the fd), -errno. */
int bpf_install(const struct sock_filter *instructions, unsigned short n, unsigned flags);

/* What zygotes and tasks are denied whatever their policy says. */
int bpf_floor_install(void);

/* What builds are denied besides: taking disk without writing to it, faster than anybody looks. */
int bpf_build_install(void);

/* Where the launcher keeps the path of the one program that it may still execve(2): the next version of
 * itself. The same in all versions, since the filters of the former ones stay. */
#define BPF_LAUNCHER_PATH 0x10000000

/* What the launcher denies itself. Unused instructions are zero. Returns 0, -errno. */
int bpf_launcher_make(BpfList *ret);
int bpf_launcher_install(void);
