/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <time.h>

#include "ctl.h"
#include "json-util.h"

/* D-Bus has no answers that come later: the master is asked again so often. */
#define POLL_INTERVAL_MS 500

/* What a task prints reaches the master within this time, so possibly after the task's end. */
#define LATE_MS 1000

typedef struct Follower {
        Ctl *ctl;
        int64_t offset; /* of what comes next */
} Follower;

static int print_part(json_object *answer, void *userdata) {
        Follower *f = userdata;
        const char *text = member_string(answer, "text");
        _cleanup_(freep) char *harmless = NULL;

        f->offset = member_int(answer, "offset");
        if (f->ctl->json)
                ctl_print_json(f->ctl, answer);
        else if (f->ctl->terminal.is_tty) {
                harmless = text_harmless(text, strlen(text), true);
                fputs(strempty(harmless), stdout);
        } else
                fputs(text, stdout);
        return fflush(stdout) == 0 ? 0 : ctl_fail(f->ctl, CTL_FAILED, "failed", "standard output: %m");
}

static json_object *arguments(const char *id, bool follow, int64_t offset) {
        _cleanup_(json_putp) json_object *args = NULL;

        if (json_new_object(&args) < 0 || json_add_string(args, "id", id) < 0 ||
            (follow && json_add_bool(args, "follow", true) < 0) ||
            (offset >= 0 && json_add_int64(args, "offset", offset) < 0))
                return NULL;
        return TAKE_PTR(args);
}

static void pause_ms(int64_t ms) {
        struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

        nanosleep(&t, NULL);
}

static int ask_once(Follower *f, const char *id, bool *ret_ended) {
        _cleanup_(json_putp) json_object *answer = NULL;
        int r = ctl_query(f->ctl, "logs", arguments(id, false, f->offset), &answer);

        if (r == 0 && member_string(answer, "text")[0])
                r = print_part(answer, f);
        *ret_ended = member_bool(answer, "ended");
        return r;
}

/* Until the master says that the task has ended. */
static int follow(Follower *f, const char *id) {
        bool ended = false;
        int r;

        if (transport_can_stream(f->ctl->transport))
                return ctl_query_stream(f->ctl, "logs", arguments(id, true, -1), print_part, f);
        for (;;) {
                r = ask_once(f, id, &ended);
                if (r != 0 || ended)
                        return r;
                pause_ms(POLL_INTERVAL_MS);
        }
}

/* The last lines of a task that has just ended. */
static int print_late(Follower *f, const char *id) {
        _cleanup_(json_putp) json_object *args = NULL, *task = NULL;
        int64_t since;
        bool ended;
        int r;

        if (json_new_object(&args) < 0 || json_add_string(args, "id", id) < 0)
                return ctl_fail_memory(f->ctl);
        r = ctl_query(f->ctl, "task", TAKE_PTR(args), &task);
        if (r != 0)
                return r;
        since = now_ms() - member_int(task, "ended_at");
        if (since >= LATE_MS)
                return 0;
        pause_ms(CLAMP(LATE_MS - since, INT64_C(0), (int64_t) LATE_MS)); /* clocks may differ */
        return ask_once(f, id, &ended);
}

static int run(Ctl *ctl) {
        _cleanup_(json_putp) json_object *answer = NULL;
        Follower f = { .ctl = ctl, .offset = -1 };
        char id[33];
        int r = ctl_resolve_task(ctl, ctl->operands[0], id);

        if (r == 0)
                r = ctl_connect(ctl);
        if (r != 0)
                return r;
        if (ctl_option(ctl, "follow")) {
                r = follow(&f, id);
                return r != 0 ? r : print_late(&f, id);
        }
        r = ctl_query(ctl, "logs", arguments(id, false, -1), &answer);
        return r != 0 ? r : print_part(answer, &f);
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
