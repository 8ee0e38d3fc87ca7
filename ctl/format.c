/* SPDX-License-Identifier: Apache-2.0 */
#include "format.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "outcome.h"
#include "parse-util.h"

Terminal terminal_probe(bool no_color) {
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM"), *columns = getenv("COLUMNS");
        struct winsize size = {};
        Terminal t = { .is_tty = isatty(STDOUT_FILENO) };
        uint64_t n;

        if (!t.is_tty)
                return t;
        t.color = !no_color && isempty(no) && term && !streq(term, "dumb");
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) >= 0 && size.ws_col > 0)
                t.width = size.ws_col;
        else if (columns && parse_uint64(columns, &n) >= 0 && n >= 20 && n <= 1000)
                t.width = (unsigned) n;
        else
                t.width = 80;
        return t;
}

const char *color_on(const Terminal *t, Color color) {
        static const char *const table[] = {
                [COLOR_NONE] = "",          [COLOR_GREEN] = "\033[32m", [COLOR_YELLOW] = "\033[33m",
                [COLOR_RED] = "\033[1;31m", [COLOR_DIM] = "\033[2m",    [COLOR_BOLD] = "\033[1m",
        };

        return t->color ? table[color] : "";
}

const char *color_off(const Terminal *t, Color color) {
        return t->color && color != COLOR_NONE ? "\033[0m" : "";
}

Color state_color(const char *state) {
        static const struct {
                const char *name;
                Color color;
        } table[] = {
                { "ready", COLOR_GREEN },        { "running", COLOR_GREEN },
                { "value", COLOR_GREEN },        { "suspect", COLOR_YELLOW },
                { "draining", COLOR_YELLOW },    { "drained", COLOR_YELLOW },
                { "reporting", COLOR_YELLOW },   { "frozen", COLOR_YELLOW },
                { "waiting", COLOR_YELLOW },     { "starting", COLOR_YELLOW },
                { "cancelled", COLOR_YELLOW },   { "lost", COLOR_RED },
                { "queued", COLOR_NONE },        { "ended", COLOR_NONE },
                { "unreachable", COLOR_YELLOW }, { "resolving", COLOR_YELLOW },
                { "building", COLOR_YELLOW },    { "failed", COLOR_RED },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(state, table[i].name))
                        return table[i].color;
        return outcome_kind_from_string(state) >= 0 ? COLOR_RED : COLOR_NONE;
}

static json_object *member(json_object *object, const char *key) {
        json_object *value = NULL;

        if (json_object_is_type(object, json_type_object))
                (void) json_object_object_get_ex(object, key, &value);
        return value;
}

const char *member_string(json_object *object, const char *key) {
        json_object *value = member(object, key);

        return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
}

int64_t member_int(json_object *object, const char *key) {
        return json_object_get_int64(member(object, key));
}

double member_double(json_object *object, const char *key) {
        return json_object_get_double(member(object, key));
}

bool member_bool(json_object *object, const char *key) {
        return json_object_get_boolean(member(object, key));
}

json_object *member_object(json_object *object, const char *key) {
        return member(object, key);
}

size_t member_length(json_object *object, const char *key) {
        json_object *value = member(object, key);

        return json_object_is_type(value, json_type_array) ? json_object_array_length(value) : 0;
}

bool member_is_null(json_object *object, const char *key) {
        return !member(object, key);
}

char *format_cpus(double cpus) {
        long long hundredths = cpus > 0 && cpus < 1e12 ? (long long) (cpus * 100 + 0.5) : 0;

        if (hundredths % 100 == 0)
                return strformat("%lld", hundredths / 100);
        if (hundredths % 10 == 0)
                return strformat("%lld.%lld", hundredths / 100, hundredths / 10 % 10);
        return strformat("%lld.%02lld", hundredths / 100, hundredths % 100);
}

char *format_cpus_of(double used, double total) {
        _cleanup_(freep) char *u = format_cpus(used), *t = format_cpus(total);

        return u && t ? strformat("%s of %s", u, t) : NULL;
}

char *format_bytes_of(uint64_t used, uint64_t total) {
        return strformat("%s of %s", FORMAT_BYTES(used), FORMAT_BYTES(total));
}

