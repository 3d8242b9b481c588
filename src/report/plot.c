/* plot.c - data files, scripts and SVGs (contract in plot.h).
 *
 * Colours are those of Okabe and Ito, which stay apart for all common kinds of colour blindness and
 * on white; the first model is blue, the second vermilion. No text from outside enters a script or
 * data file except through zb_label_plot, whose characters mean nothing to gnuplot inside single
 * quotes nor to XML.
 *
 * Memory of a sequence of T tokens: cache bytes per token * T + bytes of the fixed states. */
#include "report/plot.h"

#include "base/file.h"
#include "base/log.h"
#include "report/gnuplot.h"
#include "report/label.h"
#include "report/recall.h"
#include "report/training.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { NAME = 64 }; /* as long as names of models may be: rows of data are told apart by them */
enum { POINTS = 400, GRID = 64, PAIRS_SHOWN = 6, SVG_MAX = 8 << 20, TEXT_MAX = 16 << 20 };

static const char *const colour[ZB_REPORT_MODELS_MAX] = {"#0072B2", "#D55E00", "#009E73",
                                                         "#CC79A7", "#E69F00", "#56B4E9"};

static const char preamble[] = "set encoding utf8\n"
                               "set terminal svg size 640,380 font 'Helvetica "
                               "Neue,Arial,sans-serif,15' background rgb 'white' "
                               "noenhanced\n"
                               "set datafile separator ','\n"
                               "set datafile missing 'nan'\n"
                               "set border 3 lc rgb '#555555'\n"
                               "set tics nomirror out scale 0.6 textcolor rgb '#333333'\n"
                               "set grid ytics lt 1 lw 1 lc rgb '#E4E4E4'\n"
                               "set key at graph 0,1.145 left top Left reverse horizontal samplen "
                               "1.6 width 0 textcolor rgb '#333333'\n"
                               "set tmargin 3.2\n"
                               "set bmargin 3.2\n"
                               "set rmargin 3\n";

typedef struct workshop {
    zb_report_measures *m;
    zb_report_plots *out;
    zb_arena *a;
    const char *dir;
    zb_gnuplot gnuplot;
    bool absent; /* gnuplot is not installed: said once */
    zb_buf csv, script;
} workshop;

/* Starts a picture; the title is our own text or passed through zb_label_plot. */
static void begin(workshop *w, const char *name, const char *title) {
    zb_buf_clear(&w->csv);
    zb_buf_clear(&w->script);
    zb_buf_adds(&w->script, preamble);
    zb_buf_addf(&w->script, "set output '%s.svg'\n", name);
    zb_buf_addf(&w->script, "set label 1 '%s' at graph 0,1.185 left font ',17'\n", title);
}

static void axes(workshop *w, const char *x, const char *y) {
    zb_buf_addf(&w->script, "set xlabel '%s'\nset ylabel '%s'\n", x, y);
}

static void cell(workshop *w, double x) {
    if (isfinite(x))
        zb_buf_addf(&w->csv, ",%.10g", x);
    else
        zb_buf_adds(&w->csv, ",nan");
}

/* A logarithmic y axis over the values from low to high (> 0): the shorter it is, the more of each
 * decade is named. */
static void log_axis(workshop *w, double low, double high) {
    static const struct {
        double step[7];
        int n;
    } marks[] = {{{1, 1.5, 2, 3, 4, 5, 7}, 7}, {{1, 2, 5}, 3}, {{1}, 1}};
    double span = log10(high / low);
    int kind = span < 1.1 ? 0 : span < 3.3 ? 1 : 2;
    const char *join = "";
    zb_buf_addf(&w->script, "set logscale y\nset yrange [%.6g:%.6g]\nset ytics (", low / 1.12,
                high * 1.12);
    for (int d = (int)floor(log10(low)); d <= (int)ceil(log10(high)); d++)
        for (int k = 0; k < marks[kind].n; k++) {
            zb_buf_addf(&w->script, "%s%ge%d", join, marks[kind].step[k], d);
            join = ", ";
        }
    zb_buf_adds(&w->script, ")\nset format y '%g'\n");
}

