/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Parts of clupy-sandbox. All of this is trusted code, in processes of one thread that live in the hostile
 * program's namespaces; they end (the launcher sees it) instead of going on in a state that was not meant.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "macros.h"
#include "message-socket.h"
#include "sandbox-protocol.h"
#include "zygote-protocol.h"

/* What ps and systemd-cgls show: the name and, over the memory of the arguments, the command line. */
void sandbox_title_prepare(int argc, char *argv[]);
void sandbox_title_set(const char *name);

/* clone(2) as fork(2) does it: no new stack. Returns 0 in the child, the pid, -errno. */
pid_t sandbox_clone(uint64_t flags, int *ret_pidfd);

/* Exactly these capabilities, in the permitted and effective sets. Returns 0, -errno. */
int capabilities_set(uint64_t capabilities);
/* All that are permitted made effective. Returns 0, -errno. */
int capabilities_raise(void);
#define CAPABILITY_BIT(capability) (UINT64_C(1) << (capability))

/* Real, effective, saved uid and gid, no supplementary groups. Returns 0, -errno. */
int identity_set(uid_t id);

/* Dies with the launcher, of which socket is the other end: also when it is dead already. To be called after
 * the last change of credentials, which clears the setting. Returns 0, -EPIPE, -errno. */
int die_with_launcher(int socket);

/* What is shown beside the list that everybody sees; target: an absolute path. What everybody sees anyway is
 * left out, whatever it says. */
typedef struct ViewMount {
        const char *source, *target;
        bool writable;
} ViewMount;

/* Makes what all tasks of a zygote see: a root of its own with a list of what is shown, and /tmp, of a
 * zygote or that of mounts. In a mount namespace of one's own, as root. proc is not mounted yet. Returns 0,
 * -errno with *ret_what. */
int view_make(const ViewMount *mounts, size_t n_mounts, const char **ret_what);

/* Brings lo up, in a network namespace of one's own. Returns 0, -errno. */
int loopback_up(void);
/* Takes all capabilities but these out of the bounding set. Returns 0, -errno. */
int capabilities_bound(uint64_t kept);

/* In the spawner: hands devices of the machine's /dev to the init at the other end of the socket. Says there
 * what failed. */
void devices_hand_over(const SpawnRequest *request, int socket);
/* In an init, as root of its namespaces: waits for them on its socket, and makes a /dev of its own that has
 * them, without /dev/shm mounted. Returns 0, -errno. */
int devices_mount(int socket);

_noreturn_ void stage_main(void);
_noreturn_ void build_main(void);
_noreturn_ void remover_main(void);
_noreturn_ void anchor_main(int socket, int launcher);
_noreturn_ void builder_main(int socket, bool host_network);
_noreturn_ void init_main(int socket, const ZygoteRequest *request, bool host_network);
