/* SPDX-License-Identifier: Apache-2.0 */
#include "master-bus.h"

#include <errno.h>
#include <systemd/sd-bus.h>

#include "access.h"
#include "build-config.h"
#include "bus-auth.h"
#include "bus-request.h"
#include "bus-task.h"
#include "bus-watch.h"
#include "environment-query.h"
#include "frame.h"
#include "history.h"
#include "job.h"
#include "json-util.h"
#include "log.h"
#include "manager.h"
#include "node.h"
#include "owner.h"
#include "query.h"
#include "session.h"
#include "task.h"
#include "time-util.h"

#define BUS_NAME "org.clupy.Master1"
#define BUS_PATH "/org/clupy/Master1"
#define BUS_INTERFACE "org.clupy.Master1"
#define NODE_PREFIX BUS_PATH "/node"
#define TASK_PREFIX BUS_PATH "/task"

enum { TASKS_ENUMERATED_MAX = 1000 };

/* Properties that change with every task, and are told of once a second at most. */
typedef struct BusCounts {
        uint32_t nodes, ready, clients;
        uint64_t queued, running, ended;
} BusCounts;

struct MasterBus {
        Manager *m;
        sd_bus *bus;
        sd_bus_slot *request;
        BusAuth *auth;
        BusWatch *watch;
        BusCounts told; /* the figures that were told last */
};

static int run_verb(Manager *m, sd_bus_message *call, const char *verb, json_object *args, BusReply reply) {
        return bus_request_run(m, m->bus->auth, call, verb, args, reply);
}

/* Methods of the manager */

static int reply_text(sd_bus_message *call, json_object *result) {
        return sd_bus_reply_method_return(call, "s", strempty(json_text(result, NULL)));
}

static int method_query(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        const char *verb, *text;
        json_object *args;
        int r;

        r = sd_bus_message_read(call, "ss", &verb, &text);
        if (r < 0)
                return r;
        if (isempty(text))
                text = "{}";
        if (strlen(text) > FRAME_JSON_MAX ||
            json_parse_strict_object(text, strlen(text), JSON_DEPTH_MAX, &args) < 0)
                return sd_bus_error_set(ret_error, "org.clupy.Error.InvalidArgument",
                                        "The arguments are not a JSON object");
        return run_verb(userdata, call, verb, args, reply_text);
}

static int verb_with(sd_bus_message *call, Manager *m, const char *verb, const char *key, bool in_list,
                     BusReply reply) {
        json_object *args, *list;
        const char *value;
        int r;

        r = sd_bus_message_read(call, "s", &value);
        if (r < 0)
                return r;
        r = json_new_object(&args);
        if (r < 0)
                return r;
        if (in_list)
                r = json_add_new_array(args, key, &list) < 0 ? -ENOMEM : json_append_string(list, value);
        else
                r = json_add_string(args, key, value);
        if (r < 0) {
                json_put(args);
                return r;
        }
        return run_verb(m, call, verb, args, reply);
}

static int method_cancel(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_with(call, userdata, "cancel", "ids", true, NULL);
}

static int method_drain(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_with(call, userdata, "drain", "node", false, NULL);
}

static int method_undrain(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_with(call, userdata, "undrain", "node", false, NULL);
}

static int reply_sentence(sd_bus_message *call, json_object *result) {
        const char *sentence = "";

        (void) json_get_string_optional(result, "sentence", FRAME_JSON_MAX, "", &sentence);
        return sd_bus_reply_method_return(call, "s", sentence);
}

static int method_why(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_with(call, userdata, "why", "id", false, reply_sentence);
}

