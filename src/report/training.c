/* training.c - training logs as curves (contract in training.h).
 *
 * A stage that was killed and resumed from a checkpoint writes some steps twice. Tokens only ever
 * grow within one run, so a line whose count is below the last one starts the repetition: all
 * points at or after it are dropped, and the later values stand. */
#include "report/training.h"

#include "base/json.h"

#include <math.h>
#include <stdlib.h>

enum { LINE_MAX_BYTES = 1 << 20 };

static void curve_add(zb_report_curve *c, double x, double y, zb_arena *a) {
    size_t cap = c->cap;
    c->x = zb_grow(a, c->x, &cap, c->n + 1, sizeof *c->x);
    c->y = zb_grow(a, c->y, &c->cap, c->n + 1, sizeof *c->y);
    c->x[c->n] = x;
    c->y[c->n++] = y;
}

static void curve_cut(zb_report_curve *c, double from) {
    while (c->n > 0 && c->x[c->n - 1] >= from) c->n--;
}

typedef struct reading {
    zb_report_stage *stage;
    zb_report_curve rate;
    zb_arena *arena;
    double last;
} reading;

static zb_status take_line(void *user, json_t *line, const char *where, bool *enough, zb_err *err) {
    reading *r = user;
    zb_report_stage *s = r->stage;
    (void)enough;
    if (!json_is_object(line))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(line));
    bool examples = json_object_get(line, "examples") != NULL;
    const struct {
        const char *key;
        zb_report_curve *curve;
    } column[] = {{"loss", &s->loss},
                  {examples ? "examples_per_second" : "tokens_per_second", &r->rate},
                  {"valid_kl", &s->valid_kl},
                  {"valid_perplexity", &s->valid_perplexity}};
    size_t columns = examples ? 2 : 4;
    int64_t done = 0;
    s->unit = examples ? "examples" : "tokens";
    ZB_TRY(zb_json_int(line, where, s->unit, true, 0, INT64_MAX / 2, &done, err));
    /* A validation line may stand at the count of the step it follows: only a smaller one, or the
     * same column again, is a repetition. */
    bool again = (double)done < r->last;
    for (size_t i = 0; i < columns; i++) {
        double y = (double)NAN;
        ZB_TRY(zb_json_f64(line, where, column[i].key, false, &y, err));
        if (again || !isnan(y)) curve_cut(column[i].curve, (double)done);
        if (!isnan(y)) curve_add(column[i].curve, (double)done, y, r->arena);
    }
    r->last = (double)done;
    s->done = done;
    return ZB_OK;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(zb_report_curve *c) {
    if (!c->n) return (double)NAN;
    qsort(c->y, c->n, sizeof *c->y, ascending);
    return c->n % 2 ? c->y[c->n / 2] : 0.5 * (c->y[c->n / 2 - 1] + c->y[c->n / 2]);
}

zb_status zb_report_stage_read(zb_report_stage *s, const char *name, const char *path, zb_arena *a,
                               zb_err *err) {
    *s = (zb_report_stage){.name = name, .unit = "tokens"};
    reading r = {.stage = s, .arena = a, .last = -1};
    ZB_TRY(zb_json_lines(path, LINE_MAX_BYTES, take_line, &r, err));
    s->rate = median(&r.rate);
    return ZB_OK;
}

zb_report_curve zb_report_curve_thin(const zb_report_curve *c, size_t points, zb_arena *a) {
    ZB_ASSERT(points > 0);
    if (c->n <= points) return *c;
    zb_report_curve out = {0};
    for (size_t i = 0; i < points; i++) {
        size_t from = i * c->n / points, to = (i + 1) * c->n / points;
        double x = 0, y = 0;
        for (size_t k = from; k < to; k++) {
            x += c->x[k];
            y += c->y[k];
        }
        curve_add(&out, x / (double)(to - from), y / (double)(to - from), a);
    }
    return out;
}

zb_report_curve zb_report_curve_smooth(const zb_report_curve *c, size_t width, zb_arena *a) {
    zb_report_curve out = {0};
    for (size_t i = 0; i < c->n; i++) {
        size_t half = width / 2 < i ? width / 2 : i;
        size_t end = i + half < c->n ? i + half + 1 : c->n;
        double sum = 0;
        for (size_t k = i - half; k < end; k++) sum += c->y[k];
        curve_add(&out, c->x[i], sum / (double)(end - (i - half)), a);
    }
    return out;
}
