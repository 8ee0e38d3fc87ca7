/* SPDX-License-Identifier: Apache-2.0 */
#include "requirement.h"

#include <errno.h>
#include <string.h>

#include "macros.h"
#include "memory-util.h"
#include "parse-util.h"

enum { HASH_DIGITS = 64, LOGICAL_LINE_MAX = 256 << 10 };

static bool is_letter_or_digit(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_one_of(char c, const char *set) {
        return c != '\0' && strchr(set, c);
}

static bool is_blank(char c) {
        return c == ' ' || c == '\t';
}

/* The bytes of a project's name at the beginning, 0 when there is none. */
static size_t project_length(const char *s, size_t size) {
        size_t n = 0;

        while (n < size && (is_letter_or_digit(s[n]) || s[n] == '.' || s[n] == '_' || s[n] == '-'))
                n++;
        /* Its last character is a letter or a digit: "a-" is none, and neither is "a." */
        if (n == 0 || n > PROJECT_NAME_MAX || !is_letter_or_digit(s[0]) || !is_letter_or_digit(s[n - 1]))
                return 0;
        return n;
}

static void project_normalise(const char *s, size_t size, char *ret) {
        size_t n = 0;

        for (size_t i = 0; i < size; i++) {
                bool joint = !is_letter_or_digit(s[i]);

                if (joint && n > 0 && ret[n - 1] == '-')
                        continue;
                ret[n++] = (char) (joint ? '-' : s[i] >= 'A' && s[i] <= 'Z' ? s[i] - 'A' + 'a' : s[i]);
        }
        ret[n] = '\0';
}

/* [extra, extra]; the bytes it takes, 0 for none, -1 when it is broken. */
static ssize_t extras_length(const char *s, size_t size) {
        size_t n = 1;

        if (size == 0 || s[0] != '[')
                return 0;
        while (n < size && (is_letter_or_digit(s[n]) || is_one_of(s[n], "._-, \t")))
                n++;
        return n < size && s[n] == ']' ? (ssize_t) n + 1 : -1;
}

static size_t blanks(const char *s, size_t size) {
        size_t n = 0;

        while (n < size && is_blank(s[n]))
                n++;
        return n;
}

/* Versions and their comparisons: ">=1,<2", "(==1.0)", "~=1.1", "===x". */
static bool is_version_character(char c) {
        return is_letter_or_digit(c) || is_one_of(c, ".,*+!-_<>=~() \t");
}

static size_t head_length(const char *s, size_t size) {
        size_t n = project_length(s, size), at;
        ssize_t extras;

        if (n == 0)
                return 0;
        at = n + blanks(s + n, size - n);
        extras = extras_length(s + at, size - at);
        if (extras < 0)
                return 0;
        return extras == 0 ? n : at + (size_t) extras;
}

/* Where an installer written in Python ends a line, and we do not: what stands behind would be a line to it.
 */
static bool ends_line_elsewhere(const char *s, size_t left) {
        const unsigned char *p = (const unsigned char *) s;

        if (*p == '\r')
                return left < 2 || p[1] != '\n';
        if (*p < ' ')
                return *p != '\n' && *p != '\t';
        /* U+0085, U+2028, U+2029 */
        return (left >= 2 && p[0] == 0xc2 && p[1] == 0x85) ||
               (left >= 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9));
}

bool requirement_is_valid(const char *s) {
        size_t size = strlen(s), n;

        if (size > REQUIREMENT_MAX || !utf8_is_valid(s, size))
                return false;
        for (size_t i = 0; i < size; i++)
                if ((unsigned char) s[i] < ' ' || s[i] == 0x7f || s[i] == '#' || s[i] == '\\' ||
                    ends_line_elsewhere(s + i, size - i))
                        return false;
        n = head_length(s, size);
        if (n == 0)
                return false;
        n += blanks(s + n, size - n);
        if (n < size && s[n] != ';' && !is_one_of(s[n], "<>=!~("))
                return false;
        while (n < size && s[n] != ';') {
                if (!is_version_character(s[n]) ||
                    /* " --hash" and the like */
                    (s[n] == '-' && is_blank(s[n - 1])))
                        return false;
                n++;
        }
        /* Of markers only that they hold no options. */
        return n == size || !strstr(s + n, " -");
}

int requirement_project(const char *s, char ret[static PROJECT_NAME_MAX + 1]) {
        size_t n = project_length(s, strlen(s));

        if (n == 0)
                return -EINVAL;
        project_normalise(s, n, ret);
        return 0;
}

int wheel_project(const char *name, char ret[static PROJECT_NAME_MAX + 1]) {
        size_t n = strcspn(name, "-");

        if (n == 0 || project_length(name, n) != n)
                return -EINVAL;
        project_normalise(name, n, ret);
        return 0;
}

bool module_name_is_valid(const char *s) {
        bool begin = true;

        if (strlen(s) > MODULE_NAME_MAX || !utf8_is_valid(s, strlen(s)))
                return false;
        for (; *s; s++) {
                unsigned char c = (unsigned char) *s;
                bool letter = (is_letter_or_digit(*s) && !(c >= '0' && c <= '9')) || c == '_' || c >= 0x80;

                if (begin ? !letter : !letter && !(c >= '0' && c <= '9') && c != '.')
                        return false;
                begin = c == '.';
        }
        return !begin;
}

bool wheel_name_is_valid(const char *s) {
        size_t size = strlen(s);

        if (size > 255 || !is_letter_or_digit(s[0]) || !endswith(s, ".whl"))
                return false;
        for (size_t i = 0; i < size; i++)
                if (!is_letter_or_digit(s[i]) && !is_one_of(s[i], "._-+!"))
                        return false;
        return true;
}

