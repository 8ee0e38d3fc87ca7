/* SPDX-License-Identifier: Apache-2.0 */
/* `pki renew` on a machine that has no authority: the master, who is shown the old certificate, has the
 * signer make the new one. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "client-config.h"
#include "fd-util.h"
#include "folder-file.h"
#include "frame.h"
#include "json-util.h"
#include "master-request.h"
#include "pki.h"
#include "server-config.h"
#include "tls-context.h"

/* One certificate of this machine, and the master that is to renew it. */
typedef struct Renewal {
        IdentityRole role;
        TlsPaths paths;
        const Address *masters;
        size_t n_masters;
} Renewal;

static int make_request(const TlsMaterial *material, json_object **ret) {
        _cleanup_(json_putp) json_object *json = NULL;
        _cleanup_(freep) char *request = NULL;
        char serial[CERTIFICATE_SERIAL_SIZE];
        int r;

        r = request_new(material->key, &request);
        if (r >= 0)
                r = json_new_object(&json);
        if (r >= 0)
                r = json_add_string(json, "serial", certificate_serial(material->certificate, serial));
        if (r >= 0)
                r = json_add_string(json, "request", request);
        if (r >= 0)
                *ret = TAKE_PTR(json);
        return r;
}

/* What comes back is used only if it is the same certificate with a new time. */
static int read_answer(const TlsMaterial *material, json_object *answer, const char **ret_pem, X509 **ret) {
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        Identity identity;
        const char *pem, *why;
        int r;

        r = json_get_string(answer, "certificate", CERTIFICATE_PEM_MAX, &pem);
        if (r >= 0)
                r = certificate_from_pem(pem, strlen(pem), &certificate);
        if (r >= 0)
                r = identity_from_certificate(certificate, &identity, &why);
        if (r < 0)
                return r;
        if (!certificate_has_key(certificate, material->key) ||
            !identity_equal(&identity, &material->identity) ||
            !certificate_is_signed_by(certificate, material->authority))
                return -EBADMSG;
        *ret_pem = pem;
        *ret = TAKE_PTR(certificate);
        return 0;
}

/* The newest revocation list, where there is a place for one. It is no misfortune if it does not come. */
static void write_revoked(const Renewal *renewal, const TlsMaterial *material, json_object *answer,
                          int folder) {
        _cleanup_(revocation_freep) X509_CRL *list = NULL;
        const char *pem;

        if (renewal->paths.revoked && json_get_string(answer, "revoked", FRAME_JSON_MAX, &pem) >= 0 &&
            revocation_from_pem(pem, strlen(pem), &list) >= 0 &&
            revocation_is_signed_by(list, material->authority))
                (void) folder_write_file(folder, basename(renewal->paths.revoked), 0644, pem, strlen(pem),
                                         FOLDER_REPLACE);
}

static int renew(Ctl *ctl, const Renewal *renewal, PkiRenewals *renewals) {
        const TlsContextOptions options = { .side = TLS_CLIENT,
                                            .role = renewal->role,
                                            .paths = renewal->paths };
        _cleanup_(certificate_freep) X509 *certificate = NULL;
        _cleanup_(json_putp) json_object *json = NULL, *answer = NULL;
        _cleanup_(tls_context_unrefp) TlsContext *tls = NULL;
        _cleanup_(freep) char *path = NULL, *message = NULL;
        const char *name = basename(renewal->paths.certificate), *pem = NULL;
        _cleanup_(close_fdp) int folder = -EBADF;
        int r;

        path = memdup_nul(renewal->paths.certificate, (size_t) (name - renewal->paths.certificate));
        if (!path)
                return ctl_fail_memory(ctl);
        r = tls_context_new(NULL, &options, NULL, NULL, &tls, &message);
        if (r < 0)
                return ctl_fail(ctl, r == -EACCES ? CTL_NOT_ALLOWED : CTL_FAILED,
                                r == -EACCES ? "not-allowed" : "failed", "%s", message ?: "out of memory");
        folder = folder_open(isempty(path) ? "." : path, false, 0);
        if (folder < 0 || faccessat(folder, ".", W_OK, AT_EACCESS) < 0)
                return ctl_fail(ctl, CTL_NOT_ALLOWED, "not-allowed",
                                "the folder of %s cannot be written to: %s", renewal->paths.certificate,
                                strerrordesc_np(folder < 0 ? -folder : errno));
        r = make_request(tls_context_material(tls), &json);
        if (r < 0)
                return ctl_fail_memory(ctl);
        r = master_request(renewal->masters, renewal->n_masters, tls, FRAME_RENEW, json, FRAME_RENEWED,
                           &answer, &message);
        if (r == -EACCES)
                return ctl_fail(ctl, CTL_NOT_ALLOWED, "not-allowed", "%s", strempty(message));
        if (r < 0)
                return ctl_fail(ctl, CTL_NO_MASTER, "no-master", "%s", message ?: strerrordesc_np(-r));
        r = read_answer(tls_context_material(tls), answer, &pem, &certificate);
        if (r >= 0 && !pem)
                r = -EBADMSG;
        if (r < 0)
                return ctl_fail(ctl, CTL_FAILED, "failed",
                                "the master's answer is not what was asked for: %s", strerrordesc_np(-r));
        r = folder_write_file(folder, name, 0644, pem, strlen(pem), FOLDER_REPLACE);
        if (r < 0)
                return pki_fail(ctl, r, path, name);
        write_revoked(renewal, tls_context_material(tls), answer, folder);
        path[strlen(path) - 1] = '\0';
        return pki_renewals_add(renewals, TAKE_PTR(certificate), path) < 0 ? ctl_fail_memory(ctl) : 0;
}

