/* SPDX-License-Identifier: Apache-2.0 */
/* Who did what with the authority: `pki` and `token` ask no daemon, so nobody else could tell. */
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "parse-util.h"
#include "pki.h"

enum { NO_LOGIN = UINT32_MAX };

/* The uid that logged in, which su and sudo do not change; journald adds it to the entry by itself. Returns
 * -1 where the kernel does not know. */
static int64_t login_uid(void) {
        char text[24] = "";
        FILE *file = fopen("/proc/self/loginuid", "re");
        uint64_t uid;

        if (!file)
                return -1;
        if (!fgets(text, sizeof(text), file))
                text[0] = '\0';
        (void) fclose(file);
        text[strcspn(text, "\n")] = '\0';
        return parse_uint64(text, &uid) >= 0 && uid < NO_LOGIN ? (int64_t) uid : -1;
}

/* "root", "root (alice by sudo)". SUDO_USER is what the caller says. */
static char *operator(void) {
        const char *sudo = getenv("SUDO_USER"), *user = ctl_user();
        int64_t login = login_uid();
        struct passwd *account;
        _cleanup_(freep) char *who = strdup(user);

        if (!who)
                return NULL;
        if (!isempty(sudo) && !streq(sudo, who) && owner_name_is_valid(sudo))
                return strformat("%s (%s by sudo)", who, sudo);
        account = login >= 0 && (uid_t) login != getuid() ? getpwuid((uid_t) login) : NULL;
        return account ? strformat("%s (logged in as %s)", who, account->pw_name) : TAKE_PTR(who);
}

void pki_record(const char *action, const char *subject, const char *serial, const char *format, ...) {
        _cleanup_(freep) char *who = operator(), *what = NULL;
        va_list arguments;

        va_start(arguments, format);
        if (vasprintf(&what, format, arguments) < 0)
                what = NULL;
        va_end(arguments);
        if (!who || !what)
                return;
        /* Where there is no journal there is nobody to tell. */
        (void) sd_journal_send("MESSAGE=%s %s", who, what, "MESSAGE_ID=" PKI_RECORD_MESSAGE_ID, "PRIORITY=5",
                               "SYSLOG_IDENTIFIER=clupyctl", "CLUPY_ACTION=%s", action, "CLUPY_OPERATOR=%s",
                               who, "CLUPY_SUBJECT=%s", strempty(subject), "CLUPY_SERIAL=%s",
                               strempty(serial), NULL);
}
