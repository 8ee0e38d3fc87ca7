/* SPDX-License-Identifier: Apache-2.0 */
#include "table.h"

#include <errno.h>
#include <stdlib.h>

#define GAP 2 /* spaces between columns */

typedef struct Cell {
        char *text;
        Color color;
} Cell;

struct Table {
        const TableColumn *columns;
        size_t n_columns;
        Cell *cells;
        size_t n_cells, cells_size;
        bool failed;
};

int table_new(const TableColumn *columns, size_t n_columns, Table **ret) {
        Table *t = new0(Table);

        if (!t)
                return -ENOMEM;
        t->columns = columns;
        t->n_columns = n_columns;
        *ret = t;
        return 0;
}

Table *table_free(Table *t) {
        if (!t)
                return NULL;
        for (size_t i = 0; i < t->n_cells; i++)
                free(t->cells[i].text);
        free(t->cells);
        free(t);
        return NULL;
}

void table_cell(Table *t, Color color, const char *text) {
        char *copy = text ? text_harmless(text, strlen(text), false) : NULL;

        if (!copy || ARRAY_RESERVE(t->cells, t->cells_size, t->n_cells + 1) < 0) {
                free(copy);
                t->failed = true;
                return;
        }
        t->cells[t->n_cells++] = (Cell){ copy, color };
}

void table_take(Table *t, Color color, char *text) {
        table_cell(t, color, text);
        free(text);
}

/* Makes the table narrower: by cutting as far as that helps, by dropping a column, by cutting again. */
static void table_fit(const Table *t, size_t room, size_t sum, size_t *widths) {
        size_t least = 0, drop;

        do {
                drop = SIZE_MAX;
                least = 0;
                for (size_t c = 0; c < t->n_columns; c++) {
                        const TableColumn *column = &t->columns[c];

                        if (widths[c] == 0)
                                continue;
                        least += (least ? GAP : 0) +
                                 (column->shrink ? MIN(widths[c], column->shrink) : widths[c]);
                        if (column->drop && (drop == SIZE_MAX || column->drop > t->columns[drop].drop))
                                drop = c;
                }
                if (least > room && drop != SIZE_MAX) {
                        sum -= widths[drop] + GAP;
                        widths[drop] = 0;
                }
        } while (least > room && drop != SIZE_MAX);

        while (sum > room) {
                size_t widest = SIZE_MAX;

                for (size_t c = 0; c < t->n_columns; c++)
                        if (t->columns[c].shrink && widths[c] > t->columns[c].shrink &&
                            (widest == SIZE_MAX || widths[c] > widths[widest]))
                                widest = c;
                if (widest == SIZE_MAX)
                        break;
                widths[widest]--;
                sum--;
        }
}

/* Widths of the columns, 0 for those left out. */
static void table_widths(const Table *t, const Terminal *terminal, size_t *widths) {
        size_t sum = 0;

        for (size_t c = 0; c < t->n_columns; c++) {
                bool any = false;

                widths[c] = text_width(t->columns[c].title);
                for (size_t i = c; i < t->n_cells; i += t->n_columns) {
                        any = any || t->cells[i].text[0];
                        widths[c] = MAX(widths[c], text_width(t->cells[i].text));
                }
                if (t->columns[c].if_any && !any)
                        widths[c] = 0;
                else
                        sum += widths[c] + (sum ? GAP : 0);
        }
        if (terminal->width > 0 && sum > terminal->width)
                table_fit(t, terminal->width, sum, widths);
}

static int table_write_cell(FILE *f, const Terminal *terminal, const TableColumn *column, Color color,
                            const char *text, size_t width, bool last) {
        _cleanup_(freep) char *fit = text_fit(text, width);
        size_t pad;

        if (!fit)
                return -ENOMEM;
        pad = width - MIN(width, text_width(fit));
        fprintf(f, "%*s%s%s%s", column->right ? (int) pad : 0, "", color_on(terminal, color), fit,
                color_off(terminal, color));
        if (!last)
                fprintf(f, "%*s", (int) (GAP + (column->right ? 0 : pad)), "");
        return 0;
}

int table_render(const Table *t, const Terminal *terminal, char **ret) {
        _cleanup_(freep) size_t *widths = newn0(size_t, t->n_columns);
        _cleanup_(freep) char *text = NULL;
        size_t size, last = 0;
        FILE *f;
        int r = 0;

        if (t->failed || !widths)
                return -ENOMEM;
        table_widths(t, terminal, widths);
        for (size_t c = 0; c < t->n_columns; c++)
                if (widths[c])
                        last = c;
        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        for (size_t c = 0; c < t->n_columns && r >= 0; c++)
                if (widths[c])
                        r = table_write_cell(f, terminal, &t->columns[c], COLOR_BOLD, t->columns[c].title,
                                             widths[c], c == last);
        fputc('\n', f);
        for (size_t i = 0; i < t->n_cells && r >= 0; i++) {
                size_t c = i % t->n_columns;

                if (widths[c])
                        r = table_write_cell(f, terminal, &t->columns[c], t->cells[i].color,
                                             t->cells[i].text, widths[c], c == last);
                if (c == t->n_columns - 1)
                        fputc('\n', f);
        }
        if (fclose(f) != 0 || r < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(text);
        return 0;
}
