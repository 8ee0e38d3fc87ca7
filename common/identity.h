/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>

#include "macros.h"

/* Who a certificate is: the one subject alternative name of type URI with the scheme "clupy:". The common
 * name is for people only and never looked at. */

typedef enum IdentityRole {
        IDENTITY_MASTER,
        IDENTITY_AGENT, /* name: the node's */
        IDENTITY_USER,  /* name: the owner's, of what it submits */
        IDENTITY_ADMIN,
        _IDENTITY_ROLE_MAX,
} IdentityRole;

DEFINE_NAME_TABLE_DECLARATION(identity_role, IdentityRole);

enum {
        IDENTITY_NAME_MAX = 64,
        IDENTITY_URI_SIZE = sizeof("clupy:master:") + IDENTITY_NAME_MAX,
};

typedef struct Identity {
        IdentityRole role;
        char name[IDENTITY_NAME_MAX + 1]; /* "" for the master, who has none */
} Identity;

/* [A-Za-z0-9._@-]{1,64}, the first one a letter or a digit. */
bool identity_name_is_valid(const char *s);

/* name: NULL or "" for the master, and only for it. Returns 0, -EINVAL. */
int identity_set(IdentityRole role, const char *name, Identity *ret);

/* "clupy:master", "clupy:agent:NODE", "clupy:user:NAME", "clupy:admin:NAME": exactly that, byte for byte;
 * uri need not end with a NUL. Returns 0, -EINVAL. */
int identity_parse(const char *uri, size_t size, Identity *ret);

/* The URI that identity_parse() reads, into buffer, which is returned. */
char *identity_to_uri(const Identity *identity, char buffer[static IDENTITY_URI_SIZE]);
/* For people: "master", "agent node1", "user alice". */
char *identity_to_string(const Identity *identity, char buffer[static IDENTITY_URI_SIZE]);
#define IDENTITY_STRING(identity) identity_to_string((identity), (char[IDENTITY_URI_SIZE]){ 0 })

bool identity_equal(const Identity *left, const Identity *right);

/* Does not ask whether the certificate is to be believed. Returns 0; -ENOENT when it has no clupy: URI,
 * -EBADMSG when it has several, or one that identity_parse() does not know. ret_why: a clause for a message
 * that goes on after "the certificate …", static. */
int identity_from_certificate(const X509 *certificate, Identity *ret, const char **ret_why);
/* The same for an encoded certificate. -EBADMSG also for what is no certificate, or more than one. */
int identity_from_der(const void *der, size_t size, Identity *ret, const char **ret_why);
