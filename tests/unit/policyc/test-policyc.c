/* SPDX-License-Identifier: Apache-2.0 */
/* test-policyc DEFAULT.JSON CLUPY-POLICYC */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <sched.h>
#include <seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bpf-machine.h"
#include "fd-util.h"
#include "filter.h"
#include "floor.h"
#include "profile.h"
#include "settings.h"
#include "write-file.h"

static const char *default_path, *program_path;

typedef struct Filters {
        struct sock_filter *code[_FILTER_KIND_MAX];
        size_t n[_FILTER_KIND_MAX];
} Filters;

static void filters_done(Filters *f) {
        for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++)
                free(f->code[kind]);
}

static void filters_of_default(Filters *f) {
        _cleanup_(profile_freep) Profile *profile = NULL;
        _cleanup_(freep) char *message = NULL;

        if (profile_load(default_path, &profile, &message) < 0)
                fail_msg("%s", strempty(message));
        assert_string_equal(profile->name, "default");
        for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++)
                assert_int_equal(filter_compile(profile, kind, &f->code[kind], &f->n[kind]), 0);
}

static uint32_t ask_number(const Filters *f, FilterKind kind, uint32_t arch, int number, uint64_t a0,
                           uint64_t a1, uint64_t a2, uint64_t a3) {
        struct seccomp_data data = { .nr = number, .arch = arch, .args = { a0, a1, a2, a3 } };

        return bpf_run(f->code[kind], f->n[kind], &data);
}

static uint32_t ask(const Filters *f, FilterKind kind, const char *name, uint64_t a0, uint64_t a1,
                    uint64_t a2, uint64_t a3) {
        int number = seccomp_syscall_resolve_name(name);

        if (number < 0)
                fail_msg("%s", name);
        return ask_number(f, kind, seccomp_arch_native(), number, a0, a1, a2, a3);
}

/* What a task gets: the kernel asks its filters from the youngest to the oldest, and the strictest answer
 * counts, among equals the first. */
static uint32_t ask_task_number(const Filters *f, uint32_t arch, int number, uint64_t a0, uint64_t a1,
                                uint64_t a2, uint64_t a3) {
        uint32_t final = ask_number(f, FILTER_FINAL, arch, number, a0, a1, a2, a3);
        uint32_t outer = ask_number(f, FILTER_OUTER, arch, number, a0, a1, a2, a3);

        return (int32_t) (outer & SECCOMP_RET_ACTION_FULL) < (int32_t) (final & SECCOMP_RET_ACTION_FULL)
                       ? outer
                       : final;
}

static uint32_t ask_task(const Filters *f, const char *name, uint64_t a0, uint64_t a1, uint64_t a2,
                         uint64_t a3) {
        int number = seccomp_syscall_resolve_name(name);

        if (number < 0)
                fail_msg("%s", name);
        return ask_task_number(f, seccomp_arch_native(), number, a0, a1, a2, a3);
}

#define ALLOWED SECCOMP_RET_ALLOW
#define REFUSED (SECCOMP_RET_ERRNO | EPERM)
#define UNKNOWN (SECCOMP_RET_ERRNO | ENOSYS)
#define WATCHED SECCOMP_RET_USER_NOTIF

static void test_default_names(void **state) {
        static const struct {
                const char *name;
                uint32_t outer, task;
        } cases[] = {
                { "read", ALLOWED, ALLOWED },
                { "mmap", ALLOWED, ALLOWED },
                { "execve", ALLOWED, ALLOWED },
                { "sched_setaffinity", ALLOWED, ALLOWED },
                { "setns", ALLOWED, REFUSED },
                { "setresuid", ALLOWED, REFUSED },
                { "setgroups", ALLOWED, REFUSED },
                { "capset", ALLOWED, REFUSED },
                { "seccomp", ALLOWED, REFUSED },
                { "unshare", REFUSED, REFUSED },
                { "mount", REFUSED, REFUSED },
                { "ptrace", REFUSED, REFUSED },
                { "pidfd_getfd", REFUSED, REFUSED },
                { "process_vm_readv", REFUSED, REFUSED },
                { "io_uring_setup", REFUSED, REFUSED },
                { "personality", REFUSED, REFUSED },
                { "clock_settime", REFUSED, REFUSED },
                { "bpf", WATCHED, WATCHED },
                { "keyctl", WATCHED, WATCHED },
                { "userfaultfd", WATCHED, WATCHED },
                { "perf_event_open", WATCHED, WATCHED },
                { "clone3", UNKNOWN, UNKNOWN },
                { "openat2", UNKNOWN, UNKNOWN },
        };
        _cleanup_(filters_done) Filters f = { 0 };

        filters_of_default(&f);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                if (ask(&f, FILTER_OUTER, cases[i].name, 0, 0, 0, 0) != cases[i].outer)
                        fail_msg("outer %s", cases[i].name);
                if (ask_task(&f, cases[i].name, 0, 0, 0, 0) != cases[i].task)
                        fail_msg("task %s", cases[i].name);
        }
}

