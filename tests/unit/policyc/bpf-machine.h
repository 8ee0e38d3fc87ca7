/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

/* Runs a seccomp program on one call as the kernel would, for the instructions that the kernel takes in such
 * programs. Fails the test when the program leaves its bounds or has no end. Returns SECCOMP_RET_…. */
uint32_t bpf_run(const struct sock_filter *program, size_t n, const struct seccomp_data *data);