static int method_list_nodes(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Manager *m = userdata;
        Node *node;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(sosssddtt)");
        if (r < 0)
                return r;
        HASHMAP_FOREACH(node, m->nodes) {
                _cleanup_(freep) char *path = NULL;

                r = sd_bus_path_encode(NODE_PREFIX, node->name, &path);
                if (r >= 0)
                        r = sd_bus_message_append(
                                reply, "(sosssddtt)", node->name, path, node_state_to_string(node->state),
                                strempty(node->address), strempty(node->python), node->mcpus / 1000.0,
                                node->mcpus_used / 1000.0, node->memory, node->memory_used);
                if (r < 0)
                        return r;
        }
        r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int append_task(sd_bus_message *reply, json_object *task) {
        const char *id, *name, *owner, *state, *node;
        uint64_t attempt, queued_at;

        if (json_get_string(task, "id", ID_HEX_SIZE, &id) < 0 ||
            json_get_string(task, "name", JOB_NAME_MAX, &name) < 0 ||
            json_get_string(task, "owner", 64, &owner) < 0 ||
            json_get_string(task, "state", 16, &state) < 0 ||
            json_get_string_optional(task, "node", 64, "", &node) < 0 ||
            json_get_uint64(task, "attempt", UINT32_MAX, &attempt) < 0 ||
            json_get_uint64_optional(task, "queued_at", UINT64_MAX / 2000, 0, &queued_at) < 0)
                return -EBADMSG;
        return sd_bus_message_append(reply, "(sssssut)", id, name, owner, state, node, (uint32_t) attempt,
                                     queued_at * USEC_PER_MSEC);
}

static int reply_tasks(sd_bus_message *call, json_object *result) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        json_object *tasks = NULL;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(sssssut)");
        if (r >= 0)
                r = json_get_array_optional(result, "tasks", 10 * TASKS_ENUMERATED_MAX, &tasks);
        for (size_t i = 0; r >= 0 && tasks && i < json_object_array_length(tasks); i++)
                r = append_task(reply, json_object_array_get_idx(tasks, i));
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_list_tasks(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        json_object *args;
        uint32_t limit;
        int r;

        r = sd_bus_message_read(call, "u", &limit);
        if (r >= 0)
                r = json_new_object(&args);
        if (r < 0)
                return r;
        r = json_add_uint64(args, "limit", MIN(limit, 10U * TASKS_ENUMERATED_MAX));
        if (r < 0) {
                json_put(args);
                return r;
        }
        return run_verb(userdata, call, "tasks", args, reply_tasks);
}

/* Sets of packages */

static int append_environment(sd_bus_message *reply, json_object *environment) {
        const char *name, *owner, *python, *state;
        uint64_t bytes;
        bool is_default;

        if (json_get_string(environment, "name", 64, &name) < 0 ||
            json_get_string_optional(environment, "owner", 64, "", &owner) < 0 ||
            json_get_string(environment, "python", 16, &python) < 0 ||
            json_get_string(environment, "state", 16, &state) < 0 ||
            json_get_bool_optional(environment, "default", false, &is_default) < 0 ||
            json_get_uint64_optional(environment, "bytes", UINT64_MAX / 2, 0, &bytes) < 0)
                return -EBADMSG;
        return sd_bus_message_append(reply, "(ssssbt)", name, owner, python, state, is_default, bytes);
}

static int reply_environments(sd_bus_message *call, json_object *result) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        json_object *environments = NULL;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(ssssbt)");
        if (r >= 0)
                r = json_get_array_optional(result, "environments", 10 * TASKS_ENUMERATED_MAX,
                                            &environments);
        for (size_t i = 0; r >= 0 && environments && i < json_object_array_length(environments); i++)
                r = append_environment(reply, json_object_array_get_idx(environments, i));
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int verb_alone(sd_bus_message *call, Manager *m, const char *verb, BusReply reply) {
        json_object *args;
        int r;

        r = json_new_object(&args);
        return r < 0 ? r : run_verb(m, call, verb, args, reply);
}

static int method_list_environments(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_alone(call, userdata, "environments", reply_environments);
}

static int method_sync_environments(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_alone(call, userdata, "environment-sync", NULL);
}

static int method_remove_environment(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_with(call, userdata, "environment-remove", "name", false, NULL);
}

static int reply_lock(sd_bus_message *call, json_object *result) {
        const char *lock = "";

        (void) json_get_string_optional(result, "lock", FRAME_JSON_MAX, "", &lock);
        return sd_bus_reply_method_return(call, "s", lock);
}

static int method_lock_environment(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        return verb_with(call, userdata, "environment-lock", "python", false, reply_lock);
}

/* Whose tasks the caller may see; asked once, when it begins to watch. */
static void on_watcher(sd_bus_message *call, int error, uid_t uid, BusVerdict verdict, void *userdata) {
        const QueryAsker asker = { .user = bus_owner(uid),
                                   .privileged = uid == 0,
                                   .granted = verdict == BUS_GRANTED ? ACCESS_VIEW_ALL : 0 };
        const Owner *only = NULL;
        Manager *m = userdata;
        bool all;
        int r;

        if (error == -ECANCELED)
                return;
        if (error < 0) {
                (void) sd_bus_reply_method_errorf(call, bus_error_name(QUERY_NOT_ALLOWED),
                                                  "The bus does not say who you are");
                return;
        }
        all = query_scope(m, &asker, &only) >= 0 && !only;
        r = bus_watch_add(m->bus->watch, sd_bus_message_get_sender(call), all ? NULL : asker.user);
        if (r == -ENOSPC)
                (void) sd_bus_reply_method_errorf(call, "org.freedesktop.DBus.Error.LimitsExceeded",
                                                  "%d connections watch already", BUS_WATCHERS_MAX);
        else if (r < 0)
                (void) sd_bus_reply_method_errno(call, r, NULL);
        else
                (void) sd_bus_reply_method_return(call, "b", all);
}

static int method_watch(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        Manager *m = userdata;
        int r;

        r = bus_auth_ask(m->bus->auth, call, BUS_ACTION_VIEW, false, on_watcher, m);
        if (r == -EBUSY)
                return sd_bus_error_set(ret_error, "org.freedesktop.DBus.Error.LimitsExceeded",
                                        "Too many calls wait for an answer: wait for some of them");
        return r < 0 ? r : 1;
}

static int method_unwatch(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        Manager *m = userdata;

        (void) bus_watch_remove(m->bus->watch, sd_bus_message_get_sender(call));
        return sd_bus_reply_method_return(call, NULL);
}

/* Properties of the manager */

static int get_constant(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        if (streq(property, "Version"))
                return sd_bus_message_append(reply, "s", CLUPY_VERSION);
        if (streq(property, "PythonVersion"))
                return sd_bus_message_append(reply, "s", CLUPY_PYTHON_VERSION);
        return sd_bus_message_append(reply, "u", FRAME_PROTOCOL_VERSION);
}

static int get_insecure(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "b", m->config->insecure != NULL);
}

