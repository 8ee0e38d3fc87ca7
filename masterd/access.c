/* SPDX-License-Identifier: Apache-2.0 */
#include "access.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "hashmap.h"
#include "job.h"
#include "list.h"
#include "log.h"
#include "parse-util.h"

typedef enum AccessField {
        FIELD_RUNNING,
        FIELD_CPUS,
        FIELD_MEMORY,
        FIELD_PRIORITY,
        FIELD_POLICIES,
        FIELD_RIGHTS,
        FIELD_MEMBERS, /* of groups only */
        _FIELD_MAX,
} AccessField;

static const char *const field_names[_FIELD_MAX] = {
        [FIELD_RUNNING] = "running",   [FIELD_CPUS] = "cpus",         [FIELD_MEMORY] = "memory",
        [FIELD_PRIORITY] = "priority", [FIELD_POLICIES] = "policies", [FIELD_RIGHTS] = "rights",
        [FIELD_MEMBERS] = "members",
};

static const char *const field_expectations[_FIELD_MAX] = {
        [FIELD_RUNNING] = "a number of calls, 0 for no bound",
        [FIELD_CPUS] = "a number of CPUs, 0 for no bound",
        [FIELD_MEMORY] = "a size such as 64G, 0 for no bound",
        [FIELD_PRIORITY] = "a number from -1000 to 1000",
        [FIELD_POLICIES] = "a list of policy names",
        [FIELD_RIGHTS] = "a list of run, view-all and manage-all",
        [FIELD_MEMBERS] = "a list of user names",
};

static char *const no_policies[] = { NULL };
static const char *const right_names[] = { "run", "view-all", "manage-all" };

/* One user's, a group's, or the default. */
typedef struct AccessEntry {
        char *name;
        ListLink link;  /* of the groups */
        unsigned given; /* 1 << AccessField */
        unsigned running, rights;
        uint64_t mcpus, memory;
        int priority;
        char **policies;
        Hashmap *members; /* their names, which are the values also */
} AccessEntry;

struct Access {
        bool closed; /* default: none */
        AccessEntry defaults;
        Hashmap *users;  /* name → AccessEntry */
        ListLink groups; /* of AccessEntry, in the order of the file */
        size_t n_entries;
};

static void members_clear(AccessEntry *entry) {
        char *name;

        HASHMAP_FOREACH(name, entry->members) {
                (void) hashmap_remove(entry->members, name);
                free(name);
        }
        entry->members = hashmap_free(entry->members);
}

static void entry_done(AccessEntry *entry) {
        members_clear(entry);
        strv_free(entry->policies);
        free(entry->name);
        *entry = (AccessEntry){ 0 };
}

Access *access_free(Access *access) {
        AccessEntry *entry;

        if (!access)
                return NULL;
        entry_done(&access->defaults);
        HASHMAP_FOREACH(entry, access->users) {
                (void) hashmap_remove(access->users, entry->name);
                entry_done(entry);
                free(entry);
        }
        LIST_FOREACH(AccessEntry, group, link, &access->groups) {
                list_remove(&group->link);
                entry_done(group);
                free(group);
        }
        hashmap_free(access->users);
        return mfree(access);
}

static int access_new(Access **ret) {
        _cleanup_(access_freep) Access *access = new0(Access);
        int r;

        if (!access)
                return -ENOMEM;
        list_init(&access->groups);
        r = hashmap_new(HASHMAP_STRING, &access->users);
        if (r < 0)
                return r;
        access->defaults = (AccessEntry){
                .running = ACCESS_RUNNING_DEFAULT,
                .priority = ACCESS_PRIORITY_DEFAULT,
                .rights = ACCESS_RUN,
        };
        r = strv_extend(&access->defaults.policies, "default");
        if (r < 0)
                return r;
        *ret = TAKE_PTR(access);
        return 0;
}

/* "users/alice/cpus" in its parts; what is not there is NULL. Names hold no '/'. */
typedef struct AccessPath {
        char buffer[256];
        const char *section, *name, *field;
        bool in_list; /* one value of a list: a '/' at the end */
} AccessPath;

