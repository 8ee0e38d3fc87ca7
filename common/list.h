/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "macros.h"

/* Intrusive doubly linked list: a ring through a head that belongs to the owner and a link inside each
 * member; everything is O(1). A link that is in no list points to nothing, so list_remove() twice is
 * harmless:
 *
 *     typedef struct Task { …; ListLink queue; } Task;
 *     ListLink queue; list_init(&queue);
 *     list_append(&queue, &task->queue);
 *     LIST_FOREACH(Task, task, queue, &manager->queue) …                 (the current one may be removed and
 * freed)  */
typedef struct ListLink {
        struct ListLink *previous, *next;
} ListLink;

/* Makes an empty list of a head. Members need no initialisation but zeros. */
static inline void list_init(ListLink *head) {
        head->previous = head->next = head;
}

/* A zeroed head counts as empty too. */
static inline bool list_is_empty(const ListLink *head) {
        return !head->next || head->next == head;
}

static inline bool list_is_linked(const ListLink *link) {
        return link->next != NULL;
}

static inline void list_insert_after(ListLink *where, ListLink *link) {
        link->previous = where;
        link->next = where->next;
        where->next->previous = link;
        where->next = link;
}

static inline void list_prepend(ListLink *head, ListLink *link) {
        list_insert_after(head, link);
}

static inline void list_append(ListLink *head, ListLink *link) {
        list_insert_after(head->previous, link);
}

static inline void list_remove(ListLink *link) {
        if (!link->next)
                return;
        link->previous->next = link->next;
        link->next->previous = link->previous;
        link->previous = link->next = NULL;
}

#define LIST_ENTRY(Type, member, link) CONTAINER_OF(link, Type, member)

/* The first (last) member, or NULL. */
#define LIST_FIRST(Type, member, head)                                                                      \
        (list_is_empty(head) ? (Type *) NULL : LIST_ENTRY(Type, member, (head)->next))
#define LIST_LAST(Type, member, head)                                                                       \
        (list_is_empty(head) ? (Type *) NULL : LIST_ENTRY(Type, member, (head)->previous))
/* The member behind this one, or NULL at the end. */
#define LIST_NEXT(Type, member, head, entry)                                                                \
        ((entry)->member.next == (head) ? (Type *) NULL : LIST_ENTRY(Type, member, (entry)->member.next))

/* The body may remove and free `entry`, but not the member behind it. */
#define LIST_FOREACH(Type, entry, member, head)                                                             \
        for (Type *entry = LIST_FIRST(Type, member, head),                                                  \
                  *_next_##entry = entry ? LIST_NEXT(Type, member, head, entry) : NULL;                     \
             entry;                                                                                         \
             entry = _next_##entry, _next_##entry = entry ? LIST_NEXT(Type, member, head, entry) : NULL)
