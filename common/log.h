/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdarg.h>
#include <syslog.h>

#include "macros.h"

/* Daemons log; library code never does: it returns an error and the one who decides about it says so, once.
 *
 * Lines go to stderr: with the "<N>" priority prefix that systemd's stream to the journal understands when
 * JOURNAL_STREAM or INVOCATION_ID is set, else as "program: message". A line is at most 2 KiB; control
 * characters in it (they may come from a stranger) are shown as '?'. errno is kept by all functions. */

/* The name in front of messages, and the level from CLUPY_LOG_LEVEL if that is set. program is borrowed. */
void log_open(const char *program);

/* Messages of a lower urgency than level (LOG_ERR … LOG_DEBUG) are dropped. Default LOG_INFO. */
void log_set_level(int level);
int log_get_level(void);

/* "error", "warning", "notice", "info", "debug", or the syslog number. Returns the level, -EINVAL. */
int log_level_from_string(const char *name);

/* error: 0, or an errno of either sign whose text is appended as ": text". Returns -|error|. */
int log_internal(int level, int error, const char *format, ...) _printf_(3, 4);
int log_internalv(int level, int error, const char *format, va_list arguments) _printf_(3, 0);

#define log_full_errno(level, error, ...)                                                                   \
        ({                                                                                                  \
                int _log_level = (level), _log_error = (error);                                             \
                log_get_level() >= _log_level ? log_internal(_log_level, _log_error, __VA_ARGS__)           \
                                              : (_log_error < 0 ? _log_error : -_log_error);                \
        })
#define log_full(level, ...) ((void) log_full_errno(level, 0, __VA_ARGS__))

#define log_error(...) log_full(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_full(LOG_WARNING, __VA_ARGS__)
#define log_notice(...) log_full(LOG_NOTICE, __VA_ARGS__)
#define log_info(...) log_full(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_full(LOG_DEBUG, __VA_ARGS__)

/* These return the error as a negative errno: `return log_error_errno(r, "Cannot …: ");` */
#define log_error_errno(error, ...) log_full_errno(LOG_ERR, error, __VA_ARGS__)
#define log_warning_errno(error, ...) log_full_errno(LOG_WARNING, error, __VA_ARGS__)
#define log_notice_errno(error, ...) log_full_errno(LOG_NOTICE, error, __VA_ARGS__)
#define log_info_errno(error, ...) log_full_errno(LOG_INFO, error, __VA_ARGS__)
#define log_debug_errno(error, ...) log_full_errno(LOG_DEBUG, error, __VA_ARGS__)
#define log_oom() log_error_errno(-ENOMEM, "Out of memory")

/* One record with fields, at most 16 of up to 511 bytes each (longer ones are cut):
 *
 *     log_struct(LOG_INFO, log_field("MESSAGE=Task %s ended", id), log_field("CLUPY_TASK_ID=%s", id));
 *
 * It goes to the journal's socket when stderr is the journal (PRIORITY= and SYSLOG_IDENTIFIER= are added);
 * else only the MESSAGE field is logged as a line. Each field has its own format, so that the compiler
 * checks them all. */
typedef struct LogField {
        char text[512];
} LogField;

LogField log_field(const char *format, ...) _printf_(1, 2);
void log_fields(int level, const LogField *fields, size_t n);
#define log_struct(level, ...)                                                                              \
        ({                                                                                                  \
                int _log_level = (level);                                                                   \
                if (log_get_level() >= _log_level) {                                                        \
                        const LogField _log_fields[] = { __VA_ARGS__ };                                     \
                        log_fields(_log_level, _log_fields, ELEMENTSOF(_log_fields));                       \
                }                                                                                           \
        })
