/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bus-request.h"
#include "hashmap.h"
#include "history.h"
#include "job.h"
#include "manager.h"
#include "owner.h"
#include "parse-util.h"
#include "query.h"
#include "session.h"
#include "task.h"

#define PROPERTIES "org.freedesktop.DBus.Properties"
#define INTROSPECTABLE "org.freedesktop.DBus.Introspectable"

#define XML_HEAD                                                                                            \
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n"                \
        "\"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n"                       \
        " <interface name=\"org.freedesktop.DBus.Peer\">\n"                                                 \
        "  <method name=\"Ping\"/>\n"                                                                       \
        "  <method name=\"GetMachineId\"><arg type=\"s\" name=\"machine_uuid\" "                            \
        "direction=\"out\"/></method>\n"                                                                    \
        " </interface>\n"                                                                                   \
        " <interface name=\"" INTROSPECTABLE "\">\n"                                                        \
        "  <method name=\"Introspect\"><arg name=\"data\" type=\"s\" direction=\"out\"/></method>\n"        \
        " </interface>\n"

#define XML_PROPERTIES                                                                                      \
        " <interface name=\"" PROPERTIES "\">\n"                                                            \
        "  <method name=\"Get\"><arg name=\"interface\" direction=\"in\" type=\"s\"/>"                      \
        "<arg name=\"property\" direction=\"in\" type=\"s\"/>"                                              \
        "<arg name=\"value\" direction=\"out\" type=\"v\"/></method>\n"                                     \
        "  <method name=\"GetAll\"><arg name=\"interface\" direction=\"in\" type=\"s\"/>"                   \
        "<arg name=\"properties\" direction=\"out\" type=\"a{sv}\"/></method>\n"                            \
        " </interface>\n"

/* Made once, lives as long as the bus. */
typedef struct BusTask {
        Manager *m;
        BusAuth *auth;
        char *prefix, *interface;
} BusTask;

/* Properties */

typedef struct Property {
        const char *name, *type;
        bool constant;
        int (*append)(sd_bus_message *reply, const TaskView *view);
} Property;

static int append_id(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "s", ID_HEX(view->id));
}

static int append_job(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "s", ID_HEX(view->job));
}

static int append_name(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "s", view->name);
}

static int append_owner(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "s", view->owner);
}

static int append_state(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "s", view->state);
}

static int append_node(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "s", strempty(view->node));
}

static int append_unit(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "s", strempty(view->unit));
}

static int append_cpus(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "d", view->mcpus / 1000.0);
}

static int append_priority(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "i", view->priority);
}

static int append_attempt(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "u", view->attempt);
}

static int append_queued_at(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "t", view->queued_at);
}

static int append_started_at(sd_bus_message *reply, const TaskView *view) {
        return sd_bus_message_append(reply, "t", view->started_at);
}

static const Property properties[] = {
        { "Id", "s", true, append_id },
        { "Job", "s", true, append_job },
        { "Name", "s", true, append_name },
        { "Owner", "s", true, append_owner },
        { "State", "s", false, append_state },
        { "Node", "s", false, append_node },
        { "Unit", "s", false, append_unit },
        { "Cpus", "d", false, append_cpus },
        { "Priority", "i", true, append_priority },
        { "Attempt", "u", false, append_attempt },
        { "QueuedAt", "t", true, append_queued_at },
        { "StartedAt", "t", false, append_started_at },
};

/* Answers */

/* Not there, or not the caller's: there is no difference. */
static int unknown(sd_bus_message *call) {
        return sd_bus_reply_method_errorf(call, "org.freedesktop.DBus.Error.UnknownObject",
                                          "Unknown object '%s'.", sd_bus_message_get_path(call));
}

/* The caller's own first; another's where that is the only one with this id. */
static bool find(const BusTask *b, const QueryAsker *asker, const char *hex, TaskView *ret) {
        const Owner *only;
        Task *task;
        Id id;

        if (id_from_hex(hex, &id) < 0 || query_scope(b->m, asker, &only) < 0)
                return false;
        task = manager_task(b->m, asker->user, id);
        if (task) {
                task_view(task, ret);
                return true;
        }
        return task_find(b->m, only, hex, ret) >= 0 && ret->task;
}

static int send_property(sd_bus_message *call, const Property *property, const TaskView *view) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'v', property->type);
        if (r >= 0)
                r = property->append(reply, view);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int answer_get(const BusTask *b, sd_bus_message *call, const TaskView *view) {
        const char *interface, *name;
        int r;

        r = sd_bus_message_read(call, "ss", &interface, &name);
        if (r < 0)
                return r;
        if (isempty(interface) || streq(interface, b->interface))
                for (size_t i = 0; i < ELEMENTSOF(properties); i++)
                        if (streq(properties[i].name, name))
                                return send_property(call, properties + i, view);
        return sd_bus_reply_method_errorf(call, "org.freedesktop.DBus.Error.UnknownProperty",
                                          "Unknown property '%s' of interface '%s'.", name, interface);
}