static bool exists(const char *path) {
        return path && access(path, F_OK) >= 0;
}

static int parse_masters(const Ctl *ctl, const char *url, Address **ret, size_t *ret_n) {
        if (startswith(url, "unix:") || startswith(url, "/"))
                return ctl_fail(
                        ctl, CTL_USAGE, "usage",
                        "a certificate is renewed over TLS: name the master with --master clupy://HOST");
        if (parse_address_list(url, ADDRESS_DEFAULT_PORT, ret, ret_n) < 0)
                return ctl_fail(ctl, CTL_USAGE, "usage", "'%s' is no master's address", url);
        return 0;
}

/* The node's, of the master that it is a node of. */
static int renew_agent(Ctl *ctl, const char *master, PkiRenewals *renewals, bool *ret_any) {
        _cleanup_(freep) Address *masters = NULL;
        _cleanup_(freep) char *message = NULL;
        ServerConfig config = { 0 };
        Renewal renewal = { .role = IDENTITY_AGENT };
        size_t n_masters = 0;
        int r;

        r = server_config_load(NULL, &config, &message);
        if (r < 0)
                return ctl_fail(ctl, CTL_FAILED, "failed", "%s", message ?: "out of memory");
        if (exists(config.tls_certificate) && master)
                r = parse_masters(ctl, master, &masters, &n_masters);
        if (r == 0 && exists(config.tls_certificate)) {
                *ret_any = true;
                renewal.paths = (TlsPaths){ config.tls_certificate, config.tls_key, config.tls_authority,
                                            config.tls_revoked };
                renewal.masters = masters ?: config.masters;
                renewal.n_masters = masters ? n_masters : config.n_masters;
                r = renew(ctl, &renewal, renewals);
        }
        server_config_done(&config);
        return r;
}

static int renew_user(Ctl *ctl, const char *master, PkiRenewals *renewals, bool *ret_any) {
        _cleanup_(freep) Address *masters = NULL;
        _cleanup_(freep) char *message = NULL;
        Renewal renewal = { .role = IDENTITY_USER };
        ClientConfig config = { 0 };
        int r;

        r = client_config_load(&config, &message);
        if (r < 0)
                return ctl_fail(ctl, CTL_FAILED, "failed", "%s", message ?: "out of memory");
        if (exists(config.certificate)) {
                *ret_any = true;
                r = parse_masters(ctl, master ?: config.master ?: "clupy://localhost", &masters,
                                  &renewal.n_masters);
                renewal.masters = masters;
                renewal.paths = (TlsPaths){ .certificate = config.certificate,
                                            .key = config.key,
                                            .authority = config.authority };
                if (r == 0)
                        r = renew(ctl, &renewal, renewals);
        }
        client_config_done(&config);
        return r;
}

int pki_renew_remotely(Ctl *ctl, PkiRenewals *renewals) {
        const char *master = ctl->master ?: getenv("CLUPY_MASTER_URL");
        bool any = false;
        int r = 0;

        if (ctl_option(ctl, "days") || ctl_option(ctl, "out"))
                return ctl_fail(ctl, CTL_USAGE, "usage",
                                "--days and --out are for the machine of the authority: here certificates "
                                "are renewed "
                                "in place, for a year");
        if (isempty(master))
                master = NULL;
        if (geteuid() == 0)
                r = renew_agent(ctl, master, renewals, &any);
        if (r == 0)
                r = renew_user(ctl, master, renewals, &any);
        if (r == 0 && !any)
                return ctl_fail(ctl, CTL_NOT_FOUND, "not-found",
                                "there is no certificate to renew: neither %s/agent.crt (for root) nor "
                                "~/.config/clupy/user.crt",
                                AUTHORITY_FOLDER);
        return r;
}
