/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-environments.h"

#include "agent.h"

static int on_ask(LauncherRequest *request, const int *fds, size_t n_fds, void *userdata) {
        Agent *agent = userdata;

        return launcher_link_send(agent->launcher, request, fds, n_fds);
}

static int on_tell(json_object *json, const struct iovec *payloads, size_t n_payloads, void *userdata) {
        Agent *agent = userdata;

        return master_link_send(agent->master, FRAME_ENVIRONMENT_STATE, json, payloads, n_payloads);
}

static int on_dial(const ConnectionHandlers *handlers, void *handlers_userdata, Connection **ret,
                   void *userdata) {
        Agent *agent = userdata;

        return master_link_dial(agent->master, handlers, handlers_userdata, ret);
}

/* Those that have started hold it in the launcher. */
static bool is_wanted(const char *name, void *userdata) {
        Agent *agent = userdata;
        Attempt *a;

        if (agent->counts[ATTEMPT_PREPARING] + agent->counts[ATTEMPT_STARTING] == 0)
                return false;
        HASHMAP_FOREACH(a, agent->attempts)
                if ((a->state == ATTEMPT_PREPARING || a->state == ATTEMPT_STARTING) && a->start &&
                    streq(a->start->key.environment, name))
                        return true;
        return false;
}

static void on_cool(const char *name, void *userdata) {
        Agent *agent = userdata;

        warm_pool_forget(agent->warm_pool, name);
}

static void on_follow(const char *former, const char *name, void *userdata) {
        Agent *agent = userdata;

        warm_pool_follow(agent->warm_pool, former, name);
}

static const EnvironmentsHandlers handlers = {
        .ask = on_ask,
        .tell = on_tell,
        .dial = on_dial,
        .is_wanted = is_wanted,
        .cool = on_cool,
        .follow = on_follow,
};

int agent_environments_new(Agent *agent) {
        return environments_new(agent->event, agent->config, agent->pythons, &handlers, agent,
                                &agent->environments);
}