/* A lock, line by line */

typedef struct LockReader {
        const char *text;
        size_t size, at, line;
} LockReader;

/* The next requirement: its lines joined, blanks between words made one, comments left out. */
static int next_logical(LockReader *l, char *buffer, size_t capacity, size_t *ret_size, size_t *ret_line) {
        size_t n = 0;
        bool joined = false;

        while (l->at < l->size || joined) {
                const char *s = l->text + l->at, *end = memchr(s, '\n', l->size - l->at);
                size_t size = end ? (size_t) (end - s) : l->size - l->at, stop;

                if (!joined) {
                        n = 0;
                        *ret_line = l->line;
                }
                l->at += size + (end != NULL);
                l->line += end != NULL;
                if (size > 0 && s[size - 1] == '\r')
                        size--;
                /* A comment begins a line or stands behind a blank. */
                for (stop = 0; stop < size; stop++)
                        if (s[stop] == '#' && (stop == 0 || is_blank(s[stop - 1])))
                                break;
                joined = stop == size && size > 0 && s[size - 1] == '\\' && l->at < l->size;
                for (size_t i = 0; i < stop - (joined ? 1 : 0); i++) {
                        if (is_blank(s[i]) && (n == 0 || buffer[n - 1] == ' '))
                                continue;
                        if (n + 2 >= capacity)
                                return -E2BIG;
                        buffer[n++] = is_blank(s[i]) ? ' ' : s[i];
                }
                if (joined) {
                        if (n > 0 && buffer[n - 1] != ' ' && n + 2 < capacity)
                                buffer[n++] = ' ';
                        continue;
                }
                while (n > 0 && buffer[n - 1] == ' ')
                        n--;
                if (n == 0)
                        continue;
                buffer[n] = '\0';
                *ret_size = n;
                return 1;
        }
        return 0;
}

static bool is_hash(const char *s) {
        const char *digits = startswith(s, "--hash=sha256:");

        return digits && strspn(digits, "0123456789abcdef") == HASH_DIGITS &&
               (digits[HASH_DIGITS] == '\0' || digits[HASH_DIGITS] == ' ');
}

/* Cuts the hashes off. Returns what was expected, NULL when all is good. */
static const char *cut_hashes(char *s) {
        char *first = strstr(s, " --"), *p = first;

        if (!first)
                return "a hash behind each requirement, --hash=sha256: and 64 digits";
        for (; p; p = strchr(p + 1, ' '))
                if (!is_hash(p + 1))
                        return "--hash=sha256: and 64 digits, and no other option";
        *first = '\0';
        return NULL;
}

static const char *entry_parse(char *s, LockEntry *ret) {
        const char *expected, *pin = "a requirement pinned by '==', such as 'numpy==2.1.0 --hash=sha256:…'";
        size_t n, version;
        char *marker;

        if (s[0] == '-')
                return "requirements only, no options of an installer";
        expected = cut_hashes(s);
        if (expected)
                return expected;
        marker = strchr(s, ';');
        ret->conditional = marker != NULL;
        if (!requirement_is_valid(s))
                return pin;
        if (marker)
                *marker = '\0';
        if (requirement_project(s, ret->project) < 0)
                return pin;
        n = head_length(s, strlen(s));
        n += blanks(s + n, strlen(s) - n);
        if (s[n] != '=' || s[n + 1] != '=' || s[n + 2] == '=')
                return pin;
        n += 2;
        n += blanks(s + n, strlen(s) - n);
        version = strcspn(s + n, " \t");
        if (version == 0 || version > PROJECT_VERSION_MAX ||
            s[n + version + blanks(s + n + version, strlen(s + n + version))] != '\0')
                return pin;
        for (size_t i = 0; i < version; i++)
                if (!is_letter_or_digit(s[n + i]) && !is_one_of(s[n + i], ".+!-_"))
                        return pin;
        memcpy(ret->version, s + n, version);
        ret->version[version] = '\0';
        return NULL;
}

int lock_parse(const char *text, size_t size, LockVisit visit, void *userdata, size_t *ret_line,
               const char **ret_expected) {
        LockReader reader = { .text = text, .size = size, .line = 1 };
        _cleanup_(freep) char *buffer = NULL;
        size_t n = 0, length;
        int r;

        *ret_line = 1;
        *ret_expected = "a text of at most 1 MiB";
        if (size > LOCK_MAX)
                return -EFBIG;
        *ret_expected = "printable text in UTF-8";
        if (memchr(text, '\0', size) || !utf8_is_valid(text, size))
                return -EINVAL;
        for (size_t i = 0, at = 1; i < size; at += text[i++] == '\n')
                if (ends_line_elsewhere(text + i, size - i)) {
                        *ret_line = at;
                        *ret_expected = "no other control characters and ends of lines than \\n and \\r\\n";
                        return -EINVAL;
                }
        buffer = newn0(char, LOGICAL_LINE_MAX);
        if (!buffer)
                return -ENOMEM;
        while ((r = next_logical(&reader, buffer, LOGICAL_LINE_MAX, &length, ret_line)) > 0) {
                LockEntry entry = { .line = *ret_line };

                *ret_expected = entry_parse(buffer, &entry);
                if (*ret_expected)
                        return -EINVAL;
                *ret_expected = "at most " STRINGIFY(10000) " requirements";
                if (++n > LOCK_ENTRIES_MAX)
                        return -E2BIG;
                r = visit ? visit(&entry, userdata) : 0;
                if (r < 0)
                        return r;
        }
        if (r < 0)
                *ret_expected = "requirements of at most 256 KiB";
        return r;
}
