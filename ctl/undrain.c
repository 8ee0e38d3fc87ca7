/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"
#include "json-util.h"

static int run(Ctl *ctl) {
        const char *node = ctl->operands[0];
        _cleanup_(json_putp) json_object *args = NULL, *answer = NULL;
        int r;

        if (json_new_object(&args) < 0 || json_add_string(args, "node", node) < 0)
                return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "undrain", TAKE_PTR(args), &answer);
        if (r != 0)
                return r;
        if (ctl->json)
                ctl_print_json(ctl, answer);
        else
                printf("%s is %s\n", node, member_string(answer, "state"));
        return CTL_OK;
}

const CtlVerb verb_undrain = {
        .name = "undrain",
        .synopsis = "NODE",
        .help = "Give a drained node tasks again",
        .min_operands = 1,
        .max_operands = 1,
        .operands = "node",
        .run = run,
};
