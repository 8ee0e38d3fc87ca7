/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-query.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "build-config.h"
#include "environment-default.h"
#include "environment-link.h"
#include "environment-node.h"
#include "environment-order.h"
#include "environment-record.h"
#include "environments.h"
#include "json-util.h"
#include "manager.h"
#include "node.h"
#include "parse-util.h"
#include "time-util.h"
#include "wheel-store.h"

enum {
        LINE_MAX_SHOWN = 400,
        NODES_SHOWN_MAX = 1000,
        TEXT_IN_ANSWER_MAX = 600 << 10,
        LIBRARIES_LISTED_MAX = 6000
};

static QueryError _printf_(3, 4) fail(char **ret_message, QueryError error, const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        if (vasprintf(ret_message, format, arguments) < 0)
                *ret_message = NULL;
        va_end(arguments);
        return error;
}

static bool is_shared(const Environment *e) {
        return streq(e->owner, ENVIRONMENT_OWNER_SHARED);
}

static bool may_see(const EnvironmentAsker *asker, const Environment *e) {
        return asker->view_all || is_shared(e) || (asker->user && streq(asker->user, e->owner));
}

typedef struct There {
        unsigned ready, building;
        uint64_t bytes;
} There;

static There count_there(const Manager *m, const Environment *e) {
        There there = { 0 };
        Node *node;

        if (e->name[0] == '\0' || e->base)
                return there;
        HASHMAP_FOREACH(node, m->nodes) {
                const NodeEnvironment *on = node->lost ? NULL : node_environment_find(node, e->name);

                if (!on)
                        continue;
                there.ready += on->state == NODE_ENVIRONMENT_READY;
                there.building +=
                        on->state == NODE_ENVIRONMENT_BUILDING || on->state == NODE_ENVIRONMENT_ORDERED;
                there.bytes = MAX(there.bytes, on->bytes);
        }
        return there;
}

static const char *state_shown(const Environment *e, const There *there) {
        switch (e->state) {
        case ENVIRONMENT_LOCKED:
                return e->base || there->ready > 0 ? "ready" : there->building > 0 ? "building" : "resolved";
        case ENVIRONMENT_FAILED:
                return "failed";
        default:
                return "resolving";
        }
}

static int add_texts(json_object *object, const char *key, char *const *values) {
        json_object *array;

        if (json_add_new_array(object, key, &array) < 0)
                return -ENOMEM;
        for (; values && *values; values++)
                if (json_append_string(array, *values) < 0)
                        return -ENOMEM;
        return 0;
}