/* Least and greatest value of curves; *low stays INFINITY without points. */
static void extent(const zb_report_curve *c, double *low, double *high) {
    for (size_t i = 0; i < c->n; i++) {
        *low = fmin(*low, c->y[i]);
        *high = fmax(*high, c->y[i]);
    }
}

static zb_status draw(workshop *w, const char *name, zb_report_plot *plot, zb_err *err) {
    char *svg = zb_path_join(w->a, w->dir, zb_asprintf(w->a, "%s.svg", name));
    unlink(svg); /* an older picture must not pass for this one */
    if (w->absent) return ZB_OK;
    zb_err reason = {0};
    zb_status s = zb_gnuplot_run(&w->gnuplot, w->dir, zb_asprintf(w->a, "%s.gp", name), &reason);
    if (s == ZB_OK) s = zb_file_read(svg, SVG_MAX, w->a, &plot->svg, &reason);
    if (s == ZB_OK && (!strstr(plot->svg.p, "<svg") || !strstr(plot->svg.p, "</svg>")))
        s = zb_fail(&reason, ZB_ERR_INTERNAL, "%s: gnuplot made no whole picture", svg);
    if (s == ZB_OK) return ZB_OK;
    plot->svg = (zb_str){0};
    unlink(svg);
    if (s == ZB_ERR_INTERRUPTED) return zb_fail(err, s, "%s", reason.msg);
    w->absent = s == ZB_ERR_UNSUPPORTED;
    zb_warn("%s", reason.msg);
    zb_report_miss(w->m, "%s: %s", w->absent ? "all pictures" : "a picture", reason.msg);
    return ZB_OK;
}

/* Writes the data file and the script, runs it and lists the picture. */
static zb_status finish(workshop *w, zb_report_topic topic, const char *name, const char *caption,
                        zb_err *err) {
    ZB_ASSERT(!w->csv.overflow && !w->script.overflow); /* sizes are bounded by POINTS and rows */
    char *data = zb_path_join(w->a, w->dir, zb_asprintf(w->a, "%s.csv", name));
    char *script = zb_path_join(w->a, w->dir, zb_asprintf(w->a, "%s.gp", name));
    ZB_TRY(zb_file_write(data, w->csv.p, w->csv.n, err));
    ZB_TRY(zb_file_write(script, w->script.p, w->script.n, err));
    zb_report_plots *p = w->out;
    p->plot = zb_grow(w->a, p->plot, &p->cap, p->n + 1, sizeof *p->plot);
    p->plot[p->n] = (zb_report_plot){
        .topic = topic, .name = zb_strdup(w->a, name), .caption = zb_strdup(w->a, caption)};
    return draw(w, name, &p->plot[p->n++], err);
}

/* "count,<model>,<model>": the heading of a data file. */
static void heading(workshop *w, const char *first, const char *suffix) {
    zb_buf_adds(&w->csv, first);
    for (int i = 0; i < w->m->n_models; i++) {
        const char *name = zb_label_plot(w->a, w->m->model[i].name, NAME);
        zb_buf_addf(&w->csv, ",%s", name);
        if (suffix) zb_buf_addf(&w->csv, ",%s %s", name, suffix);
    }
    zb_buf_addc(&w->csv, '\n');
}

