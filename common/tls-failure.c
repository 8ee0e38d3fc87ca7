/* SPDX-License-Identifier: Apache-2.0 */
#include "tls-failure.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "parse-util.h"

#define REISSUE "have a new one issued: 'clupyctl pki issue'"

static bool is_client(const TlsContext *context) {
        return tls_context_side(context) == TLS_CLIENT;
}

static int failure_set(TlsFailure *f, int error, const char *format, ...) _printf_(3, 4);

/* What came first counts: OpenSSL tells the consequences as well. */
static int failure_set(TlsFailure *f, int error, const char *format, ...) {
        va_list arguments;

        if (f->error < 0)
                return f->error;
        f->error = error;
        va_start(arguments, format);
        vsnprintf(f->why, sizeof(f->why), format, arguments);
        va_end(arguments);
        return error;
}

/* "The certificate of user alice (serial 01ab)"; who it says it is, whether that is to be believed or not.
 */
enum { SUBJECT_SIZE = 64 + IDENTITY_URI_SIZE + TLS_SERIAL_SIZE };

static char *subject_of(const TlsContext *context, const X509 *certificate, int depth,
                        char buffer[static SUBJECT_SIZE]) {
        const char *clause;
        Identity identity;

        if (depth > 0 || !certificate)
                snprintf(buffer, SUBJECT_SIZE, "The authority of the other end's certificate");
        else if (identity_from_certificate(certificate, &identity, &clause) < 0)
                snprintf(buffer, SUBJECT_SIZE, "The other end's certificate");
        else if (is_client(context) && identity.role == IDENTITY_MASTER)
                snprintf(buffer, SUBJECT_SIZE, "The master's certificate");
        else
                snprintf(buffer, SUBJECT_SIZE, "The certificate of %s (serial %s)",
                         IDENTITY_STRING(&identity),
                         tls_serial_to_string(certificate, (char[TLS_SERIAL_SIZE]){ 0 }));
        return buffer;
}

/* "master.example, 10.0.0.1": the names that a master's certificate is for. */
static void names_of(const X509 *certificate, char *buffer, size_t size) {
        GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
        size_t used = 0;

        buffer[0] = '\0';
        for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
                const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
                char address[INET6_ADDRSTRLEN] = "";
                _cleanup_(freep) char *text = NULL;
                int n;

                if (name->type == GEN_DNS) {
                        _cleanup_(freep) char *raw =
                                memdup_nul(ASN1_STRING_get0_data(name->d.dNSName),
                                           (size_t) ASN1_STRING_length(name->d.dNSName));

                        text = raw ? text_for_message(raw, 255) : NULL;
                } else if (name->type == GEN_IPADD) {
                        int length = ASN1_STRING_length(name->d.iPAddress);

                        if ((length == 4 || length == 16) &&
                            inet_ntop(length == 4 ? AF_INET : AF_INET6,
                                      ASN1_STRING_get0_data(name->d.iPAddress), address, sizeof(address)))
                                text = strdup(address);
                }
                if (isempty(text))
                        continue;
                n = snprintf(buffer + used, size - used, "%s%s", used > 0 ? ", " : "", text);
                if (n < 0 || (size_t) n >= size - used)
                        break;
                used += (size_t) n;
        }
        GENERAL_NAMES_free(names);
        ERR_clear_error();
}

void tls_failure_role(TlsFailure *f, const Identity *identity) {
        failure_set(
                f, -EKEYREJECTED,
                "What answers as the master shows the certificate of %s: it is not the master, do not trust "
                "it; ask who runs %s",
                IDENTITY_STRING(identity), isempty(f->host) ? "it" : f->host);
}

void tls_failure_certificate(TlsFailure *f, const TlsContext *context, const X509 *certificate,
                             const char *clause) {
        failure_set(f, -EKEYREJECTED, "The certificate with the serial %s %s",
                    tls_serial_to_string(certificate, (char[TLS_SERIAL_SIZE]){ 0 }), clause);
}

