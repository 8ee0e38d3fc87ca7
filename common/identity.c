/* SPDX-License-Identifier: Apache-2.0 */
#include "identity.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <strings.h>

#define SCHEME "clupy:"

static const char *const identity_role_table[_IDENTITY_ROLE_MAX] = {
        [IDENTITY_MASTER] = "master",
        [IDENTITY_AGENT] = "agent",
        [IDENTITY_USER] = "user",
        [IDENTITY_ADMIN] = "admin",
};

DEFINE_NAME_TABLE(identity_role, IdentityRole, identity_role_table);

static bool is_alphanumeric(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Without looking for a NUL: there is none where a name comes out of a certificate. */
static bool name_of_size_is_valid(const char *s, size_t size) {
        if (size == 0 || size > IDENTITY_NAME_MAX || !is_alphanumeric(s[0]))
                return false;
        for (size_t i = 1; i < size; i++)
                if (!is_alphanumeric(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '@' && s[i] != '-')
                        return false;
        return true;
}

bool identity_name_is_valid(const char *s) {
        return s && name_of_size_is_valid(s, strnlen(s, IDENTITY_NAME_MAX + 1));
}

int identity_set(IdentityRole role, const char *name, Identity *ret) {
        Identity identity = { .role = role };

        if ((unsigned) role >= _IDENTITY_ROLE_MAX)
                return -EINVAL;
        if (role == IDENTITY_MASTER) {
                if (!isempty(name))
                        return -EINVAL;
        } else {
                if (!identity_name_is_valid(name))
                        return -EINVAL;
                memcpy(identity.name, name, strlen(name) + 1);
        }
        *ret = identity;
        return 0;
}

int identity_parse(const char *uri, size_t size, Identity *ret) {
        const size_t scheme = strlen(SCHEME);

        if (size <= scheme || memcmp(uri, SCHEME, scheme) != 0)
                return -EINVAL;
        uri += scheme;
        size -= scheme;
        for (IdentityRole role = 0; role < _IDENTITY_ROLE_MAX; role++) {
                Identity identity = { .role = role };
                size_t word = strlen(identity_role_table[role]);

                if (size < word || memcmp(uri, identity_role_table[role], word) != 0)
                        continue;
                if (role == IDENTITY_MASTER) {
                        if (size != word)
                                return -EINVAL;
                } else {
                        if (size == word || uri[word] != ':' ||
                            !name_of_size_is_valid(uri + word + 1, size - word - 1))
                                return -EINVAL;
                        memcpy(identity.name, uri + word + 1, size - word - 1);
                }
                *ret = identity;
                return 0;
        }
        return -EINVAL;
}

static char *identity_join(const Identity *identity, const char *prefix, char separator,
                           char buffer[static IDENTITY_URI_SIZE]) {
        const char *role = identity_role_to_string(identity->role);

        if (identity->name[0] == '\0')
                snprintf(buffer, IDENTITY_URI_SIZE, "%s%s", prefix, role);
        else
                snprintf(buffer, IDENTITY_URI_SIZE, "%s%s%c%s", prefix, role, separator, identity->name);
        return buffer;
}

char *identity_to_uri(const Identity *identity, char buffer[static IDENTITY_URI_SIZE]) {
        return identity_join(identity, SCHEME, ':', buffer);
}

char *identity_to_string(const Identity *identity, char buffer[static IDENTITY_URI_SIZE]) {
        return identity_join(identity, "", ' ', buffer);
}

bool identity_equal(const Identity *left, const Identity *right) {
        return left->role == right->role && streq(left->name, right->name);
}

static int identity_from_names(const GENERAL_NAMES *names, Identity *ret, const char **ret_why) {
        Identity identity;
        bool found = false;

        for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
                const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
                const ASN1_IA5STRING *uri;
                const char *text;
                int size;

                if (name->type != GEN_URI)
                        continue;
                uri = name->d.uniformResourceIdentifier;
                text = (const char *) ASN1_STRING_get0_data(uri);
                size = ASN1_STRING_length(uri);
                /* Schemes are the same in any case: one that is spelt otherwise is ours, and wrong. */
                if (!text || size < (int) strlen(SCHEME) || strncasecmp(text, SCHEME, strlen(SCHEME)) != 0)
                        continue;
                if (found) {
                        *ret_why = "has more than one clupy: name";
                        return -EBADMSG;
                }
                if (identity_parse(text, (size_t) size, &identity) < 0) {
                        *ret_why = "has a clupy: name of another form than clupy:master, clupy:agent:NODE, "
                                   "clupy:user:NAME or clupy:admin:NAME";
                        return -EBADMSG;
                }
                found = true;
        }
        if (!found) {
                *ret_why = "has no clupy: name, so it is not one of this cluster's";
                return -ENOENT;
        }
        *ret = identity;
        return 0;
}

int identity_from_certificate(const X509 *certificate, Identity *ret, const char **ret_why) {
        GENERAL_NAMES *names;
        int critical = -1, r;

        names = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
        if (!names) {
                ERR_clear_error();
                if (critical == -1) {
                        *ret_why = "has no clupy: name, so it is not one of this cluster's";
                        return -ENOENT;
                }
                *ret_why = critical == -2 ? "has more than one list of names"
                                          : "has a list of names that cannot be read";
                return -EBADMSG;
        }
        r = identity_from_names(names, ret, ret_why);
        GENERAL_NAMES_free(names);
        return r;
}

int identity_from_der(const void *der, size_t size, Identity *ret, const char **ret_why) {
        const unsigned char *p = der;
        X509 *certificate;
        int r;

        if (size > LONG_MAX)
                size = LONG_MAX;
        certificate = d2i_X509(NULL, &p, (long) size);
        if (!certificate || p != (const unsigned char *) der + size) {
                X509_free(certificate);
                ERR_clear_error();
                *ret_why = "cannot be read";
                return -EBADMSG;
        }
        r = identity_from_certificate(certificate, ret, ret_why);
        X509_free(certificate);
        return r;
}
