/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf-machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

static bool jump_taken(uint16_t code, uint32_t a, uint32_t k) {
        switch (BPF_OP(code)) {
        case BPF_JEQ:
                return a == k;
        case BPF_JGT:
                return a > k;
        case BPF_JGE:
                return a >= k;
        case BPF_JSET:
                return (a & k) != 0;
        }
        fail_msg("jump %#x", code);
        return false;
}

uint32_t bpf_run(const struct sock_filter *program, size_t n, const struct seccomp_data *data) {
        uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = { 0 };

        /* Jumps go forward only, so this ends. */
        for (size_t pc = 0; pc < n; pc++) {
                const struct sock_filter *i = &program[pc];

                switch (i->code) {
                case BPF_LD | BPF_W | BPF_ABS:
                        assert_true(i->k % 4 == 0 && i->k + 4 <= sizeof *data);
                        memcpy(&a, (const char *) data + i->k, sizeof a);
                        break;
                case BPF_LD | BPF_MEM:
                        assert_true(i->k < BPF_MEMWORDS);
                        a = memory[i->k];
                        break;
                case BPF_ST:
                        assert_true(i->k < BPF_MEMWORDS);
                        memory[i->k] = a;
                        break;
                case BPF_ALU | BPF_AND | BPF_K:
                        a &= i->k;
                        break;
                case BPF_MISC | BPF_TAX:
                        x = a;
                        break;
                case BPF_MISC | BPF_TXA:
                        a = x;
                        break;
                case BPF_JMP | BPF_JA:
                        pc += i->k;
                        break;
                case BPF_RET | BPF_K:
                        return i->k;
                default:
                        if (BPF_CLASS(i->code) != BPF_JMP || BPF_SRC(i->code) != BPF_K)
                                fail_msg("instruction %#x at %zu", i->code, pc);
                        pc += jump_taken(i->code, a, i->k) ? i->jt : i->jf;
                        break;
                }
        }
        fail_msg("the program has no end");
        return 0;
}