static zb_status memory_plot(workshop *w, zb_err *err) {
    zb_report_measures *m = w->m;
    bool any = false;
    for (int i = 0; i < m->n_models; i++) any |= !isnan(m->model[i].kv_bytes_per_token);
    if (!any) return ZB_OK;
    begin(w, "memory", "Memory of one sequence");
    axes(w, "context, tokens", "cache and states, MiB");
    heading(w, "context_tokens", NULL);
    double low = (double)INFINITY, high = 0;
    for (int64_t t = 1024; t <= 131072; t *= 2) {
        zb_buf_addf(&w->csv, "%lld", (long long)t);
        for (int i = 0; i < m->n_models; i++) {
            const zb_report_measured *r = &m->model[i];
            double state = isnan(r->state_bytes) ? 0 : r->state_bytes;
            double mib = (r->kv_bytes_per_token * (double)t + state) / (1 << 20);
            cell(w, mib);
            if (mib > 0) low = fmin(low, mib);
            if (mib > 0) high = fmax(high, mib);
        }
        zb_buf_addc(&w->csv, '\n');
    }
    zb_buf_adds(&w->script, "set logscale x 2\nset xrange [1000:135000]\n"
                            "set xtics ('1k' 1024, '2k' 2048, '4k' 4096, '8k' 8192, '16k' 16384, "
                            "'32k' 32768, '64k' 65536, '128k' 131072)\n");
    if (high > 0) log_axis(w, low, high);
    zb_buf_adds(&w->script, "plot ");
    for (int i = 0; i < m->n_models; i++)
        zb_buf_addf(
            &w->script,
            "%s'memory.csv' skip 1 using 1:%d with linespoints pt 7 ps 0.5 lw 2.5 lc rgb '%s' "
            "title '%s'",
            i ? ", \\\n  " : "", 2 + i, colour[i], zb_label_plot(w->a, m->model[i].name, NAME));
    zb_buf_addc(&w->script, '\n');
    return finish(w, ZB_TOPIC_MEMORY, "memory",
                  "Bytes one sequence holds while it is decoded: cache that grows with the context "
                  "plus states of fixed size, computed from the sizes in the table.",
                  err);
}

static zb_status speed_plot(workshop *w, bool decode, zb_err *err) {
    zb_report_measures *m = w->m;
    const char *name = decode ? "decode" : "prefill";
    int points = 0;
    for (int i = 0; i < m->n_models; i++)
        points += decode ? m->model[i].n_decode : m->model[i].n_prefill;
    if (!points) return ZB_OK;
    begin(w, name, decode ? "Decoding" : "Reading a prompt");
    axes(w, decode ? "tokens already in the context" : "length of the prompt, tokens", "tokens/s");
    zb_buf_adds(&w->csv, "model,tokens,tokens_per_second,sd\n");
    zb_buf_adds(&w->script, "set yrange [0:*]\nset xrange [0:*]\nset offsets graph 0.03, graph "
                            "0.03, graph 0.06, 0\nplot ");
    const char *join = "";
    for (int i = 0; i < m->n_models; i++) {
        const zb_report_measured *r = &m->model[i];
        const zb_report_speed *s = decode ? r->decode : r->prefill;
        int n = decode ? r->n_decode : r->n_prefill;
        if (!n) continue;
        const char *label = zb_label_plot(w->a, r->name, NAME);
        for (int k = 0; k < n; k++) {
            zb_buf_addf(&w->csv, "%s,%lld", label, (long long)s[k].at);
            cell(w, s[k].rate);
            cell(w, isnan(s[k].sd) ? 0 : s[k].sd);
            zb_buf_addc(&w->csv, '\n');
        }
        /* the rows of this model only: those of others become undefined and are skipped */
        zb_buf_addf(
            &w->script,
            "%s'%s.csv' skip 1 using (strcol(1) eq '%s' ? $2 : NaN):3:4 with yerrorlines pt 7 "
            "ps 0.6 lw 2.5 lc rgb '%s' title '%s'",
            join, name, label, colour[i], label);
        join = ", \\\n  ";
    }
    zb_buf_addc(&w->script, '\n');
    return finish(
        w, ZB_TOPIC_SPEED, name,
        decode ? "Tokens per second of one sequence against the tokens it already holds; bars: "
                 "standard deviation over the runs."
               : "Tokens per second while a prompt is read; bars: standard deviation over the "
                 "runs.",
        err);
}