static int get_listen(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Manager *m = userdata;
        int r;

        r = sd_bus_message_open_container(reply, 'a', "s");
        for (size_t i = 0; r >= 0 && i < m->entrance.n_listeners; i++)
                r = sd_bus_message_append(reply, "s", listener_address(m->entrance.listeners[i]));
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static BusCounts count(const Manager *m) {
        BusCounts counts = { .nodes = (uint32_t) hashmap_size(m->nodes),
                             .clients = m->n_clients,
                             .queued = m->n_state[TASK_QUEUED] + m->n_state[TASK_WAITING],
                             .running = m->n_state[TASK_STARTING] + m->n_state[TASK_RUNNING] +
                                        m->n_state[TASK_FROZEN],
                             .ended = m->n_ended };
        Node *node;

        HASHMAP_FOREACH(node, m->nodes)
                counts.ready += node->state == NODE_READY;
        return counts;
}

static int get_count(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        BusCounts counts = count(userdata);

        if (streq(property, "TasksQueued"))
                return sd_bus_message_append(reply, "t", counts.queued);
        if (streq(property, "TasksRunning"))
                return sd_bus_message_append(reply, "t", counts.running);
        if (streq(property, "TasksEnded"))
                return sd_bus_message_append(reply, "t", counts.ended);
        if (streq(property, "Clients"))
                return sd_bus_message_append(reply, "u", counts.clients);
        return sd_bus_message_append(reply, "u", streq(property, "Nodes") ? counts.nodes : counts.ready);
}

static int get_unproven(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "u", entrance_unproven(&m->entrance));
}

static int get_refused(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "t", entrance_refused(&m->entrance));
}

static int get_environments(sd_bus *bus, const char *path, const char *interface, const char *property,
                            sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        EnvironmentCounts counts = environment_counts(userdata);

        if (streq(property, "EnvironmentsBuilding"))
                return sd_bus_message_append(reply, "u", counts.building + counts.resolving);
        if (streq(property, "EnvironmentsFailed"))
                return sd_bus_message_append(reply, "u", counts.failed);
        return sd_bus_message_append(reply, "u", counts.known);
}