/* Their files' names; they are kept as DIGEST/NAME. */
static int add_wheels(json_object *object, char *const *wheels) {
        json_object *array;

        if (!wheels || !*wheels)
                return 0;
        if (json_add_new_array(object, "wheels", &array) < 0)
                return -ENOMEM;
        for (; *wheels; wheels++) {
                const char *slash = strchr(*wheels, '/');

                if (json_append_string(array, slash ? slash + 1 : *wheels) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* The text behind what a line begins with, whatever the case; NULL when it begins otherwise. */
static const char *line_behind(const char *line, size_t size, const char *beginning) {
        size_t n = strlen(beginning);

        return size > n && strncasecmp(line, beginning, n) == 0 ? line + n : NULL;
}

/* "error: …", with the causes in the lines behind it. NULL: there is none, or no memory. */
static char *first_error(const char *text) {
        _cleanup_(freep) char *words = NULL;

        for (const char *line = text; *line;) {
                size_t size = strcspn(line, "\n"), blanks = strspn(line, " \t");
                const char *end = line + size, *behind;

                line += MIN(size, blanks);
                behind = line_behind(line, (size_t) (end - line), words ? "cause:" : "error:");
                if (behind) {
                        char *longer;

                        while (behind < end && *behind == ' ')
                                behind++;
                        longer = strformat("%s%s%.*s", strempty(words), words ? ": " : "",
                                           (int) (end - behind), behind);
                        if (!longer)
                                return NULL;
                        free(words);
                        words = longer;
                } else if (words)
                        break;
                line = *end ? end + 1 : end;
        }
        return TAKE_PTR(words);
}

static char *last_line(const char *text) {
        size_t size = strlen(strempty(text));
        const char *line;

        while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == ' '))
                size--;
        line = size > 0 ? memrchr(text, '\n', size) : NULL;
        return line ? strndup(line + 1, size - (size_t) (line + 1 - text)) : strndup(strempty(text), size);
}

/* What the words of a failure come to, in one line: the last one, unless that says only that the installer
 * failed. */
static char *gist(const char *text) {
        _cleanup_(freep) char *line = last_line(text);
        char *error = line && startswith(line, "the installer ended with") ? first_error(text) : NULL;

        return error ?: TAKE_PTR(line);
}

static int add_line(json_object *object, const char *key, const char *text) {
        _cleanup_(freep) char *line = gist(text), *shown = NULL;

        shown = line ? text_for_message(line, LINE_MAX_SHOWN) : NULL;
        return shown ? json_add_string(object, key, shown) : -ENOMEM;
}

static int add_node(json_object *array, const NodeEnvironment *there) {
        Manager *m = there->node->manager;
        json_object *entry;

        if (json_append_new_object(array, &entry) < 0 ||
            json_add_string(entry, "node", there->node->name) < 0 ||
            json_add_string(entry, "state",
                            there->state == NODE_ENVIRONMENT_ORDERED
                                    ? "building"
                                    : node_environment_state_to_string(there->state)) < 0)
                return -ENOMEM;
        if (there->state == NODE_ENVIRONMENT_READY)
                return json_add_double(entry, "seconds", there->seconds) < 0 ||
                                       json_add_uint64(entry, "bytes", there->bytes) < 0 ||
                                       json_add_uint64(entry, "files", there->files) < 0 ||
                                       json_add_uint64(entry, "in_use", there->in_use) < 0 ||
                                       (there->used_at > 0 &&
                                        json_add_uint64(entry, "used_at", there->used_at) < 0)
                               ? -ENOMEM
                               : 0;
        if (there->state == NODE_ENVIRONMENT_FAILED)
                return add_line(entry, "message", there->log);
        if (there->state == NODE_ENVIRONMENT_ORDERED)
                return json_add_string(entry, "message", "waits for other builds on this node");
        return json_add_double(entry, "seconds",
                               (double) usec_sub(manager_now(m), there->since) / (double) USEC_PER_SEC);
}

static int add_nodes(Manager *m, json_object *object, const Environment *e) {
        json_object *array;
        unsigned n = 0;
        Node *node;

        if (json_add_new_array(object, "nodes", &array) < 0)
                return -ENOMEM;
        if (e->name[0] == '\0' || e->base)
                return 0;
        HASHMAP_FOREACH(node, m->nodes) {
                const NodeEnvironment *there = node->lost ? NULL : node_environment_find(node, e->name);

                if (!there || n++ >= NODES_SHOWN_MAX)
                        continue;
                if (add_node(array, there) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int add_message(json_object *object, const Environment *e) {
        _cleanup_(freep) char *text = NULL;

        if (e->state == ENVIRONMENT_FAILED)
                return add_line(object, "message", e->log);
        if (e->state == ENVIRONMENT_FETCHING)
                return json_add_string(object, "message", "waits for wheels of its client");
        if (e->state != ENVIRONMENT_RESOLVING)
                return 0;
        text = e->resolver ? strformat("its packages are being looked up on %s", e->resolver->name)
                           : strformat("waits for a node that has Python %s and can look its packages up",
                                       e->python);
        return text ? json_add_string(object, "message", text) : -ENOMEM;
}

static bool is_current_default(const Environment *e) {
        const DefaultEnvironment *d;

        if (!e->is_default)
                return false;
        d = hashmap_get(e->manager->environments->defaults, e->python);
        return d && (d->generations[0] == e || (!d->generations[0] && d->next == e));
}

static int add_environment(Manager *m, json_object *object, const Environment *e) {
        There there = count_there(m, e);
        char name[ENVIRONMENT_NAME_SIZE] = "";

        environment_name_shown(e, name);
        if (json_add_string(object, "name", name) < 0 || json_add_string(object, "python", e->python) < 0 ||
            json_add_string(object, "state", state_shown(e, &there)) < 0 ||
            add_texts(object, "packages", e->packages) < 0 || add_wheels(object, e->wheels) < 0 ||
            add_texts(object, "preload", e->preload) < 0 ||
            json_add_uint64(object, "created_at", e->created_at / USEC_PER_MSEC) < 0 ||
            add_message(object, e) < 0 || add_nodes(m, object, e) < 0)
                return -ENOMEM;
        if (!is_shared(e) && json_add_string(object, "owner", e->owner) < 0)
                return -ENOMEM;
        if (e->fixed && json_add_bool(object, "locked", true) < 0)
                return -ENOMEM;
        if (is_current_default(e) && json_add_bool(object, "default", true) < 0)
                return -ENOMEM;
        if (!e->is_default && !e->prefers_default && json_add_string(object, "base", "none") < 0)
                return -ENOMEM;
        if (e->installer && json_add_string(object, "installer", e->installer) < 0)
                return -ENOMEM;
        if (e->resolved_at > 0 && json_add_uint64(object, "resolved_at", e->resolved_at / USEC_PER_MSEC) < 0)
                return -ENOMEM;
        return there.bytes > 0 ? json_add_uint64(object, "bytes", there.bytes) : 0;
}

/* Those without packages are not in the table. */
typedef struct Walk {
        const Environment **all;
        size_t n;
} Walk;

static int collect(const Manager *m, const EnvironmentAsker *asker, Walk *ret) {
        const Environments *all = m->environments;
        const Environment **list = (const Environment **) newn0(
                Environment *, hashmap_size(all->table) + hashmap_size(all->defaults) + 1);
        DefaultEnvironment *d;
        Environment *e;
        size_t n = 0;

        if (!list)
                return -ENOMEM;
        HASHMAP_FOREACH(d, all->defaults)
                if (d->generations[0] && d->generations[0]->base)
                        list[n++] = d->generations[0];
        HASHMAP_FOREACH(e, all->table)
                if (may_see(asker, e))
                        list[n++] = e;
        *ret = (Walk){ list, n };
        return 0;
}

QueryError environment_query_list(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message) {
        json_object *array, *entry;
        int r = 0, n_libraries = 0;
        Walk walk;

        if (json_add_new_array(result, "environments", &array) < 0 || collect(m, asker, &walk) < 0)
                return QUERY_FAILED;
        for (size_t i = 0; i < walk.n && r >= 0; i++) {
                r = json_append_new_object(array, &entry);
                if (r >= 0)
                        r = add_environment(m, entry, walk.all[i]);
                if (r >= 0 && walk.all[i]->libraries) {
                        n_libraries += json_object_object_length(walk.all[i]->libraries);
                        if (n_libraries <= LIBRARIES_LISTED_MAX)
                                r = json_add(entry, "libraries", json_object_get(walk.all[i]->libraries));
                }
        }
        free(walk.all);
        return r < 0 ? QUERY_FAILED : QUERY_OK;
}

/* *ret stays as it is unless it is QUERY_OK. */
static QueryError find(Manager *m, const EnvironmentAsker *asker, json_object *args, Environment **ret,
                       char **ret_message) {
        const Environment *found = NULL;
        const char *wanted;
        bool several = false;
        Walk walk;

        if (json_get_string(args, "name", ENVIRONMENT_NAME_SIZE - 1, &wanted) < 0 || isempty(wanted))
                return fail(ret_message, QUERY_INVALID_ARGUMENT,
                            "name: expected an environment's name or the beginning of one");
        if (collect(m, asker, &walk) < 0)
                return QUERY_FAILED;
        for (size_t i = 0; i < walk.n; i++) {
                char name[ENVIRONMENT_NAME_SIZE] = "";

                environment_name_shown(walk.all[i], name);
                if (!startswith(name, wanted))
                        continue;
                /* Several that came to the same packages are one for nodes. */
                if (found && !environment_equal(found, walk.all[i]))
                        several = true;
                if (!found || (is_current_default(walk.all[i]) && !several))
                        found = walk.all[i];
                if (streq(name, wanted)) {
                        several = false;
                        found = walk.all[i];
                        break;
                }
        }
        free(walk.all);
        if (several)
                return fail(ret_message, QUERY_INVALID_ARGUMENT,
                            "More than one environment's name begins with %s: give more of it", wanted);
        if (!found)
                return fail(ret_message, QUERY_NOT_FOUND,
                            "There is no environment %s: `clupyctl env list` lists them", wanted);
        *ret = (Environment *) found;
        return QUERY_OK;
}

QueryError environment_query_show(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message) {
        Environment *e = NULL;
        QueryError error = find(m, asker, args, &e, ret_message);
        const char *log;

        if (!e)
                return error;
        if (add_environment(m, result, e) < 0)
                return QUERY_FAILED;
        if (e->libraries && json_add(result, "libraries", json_object_get(e->libraries)) < 0)
                return QUERY_FAILED;
        if (e->lock && strlen(e->lock) <= TEXT_IN_ANSWER_MAX && json_add_string(result, "lock", e->lock) < 0)
                return QUERY_FAILED;
        log = e->log;
        return log && query_add_text(result, "log", log, strlen(log)) < 0 ? QUERY_FAILED : QUERY_OK;
}

QueryError environment_query_sync(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message) {
        DefaultEnvironment *d;
        json_object *array;

        if (!asker->manage_all)
                return fail(ret_message, QUERY_NOT_ALLOWED,
                            "Only root and administrators may have the master's packages looked up again");
        if (environments_sync(m) < 0)
                return fail(ret_message, QUERY_FAILED, "The packages stay as they were: %s",
                            strempty(m->environments->error));
        if (json_add_new_array(result, "environments", &array) < 0)
                return QUERY_FAILED;
        HASHMAP_FOREACH(d, m->environments->defaults) {
                char name[ENVIRONMENT_NAME_SIZE] = "";

                if (!d->next || d->next->state == ENVIRONMENT_FAILED)
                        continue;
                environment_name_shown(d->next, name);
                if (json_append_string(array, name) < 0)
                        return QUERY_FAILED;
        }
        return QUERY_OK;
}

QueryError environment_query_remove(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                    json_object *result, char **ret_message) {
        char name[ENVIRONMENT_NAME_SIZE] = "";
        Environment *e = NULL;
        QueryError error = find(m, asker, args, &e, ret_message);
        Node *node;

        if (!e)
                return error;
        environment_name_shown(e, name);
        if (!asker->manage_all && !(asker->user && streq(asker->user, e->owner)))
                return fail(ret_message, QUERY_NOT_ALLOWED,
                            "Environment %s is %s: only %s and administrators may remove it", name,
                            is_shared(e) ? "everybody's" : e->owner, is_shared(e) ? "root" : e->owner);
        if (e->base)
                return fail(
                        ret_message, QUERY_INVALID_ARGUMENT,
                        "Environment %s comes with the nodes' Python and takes no room: there is nothing "
                        "to remove",
                        name);
        HASHMAP_FOREACH(node, m->nodes)
                if (node->environments_known && node_environment_is_ready(node, name))
                        (void) environment_link_remove(node, name);
        if (e->n_references == 0) {
                environment_record_remove(e);
                environment_free(e);
        }
        return json_add_string(result, "name", name) < 0 ? QUERY_FAILED : QUERY_OK;
}

QueryError environment_query_lock(Manager *m, const EnvironmentAsker *asker, json_object *args,
                                  json_object *result, char **ret_message) {
        const DefaultEnvironment *d;
        const Environment *e;
        const char *python;
        char series[PYTHON_SERIES_SIZE];

        if (json_get_string_optional(args, "python", 32, CLUPY_PYTHON_SERIES, &python) < 0 ||
            python_series(python, series) < 0)
                return fail(ret_message, QUERY_INVALID_ARGUMENT, "python: expected a version such as 3.11");
        d = hashmap_get(m->environments->defaults, series);
        e = d ? d->generations[0] : NULL;
        if (!e || e->base)
                return fail(
                        ret_message, QUERY_NOT_FOUND,
                        e ? "Python %s has no packages here: there is no lock of them"
                          : "The packages for Python %s are not known yet: ask again once they have been "
                            "looked up",
                        series);
        return json_add_string(result, "lock", strempty(e->lock)) < 0 ? QUERY_FAILED : QUERY_OK;
}

/* Figures */

EnvironmentCounts environment_counts(const Manager *m) {
        EnvironmentCounts counts = { 0 };
        NodeEnvironment *there;
        Environment *e;
        Node *node;

        HASHMAP_FOREACH(e, m->environments->table) {
                There on = count_there(m, e);

                counts.known++;
                counts.resolving += e->state == ENVIRONMENT_RESOLVING || e->state == ENVIRONMENT_FETCHING;
                counts.failed += e->state == ENVIRONMENT_FAILED;
                counts.ready += on.ready > 0;
                counts.building += on.building > 0;
        }
        HASHMAP_FOREACH(node, m->nodes)
                if (!node->lost)
                        HASHMAP_FOREACH(there, node->environments)
                                if (there->state == NODE_ENVIRONMENT_READY)
                                        counts.bytes += there->bytes;
        return counts;
}

int environment_status_add(const Manager *m, json_object *status, json_object *warnings) {
        const Environments *all = m->environments;
        const EnvironmentCounters *c = &all->counters;
        EnvironmentCounts counts = environment_counts(m);
        DefaultEnvironment *d;
        json_object *object;

        if (json_add_new_object(status, "environments", &object) < 0 ||
            json_add_uint64(object, "known", counts.known) < 0 ||
            json_add_uint64(object, "resolving", counts.resolving) < 0 ||
            json_add_uint64(object, "building", counts.building) < 0 ||
            json_add_uint64(object, "ready", counts.ready) < 0 ||
            json_add_uint64(object, "failed", counts.failed) < 0 ||
            json_add_uint64(object, "bytes", counts.bytes) < 0 ||
            json_add_uint64(object, "builds", c->builds) < 0 ||
            json_add_uint64(object, "builds_failed", c->failures) < 0 ||
            json_add_double(object, "build_seconds", c->seconds) < 0 ||
            json_add_uint64(object, "resolves", c->resolves) < 0 ||
            json_add_uint64(object, "hits", c->hits) < 0 ||
            json_add_uint64(object, "misses", c->misses) < 0 ||
            json_add_uint64(object, "wheels_bytes", wheel_store_bytes(all->wheels)) < 0)
                return -ENOMEM;
        if (all->error) {
                _cleanup_(freep) char *warning = strformat(
                        "the packages on disk are not in use, as there is a mistake: %s", all->error);

                if (!warning || json_append_string(warnings, warning) < 0)
                        return -ENOMEM;
        }
        HASHMAP_FOREACH(d, all->defaults) {
                const Environment *e = d->next && d->next->state == ENVIRONMENT_FAILED ? d->next
                                       : d->generations[0] && d->generations[0]->state == ENVIRONMENT_FAILED
                                               ? d->generations[0]
                                               : NULL;
                _cleanup_(freep) char *line = e ? gist(e->log) : NULL, *shown = NULL, *warning = NULL;

                if (!line)
                        continue;
                shown = text_for_message(line, LINE_MAX_SHOWN);
                warning = strformat("the master's packages for Python %s cannot be had: %s", d->python,
                                    strempty(shown));
                if (!warning || json_append_string(warnings, warning) < 0)
                        return -ENOMEM;
        }
        return 0;
}
