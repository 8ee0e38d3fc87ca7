/* SPDX-License-Identifier: Apache-2.0 */
/* What every verb does: ask, and tell the user what went wrong. */
#include "ctl.h"

#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "json-util.h"

enum { CONNECT_PATIENCE_USEC = 5000000 };

int ctl_fail(const Ctl *ctl, int status, const char *code, const char *format, ...) {
        _cleanup_(freep) char *message = NULL, *harmless = NULL;
        va_list arguments;

        va_start(arguments, format);
        if (vasprintf(&message, format, arguments) < 0)
                message = NULL;
        va_end(arguments);
        if (message)
                harmless = text_harmless(message, strlen(message), true);
        fprintf(stderr, "clupyctl: %s\n", harmless ?: "out of memory");
        if (ctl->json) {
                _cleanup_(json_putp) json_object *object = NULL;

                if (json_new_object(&object) >= 0 && json_add_string(object, "error", code) >= 0 &&
                    json_add_string(object, "message", strempty(message)) >= 0)
                        ctl_print_json(ctl, object);
        }
        return status;
}

int ctl_fail_memory(const Ctl *ctl) {
        return ctl_fail(ctl, CTL_FAILED, "failed", "out of memory");
}

void ctl_print_json(const Ctl *ctl, json_object *value) {
        int flags = ctl->terminal.is_tty ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
                                         : JSON_C_TO_STRING_PLAIN;

        puts(json_object_to_json_string_ext(value, flags | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int fail_query(const Ctl *ctl, QueryError *e) {
        int r = ctl_fail(ctl, e->status, e->code, "%s", e->message ?: "out of memory");

        query_error_done(e);
        return r;
}

int ctl_connect(Ctl *ctl) {
        QueryError e = {};

        if (ctl->transport)
                return 0;
        if (transport_open(ctl->master, CONNECT_PATIENCE_USEC, &ctl->transport, &e) < 0)
                return fail_query(ctl, &e);
        for (char **s = ctl->transport->warnings; s && *s; s++)
                fprintf(stderr, "clupyctl: %s\n", *s);
        return 0;
}

int ctl_query(Ctl *ctl, const char *verb, json_object *args, json_object **ret) {
        _cleanup_(json_putp) json_object *taken = args;
        QueryError e = {};
        int r;

        if (!args)
                return ctl_fail_memory(ctl);
        r = ctl_connect(ctl);
        if (r != 0)
                return r;
        return transport_query(ctl->transport, verb, args, ret, &e) < 0 ? fail_query(ctl, &e) : 0;
}

int ctl_query_stream(Ctl *ctl, const char *verb, json_object *args, TransportPart part, void *userdata) {
        _cleanup_(json_putp) json_object *taken = args;
        QueryError e = {};
        int r;

        if (!args)
                return ctl_fail_memory(ctl);
        r = ctl_connect(ctl);
        if (r != 0)
                return r;
        r = transport_stream(ctl->transport, verb, args, part, userdata, &e);
        return r < 0 ? fail_query(ctl, &e) : r;
}

int ctl_resolve_task(Ctl *ctl, const char *name, char id[static 33]) {
        _cleanup_(json_putp) json_object *args = NULL, *task = NULL;
        int r = task_id_parse(name, id);

        if (r < 0)
                return ctl_fail(
                        ctl, CTL_USAGE, "usage",
                        "'%s' is no task id: expected up to 32 hexadecimal digits, see clupyctl tasks",
                        name);
        if (r == 32)
                return 0;
        if (json_new_object(&args) < 0 || json_add_string(args, "id", id) < 0)
                return ctl_fail_memory(ctl);
        r = ctl_query(ctl, "task", TAKE_PTR(args), &task);
        if (r != 0)
                return r;
        if (task_id_parse(member_string(task, "id"), id) != 32)
                return ctl_fail(ctl, CTL_FAILED, "failed", "the master's answer names no task id");
        return 0;
}

const char *ctl_user(void) {
        static char number[16];
        struct passwd *user = getpwuid(getuid());

        snprintf(number, sizeof(number), "%u", getuid());
        return user ? user->pw_name : number;
}
