/* SPDX-License-Identifier: Apache-2.0 */
#include "environment-node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "environment.h"
#include "hashmap.h"
#include "manager.h"
#include "node.h"

static const char *const node_environment_state_table[_NODE_ENVIRONMENT_STATE_MAX] = {
        [NODE_ENVIRONMENT_ORDERED] = "ordered",
        [NODE_ENVIRONMENT_BUILDING] = "building",
        [NODE_ENVIRONMENT_READY] = "ready",
        [NODE_ENVIRONMENT_FAILED] = "failed",
};

DEFINE_NAME_TABLE(node_environment_state, NodeEnvironmentState, node_environment_state_table);

NodeEnvironment *node_environment_find(const Node *node, const char *name) {
        return hashmap_get(node->environments, name);
}

bool node_environment_is_ready(const Node *node, const char *name) {
        const NodeEnvironment *e = node_environment_find(node, name);

        return e && e->state == NODE_ENVIRONMENT_READY;
}

static bool is_ordered(NodeEnvironmentState state) {
        return state == NODE_ENVIRONMENT_ORDERED || state == NODE_ENVIRONMENT_BUILDING;
}

static bool is_everybody(const char *asker) {
        return streq(asker, ENVIRONMENT_OWNER_SHARED);
}

bool node_order_is_free(const Node *node, const char *asker) {
        return is_everybody(asker) || !hashmap_get(node->order_askers, asker);
}

int node_order_take(Node *node, const char *asker, void *what) {
        int r = is_everybody(asker) ? 0 : hashmap_put(node->order_askers, asker, what);

        return r == -EEXIST ? 0 : r;
}

void node_order_give(Node *node, const char *asker, const void *what) {
        if (hashmap_get(node->order_askers, asker) == what)
                (void) hashmap_remove(node->order_askers, asker);
}

static void give_order(NodeEnvironment *e) {
        if (e->asker)
                node_order_give(e->node, e->asker, e);
        e->asker = mfree(e->asker);
}

int node_environment_order(NodeEnvironment *e, const char *asker) {
        int r;

        give_order(e);
        e->asker = strdup(asker);
        r = e->asker ? node_order_take(e->node, e->asker, e) : -ENOMEM;
        node_environment_set_state(e, NODE_ENVIRONMENT_ORDERED);
        return r;
}

int node_environment_get(Node *node, const char *name, NodeEnvironment **ret) {
        NodeEnvironment *e = node_environment_find(node, name);
        int r;

        if (e) {
                *ret = e;
                return 0;
        }
        if (hashmap_size(node->environments) >= NODE_ENVIRONMENTS_MAX)
                return -ENOSPC;
        e = new0(NodeEnvironment);
        if (!e)
                return -ENOMEM;
        e->node = node;
        e->since = manager_now(node->manager);
        snprintf(e->name, sizeof(e->name), "%s", name);
        r = hashmap_put(node->environments, e->name, e);
        if (r < 0) {
                free(e);
                return r;
        }
        node->n_orders++;
        *ret = e;
        return 0;
}

static void forget_words(NodeEnvironment *e) {
        e->node->words_size -= strlen(strempty(e->log));
        e->reason = mfree(e->reason);
        e->log = mfree(e->log);
}

void node_environment_set_words(NodeEnvironment *e, const char *reason, const char *words) {
        size_t size = strlen(words);

        forget_words(e);
        if (e->node->words_size + size > NODE_WORDS_MAX && size > NODE_WORDS_CUT) {
                words += size - NODE_WORDS_CUT;
                while (((unsigned char) *words & 0xc0) == 0x80)
                        words++;
        }
        e->reason = strdup(reason);
        e->log = strdup(words);
        e->node->words_size += strlen(strempty(e->log));
}