static zb_status task_plot(workshop *w, zb_err *err) {
    zb_report_measures *m = w->m;
    const zb_report_measured *widest = &m->model[0];
    for (int i = 1; i < m->n_models; i++)
        if (m->model[i].n_tasks > widest->n_tasks) widest = &m->model[i];
    if (!widest->n_tasks) return ZB_OK;
    int shown = widest->n_tasks < 24 ? widest->n_tasks : 24;
    begin(w, "tasks", zb_report_zero_shot(m) ? "Zero-shot tasks" : "Tasks");
    zb_buf_adds(&w->script,
                "set ylabel 'score, %'\nset yrange [0:*]\nset offsets 0, 0, graph 0.05, 0\n"
                "set style fill solid 0.85 noborder\n");
    heading(w, "place,task,chance", "stderr");
    for (int k = 0; k < shown; k++) {
        const zb_report_task *t = &widest->task[k];
        const char *label = zb_label_plot(w->a, t->name, 16);
        zb_buf_addf(&w->csv, "%d,%s", k, label);
        zb_buf_addf(&w->script, k ? ", '%s' %d" : "set xtics scale 0 ('%s' %d", label, k);
        cell(w, 100 * zb_report_chance(t->name));
        for (int i = 0; i < m->n_models; i++) {
            const zb_report_task *u = zb_report_task_find(&m->model[i], t->name);
            double e = u ? zb_report_score_stderr(u) : (double)NAN;
            cell(w, u ? 100 * zb_report_score(u) : (double)NAN);
            cell(w, isnan(e) ? 0 : 100 * e);
        }
        zb_buf_addc(&w->csv, '\n');
    }
    zb_buf_adds(&w->script, ")\n");
    double width = 0.8 / m->n_models;
    zb_buf_addf(&w->script, "set boxwidth %.3f\nset xrange [-0.6:%.1f]\n", width * 0.92,
                shown - 0.4);
    if (shown > 5)
        zb_buf_adds(&w->script, "set xtics rotate by -25 left\nset bmargin 4.2\nset rmargin 6\n");
    zb_buf_adds(&w->script, "plot ");
    for (int i = 0; i < m->n_models; i++) {
        double shift = ((double)i - 0.5 * (m->n_models - 1)) * width;
        zb_buf_addf(&w->script,
                    "'tasks.csv' skip 1 using ($1%+.3f):%d with boxes lc rgb '%s' title '%s', \\\n"
                    "  'tasks.csv' skip 1 using ($1%+.3f):($%d-$%d):(0):(2*$%d) with vectors "
                    "nohead lw 1.5 lc "
                    "rgb '#222222' notitle, \\\n  ",
                    shift, 4 + 2 * i, colour[i], zb_label_plot(w->a, m->model[i].name, NAME), shift,
                    4 + 2 * i, 5 + 2 * i, 5 + 2 * i);
    }
    zb_buf_adds(&w->script,
                "'tasks.csv' skip 1 using ($1-0.42):3:(0.84):(0) with vectors nohead lw 2 dt 2 lc "
                "rgb '#666666' title 'chance'\n");
    return finish(w, ZB_TOPIC_TASKS, "tasks",
                  "Accuracy as the average takes it; bars: one standard error; dashed: guessing.",
                  err);
}

/* Different values of a test's cells in order; at most GRID. */
static int grid_of(const zb_report_measured *r, const char *test, bool depth, int64_t *out) {
    int n = 0;
    for (int i = 0; i < r->n_recall; i++) {
        const zb_report_recall *c = &r->recall[i];
        int64_t x = depth ? c->depth : c->length;
        if (strcmp(c->test, test) != 0) continue;
        int at = 0;
        while (at < n && out[at] < x) at++;
        if ((at < n && out[at] == x) || n == GRID) continue;
        memmove(out + at + 1, out + at, (size_t)(n - at) * sizeof *out);
        out[at] = x;
        n++;
    }
    return n;
}

/* From light vermilion (0) over white to light blue (1): black numbers stay readable on each. */
static int heat_colour(double share) {
    static const int end[2][3] = {{0xf0, 0xa0, 0x70}, {0x80, 0xb8, 0xe0}};
    double t = fabs(2 * share - 1);
    int rgb = 0;
    for (int k = 0; k < 3; k++)
        rgb = rgb << 8 | (int)lrint(0xf7 + t * (end[share > 0.5][k] - 0xf7));
    return rgb;
}