static void failure_host(TlsFailure *f, const X509 *certificate) {
        char names[256];

        names_of(certificate, names, sizeof(names));
        failure_set(
                f, -EKEYREJECTED,
                "The master's certificate is not for %s but for %s: use one of these, or have the master's "
                "certificate issued anew with this name too",
                f->host, isempty(names) ? "no host at all" : names);
}

void tls_failure_verify(TlsFailure *f, const TlsContext *context, const X509 *certificate, int depth,
                        int error) {
        char subject[SUBJECT_SIZE], time[TLS_TIME_SIZE];
        const char *authority = strempty(tls_context_paths(context)->authority), *clause;
        Identity identity;

        subject_of(context, certificate, depth, subject);
        switch (error) {
        case X509_V_ERR_CERT_HAS_EXPIRED:
                failure_set(f, -EKEYEXPIRED, "%s has expired on %s: " REISSUE, subject,
                            tls_time_to_string(X509_get0_notAfter(certificate), time));
                break;
        case X509_V_ERR_CERT_NOT_YET_VALID:
                failure_set(f, -EKEYREJECTED, "%s is not yet valid, only from %s on: see to the clocks",
                            subject, tls_time_to_string(X509_get0_notBefore(certificate), time));
                break;
        case X509_V_ERR_CERT_REVOKED:
                failure_set(f, -EKEYREVOKED, "%s has been revoked", subject);
                break;
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
        case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        case X509_V_ERR_CERT_CHAIN_TOO_LONG:
                failure_set(f, -EKEYREJECTED, "%s is not of this cluster's authority%s%s", subject,
                            isempty(authority) ? "" : ", ", authority);
                break;
        case X509_V_ERR_HOSTNAME_MISMATCH:
        case X509_V_ERR_IP_ADDRESS_MISMATCH:
                /* Of somebody else's, that is not what matters. */
                if (identity_from_certificate(certificate, &identity, &clause) >= 0 &&
                    identity.role != IDENTITY_MASTER)
                        tls_failure_role(f, &identity);
                else
                        failure_host(f, certificate);
                break;
        case X509_V_ERR_INVALID_PURPOSE:
                if (is_client(context) && identity_from_certificate(certificate, &identity, &clause) >= 0 &&
                    identity.role != IDENTITY_MASTER)
                        tls_failure_role(f, &identity);
                else
                        failure_set(f, -EKEYREJECTED, "%s may not be used for a %s", subject,
                                    is_client(context) ? "server" : "client");
                break;
        default:
                failure_set(f, -EKEYREJECTED, "%s is not accepted: %s", subject,
                            X509_verify_cert_error_string(error));
        }
}

int tls_failure_plaintext(TlsFailure *f, const TlsContext *context) {
        if (is_client(context))
                return failure_set(
                        f, -EPROTONOSUPPORT,
                        "The other end speaks plaintext there: use an address that speaks TLS, or "
                        "'insecure: true' if nobody else can reach this network");
        return failure_set(f, -EPROTONOSUPPORT, "The other end speaks plaintext to an address for TLS");
}

