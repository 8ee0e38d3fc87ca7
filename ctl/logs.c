/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <time.h>

#include "ctl.h"
#include "json-util.h"

/* D-Bus has no answers that come later: the master is asked again so often. */
#define POLL_INTERVAL_MS 500

static int print_part(json_object *answer, void *userdata) {
        const Ctl *ctl = userdata;
        const char *text = member_string(answer, "text");
        _cleanup_(freep) char *harmless = NULL;

        if (ctl->json)
                ctl_print_json(ctl, answer);
        else if (ctl->terminal.is_tty) {
                harmless = text_harmless(text, strlen(text), true);
                fputs(strempty(harmless), stdout);
        } else
                fputs(text, stdout);
        return fflush(stdout) == 0 ? 0 : ctl_fail(ctl, CTL_FAILED, "failed", "standard output: %m");
}

static json_object *arguments(const char *id, bool follow, int64_t offset) {
        _cleanup_(json_putp) json_object *args = NULL;

        if (json_new_object(&args) < 0 || json_add_string(args, "id", id) < 0 ||
            (follow && json_add_bool(args, "follow", true) < 0) ||
            (offset >= 0 && json_add_int64(args, "offset", offset) < 0))
                return NULL;
        return TAKE_PTR(args);
}

static int follow_by_asking(Ctl *ctl, const char *id) {
        int64_t offset = -1;

        for (;;) {
                _cleanup_(json_putp) json_object *answer = NULL;
                struct timespec pause = { .tv_nsec = POLL_INTERVAL_MS * 1000000 };
                int r = ctl_query(ctl, "logs", arguments(id, false, offset), &answer);

                if (r == 0 && member_string(answer, "text")[0])
                        r = print_part(answer, ctl);
                if (r != 0 || member_bool(answer, "ended"))
                        return r;
                offset = member_int(answer, "offset");
                nanosleep(&pause, NULL);
        }
}

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        char id[33];
        int r = ctl_resolve_task(ctl, ctl->operands[0], id);

        if (r == 0)
                r = ctl_connect(ctl);
        if (r != 0)
                return r;
        if (ctl_option(ctl, "follow"))
                return transport_can_stream(ctl->transport)
                               ? ctl_query_stream(ctl, "logs", arguments(id, true, -1), print_part, ctl)
                               : follow_by_asking(ctl, id);
        r = ctl_query(ctl, "logs", arguments(id, false, -1), &answer);
        return r != 0 ? r : print_part(answer, ctl);
}

static const CtlOption options[] = {
        { "follow", 'f', NULL, "go on printing until the task has ended" },
};

const CtlVerb verb_logs = {
        .name = "logs",
        .synopsis = "[-f] ID",
        .help = "Print what a task has printed, its last 64 KiB",
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .n_options = ELEMENTSOF(options),
        .operands = "task",
        .run = run,
};
