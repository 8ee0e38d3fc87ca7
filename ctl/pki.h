/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "authority.h"
#include "ctl.h"

/* `clupyctl pki …` and `clupyctl token …` work on files of this machine and ask no daemon. What several of
 * them need. */

/* --folder, or /etc/clupy/pki. */
const char *pki_folder(const Ctl *ctl);

/* Opens the authority. Returns 0, or the exit status. */
int pki_open(const Ctl *ctl, AuthorityAccess access, Authority **ret);

/* Tells what went wrong with a file of a folder (file may be NULL). Returns the exit status. */
int pki_fail(const Ctl *ctl, int error, const char *folder, const char *file);

/* --days, or a year. Returns 0, or the exit status. */
int pki_days(const Ctl *ctl, unsigned *ret);

/* Refuses options that this part of the verb does not know. allowed: names, ends with NULL. Returns 0, or
 * the exit status. */
int pki_check_options(const Ctl *ctl, const char *const *allowed);
/* The same for the number of operands, the first being the part's name. */
int pki_check_operands(const Ctl *ctl, size_t min, size_t max, const char *synopsis);

int64_t pki_now(void); /* unix seconds */

/* One certificate: role, name, serial, not_before, not_after (unix ms, as all times in JSON), state, …
 * Returns 0, -ENOMEM. */
int pki_add_json(json_object *to, const Issued *issued);
int pki_add_names(json_object *to, char *const *names);

/* What a role's files are called: "agent.crt", "agent.key"; those of users and admins "user.…". */
const char *pki_certificate_file(IdentityRole role);
const char *pki_key_file(IdentityRole role);

/* The hosts of --name, NULL without; and with this machine's own names and addresses behind them. Return 0,
 * or the exit status. */
int pki_option_names(const Ctl *ctl, char ***ret);
int pki_own_names(const Ctl *ctl, char ***ret);

int pki_init(Ctl *ctl);
int pki_issue(Ctl *ctl);
int pki_list(Ctl *ctl);
int pki_revoke(Ctl *ctl);
int pki_renew(Ctl *ctl);
int pki_show(Ctl *ctl);

/* An entry in the journal: who (the account, and whose it is behind sudo) did what. action: "issue",
 * "renew", "revoke", "init", "token-new", "token-revoke"; subject: "agent:node1" or a token's id; serial may
 * be NULL. */
void pki_record(const char *action, const char *subject, const char *serial, const char *format, ...)
        _printf_(4, 5);
#define PKI_RECORD_MESSAGE_ID "f1c6a0d84be34d57a92e6d3c8b7051fa"

/* For shells: what may stand behind `pki PART` or `token PART` and so many operands, of which the second is
 * role. folder, tokens: NULL for the usual ones. */
void pki_complete(const char *verb, const char *part, const char *role, size_t operands, const char *folder,
                  const char *tokens);

/* What the user means by a name ("node1", "agent:node1", "master") or (the first 8 digits or more of) a
 * serial number, among certificates that are not expired. Marks chosen[i]. Returns 0, or the exit status
 * after it has told the user what went wrong. */
int pki_select(const Ctl *ctl, const Issued *list, size_t n, const char *selector, bool *chosen);

/* What was renewed, to be told at the end: in JSON all of it is one object. */
typedef struct PkiRenewed {
        X509 *certificate;
        char *folder;
} PkiRenewed;

typedef struct PkiRenewals {
        PkiRenewed *list;
        size_t n, capacity;
} PkiRenewals;

void pki_renewals_done(PkiRenewals *renewals);
/* Takes the certificate, also on failure. Returns 0, -ENOMEM. */
int pki_renewals_add(PkiRenewals *renewals, X509 *certificate, const char *folder);

/* Renews this machine's certificates through the master: there is no authority here. Returns the exit
 * status; renewals has what was renewed, also when it is not 0. */
int pki_renew_remotely(Ctl *ctl, PkiRenewals *renewals);
