/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "zygote.h"

/* System calls that kill who tries them: the outer filter tells them here, with their number. */
int seccomp_notify_attach(Zygote *zygote);

/* "bpf", or "system call 999". Fills buffer, which it returns. */
char *seccomp_call_name(int number, uint32_t architecture, char *buffer, size_t size);