static void test_default_arguments(void **state) {
        static const struct {
                const char *name;
                uint64_t arguments[4];
                uint32_t outer, task;
        } cases[] = {
                { "clone", { SIGCHLD }, ALLOWED, ALLOWED },
                { "clone", { CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FS }, ALLOWED, ALLOWED },
                { "clone", { SIGCHLD | CLONE_PARENT }, ALLOWED, REFUSED },
                { "clone", { SIGCHLD | CLONE_NEWUSER }, REFUSED, REFUSED },
                { "clone", { SIGCHLD | CLONE_NEWNS }, REFUSED, REFUSED },
                { "clone", { SIGCHLD | CLONE_NEWPID }, REFUSED, REFUSED },
                { "clone", { SIGCHLD | CLONE_NEWNET }, REFUSED, REFUSED },
                { "clone", { SIGCHLD | CLONE_NEWIPC }, REFUSED, REFUSED },
                { "clone", { SIGCHLD | CLONE_NEWUTS }, REFUSED, REFUSED },
                { "clone", { SIGCHLD | CLONE_NEWCGROUP }, REFUSED, REFUSED },
                { "socket", { 1, 1 }, ALLOWED, ALLOWED },
                { "socket", { 2, 1 | 02000000, 6 }, ALLOWED, ALLOWED },
                { "socket", { 10, 2 }, ALLOWED, ALLOWED },
                { "socket", { 2, 3, 1 }, REFUSED, REFUSED },
                { "socket", { 16, 3 }, REFUSED, REFUSED },
                { "socket", { 17, 2 }, REFUSED, REFUSED },
                { "socket", { 38, 5 }, REFUSED, REFUSED },
                { "socket", { 40, 1 }, REFUSED, REFUSED },
                { "ioctl", { 0, 0x5401 }, ALLOWED, ALLOWED },
                { "ioctl", { 0, 0x5412 }, REFUSED, REFUSED }, /* TIOCSTI */
                { "ioctl",
                  { 0, 0x100000000 | 0x5412 },
                  REFUSED,
                  REFUSED },                                  /* the kernel sees only the lower half */
                { "ioctl", { 0, 0x541c }, REFUSED, REFUSED }, /* TIOCLINUX */
                { "chmod", { 0, 0755 }, ALLOWED, ALLOWED },
                { "chmod", { 0, 04755 }, REFUSED, REFUSED },
                { "fchmodat", { 0, 0, 02755 }, REFUSED, REFUSED },
                { "openat",
                  { 0, 0, 0, 07777 },
                  ALLOWED,
                  ALLOWED }, /* opens only: what lies in the mode's place means nothing */
                { "openat", { 0, 0, 0100 | 1, 0644 }, ALLOWED, ALLOWED },
                { "openat", { 0, 0, 0100 | 1, 04755 }, REFUSED, REFUSED },
                { "openat", { 0, 0, 020000000 | 0200000 | 1, 04755 }, REFUSED, REFUSED },
                { "mknodat", { 0, 0, 0010644 }, ALLOWED, ALLOWED },
                { "mknodat", { 0, 0, 0060644 }, REFUSED, REFUSED },
                { "mknodat", { 0, 0, 0100644 | 04000 }, REFUSED, REFUSED },
        };
        _cleanup_(filters_done) Filters f = { 0 };

        filters_of_default(&f);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const uint64_t *a = cases[i].arguments;

                if (ask(&f, FILTER_OUTER, cases[i].name, a[0], a[1], a[2], a[3]) != cases[i].outer)
                        fail_msg("outer %s, case %zu", cases[i].name, i);
                if (ask_task(&f, cases[i].name, a[0], a[1], a[2], a[3]) != cases[i].task)
                        fail_msg("task %s, case %zu", cases[i].name, i);
        }
}