int64_t now_ms(void) {
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

char *format_span(int64_t ms) {
        if (ms < 0)
                ms = 0; /* two machines' clocks */
        if (ms < 1000)
                return strformat("%dms", (int) ms);
        if (ms < 60000)
                return strformat("%d.%ds", (int) (ms / 1000), (int) (ms / 100 % 10));
        return format_age(0, ms);
}

char *format_age(int64_t at_ms, int64_t now) {
        int64_t s = (now - at_ms) / 1000;

        if (at_ms == 0 && now == 0)
                return strdup("-");
        if (s < 0)
                s = 0;
        if (s < 60)
                return strformat("%ds", (int) s);
        if (s < 3600)
                return s % 60 ? strformat("%dmin %ds", (int) (s / 60), (int) (s % 60))
                              : strformat("%dmin", (int) (s / 60));
        if (s < 86400)
                return s / 60 % 60 ? strformat("%dh %dmin", (int) (s / 3600), (int) (s / 60 % 60))
                                   : strformat("%dh", (int) (s / 3600));
        return s / 3600 % 24 ? strformat("%lldd %dh", (long long) (s / 86400), (int) (s / 3600 % 24))
                             : strformat("%lldd", (long long) (s / 86400));
}

char *format_time(int64_t at_ms) {
        time_t t = (time_t) (at_ms / 1000);
        char buffer[64];
        struct tm tm;

        if (at_ms == 0 || !localtime_r(&t, &tm) ||
            strftime(buffer, sizeof(buffer), "%Y-%m-%d %H:%M:%S", &tm) == 0)
                return strdup("-");
        return strdup(buffer);
}

char *format_outcome(json_object *outcome) {
        /* The master tells former attempts' outcomes by their kind alone. */
        const char *kind = json_object_is_type(outcome, json_type_string) ? json_object_get_string(outcome)
                                                                          : member_string(outcome, "kind");
        OutcomeKind k;
        int r;

        if (isempty(kind))
                return strdup("-");
        r = outcome_kind_from_string(kind);
        k = r < 0 || !json_object_is_type(outcome, json_type_object) ? OUTCOME_NONE : (OutcomeKind) r;
        switch (k) {
        case OUTCOME_EXIT:
                return strformat("%s (status %d)", kind, (int) member_int(outcome, "status"));
        case OUTCOME_MEMORY:
                return strformat("%s (limit %s, peak %s)", kind,
                                 FORMAT_BYTES((uint64_t) member_int(outcome, "limit")),
                                 FORMAT_BYTES((uint64_t) member_int(outcome, "peak")));
        case OUTCOME_DISK:
                return strformat("%s (%s, limit %s)", kind,
                                 isempty(member_string(outcome, "place")) ? "/tmp"
                                                                          : member_string(outcome, "place"),
                                 FORMAT_BYTES((uint64_t) member_int(outcome, "limit")));
        case OUTCOME_CPU_TIME:
        case OUTCOME_TIMEOUT:
        case OUTCOME_DEADLINE: {
                _cleanup_(freep) char *limit = format_span(member_int(outcome, "limit_ms"));

                return limit ? strformat("%s (%s)", kind, limit) : NULL;
        }
        case OUTCOME_SYSCALL:
        case OUTCOME_SIGNAL:
        case OUTCOME_RESULT_PICKLING:
                return strformat("%s (%s)", kind, member_string(outcome, "name"));
        case OUTCOME_CANCELLED:
                return isempty(member_string(outcome, "by"))
                               ? strdup(kind)
                               : strformat("%s (by %s)", kind, member_string(outcome, "by"));
        case OUTCOME_NODE_LOST:
                return strformat("%s (%d attempts)", kind, (int) member_int(outcome, "attempts"));
        default:
                return strdup(kind);
        }
}

char *format_task_state(json_object *task) {
        const char *state = member_string(task, "state");
        int64_t left = member_int(task, "freezes_ms");

        if (!streq(state, "unreachable"))
                return strdup(state);
        if (left <= 0)
                return strdup("unreachable (frozen there)");
        /* Whole seconds, rounded up: it is not before. */
        return strformat("unreachable (frozen there in %llds)", (long long) (left + 999) / 1000);
}

char *format_progress(json_object *progress) {
        double done, total;
        const char *note;

        if (!json_object_is_type(progress, json_type_object))
                return strdup("");
        done = member_double(progress, "done");
        total = member_double(progress, "total");
        note = member_string(progress, "note");
        if (total > 0)
                return strformat("%.6g of %.6g%s%s", done, total, isempty(note) ? "" : ", ", note);
        return strformat("%.6g%s%s", done, isempty(note) ? "" : ", ", note);
}

int task_id_parse(const char *s, char id[static 33]) {
        size_t n = 0;

        for (; *s; s++) {
                char c = *s;

                if (c == '-' && n > 0)
                        continue;
                if (c >= 'A' && c <= 'F')
                        c = (char) (c - 'A' + 'a');
                if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')) || n >= 32)
                        return -EINVAL;
                id[n++] = c;
        }
        if (n == 0)
                return -EINVAL;
        id[n] = '\0';
        return (int) n;
}

static int compare_strings(const void *left, const void *right) {
        return strcmp(*(const char *const *) left, *(const char *const *) right);
}

size_t ids_short_length(const char *const *ids, size_t n, size_t least) {
        _cleanup_(freep) const char **sorted = newn0(const char *, n + 1);
        size_t length = least;

        if (!sorted)
                return 32;
        for (size_t i = 0; i < n; i++)
                sorted[i] = ids[i];
        qsort(sorted, n, sizeof(*sorted), compare_strings);
        for (size_t i = 1; i < n; i++) {
                size_t same = 0;

                while (sorted[i][same] && sorted[i][same] == sorted[i - 1][same])
                        same++;
                length = MAX(length, same + 1);
        }
        return MIN(length, (size_t) 32);
}
