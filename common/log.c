/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "memory-util.h"
#include "parse-util.h"

enum { LINE_MAX_SIZE = 2048, FIELDS_MAX = 16 };

static struct {
        const char *program;
        int level;
        bool journal; /* stderr is a stream to the journal */
} state = { .program = "clupy", .level = LOG_INFO };

void log_open(const char *program) {
        const char *level = getenv("CLUPY_LOG_LEVEL");

        state.program = program;
        state.journal = getenv("JOURNAL_STREAM") || getenv("INVOCATION_ID");
        if (level && log_level_from_string(level) >= 0)
                state.level = log_level_from_string(level);
}

void log_set_level(int level) {
        state.level = CLAMP(level, LOG_EMERG, LOG_DEBUG);
}

int log_get_level(void) {
        return state.level;
}

int log_level_from_string(const char *name) {
        static const char *const names[] = { "emerg",   "alert",  "crit", "error",
                                             "warning", "notice", "info", "debug" };
        uint64_t n;
        int r;

        r = name_table_find(names, ELEMENTSOF(names), name);
        if (r >= 0)
                return r;
        if (streq(name, "err"))
                return LOG_ERR;
        if (streq(name, "warn"))
                return LOG_WARNING;
        return parse_uint64(name, &n) >= 0 && n <= LOG_DEBUG ? (int) n : -EINVAL;
}

/* A line must stay one line, and a terminal's escape sequences out of it. */
static void make_printable(char *s) {
        for (; *s; s++)
                if ((uint8_t) *s < ' ' ? *s != '\t' : *s == 0x7f)
                        *s = '?';
}

static void write_line(int level, char *line) {
        char prefix[80];
        struct iovec iov[3];

        make_printable(line);
        if (state.journal)
                snprintf(prefix, sizeof(prefix), "<%d>", level);
        else
                snprintf(prefix, sizeof(prefix), "%s: ", state.program);
        iov[0] = (struct iovec){ prefix, strlen(prefix) };
        iov[1] = (struct iovec){ line, strlen(line) };
        iov[2] = (struct iovec){ (char *) "\n", 1 };
        /* One call, so that lines of several processes do not mix. If stderr cannot take it nobody can be
         * told. */
        if (writev(STDERR_FILENO, iov, ELEMENTSOF(iov)) < 0)
                return;
}

int log_internalv(int level, int error, const char *format, va_list arguments) {
        int saved = errno;
        char line[LINE_MAX_SIZE];
        size_t used;

        error = error < 0 ? error : -error;
        if (level > state.level)
                return error;
        vsnprintf(line, sizeof(line), format, arguments);
        used = strlen(line);
        if (error != 0) {
                /* "…: %m"-like callers and plain ones look the same in the end. */
                while (used > 0 && (line[used - 1] == ' ' || line[used - 1] == ':'))
                        used--;
                snprintf(line + used, sizeof(line) - used, ": %s",
                         strerrordesc_np(-error) ?: "unknown error");
        }
        write_line(level, line);
        errno = saved;
        return error;
}

int log_internal(int level, int error, const char *format, ...) {
        va_list arguments;
        int r;

        va_start(arguments, format);
        r = log_internalv(level, error, format, arguments);
        va_end(arguments);
        return r;
}

LogField log_field(const char *format, ...) {
        LogField field;
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(field.text, sizeof(field.text), format, arguments);
        va_end(arguments);
        return field;
}

void log_fields(int level, const LogField *fields, size_t n) {
        int saved = errno;

        if (level > state.level)
                return;
        if (state.journal) {
                char priority[] = "PRIORITY=0", identifier[128];
                struct iovec iov[FIELDS_MAX + 2];
                size_t n_iov = 0;

                priority[sizeof(priority) - 2] = (char) ('0' + level);
                snprintf(identifier, sizeof(identifier), "SYSLOG_IDENTIFIER=%s", state.program);
                iov[n_iov++] = (struct iovec){ priority, strlen(priority) };
                iov[n_iov++] = (struct iovec){ identifier, strlen(identifier) };
                for (size_t i = 0; i < n && i < FIELDS_MAX; i++)
                        iov[n_iov++] = (struct iovec){ (char *) fields[i].text, strlen(fields[i].text) };
                if (sd_journal_sendv(iov, (int) n_iov) >= 0) {
                        errno = saved;
                        return;
                }
        }
        for (size_t i = 0; i < n; i++) {
                const char *message = startswith(fields[i].text, "MESSAGE=");
                char line[sizeof(fields[i].text)];

                if (!message)
                        continue;
                snprintf(line, sizeof(line), "%s", message);
                write_line(level, line);
        }
        errno = saved;
}