static bool holds(const Condition *c, const uint64_t *arguments) {
        const uint64_t argument = arguments[c->argument];

        switch (c->op) {
        case CONDITION_NE:
                return argument != c->value;
        case CONDITION_LT:
                return argument < c->value;
        case CONDITION_LE:
                return argument <= c->value;
        case CONDITION_EQ:
                return argument == c->value;
        case CONDITION_GE:
                return argument >= c->value;
        case CONDITION_GT:
                return argument > c->value;
        case CONDITION_MASKED_EQ:
                return (argument & c->value) == c->value_two;
        default:
                fail_msg("%d", (int) c->op);
                return false;
        }
}

/* What the profile says, and what holds whatever it says, read from it and not from a program. */
static uint32_t expected_answer(const Profile *profile, int number, const char *name,
                                const uint64_t *arguments) {
        static const uint64_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                           CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
        const uint32_t refused = SECCOMP_RET_ERRNO | profile->default_error;

        if (!name || streq(name, "clone3"))
                return UNKNOWN;
        if (streq(name, "clone"))
                return arguments[0] & (namespaces | CLONE_PARENT) ? refused : ALLOWED;
        for (size_t i = 0; i < profile->n_rules; i++) {
                const Rule *rule = &profile->rules[i];
                bool all = rule->number == number;

                for (size_t j = 0; j < rule->n_conditions && all; j++)
                        all = holds(&rule->conditions[j], arguments);
                if (all)
                        return rule->action == RULE_ALLOW   ? ALLOWED
                               : rule->action == RULE_ERRNO ? SECCOMP_RET_ERRNO | rule->error
                                                            : WATCHED;
        }
        return refused;
}

static void assert_answer(const Filters *f, const Profile *profile, int number, const char *name,
                          const uint64_t *a) {
        uint32_t expected = expected_answer(profile, number, name, a);
        uint32_t answer = ask_task_number(f, seccomp_arch_native(), number, a[0], a[1], a[2], a[3]);

        if (answer != expected)
                fail_msg("%d %s(%#jx, %#jx, %#jx, %#jx): %#x, not %#x", number, name ? name : "(unknown)",
                         (uintmax_t) a[0], (uintmax_t) a[1], (uintmax_t) a[2], (uintmax_t) a[3], answer,
                         expected);
}

/* Around what the conditions of a call compare with, in each argument and in pairs of them. */
static void assert_answers(const Filters *f, const Profile *profile, int number, const char *name) {
        uint64_t values[256] = { 0, 1, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX, CLONE_PARENT, SIGCHLD };
        const size_t n_always = 7;
        size_t n = n_always;

        for (size_t i = 0; i < profile->n_rules; i++)
                for (size_t j = 0; profile->rules[i].number == number && j < profile->rules[i].n_conditions;
                     j++) {
                        const Condition *c = &profile->rules[i].conditions[j];
                        const uint64_t near[] = { c->value,     c->value - 1,     c->value + 1,
                                                  c->value_two, c->value_two - 1, c->value_two + 1,
                                                  ~c->value };

                        assert_true(c->argument < 4);
                        for (size_t k = 0; k < ELEMENTSOF(near) && n < ELEMENTSOF(values); k++)
                                values[n++] = near[k];
                }
        for (unsigned bit = 0; name && streq(name, "clone") && bit < 64; bit++)
                values[n++] = UINT64_C(1) << bit;
        bool compares = n > n_always;
        for (unsigned first = 0; first < 4; first++)
                for (unsigned second = first; second < (compares ? 4 : first + 1); second++)
                        for (size_t i = 0; i < n; i++)
                                for (size_t j = compares ? 0 : i; j < (compares ? n : i + 1); j++) {
                                        uint64_t arguments[4] = { 0 };

                                        arguments[first] = values[i];
                                        arguments[second] = values[j];
                                        assert_answer(f, profile, number, name, arguments);
                                }
}

