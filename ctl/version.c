/* SPDX-License-Identifier: Apache-2.0 */
#include "build-config.h"
#include "ctl.h"
#include "json-util.h"

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        int r = ctl_query(ctl, "version", json_object_new_object(), &answer);

        if (r != 0) {
                if (!ctl->json)
                        puts("clupyctl " CLUPY_VERSION);
                return r;
        }
        if (ctl->json) {
                (void) json_add_string(answer, "clupyctl", CLUPY_VERSION);
                ctl_print_json(ctl, answer);
                return CTL_OK;
        }
        puts("clupyctl " CLUPY_VERSION);
        printf("master   %s (protocol %d, Python %s, epoch %lld) at %s\n", member_string(answer, "software"),
               (int) member_int(answer, "protocol"), member_string(answer, "python"),
               (long long) member_int(answer, "epoch"), ctl->transport->peer);
        return CTL_OK;
}

const CtlVerb verb_version = {
        .name = "version",
        .synopsis = "",
        .help = "Print the versions of clupyctl and of the master",
        .run = run,
};
