/* SPDX-License-Identifier: Apache-2.0 */
#include "devices.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "json-util.h"
#include "launcher/device-set.h"
#include "log.h"

enum { RESOURCES_OF_TASK_MAX = 64 };

struct Devices {
        const ServerConfig *config;
        char paths[DEVICES_MAX][DEVICE_PATH_MAX]; /* as the launcher numbers them; "": it has not told */
        int errors[DEVICES_MAX];                  /* 0, or why nobody can have it */
        LauncherDevices given;                    /* shared ones never are */
};

int devices_new(const ServerConfig *config, Devices **ret) {
        Devices *d = new0(Devices);

        if (!d)
                return -ENOMEM;
        d->config = config;
        *ret = d;
        return 0;
}

Devices *devices_free(Devices *d) {
        return mfree(d);
}

void devices_begin(Devices *d) {
        memset(d->paths, 0, sizeof(d->paths));
}

void devices_take(Devices *d, const LauncherEvent *event) {
        if (event->device.index >= DEVICES_MAX)
                return;
        snprintf(d->paths[event->device.index], DEVICE_PATH_MAX, "%.*s", DEVICE_PATH_MAX - 1,
                 event->device.path);
        d->errors[event->device.index] = event->error;
}

/* Returns its number, -ENOENT when the launcher does not know it, or what is wrong with it. */
static int device_find(const Devices *d, const char *path) {
        for (int i = 0; i < DEVICES_MAX; i++)
                if (streq(d->paths[i], path))
                        return d->errors[i] < 0 ? d->errors[i] : i;
        return -ENODATA;
}

static const char *explain(int error) {
        switch (error) {
        case -ENOENT:
                return "it is not there";
        case -ENODEV:
                return "it is no character device";
        case -EACCES:
                return "its mode lets no task open it: tasks are users of their own, in no group";
        case -ENODATA:
                return "the launcher does not know it: restart clupy-policyc, clupy-launcher and "
                       "clupy-agent";
        default:
                return strerror(-error);
        }
}

static void say_missing(const Devices *d, char **paths, const char *consequence, const char *name) {
        for (char **path = paths; path && *path; path++) {
                int r = device_find(d, *path);

                if (r < 0)
                        log_warning("Device %s: %s; %s %s", *path, explain(r), consequence, name);
        }
}

void devices_listed(const Devices *d) {
        for (size_t i = 0; i < d->config->n_resources; i++) {
                const ServerResource *r = d->config->resources + i;

                say_missing(d, r->devices, "the node offers one less of the resource", r->name);
                say_missing(d, r->shared, "tasks go without it that have the resource", r->name);
        }
}

uint64_t devices_count(const Devices *d, size_t i) {
        const ServerResource *r = d->config->resources + i;
        uint64_t n = 0;

        if (!r->devices)
                return r->count;
        for (char **path = r->devices; *path; path++)
                n += device_find(d, *path) >= 0;
        return n;
}

/* Its name, and which of its devices: "CUDA_VISIBLE_DEVICES=0,2". */
typedef struct Choice {
        LauncherDevices own, shared;
        char variables[VARIABLES_MAX];
        size_t size;
} Choice;

static int choice_write(Choice *c, const char *text) {
        size_t n = strlen(text);

        if (n >= sizeof(c->variables) - c->size)
                return -E2BIG;
        memcpy(c->variables + c->size, text, n);
        c->size += n;
        return 0;
}

static int choose(const Devices *d, const ServerResource *r, uint64_t n, Choice *c) {
        char number[24];
        uint64_t got = 0;
        int q = r->variable ? choice_write(c, r->variable) : 0;

        for (size_t i = 0; r->devices[i] && got < n && q >= 0; i++) {
                int index = device_find(d, r->devices[i]);

                if (index < 0 || device_set_has(&d->given, (uint32_t) index))
                        continue;
                device_set_add(&c->own, (uint32_t) index);
                snprintf(number, sizeof(number), "%c%zu", got > 0 ? ',' : '=', i);
                got++;
                if (r->variable)
                        q = choice_write(c, number);
        }
        for (char **path = r->shared; path && *path; path++) {
                int index = device_find(d, *path);

                if (index >= 0)
                        device_set_add(&c->shared, (uint32_t) index);
        }
        if (q >= 0 && got < n)
                return -EBUSY;
        return q >= 0 && r->variable ? choice_write(c, "\n") : q;
}