/* The whole table: both filters together are the profile, for every call and whatever it compares; unknown
 * numbers; other tables. */
static void assert_is_profile(const Filters *f, const Profile *profile) {
        static const int numbers[] = { PROFILE_SYSCALL_MAX, 100000, 0x3fffffff };

        for (int number = 0; number < PROFILE_SYSCALL_MAX; number++) {
                _cleanup_(freep) char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);

                assert_answers(f, profile, number, name);
        }
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                assert_answers(f, profile, numbers[i], NULL);
        for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++) {
                assert_int_equal(ask_number(f, kind, AUDIT_ARCH_I386, 3, 0, 0, 0, 0),
                                 SECCOMP_RET_KILL_PROCESS);
                assert_int_equal(ask_number(f, kind, AUDIT_ARCH_I386, 999, 0, 0, 0, 0),
                                 SECCOMP_RET_KILL_PROCESS);
#ifdef __x86_64__
                assert_int_equal(ask_number(f, kind, AUDIT_ARCH_X86_64, 0x40000000 | 1, 0, 0, 0, 0),
                                 SECCOMP_RET_KILL_PROCESS);
#endif
        }
}

static void test_default_table(void **state) {
        _cleanup_(profile_freep) Profile *profile = NULL;
        _cleanup_(filters_done) Filters f = { 0 };
        _cleanup_(freep) char *message = NULL;

        filters_of_default(&f);
        assert_int_equal(profile_load(default_path, &profile, &message), 0);
        assert_is_profile(&f, profile);
        assert_true(f.n[FILTER_FINAL] < 100); /* the kernel compiles it for each task */
}

/* A small profile with all that a task needs, and one more entry. */
static char *profile_text(const char *entry) {
        _cleanup_(freep) char *names = strdup("");

        for (size_t i = 0; floor_needed[i]; i++) {
                char *longer = strformat("%s%s\"%s\"", names, i > 0 ? "," : "", floor_needed[i]);

                free_and_replace(names, longer);
        }
        return strformat("{\"defaultAction\":\"SCMP_ACT_ERRNO\",\n\"syscalls\":[{\"names\":[%s],\"action\":"
                         "\"SCMP_ACT_ALLOW\"}%s%s]}",
                         names, *entry ? ",\n" : "", entry);
}

static void assert_refused(const char *text, int error, const char *expected) {
        _cleanup_(profile_freep) Profile *profile = NULL;
        _cleanup_(freep) char *message = NULL;
        int r = profile_parse("test", "f.json", text, strlen(text), &profile, &message);

        if (r != error || !message || !strstr(message, expected))
                fail_msg("%s: %d, '%s', expected '%s'", text, r, strempty(message), expected);
}

