/* SPDX-License-Identifier: Apache-2.0 */
#include "why-journal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "memory-util.h"
#include "time-util.h"
#include "why.h"

enum { INTERVAL_MS = 100 };

static int read_field(sd_journal *journal, const char *name, char **ret) {
        size_t size, prefix = strlen(name) + 1;
        const void *data;
        int r;

        r = sd_journal_get_data(journal, name, &data, &size);
        if (r < 0)
                return r;
        if (size < prefix)
                return -EBADMSG;
        *ret = memdup_nul((const char *) data + prefix, size - prefix);
        return *ret ? 0 : -ENOMEM;
}

int why_from_journal(const char *owner, Id id, char **ret_sentence, char **ret_outcome) {
        static uint64_t next = 0;
        _cleanup_(sd_journal_closep) sd_journal *journal = NULL;
        _cleanup_(freep) char *sentence = NULL, *outcome = NULL;
        uint64_t now = now_usec(CLOCK_BOOTTIME);
        char match[96];
        int r;

        if (now < next)
                return -EAGAIN;
        next = now + INTERVAL_MS * USEC_PER_MSEC;
        r = sd_journal_open(&journal, SD_JOURNAL_LOCAL_ONLY | SD_JOURNAL_SYSTEM);
        if (r < 0)
                return r;
        snprintf(match, sizeof(match), "CLUPY_TASK_ID=%s", ID_HEX(id));
        r = sd_journal_add_match(journal, match, 0);
        if (r >= 0)
                r = sd_journal_add_match(journal, "MESSAGE_ID=" WHY_MESSAGE_ID, 0);
        if (r >= 0 && owner) {
                snprintf(match, sizeof(match), "CLUPY_OWNER=%s", owner);
                r = sd_journal_add_match(journal, match, 0);
        }
        if (r >= 0) {
                /* Whoever may write to the journal may write these fields, but not this one. */
                snprintf(match, sizeof(match), "_UID=%u", (unsigned) geteuid());
                r = sd_journal_add_match(journal, match, 0);
        }
        if (r >= 0)
                r = sd_journal_seek_tail(journal);
        if (r >= 0)
                r = sd_journal_previous(journal);
        if (r < 0)
                return r;
        if (r == 0)
                return -ENOENT;
        r = read_field(journal, "MESSAGE", &sentence);
        if (r >= 0)
                r = read_field(journal, "CLUPY_OUTCOME", &outcome);
        if (r < 0)
                return r;
        *ret_sentence = TAKE_PTR(sentence);
        *ret_outcome = TAKE_PTR(outcome);
        return 0;
}