void node_environment_set_state(NodeEnvironment *e, NodeEnvironmentState state) {
        if (e->state == state)
                return;
        e->node->n_orders += is_ordered(state);
        e->node->n_orders -= is_ordered(e->state);
        if (!is_ordered(state))
                give_order(e);
        e->state = state;
        e->since = manager_now(e->node->manager);
        if (state != NODE_ENVIRONMENT_FAILED)
                forget_words(e);
        if (state == NODE_ENVIRONMENT_READY) {
                e->failures = 0;
                e->given_up = false;
        }
}

NodeEnvironment *node_environment_free(NodeEnvironment *e) {
        if (!e)
                return NULL;
        (void) hashmap_remove(e->node->environments, e->name);
        e->node->n_orders -= is_ordered(e->state);
        give_order(e);
        forget_words(e);
        return mfree(e);
}

void node_environments_forget_orders(Node *node) {
        NodeEnvironment *e;

        HASHMAP_FOREACH(e, node->environments)
                if (is_ordered(e->state))
                        node_environment_free(e);
}

void node_environments_clear(Node *node) {
        NodeEnvironment *e;

        HASHMAP_FOREACH(e, node->environments)
                node_environment_free(e);
}

/* Resources */

void resources_done(Resources *resources) {
        for (size_t i = 0; i < resources->n; i++)
                free(resources->items[i].name);
        free(resources->items);
        *resources = (Resources){ 0 };
}

static Resource *find(const Resources *resources, const char *name) {
        for (size_t i = 0; i < resources->n; i++)
                if (streq(resources->items[i].name, name))
                        return resources->items + i;
        return NULL;
}

const Resource *resources_find(const Resources *resources, const char *name) {
        return find(resources, name);
}

int resources_add(Resources *resources, const char *name, uint64_t n) {
        Resource *item = find(resources, name), *items;
        char *copy;

        if (item) {
                item->total += n;
                return 0;
        }
        items = realloc(resources->items, (resources->n + 1) * sizeof(*items));
        if (!items)
                return -ENOMEM;
        resources->items = items;
        copy = strdup(name);
        if (!copy)
                return -ENOMEM;
        items[resources->n++] = (Resource){ .name = copy, .total = n };
        return 0;
}

int resources_copy(const Resources *from, Resources *ret) {
        Resources copy = { 0 };

        for (size_t i = 0; i < from->n; i++)
                if (resources_add(&copy, from->items[i].name, from->items[i].total) < 0) {
                        resources_done(&copy);
                        return -ENOMEM;
                }
        *ret = copy;
        return 0;
}

bool resources_suffice(const Resources *node, const Resources *required, bool now) {
        for (size_t i = 0; i < required->n; i++) {
                const Resource *wanted = required->items + i, *there = find(node, wanted->name);
                uint64_t taken = there && now ? there->used : 0;

                if (wanted->total > 0 &&
                    (!there || there->total < taken || there->total - taken < wanted->total))
                        return false;
        }
        return true;
}

void resources_charge(Resources *node, const Resources *required, bool take) {
        for (size_t i = 0; i < required->n; i++) {
                const Resource *wanted = required->items + i;
                Resource *there = find(node, wanted->name);

                if (!there)
                        continue;
                if (take)
                        there->used += wanted->total;
                else
                        there->used -= MIN(there->used, wanted->total);
        }
}

int resources_replace(Resources *node, Resources *totals) {
        for (size_t i = 0; i < node->n; i++) {
                Resource *there = find(totals, node->items[i].name);

                /* One that is gone from the node is still taken by what runs there. */
                if (!there && node->items[i].used > 0) {
                        if (resources_add(totals, node->items[i].name, 0) < 0)
                                return -ENOMEM;
                        there = find(totals, node->items[i].name);
                }
                if (there)
                        there->used = node->items[i].used;
        }
        resources_done(node);
        *node = *totals;
        *totals = (Resources){ 0 };
        return 0;
}

bool labels_match(char *const *labels, char *const *required) {
        for (; required && *required; required++)
                if (!strv_contains((char **) labels, *required))
                        return false;
        return true;
}
