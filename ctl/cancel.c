/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"
#include "json-util.h"

/* Says of each task that was named whether it is cancelled. Returns the exit status. */
static int report(Ctl *ctl, json_object *ids, json_object *answer) {
        json_object *cancelled = member_object(answer, "cancelled");
        size_t n = member_length(answer, "cancelled");
        int status = CTL_OK;

        for (size_t i = 0; i < n; i++)
                printf("%s cancelled\n", json_object_get_string(json_object_array_get_idx(cancelled, i)));
        if (!ids && n == 0)
                puts("The job has no task that has not ended.");
        for (size_t i = 0; ids && i < json_object_array_length(ids); i++) {
                const char *id = json_object_get_string(json_object_array_get_idx(ids, i));
                bool found = false;

                for (size_t j = 0; j < n && !found; j++)
                        found = streq(id, json_object_get_string(json_object_array_get_idx(cancelled, j)));
                if (!found) {
                        printf("%s has ended before, or is unknown\n", id);
                        status = CTL_FAILED;
                }
        }
        return status;
}

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *args = NULL, *ids = NULL, *answer = NULL;
        const char *job = ctl_option(ctl, "job");
        char id[33];
        int r;

        if ((job != NULL) == (ctl->n_operands > 0))
                return ctl_fail(ctl, CTL_USAGE, "usage",
                                "expected: clupyctl cancel ID…, or clupyctl cancel --job JOB");
        if (job && task_id_parse(job, id) != 32)
                return ctl_fail(ctl, CTL_USAGE, "usage",
                                "--job %s: expected 32 hexadecimal digits, see clupyctl task show", job);
        if (json_new_object(&args) < 0 || json_add_string(args, "by", ctl_user()) < 0 ||
            (job && json_add_string(args, "job", id) < 0) || (!job && json_new_array(&ids) < 0))
                return ctl_fail_memory(ctl);
        for (size_t i = 0; !job && i < ctl->n_operands; i++) {
                r = ctl_resolve_task(ctl, ctl->operands[i], id);
                if (r != 0) {
                        if (!ctl->json)
                                puts("Nothing was cancelled.");
                        return r;
                }
                if (json_append_string(ids, id) < 0)
                        return ctl_fail_memory(ctl);
        }
        if (ids && json_add(args, "ids", json_object_get(ids)) < 0)
                return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "cancel", TAKE_PTR(args), &answer);
        if (r != 0)
                return r;
        if (!ctl->json)
                return report(ctl, ids, answer);
        ctl_print_json(ctl, answer);
        return ids && member_length(answer, "cancelled") < json_object_array_length(ids) ? CTL_FAILED
                                                                                         : CTL_OK;
}

static const CtlOption options[] = {
        { "job", 'j', "JOB", "all tasks of this job that have not ended" },
};

const CtlVerb verb_cancel = {
        .name = "cancel",
        .synopsis = "ID…",
        .help = "Cancel tasks: TERM, then KILL",
        .min_operands = 0,
        .max_operands = 10000,
        .options = options,
        .n_options = ELEMENTSOF(options),
        .operands = "task",
        .run = run,
};