static void test_bad_profiles(void **state) {
        static const struct {
                const char *text;
                int error;
                const char *expected;
        } whole[] = {
                { "", -EBADMSG, "f.json:1: expected JSON" },
                { "{\n\"a\":\n}", -EBADMSG, "f.json:3: expected JSON" },
                { "{} x", -EBADMSG, "f.json:1: expected JSON" },
                { "[]", -EINVAL, "f.json: expected an object" },
                { "{}", -EINVAL,
                  "defaultAction: expected SCMP_ACT_ERRNO (a profile is a list of what is allowed), got "
                  "nothing" },
                { "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}", -EINVAL, "got 'SCMP_ACT_ALLOW'" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\"}", -EINVAL, "syscalls: expected a list" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"syscall\":[]}", -EINVAL,
                  "syscall: unknown key (did you mean 'syscalls'?)" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"listenerPath\":\"/x\",\"syscalls\":[]}", -EINVAL,
                  "listenerPath: unknown key" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":0,\"syscalls\":[]}", -EINVAL,
                  "defaultErrnoRet: expected an errno" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"syscalls\":[]}", -EINVAL,
                  "a task cannot start without it" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"architectures\":[\"SCMP_ARCH_Z80\"],\"syscalls\":"
                  "[]}",
                  -EINVAL, "architectures[0]: expected an architecture" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"architectures\":[],\"syscalls\":[]}", -EINVAL,
                  "this machine's own" },
#ifdef __x86_64__
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"architectures\":[\"SCMP_ARCH_X86_64\",\"SCMP_"
                  "ARCH_X86\"],\"syscalls\":[]}",
                  -EINVAL, "architectures[1]: expected no second system call table" },
                { "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"architectures\":[\"SCMP_ARCH_X32\"],\"syscalls\":"
                  "[]}",
                  -EINVAL, "architectures[0]: expected no second system call table" },
#endif
        };
        static const struct {
                const char *entry, *expected;
        } entries[] = {
                { "5", "syscalls[1]: expected an object" },
                { "{\"names\":[\"sync\"]}", "syscalls[1].action: expected SCMP_ACT_ALLOW" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_LOG\"}", "got 'SCMP_ACT_LOG'" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_TRACE\"}", "got 'SCMP_ACT_TRACE'" },
                { "{\"names\":[],\"action\":\"SCMP_ACT_ALLOW\"}", "syscalls[1].names: expected a list" },
                { "{\"names\":[5],\"action\":\"SCMP_ACT_ALLOW\"}",
                  "syscalls[1].names[0]: expected the name" },
                { "{\"names\":[\"a\\u0000b\"],\"action\":\"SCMP_ACT_ALLOW\"}",
                  "syscalls[1].names[0]: expected the name" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ALLOW\",\"arg\":[]}",
                  "syscalls[1].arg: unknown key (did you mean 'args'?)" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ALLOW\",\"errnoRet\":1}",
                  "syscalls[1].errnoRet: expected only beside" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":5000}",
                  "syscalls[1].errnoRet: expected an errno" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":6,\"value\":0,"
                  "\"op\":\"SCMP_CMP_EQ\"}]}",
                  "syscalls[1].args[0].index: expected" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,\"value\":-1,"
                  "\"op\":\"SCMP_CMP_EQ\"}]}",
                  "syscalls[1].args[0].value: expected" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,\"value\":1,"
                  "\"op\":\"==\"}]}",
                  "syscalls[1].args[0].op: expected SCMP_CMP_NE" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,\"value\":1,"
                  "\"valueTwo\":2,\"op\":"
                  "\"SCMP_CMP_MASKED_EQ\"}]}",
                  "this is never true" },
                { "{\"names\":[\"sync\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,\"value\":1,"
                  "\"op\":\"SCMP_CMP_NE\"},{\"index\":0,"
                  "\"value\":2,\"op\":\"SCMP_CMP_NE\"}]}",
                  "syscalls[1].args[1].index: expected each argument once" },
                { "{\"names\":[\"read\"],\"action\":\"SCMP_ACT_ERRNO\"}",
                  "syscalls[1].names[0]: expected one action for 'read', syscalls[0]" },
                { "{\"names\":[\"setns\"],\"action\":\"SCMP_ACT_ALLOW\"}",
                  "'setns', which is never allowed" },
                { "{\"names\":[\"setuid\"],\"action\":\"SCMP_ACT_KILL_PROCESS\"}",
                  "syscalls[1].action: expected SCMP_ACT_ERRNO" },
                { "{\"names\":[\"clone\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,\"value\":1,"
                  "\"op\":\"SCMP_CMP_EQ\"}]}",
                  "without args" },
        };

        for (size_t i = 0; i < ELEMENTSOF(whole); i++)
                assert_refused(whole[i].text, whole[i].error, whole[i].expected);
        for (size_t i = 0; i < ELEMENTSOF(entries); i++) {
                _cleanup_(freep) char *text = profile_text(entries[i].entry);

                assert_refused(text, -EINVAL, entries[i].expected);
        }
}

