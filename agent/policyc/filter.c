/* SPDX-License-Identifier: Apache-2.0 */
#include "filter.h"

#include <assert.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <unistd.h>

#include "fd-util.h"
#include "floor.h"
#include "write-file.h"

enum {
        NAMESPACE_FLAGS = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                          CLONE_NEWPID | CLONE_NEWNET,
        /* x32 calls have this bit set; from here on it is another table's affair. */
        NUMBER_LAST = 0x3fffffff,
};

static const char *const kind_names[_FILTER_KIND_MAX] = {
        [FILTER_OUTER] = "outer",
        [FILTER_FINAL] = "final",
};

const char *filter_kind_to_string(FilterKind kind) {
        return kind_names[kind];
}

static void context_freep(scmp_filter_ctx *context) {
        if (*context)
                seccomp_release(*context);
}

static int context_add(scmp_filter_ctx context, uint32_t action, int number,
                       const struct scmp_arg_cmp *arguments, size_t n) {
        int r = seccomp_rule_add_array(context, action, number, (unsigned) n, arguments);

        return r == -EEXIST ? 0 : r; /* the very same rule twice */
}

static int context_add_name(scmp_filter_ctx context, uint32_t action, const char *name,
                            const struct scmp_arg_cmp *arguments, size_t n) {
        int number = seccomp_syscall_resolve_name(name);

        return number < 0 ? 0 : context_add(context, action, number, arguments, n);
}

static int add_profile_rule(scmp_filter_ctx context, const Profile *profile, const Rule *rule,
                            FilterKind kind) {
        static const enum scmp_compare ops[_CONDITION_OP_MAX] = {
                [CONDITION_NE] = SCMP_CMP_NE,
                [CONDITION_LT] = SCMP_CMP_LT,
                [CONDITION_LE] = SCMP_CMP_LE,
                [CONDITION_EQ] = SCMP_CMP_EQ,
                [CONDITION_GE] = SCMP_CMP_GE,
                [CONDITION_GT] = SCMP_CMP_GT,
                [CONDITION_MASKED_EQ] = SCMP_CMP_MASKED_EQ,
        };
        struct scmp_arg_cmp arguments[ELEMENTSOF(rule->conditions)];
        uint32_t action = SCMP_ACT_ALLOW;

        if (rule->action == RULE_ERRNO) {
                if (rule->error == profile->default_error)
                        return 0; /* libseccomp refuses what says nothing new */
                action = SCMP_ACT_ERRNO(rule->error);
        } else if (rule->action == RULE_DIE && kind == FILTER_OUTER)
                action = SCMP_ACT_NOTIFY;
        for (size_t i = 0; i < rule->n_conditions; i++)
                arguments[i] = (struct scmp_arg_cmp){
                        .arg = rule->conditions[i].argument,
                        .op = ops[rule->conditions[i].op],
                        .datum_a = rule->conditions[i].value,
                        .datum_b = rule->conditions[i].value_two,
                };
        return context_add(context, action, rule->number, arguments, rule->n_conditions);
}

/* What holds whatever the profile says; see floor.h. */
static int add_fixed_rules(scmp_filter_ctx context, const Profile *profile, FilterKind kind) {
        /* A task's parent is the launcher: CLONE_PARENT would make a child that only the launcher can reap.
         */
        scmp_datum_t refused_flags = kind == FILTER_OUTER ? NAMESPACE_FLAGS : NAMESPACE_FLAGS | CLONE_PARENT;
        struct scmp_arg_cmp flags = SCMP_A0_64(SCMP_CMP_MASKED_EQ, refused_flags, 0);
        int r;

        r = context_add_name(context, SCMP_ACT_ALLOW, "clone", &flags, 1);
        if (r < 0)
                return r;
        if (kind == FILTER_FINAL)
                return 0;
        if (profile->default_error != ENOSYS) {
                r = context_add_name(context, SCMP_ACT_ERRNO(ENOSYS), "clone3", NULL, 0);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; floor_zygote_calls[i]; i++) {
                r = context_add_name(context, SCMP_ACT_ALLOW, floor_zygote_calls[i], NULL, 0);
                if (r < 0)
                        return r;
        }
        return 0;
}

static bool is_zygotes_number(int number) {
        for (size_t i = 0; floor_zygote_calls[i]; i++)
                if (number == seccomp_syscall_resolve_name(floor_zygote_calls[i]))
                        return true;
        return false;
}

/* Whether the filter says anything about that call beside the fixed rules. The final one has a say only
 * where the outer one is wider than the profile. */
static bool is_profiles(int number, FilterKind kind) {
        if (number == seccomp_syscall_resolve_name("clone") ||
            number == seccomp_syscall_resolve_name("clone3"))
                return false;
        return is_zygotes_number(number) == (kind == FILTER_FINAL);
}