/* The peer says what it does not like; what that is in detail is to be seen in our own certificate. */
static int failure_alert(TlsFailure *f, const TlsContext *context, int alert) {
        const TlsMaterial *m = tls_context_material(context);
        const char *path = strempty(tls_context_paths(context)->certificate);
        const char *peer = is_client(context) ? "The master" : "The other end";
        char time[TLS_TIME_SIZE];

        switch (alert) {
        case SSL_AD_CERTIFICATE_REQUIRED:
                return failure_set(f, -EKEYREJECTED, "%s wants a certificate, and there is none here", peer);
        case SSL_AD_CERTIFICATE_REVOKED:
                return failure_set(f, -EKEYREVOKED,
                                   "%s does not accept %s: it has been revoked; have a new one issued", peer,
                                   path);
        case SSL_AD_UNKNOWN_CA:
                return failure_set(
                        f, -EKEYREJECTED,
                        "%s does not accept %s: it is not of that cluster's authority; is this the right "
                        "cluster?",
                        peer, path);
        case SSL_AD_PROTOCOL_VERSION:
                return failure_set(f, -EPROTO, "%s does not speak TLS 1.3", peer);
        default:
                break;
        }
        if (m->certificate && X509_cmp_current_time(X509_get0_notAfter(m->certificate)) <= 0)
                return failure_set(f, -EKEYEXPIRED, "%s does not accept %s: it has expired on %s; " REISSUE,
                                   peer, path, tls_time_to_string(X509_get0_notAfter(m->certificate), time));
        if (m->certificate && X509_cmp_current_time(X509_get0_notBefore(m->certificate)) > 0)
                return failure_set(
                        f, -EKEYREJECTED,
                        "%s does not accept %s: it is not yet valid, only from %s on; see to the clocks",
                        peer, path, tls_time_to_string(X509_get0_notBefore(m->certificate), time));
        switch (alert) {
        case SSL_AD_CERTIFICATE_EXPIRED:
                return failure_set(f, -EKEYEXPIRED,
                                   "%s says that %s has expired: " REISSUE ", or see to the clocks", peer,
                                   path);
        case SSL_AD_BAD_CERTIFICATE:
        case SSL_AD_CERTIFICATE_UNKNOWN:
        case SSL_AD_UNSUPPORTED_CERTIFICATE:
        case SSL_AD_ACCESS_DENIED:
        case SSL_AD_HANDSHAKE_FAILURE:
                return failure_set(f, -EKEYREJECTED, "%s does not accept %s: %s%s", peer, path,
                                   SSL_alert_desc_string_long(alert),
                                   is_client(context) ? "; the master's journal has the reason" : "");
        default:
                return failure_set(f, -EPROTO, "%s ended the TLS handshake: %s", peer,
                                   SSL_alert_desc_string_long(alert));
        }
}

int tls_failure_library(TlsFailure *f, const TlsContext *context, bool shaken) {
        unsigned long error = ERR_peek_error();
        int reason = ERR_GET_REASON(error);

        if (f->error < 0)
                return f->error;
        if (ERR_GET_LIB(error) == ERR_LIB_SSL) {
                if (reason >= SSL_AD_REASON_OFFSET)
                        return failure_alert(f, context, reason - SSL_AD_REASON_OFFSET);
                switch (reason) {
                case SSL_R_UNSUPPORTED_PROTOCOL:
                case SSL_R_VERSION_TOO_LOW:
                case SSL_R_NO_PROTOCOLS_AVAILABLE:
                        return failure_set(
                                f, -EPROTO,
                                "The other end does not speak TLS 1.3, and nothing older is accepted");
                case SSL_R_WRONG_VERSION_NUMBER:
                case SSL_R_HTTP_REQUEST:
                case SSL_R_HTTPS_PROXY_REQUEST:
                case SSL_R_PACKET_LENGTH_TOO_LONG:
                        if (!shaken)
                                return failure_set(f, -EPROTO, "What the other end sends is not TLS");
                        break;
                default:
                        break;
                }
        }
        return failure_set(f, -EPROTO, "%s: %s",
                           shaken ? "The TLS connection broke" : "The TLS handshake failed",
                           ERR_reason_error_string(error) ?: "no reason given");
}

int tls_failure_broken(TlsFailure *f, const TlsContext *context, int error, bool received) {
        if (is_client(context) && !received)
                return failure_set(
                        f, error ?: -ECONNRESET,
                        "The other end closed the connection when it was to speak TLS: does it speak "
                        "plaintext only there, or has it too many callers?");
        return failure_set(f, error ?: -ECONNRESET,
                           "The other end closed the connection within the TLS handshake");
}
