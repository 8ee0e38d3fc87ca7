/* SPDX-License-Identifier: Apache-2.0 */
#include "reload.h"

#include <errno.h>

#include "access.h"
#include "entrance.h"
#include "environment-default.h"
#include "gate.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "master-config.h"
#include "owner.h"
#include "parse-util.h"
#include "time-util.h"

void reload_done(Reload *reload) {
        free(reload->error);
        strv_free(reload->waiting);
        *reload = (Reload){ 0 };
}

/* "listen, lease" */
static char *join(char *const *keys) {
        char *text = strdup("");

        for (; text && *keys; keys++) {
                char *longer = strformat("%s%s%s", text, *text ? ", " : "", *keys);

                free(text);
                text = longer;
        }
        return text;
}

static void apply(Manager *m) {
        const MasterConfig *config = m->config;
        Owner *owner;

        m->config_generation++; /* jobs are looked at anew */
        HASHMAP_FOREACH(owner, m->owners)
                access_resolve(config->access, owner->name, &owner->limits);
        m->logs.tail_max = config->log_tail;
        m->logs.bytes_max = config->log_memory;
        /* Clients know the window of when they came. */
        m->task_window = MAX(m->task_window, config->task_window);
        entrance_set_limits(&m->entrance, config);
        if (config->log_level >= 0)
                log_set_level(config->log_level);
        manager_schedule(m);
}

int manager_reload(Manager *m, const char *explicit_path) {
        _cleanup_(master_config_freep) MasterConfig *again = NULL;
        _cleanup_(freep) char *message = NULL, *keys = NULL;
        char **waiting = NULL;
        int r;

        r = master_config_load(explicit_path, &again, &message);
        if (r >= 0)
                r = master_config_reload(m->config, again, &waiting);
        reload_done(&m->reload);
        m->reload.at = now_usec(CLOCK_REALTIME);
        if (r < 0) {
                m->reload.error =
                        message ? TAKE_PTR(message) : strdup(strerrordesc_np(-r) ?: "unknown error");
                log_error("The configuration stays as it was: %s", strempty(m->reload.error));
                return r;
        }
        m->reload.waiting = waiting;
        apply(m);
        (void) environments_reload(m); /* says itself what is wrong */
        keys = waiting ? join(waiting) : NULL;
        if (waiting)
                log_warning("The configuration has been read again; changes of these keys wait for a "
                            "restart: %s",
                            strempty(keys));
        else
                log_notice("The configuration has been read again");
        return 0;
}

int reload_add(const Reload *reload, json_object *status, json_object *warnings) {
        _cleanup_(freep) char *warning = NULL, *keys = NULL;
        json_object *object, *list;

        if (reload->at == 0)
                return json_add_null(status, "reload");
        if (json_add_new_object(status, "reload", &object) < 0 ||
            json_add_uint64(object, "at", reload->at / USEC_PER_MSEC) < 0 ||
            (reload->error ? json_add_string(object, "error", reload->error)
                           : json_add_null(object, "error")) < 0 ||
            json_add_new_array(object, "restart_needed", &list) < 0)
                return -ENOMEM;
        for (char **key = reload->waiting; key && *key; key++)
                if (json_append_string(list, *key) < 0)
                        return -ENOMEM;
        if (reload->error)
                warning = strformat("the configuration on disk is not in use, as it has a mistake: %s",
                                    reload->error);
        else if (reload->waiting) {
                keys = join(reload->waiting);
                warning = strformat(
                        "the configuration has changed in what takes effect with a restart only: %s",
                        strempty(keys));
        }
        return warning ? json_append_string(warnings, warning) : 0;
}