static int context_new(const Profile *profile, FilterKind kind, scmp_filter_ctx *ret) {
        _cleanup_(context_freep) scmp_filter_ctx context = NULL;
        int r;

        /* What the launcher needs of the kernel (USER_NOTIF, KILL_PROCESS), without asking the kernel: this
         * may be a build machine. */
        r = seccomp_api_set(5);
        if (r < 0)
                return r;
        context = seccomp_init(SCMP_ACT_ERRNO(profile->default_error));
        if (!context)
                return -ENOMEM;
        r = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
        if (r < 0)
                return r;
        r = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE,
                             2); /* a tree: the list has hundreds of entries */
        if (r < 0)
                return r;
        for (size_t i = 0; i < profile->n_rules; i++) {
                if (!is_profiles(profile->rules[i].number, kind))
                        continue;
                r = add_profile_rule(context, profile, &profile->rules[i], kind);
                if (r < 0)
                        return r;
        }
        r = add_fixed_rules(context, profile, kind);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(context);
        return 0;
}

/* Instructions of our own go in front of libseccomp's program, which is where a jump behind their end leads.
 *
 * Outer: libseccomp has one default action, and ours differs between calls it knows and numbers it does not.
 * So "this machine's table, and a number in one of these gaps: ENOSYS". */
enum { PRELUDE_MAX = 4 + 3 * PROFILE_SYSCALL_MAX / 2, ZYGOTE_CALLS_MAX = 64 };

static size_t outer_prelude(struct sock_filter *out) {
        size_t n = 4;
        int gap = -1;

        for (int number = 0; number <= PROFILE_SYSCALL_MAX; number++) {
                _cleanup_(freep) char *name =
                        number < PROFILE_SYSCALL_MAX
                                ? seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number)
                                : NULL;
                bool last = number == PROFILE_SYSCALL_MAX;

                if (!name && gap < 0)
                        gap = number;
                if (gap >= 0 && (name || last)) {
                        uint32_t end = last ? NUMBER_LAST : (uint32_t) number - 1;

                        out[n++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t) gap,
                                                                 0, 2);
                        out[n++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, end, 1, 0);
                        out[n++] =
                                (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
                        gap = -1;
                }
        }
        out[0] =
                (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
        out[1] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, seccomp_arch_native(), 1, 0);
        out[2] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JA, (uint32_t) (n - 3), 0, 0);
        out[3] = (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        return n;
}

/* Final: "this machine's table, and none of these calls: allowed", for the outer filter has decided about
 * them and the strictest answer counts. */
static size_t final_prelude(struct sock_filter *out) {
        uint32_t numbers[ZYGOTE_CALLS_MAX];
        size_t n_numbers = 0, n = 0;

        numbers[n_numbers++] = (uint32_t) seccomp_syscall_resolve_name("clone");
        for (size_t i = 0; floor_zygote_calls[i]; i++) {
                int number = seccomp_syscall_resolve_name(floor_zygote_calls[i]);

                assert(n_numbers < ZYGOTE_CALLS_MAX);
                if (number >= 0)
                        numbers[n_numbers++] = (uint32_t) number;
        }

        const size_t end = n_numbers + 5; /* a jump over n instructions comes to the one n + 1 further */
        out[n++] =
                (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
        out[n] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, seccomp_arch_native(), 0,
                                               (uint8_t) (end - n - 1));
        n++;
        out[n++] =
                (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        out[n] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, NUMBER_LAST,
                                               (uint8_t) (end - n - 1), 0);
        n++;
        for (size_t i = 0; i < n_numbers; i++, n++)
                out[n] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i],
                                                       (uint8_t) (end - n - 1), 0);
        out[n++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        assert(n == end);
        return n;
}

int filter_compile(const Profile *profile, FilterKind kind, struct sock_filter **ret, size_t *ret_n) {
        _cleanup_(context_freep) scmp_filter_ctx context = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        _cleanup_(freep) struct sock_filter *instructions = NULL;
        size_t n, n_prelude;
        off_t size;
        ssize_t got;
        int r;

        r = context_new(profile, kind, &context);
        if (r < 0)
                return r;
        fd = memfd_new("filter");
        if (fd < 0)
                return fd;
        r = seccomp_export_bpf(context, fd);
        if (r < 0)
                return r;
        size = lseek(fd, 0, SEEK_END);
        if (size <= 0 || size % (off_t) sizeof *instructions != 0)
                return -EIO;
        n = (size_t) size / sizeof *instructions;
        instructions = newn0(struct sock_filter, PRELUDE_MAX + n);
        if (!instructions)
                return -ENOMEM;
        n_prelude = kind == FILTER_OUTER ? outer_prelude(instructions) : final_prelude(instructions);
        got = pread(fd, instructions + n_prelude, (size_t) size, 0);
        if (got != size)
                return got < 0 ? -errno : -EIO;
        n += n_prelude;
        if (n > BPF_MAXINSNS)
                return -E2BIG;
        *ret = TAKE_PTR(instructions);
        *ret_n = n;
        return 0;
}

int filter_write(const char *directory, const char *name, FilterKind kind,
                 const struct sock_filter *instructions, size_t n) {
        _cleanup_(freep) char *path =
                strformat("%s/%s.%s.bpf", directory, name, filter_kind_to_string(kind));

        if (!path)
                return -ENOMEM;
        return write_file_atomic(path, 0444, instructions, n * sizeof *instructions);
}
