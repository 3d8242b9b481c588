/* table.c - the console table (contract in table.h).
 *
 * Columns: Tasks, Version, Filter, n-shot, Metric, arrow, Value, ±, Stderr. A task's
 * second metric leaves its name and version blank. Titles are centred, text stands left, numbers
 * right, each column as wide as its widest cell and at least three. */
#include "eval/table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

static void put_score(cells *c, const zb_eval_score *s) {
    put(c, FILTER, s->filter);
    put(c, METRIC, s->kind->name);
    put(c, ARROW, s->kind->higher_is_better ? "↑" : "↓");
    snprintf((*c)[VALUE], CELL, "%.4f", s->m.value);
    put(c, SIGN, "±");
    if (isnan(s->m.stderr_of))
        put(c, STDERR, "   N/A");
    else
        snprintf((*c)[STDERR], CELL, "%.4f", s->m.stderr_of);
}

/* The harness lists "metric,filter" in the order of the text. */
static int by_key(const void *a, const void *b) {
    const zb_eval_score *const *x = a, *const *y = b;
    int order = strcmp((*x)->kind->name, (*y)->kind->name);
    return order ? order : strcmp((*x)->filter, (*y)->filter);
}

/* One line of cells per score; a group has no number of shots. */
static void put_row(grid *g, const zb_eval_row *row, zb_arena *a) {
    const char *text = row->group ? row->task->group_version : row->task->version;
    const zb_eval_score **score = ZB_NEW_ARRAY(a, const zb_eval_score *, row->n_scores + 1);
    double number;
    for (int i = 0; i < row->n_scores; i++) score[i] = &row->score[i];
    qsort(score, (size_t)row->n_scores, sizeof *score, by_key);
    for (int i = 0; i < row->n_scores; i++) {
        cells *c = &g->row[g->n++];
        if (i == 0) {
            put(c, NAME, row->alias);
            put(c, VERSION, text);
            if (zb_parse_f64(text, &number)) snprintf((*c)[VERSION], CELL, "%g", number);
        }
        if (!row->group) snprintf((*c)[SHOTS], CELL, "%d", row->shots);
        put_score(c, score[i]);
    }
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
    int lines = 1;
    for (int i = 0; i < r->n_rows; i++) lines += r->row[i].n_scores;
    grid g = {.row = ZB_NEW_ARRAY(&a, cells, lines), .n = 1};
    for (int c = 0; c < COLUMNS; c++) put(&g.row[0], c, titles[c]);
    put(&g.row[0], NAME, groups ? "Groups" : "Tasks");
    g.right[VERSION] = g.right[VALUE] = g.right[STDERR] = true;
    for (int i = 0; i < r->n_rows; i++) {
        if (groups && !r->row[i].group) continue;
        put_row(&g, &r->row[i], &a);
        if (!r->row[i].group) g.right[SHOTS] = true; /* a column of numbers unless all are blank */
    }
    if (g.n > 1) print_grid(&g, out);
    zb_arena_free(&a);
}

/* Which letters were chosen, of the rows that count in the average. */
static void print_letters(const zb_eval_result *r, zb_buf *out) {
    for (int i = 0; i < r->n_rows; i++) {
        const zb_eval_letters *l = &r->row[i].letters;
        if (r->row[i].depth > 0 || l->n == 0) continue;
        zb_buf_addf(out, "\n%s, share of each letter (right answers):", r->row[i].name);
        for (int k = 0; k < l->n; k++)
            zb_buf_addf(out, "%s %c %.1f %% (%.1f)", k ? "," : "", 'A' + k,
                        100.0 * (double)l->chosen[k] / (double)r->row[i].n,
                        100.0 * (double)l->right[k] / (double)r->row[i].n);
        zb_buf_addc(out, '\n');
    }
}

void zb_eval_table(const zb_eval_result *r, zb_buf *out) {
    print_rows(r, false, out);
    bool groups = false;
    for (int i = 0; i < r->n_rows; i++) groups = groups || r->row[i].group;
    if (groups) {
        zb_buf_addc(out, '\n');
        print_rows(r, true, out);
    }
    print_letters(r, out);
}
