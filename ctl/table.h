/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "format.h"

/* A table for people. When it is wider than the terminal, columns that may shrink are cut, the widest first.
 */
typedef struct Table Table;

typedef struct TableColumn {
        const char *title;
        bool right;    /* numbers stand on the right */
        size_t shrink; /* least width it may be cut to; 0: never cut */
        bool if_any;   /* left out when every cell is empty */
        unsigned drop; /* left out when there is no room, highest first; 0: never */
} TableColumn;

/* columns is borrowed. Returns 0, -ENOMEM. */
int table_new(const TableColumn *columns, size_t n_columns, Table **ret);
Table *table_free(Table *t);
DEFINE_CLEANUP(Table, table_free);

/* Appends a cell to the last row, which is full after n_columns of them. text is copied and made harmless;
 * NULL is out of memory, remembered until table_render(). table_take() frees its text. */
void table_cell(Table *t, Color color, const char *text);
void table_take(Table *t, Color color, char *text);

/* The whole table, each row ending with a newline, nothing but spaces between columns. Without rows: only
 * the titles. Returns 0, -ENOMEM. */
int table_render(const Table *t, const Terminal *terminal, char **ret);
