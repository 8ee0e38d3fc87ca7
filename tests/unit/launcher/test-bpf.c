/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bpf-list.h"
#include "macros.h"

/* The few instructions that the lists are made of. */
static uint32_t evaluate(const BpfList *list, uint32_t architecture, uint32_t number) {
        uint32_t a = 0;

        for (size_t i = 0; i < list->n; i++) {
                const struct sock_filter *f = &list->instructions[i];
                switch (f->code) {
                case BPF_LD | BPF_W | BPF_ABS:
                        a = f->k == offsetof(struct seccomp_data, arch) ? architecture : number;
                        break;
                case BPF_JMP | BPF_JEQ | BPF_K:
                        i += a == f->k ? f->jt : f->jf;
                        break;
                case BPF_JMP | BPF_JGE | BPF_K:
                        i += a >= f->k ? f->jt : f->jf;
                        break;
                case BPF_RET | BPF_K:
                        return f->k;
                default:
                        fail_msg("instruction %u", f->code);
                }
        }
        fail_msg("no end");
        return 0;
}

static void a_list_denies_what_it_names(void **state) {
        static const int numbers[] = { SYS_mount, SYS_bpf };
        BpfList list;

        assert_int_equal(bpf_list_make(&list, numbers, ELEMENTSOF(numbers), SECCOMP_RET_USER_NOTIF), 0);
        for (uint32_t number = 0; number < 600; number++)
                assert_int_equal(evaluate(&list, AUDIT_ARCH_X86_64, number),
                                 number == SYS_mount || number == SYS_bpf ? SECCOMP_RET_USER_NOTIF
                                                                          : SECCOMP_RET_ALLOW);
        assert_int_equal(evaluate(&list, AUDIT_ARCH_I386, SYS_read), SECCOMP_RET_KILL_PROCESS);
        assert_int_equal(evaluate(&list, AUDIT_ARCH_X86_64, 0x40000000u | SYS_read),
                         SECCOMP_RET_KILL_PROCESS);
        assert_int_equal(evaluate(&list, AUDIT_ARCH_X86_64, UINT32_MAX), SECCOMP_RET_ALLOW);
        int many[BPF_LIST_MAX] = {};
        assert_int_equal(bpf_list_make(&list, many, ELEMENTSOF(many), SECCOMP_RET_ALLOW), -E2BIG);
}

static int status_of(pid_t pid) {
        int status;

        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        return WEXITSTATUS(status);
}

/* What the kernel makes of it: a refusal by the floor gives way to each other one. */
static int refused_with(int (*install)(void), uint32_t younger, int number) {
        pid_t pid = fork();

        if (pid == 0) {
                BpfList list;
                if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || install() < 0)
                        _exit(255);
                if (younger != SECCOMP_RET_ALLOW && (bpf_list_make(&list, &number, 1, younger) < 0 ||
                                                     bpf_install(list.instructions, list.n, 0) < 0))
                        _exit(254);
                long r = syscall(number, -1, 0, 0, 0, 0, 0);
                _exit(r < 0 ? errno : 0);
        }
        return status_of(pid);
}

static void the_floor_is_the_weakest_refusal(void **state) {
        assert_int_equal(refused_with(bpf_floor_install, SECCOMP_RET_ALLOW, SYS_bpf), ENOSYS);
        assert_int_equal(refused_with(bpf_floor_install, SECCOMP_RET_ALLOW, SYS_mount), ENOSYS);
        assert_int_equal(refused_with(bpf_floor_install, SECCOMP_RET_ALLOW, SYS_ptrace), ENOSYS);
        assert_int_equal(refused_with(bpf_floor_install, SECCOMP_RET_ERRNO | EPERM, SYS_mount), EPERM);
        assert_int_equal(refused_with(bpf_floor_install, SECCOMP_RET_ALLOW, SYS_close), EBADF);
        assert_int_equal(refused_with(bpf_build_install, SECCOMP_RET_ALLOW, SYS_fallocate), EOPNOTSUPP);
        assert_int_equal(refused_with(bpf_build_install, SECCOMP_RET_ALLOW, SYS_close), EBADF);
        assert_int_equal(refused_with(bpf_launcher_install, SECCOMP_RET_ALLOW, SYS_mount), EPERM);
        assert_int_equal(refused_with(bpf_launcher_install, SECCOMP_RET_ALLOW, SYS_close), EBADF);
}

/* The same path elsewhere in memory is another one. */
static void the_launcher_may_execute_one_path(void **state) {
        static char program[] = "/bin/true";
        char *const arguments[] = { program, NULL };
        BpfList left, right;
        pid_t pid = fork();

        if (pid == 0) {
                char *path =
                        mmap((void *) (uintptr_t) BPF_LAUNCHER_PATH, sizeof(program), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
                if (path == MAP_FAILED || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                    bpf_launcher_install() < 0)
                        _exit(255);
                memcpy(path, program, sizeof(program));
                if (execve(program, arguments, NULL) == 0 || errno != EPERM)
                        _exit(254);
                (void) syscall(SYS_execve, (uintptr_t) path | UINT64_C(1) << 32, arguments, NULL);
                if (errno != EPERM)
                        _exit(253);
                (void) execve(path, arguments, NULL);
                _exit(252);
        }
        assert_int_equal(status_of(pid), 0);
        assert_int_equal(bpf_launcher_make(&left), 0);
        memset(&right, 0xff, sizeof(right));
        assert_int_equal(bpf_launcher_make(&right), 0);
        assert_memory_equal(&left, &right, sizeof(left));
}

/* Also with rubbish in the halves of the registers that the kernel does not look at. */
static void nobody_makes_a_close_wait(void **state) {
        const struct linger linger = { .l_onoff = 1, .l_linger = 60 };
        const int on = 1;
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
                if (fd < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || bpf_floor_install() < 0)
                        _exit(255);
                if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0 || errno != EPERM)
                        _exit(1);
                if (syscall(SYS_setsockopt, fd, 1UL << 40 | SOL_SOCKET, 1UL << 40 | SO_LINGER, &linger,
                            sizeof(linger)) == 0)
                        _exit(2);
                if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
                    setsockopt(fd, IPPROTO_TCP, SO_LINGER, &on, sizeof(on)) == 0 || errno == EPERM)
                        _exit(3);
                _exit(0);
        }
        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_list_denies_what_it_names),
                cmocka_unit_test(the_floor_is_the_weakest_refusal),
                cmocka_unit_test(the_launcher_may_execute_one_path),
                cmocka_unit_test(nobody_makes_a_close_wait),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