static int answer_get_all(const BusTask *b, sd_bus_message *call, const TaskView *view) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *interface;
        int r;

        r = sd_bus_message_read(call, "s", &interface);
        if (r < 0)
                return r;
        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "{sv}");
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(properties); i++) {
                if (!isempty(interface) && !streq(interface, b->interface))
                        break;
                r = sd_bus_message_open_container(reply, 'e', "sv");
                if (r >= 0)
                        r = sd_bus_message_append(reply, "s", properties[i].name);
                if (r >= 0)
                        r = sd_bus_message_open_container(reply, 'v', properties[i].type);
                if (r >= 0)
                        r = properties[i].append(reply, view);
                if (r >= 0)
                        r = sd_bus_message_close_container(reply);
                if (r >= 0)
                        r = sd_bus_message_close_container(reply);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int answer_introspect(const BusTask *b, sd_bus_message *call) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        FILE *file = open_memstream(&text, &size);

        if (!file)
                return -ENOMEM;
        fprintf(file, XML_HEAD XML_PROPERTIES " <interface name=\"%s\">\n", b->interface);
        for (size_t i = 0; i < ELEMENTSOF(properties); i++)
                fprintf(file,
                        "  <property name=\"%s\" type=\"%s\" access=\"read\">\n"
                        "   <annotation name=\"org.freedesktop.DBus.Property.EmitsChangedSignal\" "
                        "value=\"%s\"/>\n"
                        "  </property>\n",
                        properties[i].name, properties[i].type, properties[i].constant ? "const" : "false");
        fputs(" </interface>\n</node>\n", file);
        if (fclose(file) != 0)
                return -ENOMEM;
        return sd_bus_reply_method_return(call, "s", text);
}

static void list_tasks(const BusTask *b, const QueryAsker *asker, FILE *file) {
        const Owner *only;
        Owner *owner;
        size_t n = 0;
        Task *task;

        if (query_scope(b->m, asker, &only) < 0)
                return;
        HASHMAP_FOREACH(owner, b->m->owners) {
                if (only && only != owner)
                        continue;
                HASHMAP_FOREACH(task, owner->tasks) {
                        if (n++ >= BUS_TASKS_LISTED_MAX)
                                return;
                        fprintf(file, " <node name=\"%s\"/>\n", ID_HEX(task->id));
                }
        }
}

static int answer_list(const BusTask *b, sd_bus_message *call, const QueryAsker *asker) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        FILE *file = open_memstream(&text, &size);

        if (!file)
                return -ENOMEM;
        fputs(XML_HEAD, file);
        list_tasks(b, asker, file);
        fputs("</node>\n", file);
        if (fclose(file) != 0)
                return -ENOMEM;
        return sd_bus_reply_method_return(call, "s", text);
}

static int answer(const BusTask *b, sd_bus_message *call, const QueryAsker *asker) {
        const char *path = sd_bus_message_get_path(call), *hex = startswith(path, b->prefix);
        TaskView view = { 0 };

        if (hex && hex[0] == '\0')
                return answer_list(b, call, asker);
        if (!hex || hex[0] != '/' || !find(b, asker, hex + 1, &view))
                return unknown(call);
        if (sd_bus_message_is_method_call(call, INTROSPECTABLE, "Introspect") > 0)
                return answer_introspect(b, call);
        return sd_bus_message_is_method_call(call, PROPERTIES, "Get") > 0 ? answer_get(b, call, &view)
                                                                          : answer_get_all(b, call, &view);
}

static void on_caller(sd_bus_message *call, int error, uid_t uid, BusVerdict verdict, void *userdata) {
        const QueryAsker asker = { .user = bus_owner(uid), .privileged = uid == 0 };
        const BusTask *b = userdata;
        int r;

        if (error == -ECANCELED)
                return;
        r = error < 0 ? unknown(call) : answer(b, call, &asker);
        if (r < 0)
                (void) sd_bus_reply_method_errno(call, r, NULL);
}

/* What only says what everybody may know is left to sd-bus. */
static int on_call(sd_bus_message *call, void *userdata, sd_bus_error *ret_error) {
        bool is_list = streq(sd_bus_message_get_path(call), ((BusTask *) userdata)->prefix);
        BusTask *b = userdata;
        int r;

        if (sd_bus_message_is_method_call(call, INTROSPECTABLE, "Introspect") <= 0 &&
            (is_list || (sd_bus_message_is_method_call(call, PROPERTIES, "Get") <= 0 &&
                         sd_bus_message_is_method_call(call, PROPERTIES, "GetAll") <= 0)))
                return 0;
        r = bus_auth_ask(b->auth, call, NULL, false, on_caller, b);
        if (r == -EBUSY)
                return sd_bus_error_set(ret_error, "org.freedesktop.DBus.Error.LimitsExceeded",
                                        "Too many calls wait for an answer: wait for some of them");
        return r < 0 ? r : 1;
}

static void bus_task_free(void *userdata) {
        BusTask *b = userdata;

        free(b->prefix);
        free(b->interface);
        free(b);
}

int bus_task_add(Manager *m, sd_bus *bus, BusAuth *auth, const char *prefix, const char *interface) {
        sd_bus_slot *slot;
        BusTask *b = new0(BusTask);
        int r;

        if (!b)
                return -ENOMEM;
        *b = (BusTask){ .m = m, .auth = auth, .prefix = strdup(prefix), .interface = strdup(interface) };
        r = b->prefix && b->interface ? sd_bus_add_fallback(bus, &slot, prefix, on_call, b) : -ENOMEM;
        if (r < 0) {
                bus_task_free(b);
                return r;
        }
        /* From now on it is the bus's. */
        (void) sd_bus_slot_set_destroy_callback(slot, bus_task_free);
        (void) sd_bus_slot_set_floating(slot, true);
        return 0;
}