/* No call of the floor can be had, not even on a condition. */
static void test_floor(void **state) {
        static const char *const names[] = { "unshare",
                                             "setns",
                                             "mount",
                                             "umount2",
                                             "pivot_root",
                                             "chroot",
                                             "fsopen",
                                             "ptrace",
                                             "bpf",
                                             "kexec_load",
                                             "userfaultfd",
                                             "io_uring_setup",
                                             "clone3",
                                             "keyctl",
                                             "reboot",
                                             "swapon",
                                             "init_module",
                                             "pidfd_getfd",
                                             "process_vm_writev",
                                             "open_by_handle_at",
                                             "perf_event_open",
                                             "move_mount",
                                             "clock_settime",
                                             "personality",
                                             "modify_ldt" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_(freep) char *plain = NULL, *conditional = NULL, *plain_text = NULL,
                                      *conditional_text = NULL;

                plain = strformat("{\"names\":[\"%s\"],\"action\":\"SCMP_ACT_ALLOW\"}", names[i]);
                conditional = strformat("{\"names\":[\"%s\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{"
                                        "\"index\":0,\"value\":0,\"op\":\"SCMP_CMP_EQ\"}]}",
                                        names[i]);
                plain_text = profile_text(plain);
                conditional_text = profile_text(conditional);
                assert_refused(plain_text, -EINVAL, "never allowed to a task");
                assert_refused(conditional_text, -EINVAL, "never allowed to a task");
        }
}

static void test_small_profile(void **state) {
        _cleanup_(freep) char *text = profile_text(
                "{\"names\":[\"sync\",\"no_such_call\",\"socketcall\"],\"action\":\"SCMP_ACT_ALLOW\"},"
                "{\"names\":[\"acct\"],\"action\":\"SCMP_ACT_KILL\"},"
                "{\"names\":[\"setpriority\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":13},"
                "{\"names\":[\"mount\"],\"action\":\"SCMP_ACT_ERRNO\"},"
                "{\"names\":[\"clone3\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":1}");
        _cleanup_(profile_freep) Profile *profile = NULL;
        _cleanup_(freep) char *message = NULL;
        _cleanup_(filters_done) Filters f = { 0 };

        assert_int_equal(profile_parse("small", "f.json", text, strlen(text), &profile, &message), 0);
        assert_int_equal(strv_length(profile->unknown), 1);
        assert_string_equal(profile->unknown[0], "no_such_call");
        for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++)
                assert_int_equal(filter_compile(profile, kind, &f.code[kind], &f.n[kind]), 0);
        assert_int_equal(ask_task(&f, "sync", 0, 0, 0, 0), ALLOWED);
        assert_int_equal(ask_task(&f, "acct", 0, 0, 0, 0), WATCHED);
        assert_int_equal(ask(&f, FILTER_FINAL, "acct", 0, 0, 0, 0), ALLOWED);
        assert_int_equal(ask_task(&f, "setpriority", 0, 0, 0, 0), SECCOMP_RET_ERRNO | EACCES);
        assert_int_equal(ask_task(&f, "mount", 0, 0, 0, 0), REFUSED);
        assert_int_equal(ask_task(&f, "clone3", 0, 0, 0, 0), UNKNOWN);
        assert_int_equal(ask_task(&f, "socket", 1, 1, 0, 0), REFUSED);
        assert_is_profile(&f, profile);
}

/* What a profile says of the calls that the zygote needs holds for its tasks. */
static void test_zygotes_calls(void **state) {
        static const char *const heads[] = { "", "\"defaultErrnoRet\":13,", "\"defaultErrnoRet\":38," };
        static const char entries[] =
                "{\"names\":[\"setuid\",\"setfsgid\"],\"action\":\"SCMP_ACT_ALLOW\"},"
                "{\"names\":[\"setgroups\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":22},"
                "{\"names\":[\"setresuid\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,\"value\":"
                "5,"
                "\"op\":\"SCMP_CMP_EQ\"},{\"index\":1,\"value\":7,\"op\":\"SCMP_CMP_LE\"}]},"
                "{\"names\":[\"setresuid\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":2,\"value\":"
                "12,"
                "\"valueTwo\":8,\"op\":\"SCMP_CMP_MASKED_EQ\"}]},"
                "{\"names\":[\"setregid\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":2,\"args\":[{"
                "\"index\":0,"
                "\"value\":1,\"op\":\"SCMP_CMP_GE\"}]}";

        for (size_t i = 0; i < ELEMENTSOF(heads); i++) {
                _cleanup_(freep) char *plain = profile_text(entries), *text = NULL, *message = NULL;
                _cleanup_(profile_freep) Profile *profile = NULL;
                _cleanup_(filters_done) Filters f = { 0 };

                text = strformat("{%s%s", heads[i], plain + 1);
                if (profile_parse("test", "f.json", text, strlen(text), &profile, &message) < 0)
                        fail_msg("%s", strempty(message));
                for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++)
                        assert_int_equal(filter_compile(profile, kind, &f.code[kind], &f.n[kind]), 0);
                assert_int_equal(ask(&f, FILTER_OUTER, "setgroups", 0, 0, 0, 0), ALLOWED);
                assert_is_profile(&f, profile);
        }
}