static int path_split(const char *path, AccessPath *ret) {
        char *rest = ret->buffer;

        *ret = (AccessPath){ 0 };
        if (strlen(path) >= sizeof(ret->buffer))
                return -EINVAL;
        memcpy(rest, path, strlen(path) + 1);
        if (endswith(rest, "/")) {
                ret->in_list = true;
                rest[strlen(rest) - 1] = '\0';
        }
        ret->section = strsep(&rest, "/");
        if (streq(ret->section, "users") || streq(ret->section, "groups"))
                ret->name = strsep(&rest, "/");
        else if (!streq(ret->section, "default"))
                return -EINVAL;
        ret->field = strsep(&rest, "/");
        return rest ? -EINVAL : 0;
}

static int entry_new(Access *access, const char *name, AccessEntry **ret) {
        AccessEntry *entry;

        if (access->n_entries >= ACCESS_ENTRIES_MAX)
                return -E2BIG;
        entry = new0(AccessEntry);
        if (!entry)
                return -ENOMEM;
        entry->name = strdup(name);
        if (!entry->name) {
                free(entry);
                return -ENOMEM;
        }
        access->n_entries++;
        *ret = entry;
        return 0;
}

/* The entry that the path is about, made on first use. */
static int path_entry(Access *access, const AccessPath *path, AccessEntry **ret) {
        AccessEntry *entry = NULL;
        int r;

        if (streq(path->section, "default")) {
                *ret = &access->defaults;
                return 0;
        }
        if (!owner_name_is_valid(path->name))
                return -EINVAL;
        if (streq(path->section, "users"))
                entry = hashmap_get(access->users, path->name);
        else
                LIST_FOREACH(AccessEntry, group, link, &access->groups)
                        if (streq(group->name, path->name))
                                entry = group;
        if (!entry) {
                r = entry_new(access, path->name, &entry);
                if (r < 0)
                        return r;
                if (streq(path->section, "groups"))
                        list_append(&access->groups, &entry->link);
                else {
                        r = hashmap_put(access->users, entry->name, entry);
                        if (r < 0) {
                                entry_done(entry);
                                free(entry);
                                return r;
                        }
                }
        }
        *ret = entry;
        return 0;
}

static int entry_set_list(AccessEntry *entry, AccessField field, const char *value, bool in_list) {
        int r;

        if (in_list && !value)
                return -EINVAL; /* "- " and nothing */
        if (!in_list) {
                if (field == FIELD_POLICIES)
                        entry->policies = strv_free(entry->policies);
                else if (field == FIELD_RIGHTS)
                        entry->rights = 0;
                else
                        members_clear(entry);
                if (!value)
                        return 0;
        }
        if (field == FIELD_RIGHTS) {
                r = name_table_find(right_names, ELEMENTSOF(right_names), value);
                if (r < 0)
                        return -EINVAL;
                entry->rights |= 1U << r;
                return 0;
        }
        if (field == FIELD_POLICIES) {
                if (!name_is_valid(value, 32))
                        return -EINVAL;
                if (strv_length(entry->policies) >= ACCESS_LIST_MAX)
                        return -E2BIG;
                return strv_extend(&entry->policies, value);
        }
        if (!owner_name_is_valid(value))
                return -EINVAL;
        if (hashmap_size(entry->members) >= ACCESS_LIST_MAX)
                return -E2BIG;
        if (!entry->members) {
                r = hashmap_new(HASHMAP_STRING, &entry->members);
                if (r < 0)
                        return r;
        }
        _cleanup_(freep) char *name = strdup(value);
        if (!name)
                return -ENOMEM;
        r = hashmap_put(entry->members, name, name);
        if (r == -EEXIST)
                return 0;
        if (r >= 0)
                TAKE_PTR(name);
        return r;
}

static int entry_set(AccessEntry *entry, AccessField field, const char *value, bool in_list) {
        uint64_t number = 0;
        int64_t priority;
        double cpus = 0;
        int r;

        entry->given |= 1U << field;
        if (field >= FIELD_POLICIES)
                return entry_set_list(entry, field, value, in_list);
        if (!value || in_list)
                return -EINVAL;
        switch (field) {
        case FIELD_RUNNING:
                r = parse_uint64(value, &number);
                if (r < 0 || number > UINT_MAX)
                        return -EINVAL;
                entry->running = (unsigned) number;
                return 0;
        case FIELD_CPUS:
                if (!streq(value, "0")) {
                        r = parse_double(value, &cpus);
                        if (r < 0 || cpus < 0.001 || cpus > 1e9)
                                return -EINVAL;
                }
                entry->mcpus = (uint64_t) (cpus * 1000 + 0.5);
                return 0;
        case FIELD_MEMORY:
                r = parse_size(value, &number);
                if (r < 0 || number > UINT64_MAX / 4)
                        return -EINVAL;
                entry->memory = number;
                return 0;
        default:
                r = parse_int64(value, &priority);
                if (r < 0 || priority < -JOB_PRIORITY_MAX || priority > JOB_PRIORITY_MAX)
                        return -EINVAL;
                entry->priority = (int) priority;
                return 0;
        }
}