/* One test of one model: lengths from left to right, depths from top to bottom. */
static zb_status heat_plot(workshop *w, int model, const char *test, const char *name,
                           zb_err *err) {
    const zb_report_measured *r = &w->m->model[model];
    int64_t length[GRID + 1], depth[GRID + 1];
    int nx = grid_of(r, test, false, length), ny = grid_of(r, test, true, depth);
    const char *shown = zb_label_plot(w->a, test, 40);
    begin(w, name, zb_asprintf(w->a, "%s: %s", shown, zb_label_plot(w->a, r->name, NAME)));
    axes(w, "length, tokens", "depth of the needle");
    zb_buf_adds(&w->csv, "x,y,length,depth,n,score,colour,label\n");
    zb_buf_addf(&w->script,
                "unset key\nset border 0\nunset grid\nset tics scale 0\n"
                "set xrange [-0.5:%.1f]\nset yrange [%.1f:-0.5]\n",
                nx - 0.5, ny - 0.5);
    for (int x = 0; x < nx; x++)
        zb_buf_addf(&w->script, x ? ", '%lld' %d" : "set xtics ('%lld' %d", (long long)length[x],
                    x);
    for (int y = 0; y < ny; y++) /* a tic's text is a format: %% is a percent sign there too */
        if (depth[y] < 0)
            zb_buf_addf(&w->script, ")\nset ytics ('drawn' %d", y);
        else
            zb_buf_addf(&w->script, y ? ", '%lld %%%%' %d" : ")\nset ytics ('%lld %%%%' %d",
                        (long long)depth[y], y);
    for (int x = 0; x < nx; x++)
        for (int y = 0; y < ny; y++) {
            const zb_report_recall *c = zb_report_recall_find(r, test, length[x], depth[y]);
            if (!c) continue;
            zb_buf_addf(&w->csv, "%d,%d,%lld,%lld,%lld,%.10g,%d,%.0f\n", x, y, (long long)c->length,
                        (long long)c->depth, (long long)c->n, c->score, heat_colour(c->score),
                        100 * c->score);
        }
    zb_buf_addf(&w->script,
                ")\nplot '%s.csv' skip 1 using "
                "1:2:($1-0.48):($1+0.48):($2-0.46):($2+0.46):7 with boxxyerror fs solid noborder "
                "lc rgb variable, \\\n  '%s.csv' skip 1 using 1:2:(strcol(8)) with labels\n",
                name, name);
    return finish(w, ZB_TOPIC_RECALL, name,
                  zb_asprintf(w->a,
                              "%s, %s: percent of %s, by length of the text and place of what is "
                              "asked for.",
                              test, r->name,
                              zb_report_recall_sure(r, test, length[0])
                                  ? "answers each of whose tokens is the most probable one"
                                  : "the values found"),
                  err);
}

/* The tests of all models, those of one test side by side. */
static zb_status recall_plots(workshop *w, zb_err *err) {
    zb_report_measures *m = w->m;
    for (int i = 0, count = 0; i < m->n_models; i++)
        for (int k = 0; k < m->model[i].n_recall && count < GRID; k++) {
            const char *test = m->model[i].recall[k].test;
            bool seen = !zb_report_recall_first(&m->model[i], k, false);
            for (int j = 0; j < i; j++)
                for (int q = 0; q < m->model[j].n_recall; q++)
                    seen |= !strcmp(m->model[j].recall[q].test, test);
            if (seen) continue;
            count++;
            for (int j = i; j < m->n_models; j++) {
                int64_t some[GRID + 1];
                if (!grid_of(&m->model[j], test, false, some)) continue;
                ZB_TRY(heat_plot(w, j, test, zb_asprintf(w->a, "recall-%d-%d", count, j + 1), err));
            }
        }
    return ZB_OK;
}

/* Numbers of pairs of all models in order of appearance; at most PAIRS_SHOWN. */
static int pair_counts(const zb_report_measures *m, int64_t *out) {
    int n = 0;
    for (int i = 0; i < m->n_models; i++)
        for (int k = 0; k < m->model[i].n_pairs; k++) {
            bool seen = n == PAIRS_SHOWN;
            for (int j = 0; j < n; j++) seen |= out[j] == m->model[i].pairs[k].pairs;
            if (!seen) out[n++] = m->model[i].pairs[k].pairs;
        }
    return n;
}

