/* SPDX-License-Identifier: Apache-2.0 */
/* `pki init`: an authority, and the master's certificate with the names of this machine. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <unistd.h>

#include "fd-util.h"
#include "folder-file.h"
#include "json-util.h"
#include "pki.h"

/* Those that are no names are left out: they are the machine's, not the user's. */
static int add_name(char ***names, const char *name) {
        if (isempty(name) || !certificate_name_is_valid(name) || strv_contains(*names, name) ||
            strv_length(*names) >= CERTIFICATE_NAMES_MAX)
                return 0;
        return strv_extend(names, name);
}

static int add_host_names(char ***names) {
        char host[256] = "", brief[256];
        struct addrinfo hints = { .ai_flags = AI_CANONNAME, .ai_socktype = SOCK_STREAM }, *found;
        int r;

        if (gethostname(host, sizeof(host) - 1) < 0)
                return -errno;
        r = add_name(names, host);
        if (r >= 0 && getaddrinfo(host, NULL, &hints, &found) == 0) {
                r = add_name(names, found->ai_canonname);
                freeaddrinfo(found);
        }
        memcpy(brief, host, sizeof(brief));
        brief[strcspn(brief, ".")] = '\0';
        return r < 0 ? r : add_name(names, brief);
}

static void ifaddrs_freep(struct ifaddrs **list) {
        freeifaddrs(*list);
}

/* A link-local address means something else on each machine. */
static int add_addresses(char ***names) {
        _cleanup_(ifaddrs_freep) struct ifaddrs *list = NULL;
        int r = 0;

        if (getifaddrs(&list) < 0)
                return -errno;
        for (const struct ifaddrs *i = list; i && r >= 0; i = i->ifa_next) {
                char text[INET6_ADDRSTRLEN];
                const void *address = NULL;

                if (!i->ifa_addr || !(i->ifa_flags & IFF_UP))
                        continue;
                if (i->ifa_addr->sa_family == AF_INET)
                        address = &((const struct sockaddr_in *) (const void *) i->ifa_addr)->sin_addr;
                else if (i->ifa_addr->sa_family == AF_INET6) {
                        const struct in6_addr *a =
                                &((const struct sockaddr_in6 *) (const void *) i->ifa_addr)->sin6_addr;

                        if (!IN6_IS_ADDR_LINKLOCAL(a))
                                address = a;
                }
                if (address && inet_ntop(i->ifa_addr->sa_family, address, text, sizeof(text)))
                        r = add_name(names, text);
        }
        return r;
}

int pki_own_names(const Ctl *ctl, char ***ret) {
        _cleanup_(strv_freep) char **names = NULL;
        int r;

        r = pki_option_names(ctl, &names);
        if (r != 0)
                return r;
        r = add_host_names(&names);
        if (r >= 0)
                r = add_name(&names, "localhost");
        if (r >= 0)
                r = add_addresses(&names);
        /* Those of a machine without an interface that is up. */
        if (r >= 0)
                r = add_name(&names, "127.0.0.1");
        if (r >= 0)
                r = add_name(&names, "::1");
        if (r < 0)
                return ctl_fail(ctl, CTL_FAILED, "failed", "cannot find out this machine's names: %s",
                                strerrordesc_np(-r));
        *ret = TAKE_PTR(names);
        return 0;
}

#define MASTER_CONFIG_FOLDER "/etc/clupy"
#define MASTER_CONFIG_NAME "clupy.master.yaml"
#define MASTER_CONFIG_TEXT "listen: [\"0.0.0.0:7878\"]\n"

/* Where nothing is configured yet the master listens on the loopback interface only; with an authority it
 * may be called by others. Returns 1 when it was written, 0 when there was one, -errno. */
static int write_config(void) {
        _cleanup_(close_fdp) int folder = folder_open(MASTER_CONFIG_FOLDER, false, 0);
        int r;

        if (folder < 0)
                return folder;
        r = folder_write_file(folder, MASTER_CONFIG_NAME, 0644, MASTER_CONFIG_TEXT,
                              strlen(MASTER_CONFIG_TEXT), 0);
        return r == -EEXIST ? 0 : r < 0 ? r : 1;
}

static int print(const Ctl *ctl, const char *folder, char *const *names, const X509 *certificate,
                 bool wrote_config) {
        static const char *const files[] = { "ca.crt", "ca.key", "ca.crl", "master.crt", "master.key" };
        char text[DIGEST_HEX_SIZE];
        int64_t from, until;
        Digest digest;

        certificate_validity(certificate, &from, &until);
        if (certificate_digest(certificate, &digest) < 0)
                return ctl_fail_memory(ctl);
        digest_to_hex(&digest, text);
        if (ctl->json) {
                _cleanup_(json_putp) json_object *json = NULL;
                json_object *list;

                if (json_new_object(&json) < 0 || json_add_string(json, "folder", folder) < 0 ||
                    json_add_string(json, "authority", text) < 0 ||
                    json_add_int64(json, "not_after", until * 1000) < 0 || pki_add_names(json, names) < 0 ||
                    json_add_new_array(json, "files", &list) < 0)
                        return ctl_fail_memory(ctl);
                for (size_t i = 0; i < ELEMENTSOF(files); i++)
                        if (json_append_string(list, files[i]) < 0)
                                return ctl_fail_memory(ctl);
                ctl_print_json(ctl, json);
                return CTL_OK;
        }
        printf("Made in %s:\n"
               "  ca.crt, ca.key          the cluster's authority; whoever has ca.key is master of the "
               "cluster\n"
               "  ca.crl                  what it has revoked: nothing yet\n"
               "  master.crt, master.key  the master's certificate, for\n",
               folder);
        for (char *const *name = names; name && *name; name++)
                printf("                            %s\n", *name);
        if (wrote_config)
                puts("and " MASTER_CONFIG_FOLDER "/" MASTER_CONFIG_NAME
                     ", by which it listens on all IPv4 addresses");
        printf("SHA-256 of ca.crt: %s\n\n"
               "Next: systemctl enable --now clupy-masterd\n"
               "then, for each node: clupyctl token new\n",
               text);
        return CTL_OK;
}

int pki_init(Ctl *ctl) {
        static const char *const allowed[] = { "folder", "name", "days", NULL };
        const char *folder = pki_folder(ctl), *file;
        _cleanup_(authority_closep) Authority *authority = NULL;
        _cleanup_(strv_freep) char **names = NULL;
        AuthorityDraft draft = { .folder = folder, .owner = "clupy-signer", .now = pki_now() };
        int r, wrote;

        r = pki_check_options(ctl, allowed);
        if (r == 0)
                r = pki_check_operands(ctl, 1, 1, "[--folder FOLDER] [--name HOST]... [--days NUMBER]");
        if (r == 0)
                r = pki_days(ctl, &draft.days);
        if (r == 0)
                r = pki_own_names(ctl, &names);
        if (r != 0)
                return r;
        draft.names = names;
        draft.cluster = names ? names[0] : NULL;
        r = authority_create(&draft, &file);
        if (r < 0)
                return pki_fail(ctl, r, folder, file);
        r = pki_open(ctl, AUTHORITY_READ, &authority);
        if (r != 0)
                return r;
        pki_record("init", "authority", NULL, "made the cluster's authority in %s", folder);
        wrote = streq(folder, AUTHORITY_FOLDER) ? write_config() : 0;
        if (wrote < 0)
                return pki_fail(ctl, wrote, MASTER_CONFIG_FOLDER, MASTER_CONFIG_NAME);
        return print(ctl, folder, names, authority_certificate(authority), wrote > 0);
}
