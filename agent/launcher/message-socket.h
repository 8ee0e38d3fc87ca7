/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stddef.h>

/* Blocking exchange of fixed-size messages, for the processes of one thread that do nothing else: not for
 * the launcher. */

/* Moves fds[i] to first + i and closes everything from there on. Returns 0, -errno. */
int fds_arrange(int first, int *fds, size_t n);

/* Waits for and receives one message of exactly that size. Returns 0, -EBADMSG for another size, -ECONNRESET
 * at the end, -errno. Missing fds are -EBADF. */
int message_receive(int socket, void *message, size_t size, int *fds, size_t n_fds);
/* Waits until it is sent. Returns 0, -errno. */
int message_send(int socket, const void *message, size_t size, const int *fds, size_t n_fds);
