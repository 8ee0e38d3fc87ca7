/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"
#include "json-util.h"

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *args = NULL, *answer = NULL;
        _cleanup_(freep) char *sentence = NULL;
        char id[33];
        int r;

        if (task_id_parse(ctl->operands[0], id) < 0)
                return ctl_fail(
                        ctl, CTL_USAGE, "usage",
                        "'%s' is no task id: expected up to 32 hexadecimal digits, see clupyctl tasks",
                        ctl->operands[0]);
        if (json_new_object(&args) < 0 || json_add_string(args, "id", id) < 0)
                return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "why", TAKE_PTR(args), &answer);
        if (r != 0)
                return r;
        if (ctl->json) {
                ctl_print_json(ctl, answer);
                return CTL_OK;
        }
        sentence = text_harmless(member_string(answer, "sentence"),
                                 strlen(member_string(answer, "sentence")), true);
        if (!sentence)
                return ctl_fail_memory(ctl);
        puts(sentence);
        return CTL_OK;
}

const CtlVerb verb_why = {
        .name = "why",
        .synopsis = "ID",
        .help = "Say in one sentence why a task ended, or why it waits",
        .min_operands = 1,
        .max_operands = 1,
        .operands = "task",
        .run = run,
};