static void test_names(void **state) {
        static const char *const bad[] = {
                "", "A", "a_b", "../x", "a.b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        };
        _cleanup_(freep) char *text = profile_text("");

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_(freep) char *message = NULL;
                Profile *profile = NULL;

                assert_int_equal(profile_parse(bad[i], "f.json", text, strlen(text), &profile, &message),
                                 -EINVAL);
                assert_non_null(strstr(message, "expected a file name"));
        }
}

/* The kernel takes the filters and does what the machine above said. */
static void test_kernel(void **state) {
        _cleanup_(filters_done) Filters f = { 0 };
        int status;
        pid_t pid;

        filters_of_default(&f);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                        _exit(1);
                for (FilterKind kind = 0; kind < _FILTER_KIND_MAX; kind++) {
                        struct sock_fprog program = { .len = (unsigned short) f.n[kind],
                                                      .filter = f.code[kind] };

                        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                                _exit(1);
                }
                if (getpid() <= 0)
                        _exit(2);
                if (syscall(SYS_unshare, CLONE_NEWUSER) != -1 || errno != EPERM)
                        _exit(3);
                if (syscall(SYS_clone3, NULL, 0) != -1 || errno != ENOSYS)
                        _exit(4);
                if (syscall(460, 0) != -1 || errno != ENOSYS)
                        _exit(5);
                if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) != -1 || errno != EPERM)
                        _exit(6);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
}

static void write_text(const char *path, const char *text) {
        assert_int_equal(write_file_atomic(path, 0644, text, strlen(text)), 0);
}

static void test_ids(void **state) {
        char directory[] = "/tmp/test-policyc-XXXXXX";
        _cleanup_(freep) char *path = NULL, *message = NULL;

        assert_non_null(mkdtemp(directory));
        path = strformat("%s/ids", directory);
        assert_int_equal(settings_check_ids(path, ID_FILE_PASSWD, 1000, 10, &message), 0); /* no such file */
        write_text(path, "root:x:0:0::/:/bin/sh\n+::::::\nnobody:x:999:0\nalice:x:1010:0\n");
        assert_int_equal(settings_check_ids(path, ID_FILE_PASSWD, 1000, 10, &message), 0);
        assert_int_equal(settings_check_ids(path, ID_FILE_PASSWD, 1000, 11, &message), -EADDRINUSE);
        assert_non_null(strstr(message, "ids:4: 'alice' has ids within uid_range 1000-1010"));
        message = mfree(message);
        write_text(path, "alice:100000:65536\nbob:300000:0\n");
        assert_int_equal(settings_check_ids(path, ID_FILE_SUBID, 165536, 1000, &message), 0);
        assert_int_equal(settings_check_ids(path, ID_FILE_SUBID, 300000, 1000, &message), 0);
        assert_int_equal(settings_check_ids(path, ID_FILE_SUBID, 165535, 1000, &message), -EADDRINUSE);
        message = mfree(message);
        assert_int_equal(settings_check_ids(path, ID_FILE_SUBID, 1000, 100000, &message), -EADDRINUSE);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rmdir(directory), 0);
}