/* One name of an order. Fills in why, but for -EBADMSG. */
static int choose_named(const Devices *d, const char *name, json_object *value, Choice *choice,
                        char why[static DEVICES_WHY_SIZE]) {
        const ServerConfig *config = d->config;
        const ServerResource *resource = NULL;
        int64_t n = json_object_get_int64(value);
        int r;

        if (!json_object_is_type(value, json_type_int) || n < 1)
                return -EBADMSG;
        for (size_t i = 0; i < config->n_resources; i++)
                if (streq(config->resources[i].name, name))
                        resource = config->resources + i;
        if (!resource) {
                snprintf(why, DEVICES_WHY_SIZE, "the node has no resource of that name");
                return -ENOENT;
        }
        if (!resource->devices)
                return 0;
        r = choose(d, resource, (uint64_t) n, choice);
        if (r == -EBUSY)
                snprintf(why, DEVICES_WHY_SIZE, "the node has no %" PRIi64 " of %s free", n, resource->name);
        else if (r < 0)
                snprintf(why, DEVICES_WHY_SIZE, "these are more devices than can be named");
        return r;
}

int devices_give(Devices *d, json_object *wanted, LauncherStart *start, LauncherDevices *ret_held,
                 char why[static DEVICES_WHY_SIZE]) {
        Choice choice = { 0 };
        LauncherDevices all;

        if (!wanted)
                return 0;
        if (json_object_object_length(wanted) > RESOURCES_OF_TASK_MAX)
                return -EBADMSG;
        json_object_object_foreach(wanted, name, value) {
                int r = choose_named(d, name, value, &choice, why);

                if (r < 0)
                        return r;
        }
        all = choice.own;
        device_set_unite(&all, &choice.shared);
        if (device_set_count(&all) > DEVICES_OF_TASK_MAX) {
                snprintf(why, DEVICES_WHY_SIZE, "no task can have more than %d devices",
                         DEVICES_OF_TASK_MAX);
                return -E2BIG;
        }
        start->devices = all;
        memcpy(start->variables, choice.variables, sizeof(start->variables));
        *ret_held = choice.own;
        device_set_unite(&d->given, &choice.own);
        return 0;
}

void devices_held(Devices *d, const LauncherDevices *has, LauncherDevices *held) {
        LauncherDevices own = { 0 };

        for (size_t i = 0; i < d->config->n_resources; i++)
                for (char **path = d->config->resources[i].devices; path && *path; path++)
                        for (uint32_t index = 0; index < DEVICES_MAX; index++)
                                if (streq(d->paths[index], *path))
                                        device_set_add(&own, index);
        own = device_set_common(&own, has);
        device_set_unite(held, &own);
        device_set_unite(&d->given, &own);
}

int devices_add_json(const Devices *d, const LauncherDevices *held, json_object *object) {
        json_object *counts;
        int r;

        if (device_set_is_empty(held))
                return 0;
        r = json_add_new_object(object, "devices", &counts);
        for (size_t i = 0; i < d->config->n_resources && r >= 0; i++) {
                uint64_t n = 0;

                for (char **path = d->config->resources[i].devices; path && *path; path++)
                        for (uint32_t index = 0; index < DEVICES_MAX; index++)
                                n += device_set_has(held, index) && streq(d->paths[index], *path);
                if (n > 0)
                        r = json_add_uint64(counts, d->config->resources[i].name, n);
        }
        return r;
}

void devices_give_back(Devices *d, LauncherDevices *held) {
        device_set_remove(&d->given, held);
        *held = (LauncherDevices){ 0 };
}