static zb_status pairs_plot(workshop *w, zb_err *err) {
    zb_report_measures *m = w->m;
    int64_t count[PAIRS_SHOWN];
    int n = pair_counts(m, count);
    if (!n) return ZB_OK;
    begin(w, "associative", "Associative recall");
    axes(w, "distance from key to query, tokens", "values recalled, %");
    zb_buf_adds(&w->csv, "model,pairs,distance,accuracy,stderr\n");
    zb_buf_adds(&w->script, "set logscale x 2\nset yrange [0:100]\n"
                            "set offsets graph 0.03, graph 0.03, 0, 0\n"
                            "set tmargin 4.6\nset key at graph 0,1.21\n"
                            "set label 1 at graph 0,1.25\nplot "); /* the key may take two lines */
    const char *join = "";
    for (int i = 0; i < m->n_models; i++) {
        const zb_report_measured *r = &m->model[i];
        const char *label = zb_label_plot(w->a, r->name, NAME);
        for (int k = 0; k < r->n_pairs; k++) {
            const zb_report_pairs *p = &r->pairs[k];
            zb_buf_addf(&w->csv, "%s,%lld,%lld", label, (long long)p->pairs,
                        (long long)p->distance);
            cell(w, 100 * p->acc);
            cell(w, isnan(p->acc_stderr) ? 0 : 100 * p->acc_stderr);
            zb_buf_addc(&w->csv, '\n');
        }
        for (int k = 0; k < n; k++) {
            bool any = false;
            for (int q = 0; q < r->n_pairs; q++) any |= r->pairs[q].pairs == count[k];
            if (!any) continue;
            zb_buf_addf(&w->script,
                        "%s'associative.csv' skip 1 using (strcol(1) eq '%s' && $2 == %lld ? $3 : "
                        "NaN):4:5 with yerrorlines pt %d ps 0.6 lw 2 dt %d lc rgb '%s' title "
                        "'%s, %lld pairs'",
                        join, label, (long long)count[k], k % 2 ? 6 : 7, k + 1, colour[i], label,
                        (long long)count[k]);
            join = ", \\\n  ";
        }
    }
    zb_buf_addc(&w->script, '\n');
    return finish(w, ZB_TOPIC_RECALL, "associative",
                  "Share of random words whose partner the model names first of all tokens, by the "
                  "distance in tokens; bars: one standard error.",
                  err);
}

static zb_status loss_plot(workshop *w, int index, zb_err *err) {
    const zb_report_stage *s = &w->m->stage[index];
    if (s->loss.n < 2) return ZB_OK;
    zb_report_curve raw = zb_report_curve_thin(&s->loss, POINTS, w->a);
    zb_report_curve mean = zb_report_curve_smooth(&raw, raw.n / 20 + 1, w->a);
    double low = (double)INFINITY, high = -(double)INFINITY;
    extent(&raw, &low, &high);
    bool positive = low > 0;
    const char *stage = zb_label_plot(w->a, s->name, 40);
    char *name = zb_asprintf(w->a, "loss-%d", index + 1);
    begin(w, name, zb_asprintf(w->a, "Loss of stage %s", stage));
    bool examples = !strcmp(s->unit, "examples");
    axes(w, examples ? "examples" : "tokens of training, thousands",
         positive ? "loss (log scale)" : "loss");
    zb_buf_addf(&w->csv, "%s,loss,smoothed\n", s->unit);
    for (size_t i = 0; i < raw.n; i++) {
        zb_buf_addf(&w->csv, "%.10g", raw.x[i]);
        cell(w, raw.y[i]);
        cell(w, mean.y[i]);
        zb_buf_addc(&w->csv, '\n');
    }
    if (positive) log_axis(w, low, high);
    zb_buf_addf(
        &w->script,
        "plot '%s.csv' skip 1 using ($1/%d):2 with lines lw 1 lc rgb '#9CC3E0' title 'steps', "
        "\\\n"
        "  '%s.csv' skip 1 using ($1/%d):3 with lines lw 2.5 lc rgb '%s' title 'running mean'\n",
        name, examples ? 1 : 1000, name, examples ? 1 : 1000, colour[0]);
    return finish(
        w, ZB_TOPIC_TRAINING, name,
        zb_asprintf(w->a, "Loss of stage \"%s\" over the %s it has seen.", s->name, s->unit), err);
}

static const zb_report_curve *valid_curve(const zb_report_stage *s, bool kl) {
    return kl ? &s->valid_kl : &s->valid_perplexity;
}