static int run_program(const char *const arguments[]) {
        int status;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

                dup2(fd, 1);
                dup2(fd, 2);
                execv(program_path, (char *const *) arguments);
                _exit(127);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The whole program: what is good gets compiled, what is not has no filters, not even former ones. */
static void test_program(void **state) {
        char directory[] = "/tmp/test-policyc-XXXXXX";
        _cleanup_(freep) char *profiles = NULL, *good = NULL, *bad = NULL, *output = NULL, *good_bpf = NULL,
                              *bad_bpf = NULL, *settings = NULL, *text = NULL, *command = NULL,
                              *config = NULL, *contents = NULL;
        struct stat st;
        size_t size;

        assert_non_null(mkdtemp(directory));
        profiles = strformat("%s/profiles", directory);
        good = strformat("%s/good.json", profiles);
        bad = strformat("%s/bad.json", profiles);
        output = strformat("%s/out/seccomp", directory);
        good_bpf = strformat("%s/good.final.bpf", output);
        bad_bpf = strformat("%s/bad.outer.bpf", output);
        settings = strformat("%s/settings", directory);
        config = strformat("%s/config.yaml", directory);
        text = profile_text("");
        assert_int_equal(mkdir(profiles, 0700), 0);
        write_text(good, text);
        write_text(bad, text);
        write_text(config, "uid_range: 1900000000-1900000999\nname: node7\ntask: {memory: 64M, cpus: "
                           "0.5}\nmemory: 1G\nresources:\n  gpu:\n    devices: [/dev/a0, /dev/a1]\n    "
                           "shared: [/dev/actl]\n"
                           "  fpga:\n    devices: [/dev/b0]\n    shared: [/dev/actl]\n  licence: 3\n");

        const char *const arguments[] = { "clupy-policyc", "--profiles", profiles,   "--output", output,
                                          "--settings",    settings,     "--config", config,     NULL };
        const char *const check_good[] = { "clupy-policyc", "--check", good, NULL };
        const char *const check_bad[] = { "clupy-policyc", "--check", bad, NULL };
        const char *const unknown[] = { "clupy-policyc", "--nonsense", NULL };

        assert_int_equal(run_program(arguments), 0);
        assert_int_equal(stat(bad_bpf, &st), 0);
        assert_int_equal(stat(good_bpf, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0444);
        assert_int_equal(read_file_full(settings, sizeof(LauncherSettings), &contents, &size), 0);
        assert_int_equal(size, sizeof(LauncherSettings));

        LauncherSettings *s = (LauncherSettings *) contents;
        assert_int_equal(s->magic, LAUNCHER_SETTINGS_MAGIC);
        assert_int_equal(s->uid_start, 1900000000);
        assert_int_equal(s->uid_count, 1000);
        assert_int_equal(s->default_memory_max, 64 << 20);
        assert_int_equal(s->default_cpu_quota_usec, 500000);
        assert_string_equal(s->node, "node7");
        assert_int_equal(s->n_devices, 4); /* each once */
        assert_string_equal(s->devices[0], "/dev/a0");
        assert_string_equal(s->devices[2], "/dev/actl");
        assert_string_equal(s->devices[3], "/dev/b0");

        write_text(bad, "{");
        assert_int_equal(run_program(arguments), 78);
        assert_int_equal(stat(bad_bpf, &st), -1);
        assert_int_equal(stat(good_bpf, &st), 0);
        assert_int_equal(run_program(check_good), 0);
        assert_int_equal(run_program(check_bad), 78);
        assert_int_equal(run_program(unknown), 64);

        write_text(config, "uid_range: 1900000000-1900000063\nzygotes: 5\n");
        assert_int_equal(unlink(bad), 0);
        assert_int_equal(run_program(arguments), 78);
        assert_int_equal(stat(settings, &st), -1);
        write_text(config, "uid_range: 5\n");
        assert_int_equal(run_program(arguments), 78);

        command = strformat("rm -r %s", directory);
        assert_int_equal(system(command), 0);
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_default_names), cmocka_unit_test(test_default_arguments),
                cmocka_unit_test(test_default_table), cmocka_unit_test(test_bad_profiles),
                cmocka_unit_test(test_floor),         cmocka_unit_test(test_small_profile),
                cmocka_unit_test(test_names),         cmocka_unit_test(test_zygotes_calls),
                cmocka_unit_test(test_kernel),        cmocka_unit_test(test_ids),
                cmocka_unit_test(test_program),
        };

        if (argc != 3) {
                fprintf(stderr, "Usage: %s DEFAULT.JSON CLUPY-POLICYC\n", argv[0]);
                return 64;
        }
        default_path = argv[1];
        program_path = argv[2];
        return cmocka_run_group_tests(tests, NULL, NULL);
}