static int get_certificate_expires(sd_bus *bus, const char *path, const char *interface,
                                   const char *property, sd_bus_message *reply, void *userdata,
                                   sd_bus_error *ret_error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "t", m->tls.context ? tls_context_expires(m->tls.context) : 0);
}

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Version", "s", get_constant, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("ProtocolVersion", "u", get_constant, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Epoch", "t", NULL, offsetof(Manager, epoch), SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("PythonVersion", "s", get_constant, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Insecure", "b", get_insecure, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Listen", "as", get_listen, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Nodes", "u", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("NodesReady", "u", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Clients", "u", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("ConnectionsUnproven", "u", get_unproven, 0, 0),
        SD_BUS_PROPERTY("ConnectionsRefused", "t", get_refused, 0, 0),
        SD_BUS_PROPERTY("TasksQueued", "t", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("TasksRunning", "t", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("TasksEnded", "t", get_count, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("StartedAt", "t", NULL, offsetof(Manager, started_at), SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Environments", "u", get_environments, 0, 0),
        SD_BUS_PROPERTY("EnvironmentsBuilding", "u", get_environments, 0, 0),
        SD_BUS_PROPERTY("EnvironmentsFailed", "u", get_environments, 0, 0),
        SD_BUS_PROPERTY("CertificateExpires", "t", get_certificate_expires, 0, 0),
        SD_BUS_METHOD_WITH_ARGS("Query", SD_BUS_ARGS("s", verb, "s", arguments_json),
                                SD_BUS_RESULT("s", answer_json), method_query, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListNodes", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sosssddtt)", nodes),
                                method_list_nodes, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListTasks", SD_BUS_ARGS("u", limit), SD_BUS_RESULT("a(sssssut)", tasks),
                                method_list_tasks, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("CancelTask", SD_BUS_ARGS("s", id), SD_BUS_NO_RESULT, method_cancel,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("DrainNode", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT, method_drain,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("UndrainNode", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT, method_undrain,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListEnvironments", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssssbt)", environments),
                                method_list_environments, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("SyncEnvironments", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT,
                                method_sync_environments, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("RemoveEnvironment", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
                                method_remove_environment, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("LockEnvironment", SD_BUS_ARGS("s", python), SD_BUS_RESULT("s", lock),
                                method_lock_environment, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Why", SD_BUS_ARGS("s", id), SD_BUS_RESULT("s", sentence), method_why,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Watch", SD_BUS_NO_ARGS, SD_BUS_RESULT("b", all), method_watch,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Unwatch", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_unwatch,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL_WITH_ARGS("TaskChanged",
                                SD_BUS_ARGS("s", id, "s", owner, "s", name, "s", state, "s", node, "u",
                                            attempt, "s", outcome),
                                0),
        SD_BUS_SIGNAL_WITH_ARGS("ChangesLost", SD_BUS_ARGS("t", number), 0),
        SD_BUS_VTABLE_END,
};

/* Nodes */

static int get_node_string(sd_bus *bus, const char *path, const char *interface, const char *property,
                           sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Node *node = userdata;

        if (streq(property, "State"))
                return sd_bus_message_append(reply, "s", node_state_to_string(node->state));
        if (streq(property, "BootId"))
                return sd_bus_message_append(reply, "s", ID_HEX(node->boot_id));
        return sd_bus_message_append(reply, "s",
                                     strempty(streq(property, "Address") ? node->address : node->python));
}

static int get_node_cpus(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Node *node = userdata;

        return sd_bus_message_append(reply, "d",
                                     (streq(property, "Cpus") ? node->mcpus : node->mcpus_used) / 1000.0);
}

static int get_node_drained(sd_bus *bus, const char *path, const char *interface, const char *property,
                            sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        Node *node = userdata;

        return sd_bus_message_append(reply, "b", node->drain);
}

static const sd_bus_vtable node_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Name", "s", NULL, offsetof(Node, name), SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("State", "s", get_node_string, 0, 0),
        SD_BUS_PROPERTY("Address", "s", get_node_string, 0, 0),
        SD_BUS_PROPERTY("BootId", "s", get_node_string, 0, 0),
        SD_BUS_PROPERTY("PythonVersion", "s", get_node_string, 0, 0),
        SD_BUS_PROPERTY("Cpus", "d", get_node_cpus, 0, 0),
        SD_BUS_PROPERTY("CpusUsed", "d", get_node_cpus, 0, 0),
        SD_BUS_PROPERTY("Memory", "t", NULL, offsetof(Node, memory), 0),
        SD_BUS_PROPERTY("MemoryUsed", "t", NULL, offsetof(Node, memory_used), 0),
        SD_BUS_PROPERTY("Running", "u", NULL, offsetof(Node, n_charged), 0),
        SD_BUS_PROPERTY("Drained", "b", get_node_drained, 0, 0),
        SD_BUS_VTABLE_END,
};

static int find_node(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret_found,
                     sd_bus_error *ret_error) {
        _cleanup_(freep) char *name = NULL;
        Manager *m = userdata;

        if (sd_bus_path_decode(path, NODE_PREFIX, &name) <= 0)
                return 0;
        *ret_found = hashmap_get(m->nodes, name);
        return *ret_found ? 1 : 0;
}

static int enumerate_nodes(sd_bus *bus, const char *prefix, void *userdata, char ***ret_nodes,
                           sd_bus_error *ret_error) {
        _cleanup_(strv_freep) char **paths = NULL;
        Manager *m = userdata;
        Node *node;

        HASHMAP_FOREACH(node, m->nodes) {
                _cleanup_(freep) char *path = NULL;
                int r = sd_bus_path_encode(NODE_PREFIX, node->name, &path);

                if (r >= 0)
                        r = strv_extend(&paths, path);
                if (r < 0)
                        return r;
        }
        *ret_nodes = TAKE_PTR(paths);
        return 1;
}

/* The connection */

static int on_name(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error) {
        const sd_bus_error *error = sd_bus_message_get_error(reply);

        if (error)
                log_notice("Cannot be %s on the system bus (%s): reachable over TCP only", BUS_NAME,
                           strempty(error->message));
        return 1;
}

static int on_disconnected(sd_bus_message *message, void *userdata, sd_bus_error *ret_error) {
        log_notice("The system bus is gone: going on without D-Bus");
        return 0;
}

int master_bus_new(Manager *m, MasterBus **ret) {
        _cleanup_(master_bus_freep) MasterBus *b = new0(MasterBus);
        int r;

        if (!b)
                return -ENOMEM;
        b->m = m;
        /* Opening only connects a socket; the rest happens in the loop. */
        r = sd_bus_open_system(&b->bus);
        if (r < 0)
                return r;
        (void) sd_bus_set_exit_on_disconnect(b->bus, false);
        r = sd_bus_add_object_vtable(b->bus, NULL, BUS_PATH, BUS_INTERFACE, manager_vtable, m);
        if (r >= 0)
                r = sd_bus_add_fallback_vtable(b->bus, NULL, NODE_PREFIX, BUS_INTERFACE ".Node", node_vtable,
                                               find_node, m);
        if (r >= 0)
                r = sd_bus_add_node_enumerator(b->bus, NULL, NODE_PREFIX, enumerate_nodes, m);
        if (r >= 0)
                r = sd_bus_match_signal_async(b->bus, NULL, "org.freedesktop.DBus.Local",
                                              "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
                                              "Disconnected", on_disconnected, NULL, m);
        if (r >= 0)
                r = sd_bus_request_name_async(b->bus, &b->request, BUS_NAME, 0, on_name, m);
        if (r >= 0)
                r = bus_auth_new(b->bus, &b->auth);
        if (r >= 0)
                r = bus_task_add(m, b->bus, b->auth, TASK_PREFIX, BUS_INTERFACE ".Task");
        if (r >= 0)
                r = bus_watch_new(m, b->bus, BUS_PATH, BUS_INTERFACE, &b->watch);
        if (r >= 0)
                r = sd_bus_attach_event(b->bus, m->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(b);
        return 0;
}

MasterBus *master_bus_free(MasterBus *b) {
        if (!b)
                return NULL;
        b->watch = bus_watch_free(b->watch);
        b->auth = bus_auth_free(b->auth);
        sd_bus_slot_unref(b->request);
        if (b->bus)
                sd_bus_detach_event(b->bus);
        sd_bus_flush_close_unref(b->bus);
        return mfree(b);
}

void master_bus_task_changed(MasterBus *b, const Task *task) {
        if (b)
                bus_watch_task(b->watch, task);
}

void master_bus_counts_changed(MasterBus *b) {
        BusCounts now;
        const char *names[7] = { NULL };
        size_t n = 0;

        if (!b || sd_bus_is_ready(b->bus) <= 0)
                return;
        now = count(b->m);
        if (now.nodes != b->told.nodes)
                names[n++] = "Nodes";
        if (now.ready != b->told.ready)
                names[n++] = "NodesReady";
        if (now.clients != b->told.clients)
                names[n++] = "Clients";
        if (now.queued != b->told.queued)
                names[n++] = "TasksQueued";
        if (now.running != b->told.running)
                names[n++] = "TasksRunning";
        if (now.ended != b->told.ended)
                names[n++] = "TasksEnded";
        b->told = now;
        if (n > 0)
                (void) sd_bus_emit_properties_changed_strv(b->bus, BUS_PATH, BUS_INTERFACE, (char **) names);
}
