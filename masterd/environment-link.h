/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "environment.h"
#include "frame.h"
#include "types.h"

/* The frames ENVIRONMENT and ENVIRONMENT_STATE, and what a node's hello says of Pythons, labels, resources.
 */

/* Have it find out which files the packages are. preferred: a lock whose versions are taken where they fit,
 * NULL. Return 0, -ENOTCONN, -ENOMEM, -errno. */
int environment_link_resolve(Node *node, const Environment *e, const char *preferred);
/* What nodes call the request to resolve it: the first 40 digits of its id. */
void environment_link_resolve_name(const Environment *e, char ret[static ENVIRONMENT_NAME_SIZE]);
int environment_link_build(Node *node, const Environment *e);
int environment_link_remove(Node *node, const char *name);
/* The names of the default ones. */
int environment_link_keep(Node *node);

/* Returns <0 to close the connection: -EBADMSG when it is not as the protocol says, -ENOMEM. */
int environment_link_state(Peer *peer, const Frame *frame);

/* The hello of an agent. Returns 0, -EBADMSG, -ENOMEM. */
/* What the registry knows of it, before it has said hello. */
int environment_link_remembered(Node *node, json_object *record);
int environment_link_hello(Node *node, json_object *hello, const char *python);