static zb_status valid_plot(workshop *w, bool kl, zb_err *err) {
    zb_report_measures *m = w->m;
    const char *name = kl ? "valid-kl" : "valid-perplexity";
    double low = (double)INFINITY, high = -(double)INFINITY;
    for (int i = 0; i < m->n_stages; i++) extent(valid_curve(&m->stage[i], kl), &low, &high);
    if (!isfinite(low)) return ZB_OK;
    bool positive = low > 0;
    begin(w, name, kl ? "Validation: KL to the teacher" : "Validation: perplexity");
    axes(w, "tokens of training, thousands", kl ? "nats per token" : "perplexity");
    zb_buf_adds(&w->csv, "stage,tokens,value\n");
    if (positive) log_axis(w, low, high);
    zb_buf_adds(&w->script, "plot ");
    const char *join = "";
    for (int i = 0; i < m->n_stages; i++) {
        const zb_report_curve *full = valid_curve(&m->stage[i], kl);
        if (!full->n) continue;
        zb_report_curve c = zb_report_curve_thin(full, POINTS, w->a);
        const char *stage = zb_label_plot(w->a, m->stage[i].name, 40);
        for (size_t k = 0; k < c.n; k++) {
            zb_buf_addf(&w->csv, "%d,%.10g", i, c.x[k]);
            cell(w, c.y[k]);
            zb_buf_addc(&w->csv, '\n');
        }
        zb_buf_addf(
            &w->script,
            "%s'%s.csv' skip 1 using ($1 == %d ? $2/1000 : NaN):3 with linespoints pt 7 ps 0.6 lw "
            "2.5 lc rgb '%s' title '%s'",
            join, name, i, colour[i % ZB_REPORT_MODELS_MAX], stage);
        join = ", \\\n  ";
    }
    zb_buf_addc(&w->script, '\n');
    return finish(
        w, ZB_TOPIC_TRAINING, name,
        kl ? "Mean KL divergence from the teacher's next-token distribution on held-out text."
           : "Perplexity of the student on held-out text.",
        err);
}

static zb_status layer_plot(workshop *w, zb_err *err) {
    zb_report_measures *m = w->m;
    if (!m->n_sensitivity) return ZB_OK;
    begin(w, "layers", "Sensitivity of the layers");
    axes(w, "layer", "lower KL with MLA here, nats/token");
    zb_buf_adds(&w->csv, "layer,sensitivity,chosen\n");
    for (int i = 0; i < m->n_sensitivity; i++) {
        zb_buf_addf(&w->csv, "%d", i);
        cell(w, m->sensitivity[i]);
        zb_buf_addf(&w->csv, ",%d\n", m->chosen[i]);
    }
    zb_buf_addf(
        &w->script,
        "set style fill solid 0.9 noborder\nset boxwidth 0.7\nset xrange [-0.8:%.1f]\n"
        "set xtics %d\nset xzeroaxis lt 1 lc rgb '#555555'\n"
        "plot 'layers.csv' skip 1 using 1:($3 == 1 ? $2 : NaN) with boxes lc rgb '%s' title "
        "'chosen', \\\n"
        "  'layers.csv' skip 1 using 1:($3 == 0 ? $2 : NaN) with boxes lc rgb '#B8B8B8' title "
        "'not chosen'\n",
        m->n_sensitivity - 0.2, m->n_sensitivity <= 40 ? 2 : m->n_sensitivity / 16, colour[1]);
    return finish(
        w, ZB_TOPIC_LAYERS, "layers",
        "What the choice of layers rests on: how much the divergence from the teacher falls "
        "when this layer alone is MLA and all others are Mamba2.",
        err);
}

/* Is row i the first with its context, or with its method? */
static bool first_of(const zb_report_measures *m, int i, bool method) {
    for (int k = 0; k < i; k++)
        if (method ? !strcmp(m->plan[k].method, m->plan[i].method)
                   : (int64_t)m->plan[k].context == (int64_t)m->plan[i].context)
            return false;
    return true;
}

static double plan_value(const zb_report_plan *p) { return isnan(p->kl) ? p->predicted : p->kl; }

