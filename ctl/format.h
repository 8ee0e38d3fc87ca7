/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "macros.h"
#include "memory-util.h"

/* What people read: units, times, colours, and text of strangers made harmless. */

typedef struct Terminal {
        unsigned width; /* columns to fit a table to; 0: as wide as it wants to be */
        bool color;
        bool is_tty;
} Terminal;

typedef enum Color {
        COLOR_NONE,
        COLOR_GREEN,
        COLOR_YELLOW,
        COLOR_RED,
        COLOR_DIM,
        COLOR_BOLD,
} Color;

/* Looks at standard output, COLUMNS, NO_COLOR and TERM. */
Terminal terminal_probe(bool no_color);
/* The escape sequences around coloured text; "" without colours. */
const char *color_on(const Terminal *t, Color color);
const char *color_off(const Terminal *t, Color color);

/* The colour of a node's or task's state or of an outcome's kind. */
Color state_color(const char *state);

/* Members of an answer; missing ones (and null) are "", 0, NULL: an older master is no reason to show
 * nothing. */
const char *member_string(json_object *object, const char *key);
int64_t member_int(json_object *object, const char *key);
double member_double(json_object *object, const char *key);
bool member_bool(json_object *object, const char *key);
json_object *member_object(json_object *object, const char *key);
size_t member_length(json_object *object, const char *key); /* of an array */
bool member_is_null(json_object *object, const char *key);  /* missing or null */

/* All of these give a string from malloc, NULL without memory. */

/* "1.5" and "2": as few digits as say it. */
char *format_cpus(double cpus);
/* "1.5 of 4", "512.0M of 2.0G". */
char *format_cpus_of(double used, double total);
char *format_bytes_of(uint64_t used, uint64_t total);
/* How long before now_ms that moment (unix ms) lies: "3s", "2min 5s", "4h 10min", "2d 3h"; "-" for none (0).
 */
char *format_age(int64_t at_ms, int64_t now_ms);
/* A span in milliseconds the same way, finer below a minute: "250ms", "3.2s". */
char *format_span(int64_t ms);
/* Local time: "2025-03-01 14:05:07"; "-" for none. */
char *format_time(int64_t at_ms);
/* "value", "memory (limit 64.0M, peak 64.0M)", "exit (status 3)", "signal (SIGTERM)", … from an OUTCOME; "-"
 * for none. */
char *format_outcome(json_object *outcome);
/* "running", or "unreachable (frozen there in 11s)": a task's state with what is known of it. */
char *format_task_state(json_object *task);
/* "45 of 100, loading" from {"done","total","note"}; "" for none. */
char *format_progress(json_object *progress);

int64_t now_ms(void);

/* Text of strangers for a terminal: control characters become "^X", "\n" and "\t" are kept when lines is
 * set, colours (ESC [ … m) too; invalid UTF-8 becomes '?'. A copy. */
char *text_harmless(const char *s, size_t size, bool lines);

/* Columns that UTF-8 text takes on a terminal. */
size_t text_width(const char *s);
/* A copy cut to that many columns, the last one "…" if something was cut. width ≥ 1. */
char *text_fit(const char *s, size_t width);

/* How many digits (at least least) of ids all different are needed to tell them apart, at most 32. */
size_t ids_short_length(const char *const *ids, size_t n, size_t least);

/* What a user may write for a task's id: 1 to 32 hexadecimal digits, of either case, dashes as in a UUID are
 * dropped. Fills id in lower case. Returns its length, -EINVAL. */
int task_id_parse(const char *s, char id[static 33]);