int access_parse(const ConfigItem *item, const char *path, const char *value, void *field) {
        Access **access = field;
        AccessPath parts;
        AccessEntry *entry;
        int f, r;

        if (!path) {
                /* Another file's table replaces the former as a whole. */
                *access = access_free(*access);
                return access_new(access);
        }
        r = path_split(path, &parts);
        if (r < 0)
                return r;
        if (streq(path, "default") && value) {
                (*access)->closed = streq(value, "none");
                return (*access)->closed ? 0 : -EINVAL;
        }
        /* `users: {}`, and an entry that says nothing: its user is known. */
        if (parts.name || streq(parts.section, "default")) {
                r = path_entry(*access, &parts, &entry);
                if (r < 0)
                        return r;
        } else
                return value ? -EINVAL : 0;
        if (!parts.field)
                return value ? -EINVAL : 0;
        f = name_table_find(field_names, _FIELD_MAX, parts.field);
        if (f < 0 || (f == FIELD_MEMBERS && !streq(parts.section, "groups")))
                return -EINVAL;
        return entry_set(entry, (AccessField) f, value, parts.in_list);
}

const char *access_explain(const char *path) {
        AccessPath parts;
        int f;

        if (path_split(path, &parts) < 0)
                return "default, users or groups";
        if (streq(path, "default"))
                return "none, or a group of keys";
        if (!parts.field)
                return parts.name ? "a group of keys for each user or group" : "names with groups of keys";
        f = name_table_find(field_names, _FIELD_MAX, parts.field);
        if (f < 0 || (f == FIELD_MEMBERS && !streq(parts.section, "groups")))
                return streq(parts.section, "groups")
                               ? "one of members, running, cpus, memory, priority, policies, rights"
                               : "one of running, cpus, memory, priority, policies, rights";
        return field_expectations[f];
}

/* Takes over what the entry says and nothing before it has. */
static void limits_add(AccessLimits *limits, unsigned *done, const AccessEntry *entry, unsigned given) {
        unsigned take = given & ~*done;

        if (take & 1U << FIELD_RUNNING)
                limits->running = entry->running;
        if (take & 1U << FIELD_CPUS)
                limits->mcpus = entry->mcpus;
        if (take & 1U << FIELD_MEMORY)
                limits->memory = entry->memory;
        if (take & 1U << FIELD_PRIORITY)
                limits->priority = entry->priority;
        if (take & 1U << FIELD_POLICIES)
                limits->policies = entry->policies ?: no_policies;
        if (take & 1U << FIELD_RIGHTS)
                limits->rights = entry->rights;
        *done |= take;
}

void access_resolve(const Access *access, const char *user, AccessLimits *ret) {
        const AccessEntry *entry;
        unsigned done = 0;

        *ret = (AccessLimits){ .known = true, .priority = JOB_PRIORITY_MAX, .rights = ACCESS_RUN };
        if (!access)
                return;
        ret->known = !access->closed;
        entry = hashmap_get(access->users, user);
        if (entry) {
                ret->known = true;
                limits_add(ret, &done, entry, entry->given);
        }
        LIST_FOREACH(AccessEntry, group, link, &access->groups)
                if (hashmap_get(group->members, user)) {
                        ret->known = true;
                        limits_add(ret, &done, group, group->given);
                }
        limits_add(ret, &done, &access->defaults, ~0U);
        if (!ret->known)
                ret->rights = 0;
}

void access_log_refusal(const char *user, const char *peer, const char *reason, const char *what) {
        log_struct(LOG_WARNING,
                   log_field("MESSAGE=Refused %s%s%s: %s", user, peer ? " at " : "", strempty(peer), what),
                   log_field("MESSAGE_ID=" ACCESS_REFUSED_MESSAGE_ID), log_field("CLUPY_OWNER=%s", user),
                   log_field("CLUPY_PEER=%s", strempty(peer)), log_field("CLUPY_REASON=%s", reason));
}
