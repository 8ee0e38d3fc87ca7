/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "ctl.h"
#include "json-util.h"

#define POLL_INTERVAL_MS 500

/* Asks until the node runs nothing any more. */
static int wait_idle(Ctl *ctl, const char *node, json_object **ret) {
        for (;;) {
                _cleanup_(json_putp) json_object *answer = NULL;
                struct timespec pause = { .tv_nsec = POLL_INTERVAL_MS * 1000000 };
                json_object *found = NULL;
                int r = ctl_query(ctl, "nodes", json_object_new_object(), &answer);

                if (r != 0)
                        return r;
                for (size_t i = 0; i < member_length(answer, "nodes") && !found; i++) {
                        json_object *n = json_object_array_get_idx(member_object(answer, "nodes"), i);

                        if (streq(member_string(n, "name"), node))
                                found = n;
                }
                if (!found)
                        return ctl_fail(ctl, CTL_NOT_FOUND, "not-found",
                                        "the cluster has no node '%s' any more", node);
                if (streq(member_string(found, "state"), "drained")) {
                        *ret = json_object_get(found);
                        return 0;
                }
                if (streq(member_string(found, "state"), "ready"))
                        return ctl_fail(ctl, CTL_FAILED, "failed", "somebody has undrained '%s' meanwhile",
                                        node);
                nanosleep(&pause, NULL);
        }
}

static int run(Ctl *ctl) {
        const char *node = ctl->operands[0];
        _cleanup_(json_putp) json_object *args = NULL, *answer = NULL;
        int64_t running;
        int r;

        if (json_new_object(&args) < 0 || json_add_string(args, "node", node) < 0)
                return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "drain", TAKE_PTR(args), &answer);
        running = member_int(answer, "running");
        if (r == 0 && ctl_option(ctl, "wait") && !streq(member_string(answer, "state"), "drained")) {
                if (!ctl->json)
                        printf("%s finishes what it runs (%lld) and gets nothing new\n", node,
                               (long long) running);
                answer = json_put(answer);
                r = wait_idle(ctl, node, &answer);
                running = member_int(answer, "running");
        }
        if (r != 0)
                return r;
        if (ctl->json)
                ctl_print_json(ctl, answer);
        else if (running > 0)
                printf("%s finishes what it runs (%lld) and gets nothing new; --wait waits for that\n", node,
                       (long long) running);
        else
                printf("%s is drained\n", node);
        return CTL_OK;
}

static const CtlOption options[] = {
        { "wait", 'w', NULL, "until the node runs nothing any more" },
};

const CtlVerb verb_drain = {
        .name = "drain",
        .synopsis = "[--wait] NODE",
        .help = "Give a node no new tasks, until it is undrained",
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .n_options = ELEMENTSOF(options),
        .operands = "node",
        .run = run,
};