/* Divergence over the memory allowed, a line per method, at the context of row `of`. */
static zb_status plan_plot(workshop *w, int of, int number, zb_err *err) {
    zb_report_measures *m = w->m;
    int64_t context = (int64_t)m->plan[of].context;
    double low = (double)INFINITY, high = -(double)INFINITY;
    int lines = 0;
    char *name = zb_asprintf(w->a, "plans-%d", number);
    begin(w, name, zb_asprintf(w->a, "Plans at %lld tokens of context", (long long)context));
    axes(w, "memory of a sequence, percent of the original", "KL to the original, nats/token");
    zb_buf_adds(&w->csv, "method,percent,kl\n");
    zb_buf lines_text = {0};
    zb_buf_init(&lines_text, TEXT_MAX);
    for (int i = 0; i < m->n_plans; i++) {
        if (!first_of(m, i, true) || lines == ZB_REPORT_MODELS_MAX) continue;
        zb_buf_addf(&lines_text,
                    "%s'%s.csv' skip 1 using ($1 == %d ? $2 : NaN):3 with linespoints lw 2 pt 7 ps "
                    "0.6 lc rgb '%s' title '%s'",
                    lines ? ", \\\n  " : "", name, lines, colour[lines],
                    zb_label_plot(w->a, m->plan[i].method, 40));
        for (int k = i; k < m->n_plans; k++) {
            const zb_report_plan *p = &m->plan[k];
            double v = plan_value(p);
            if (strcmp(p->method, m->plan[i].method) || (int64_t)p->context != context ||
                !isfinite(v))
                continue;
            low = fmin(low, v);
            high = fmax(high, v);
            zb_buf_addf(&w->csv, "%d,%.10g", lines, p->percent);
            cell(w, v);
            zb_buf_addc(&w->csv, '\n');
        }
        lines++;
    }
    if (low > 0 && high > low) log_axis(w, low, high);
    zb_buf_adds(&w->script, "plot ");
    zb_buf_add(&w->script, lines_text.p, lines_text.n);
    zb_buf_addc(&w->script, '\n');
    zb_buf_free(&lines_text);
    if (!isfinite(low)) return ZB_OK;
    return finish(w, ZB_TOPIC_LAYERS, name,
                  "Plans of layers that each method finds under a budget of memory: divergence on "
                  "held-out text before any training.",
                  err);
}

static zb_status plan_plots(workshop *w, zb_err *err) {
    int number = 0;
    for (int i = 0; i < w->m->n_plans && number < 8; i++)
        if (first_of(w->m, i, false)) ZB_TRY(plan_plot(w, i, ++number, err));
    return ZB_OK;
}

zb_status zb_report_plots_make(zb_report_measures *m, zb_report_plots *out, zb_arena *a,
                               zb_err *err) {
    *out = (zb_report_plots){0};
    workshop w = {.m = m, .out = out, .a = a};
    w.dir = zb_path_join(a, m->in->out_dir, "plots");
    w.gnuplot.program = m->in->gnuplot ? m->in->gnuplot : "gnuplot";
    w.gnuplot.seconds = m->in->plot_seconds > 0 ? m->in->plot_seconds : 30;
    ZB_TRY(zb_dir_make(w.dir, err));
    zb_buf_init(&w.csv, TEXT_MAX);
    zb_buf_init(&w.script, TEXT_MAX);
    zb_status s = memory_plot(&w, err);
    if (s == ZB_OK) s = speed_plot(&w, true, err);
    if (s == ZB_OK) s = speed_plot(&w, false, err);
    if (s == ZB_OK) s = task_plot(&w, err);
    if (s == ZB_OK) s = recall_plots(&w, err);
    if (s == ZB_OK) s = pairs_plot(&w, err);
    for (int i = 0; s == ZB_OK && i < m->n_stages; i++) s = loss_plot(&w, i, err);
    if (s == ZB_OK) s = valid_plot(&w, true, err);
    if (s == ZB_OK) s = valid_plot(&w, false, err);
    if (s == ZB_OK) s = layer_plot(&w, err);
    if (s == ZB_OK) s = plan_plots(&w, err);
    zb_buf_free(&w.csv);
    zb_buf_free(&w.script);
    return s;
}
