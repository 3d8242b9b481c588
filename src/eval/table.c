/* table.c - the console table (contract in table.h).
 *
 * Columns: Tasks, Version, Filter, n-shot, Metric, arrow, Value, ±, Stderr. A task's
 * second metric leaves its name and version blank. Titles are centred, text stands left, numbers
 * right, each column as wide as its widest cell and at least three. */
#include "eval/table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { COLUMNS = 9, CELL = 96 };
enum { NAME, VERSION, FILTER, SHOTS, METRIC, ARROW, VALUE, SIGN, STDERR };

typedef char cells[COLUMNS][CELL];

typedef struct grid {
    cells *row; /* row 0: titles */
    int n;
    bool right[COLUMNS];
} grid;

static int width(const char *s) { return (int)zb_utf8_length(s, strlen(s)); }

static void put(cells *c, int column, const char *text) {
    snprintf((*c)[column], CELL, "%s", text);
}

static void put_metric(cells *c, const char *metric, zb_metric m) {
    put(c, FILTER, "none");
    put(c, METRIC, metric);
    put(c, ARROW, "↑");
    snprintf((*c)[VALUE], CELL, "%.4f", m.value);
    put(c, SIGN, "±");
    if (isnan(m.stderr_of))
        put(c, STDERR, "   N/A");
    else
        snprintf((*c)[STDERR], CELL, "%.4f", m.stderr_of);
}

/* One or two lines of cells; a group has no number of shots. */
static void put_row(grid *g, const zb_eval_row *row) {
    cells *c = &g->row[g->n++];
    const char *text = row->group ? row->task->group_version : row->task->version;
    double number;
    put(c, NAME, row->alias);
    put(c, VERSION, text);
    if (zb_parse_f64(text, &number)) snprintf((*c)[VERSION], CELL, "%g", number);
    if (!row->group) put(c, SHOTS, "0");
    put_metric(c, "acc", row->acc);
    if (!row->has_norm) return;
    c = &g->row[g->n++];
    if (!row->group) put(c, SHOTS, "0");
    put_metric(c, "acc_norm", row->acc_norm);
}

static void pad(zb_buf *out, int n) {
    while (n-- > 0) zb_buf_addc(out, ' ');
}

/* `left` blanks, the text, blanks up to the width, the border. */
static void print_cell(zb_buf *out, const char *text, int w, int left) {
    pad(out, left);
    zb_buf_adds(out, text);
    pad(out, w - left - width(text));
    zb_buf_addc(out, '|');
}

static void print_grid(const grid *g, zb_buf *out) {
    int w[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
        w[c] = 3;
        for (int i = 0; i < g->n; i++)
            if (width(g->row[i][c]) > w[c]) w[c] = width(g->row[i][c]);
    }
    for (int i = 0; i < g->n; i++) {
        zb_buf_addc(out, '|');
        for (int c = 0; c < COLUMNS; c++) {
            int space = w[c] - width(g->row[i][c]);
            print_cell(out, g->row[i][c], w[c], i == 0 ? space / 2 : g->right[c] ? space : 0);
        }
        zb_buf_addc(out, '\n');
        if (i > 0) continue;
        zb_buf_addc(out, '|');
        for (int c = 0; c < COLUMNS; c++) {
            for (int j = 0; j < w[c] - g->right[c]; j++) zb_buf_addc(out, '-');
            zb_buf_adds(out, g->right[c] ? ":|" : "|");
        }
        zb_buf_addc(out, '\n');
    }
}

/* The rows of groups alone, or all rows. */
static void print_rows(const zb_eval_result *r, bool groups, zb_buf *out) {
    static const char *const titles[COLUMNS] = {"", "Version", "Filter", "n-shot", "Metric",
                                                "", "Value",   "",       "Stderr"};
    zb_arena a = {0};
    grid g = {.row = ZB_NEW_ARRAY(&a, cells, 2 * r->n_rows + 1), .n = 1};
    for (int c = 0; c < COLUMNS; c++) put(&g.row[0], c, titles[c]);
    put(&g.row[0], NAME, groups ? "Groups" : "Tasks");
    g.right[VERSION] = g.right[VALUE] = g.right[STDERR] = true;
    for (int i = 0; i < r->n_rows; i++) {
        if (groups && !r->row[i].group) continue;
        put_row(&g, &r->row[i]);
        if (!r->row[i].group) g.right[SHOTS] = true; /* a column of numbers unless all are blank */
    }
    if (g.n > 1) print_grid(&g, out);
    zb_arena_free(&a);
}

void zb_eval_table(const zb_eval_result *r, zb_buf *out) {
    print_rows(r, false, out);
    bool groups = false;
    for (int i = 0; i < r->n_rows; i++) groups = groups || r->row[i].group;
    if (!groups) return;
    zb_buf_addc(out, '\n');
    print_rows(r, true, out);
}
