/* page.c - report.html (contract in page.h).
 *
 * Sections stand in the order a reader asks: what came of it, the whole table, then memory, speed,
 * quality, training, the choice of layers, texts, how it was made, and what the figures do not say.
 * A section without data is left out; the last one says what is missing. The notes are computed
 * from the measures (documents, standard errors, tasks near guessing), so they hold for every run.
 *
 * Pictures of gnuplot are put in as elements. Their ids are the same in every picture, so each
 * gets the picture's name as a prefix. */
#include "report/page.h"

#include "report/label.h"
#include "report/page_style.h"
#include "report/summary.h"

#include <math.h>
#include <string.h>

static void html(zb_buf *out, const char *s) { zb_label_html(out, s, strlen(s)); }

/* <tag>escaped text</tag> */
static void element(zb_buf *out, const char *tag, const char *text) {
    zb_buf_addf(out, "<%s>", tag);
    html(out, text);
    zb_buf_addf(out, "</%s>", tag);
}

static void put_svg(const zb_report_plot *p, zb_buf *out) {
    static const char *const mark[] = {" id='", " id=\"", "href='#", "href=\"#", "url(#"};
    const char *body = strstr(p->svg.p, "<g id=\"gnuplot_canvas\"");
    if (body) {
        zb_buf_adds(out, "<svg viewBox=\"0 0 640 380\" role=\"img\" aria-label=\"");
        html(out, p->caption);
        zb_buf_adds(out, "\">");
    } else {
        body = strstr(p->svg.p, "<svg");
    }
    size_t n = p->svg.n - (size_t)(body - p->svg.p);
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        for (size_t j = 0; !k && j < sizeof mark / sizeof *mark; j++) {
            size_t length = strlen(mark[j]);
            if (length <= n - i && !memcmp(body + i, mark[j], length)) k = length;
        }
        zb_buf_add(out, body + i, k ? k : 1);
        if (k) zb_buf_addf(out, "%s-", p->name);
        i += k ? k : 1;
    }
}

static void put_figures(const zb_report_plots *plots, zb_report_topic topic, zb_buf *out) {
    size_t count = 0;
    for (size_t i = 0; i < plots->n; i++)
        count += plots->plot[i].topic == topic && plots->plot[i].svg.n;
    if (!count) return;
    zb_buf_adds(out, "<div class=\"figures\">\n");
    for (size_t i = 0; i < plots->n; i++) {
        const zb_report_plot *p = &plots->plot[i];
        if (p->topic != topic || !p->svg.n) continue;
        zb_buf_adds(out, "<figure>");
        put_svg(p, out);
        element(out, "figcaption", p->caption);
        zb_buf_adds(out, "</figure>\n");
    }
    zb_buf_adds(out, "</div>\n");
}

static void card(zb_buf *out, const char *what, const char *value, const char *detail) {
    zb_buf_adds(out, "<div class=\"card\"><span class=\"what\">");
    html(out, what);
    zb_buf_adds(out, "</span>");
    element(out, "b", value);
    element(out, "span", detail);
    zb_buf_adds(out, "</div>\n");
}

static void memory_card(const zb_report_measured *t, const zb_report_measured *s, zb_arena *a,
                        zb_buf *out) {
    if (!isnan(s->kv_percent)) {
        char from[ZB_LABEL], to[ZB_LABEL];
        zb_label_bytes(t->kv_bytes_per_token, from);
        zb_label_bytes(s->kv_bytes_per_token, to);
        card(out, "Key/value cache", zb_asprintf(a, "%.2f %%", s->kv_percent),
             t == s ? zb_asprintf(a, "%s per token", to)
                    : zb_asprintf(a, "of the original: %s instead of %s per token", to, from));
    }
    double context = 32768, fixed = isnan(t->state_bytes) ? 0 : t->state_bytes;
    double before = t->kv_bytes_per_token * context + fixed;
    double after = s->kv_bytes_per_token * context + (isnan(s->state_bytes) ? 0 : s->state_bytes);
    if (t == s || isnan(before) || isnan(after) || after <= 0) return;
    char from[ZB_LABEL], to[ZB_LABEL];
    zb_label_bytes(before, from);
    zb_label_bytes(after, to);
    card(out, "Memory at 32k context", zb_asprintf(a, "%.1f \xc3\x97 less", before / after),
         zb_asprintf(a, "%s instead of %s, states included", to, from));
}

static void quality_card(const zb_report_measured *t, const zb_report_measured *s, zb_arena *a,
                         zb_buf *out) {
    double error, other, score = zb_report_average(s, &error),
                         before = zb_report_average(t, &other);
    if (!isnan(score)) {
        const char *of =
            zb_asprintf(a, "mean of %d tasks, standard error %.1f", s->n_tasks, 100 * error);
        if (t != s && zb_report_same_tasks(t, s))
            of = zb_asprintf(a, "%s; %s: %.1f", of, t->name, 100 * before);
        card(out, "Average score", zb_asprintf(a, "%.1f %%", 100 * score), of);
    }
    if (!isnan(s->perplexity)) {
        char text[ZB_LABEL];
        snprintf(text, sizeof text, s->perplexity < 1000 ? "%.2f" : "%.4g", s->perplexity);
        const char *of = t != s && !isnan(t->perplexity)
                             ? zb_asprintf(a, "%s: %.2f", t->name, t->perplexity)
                             : "on held-out text";
        if (!isnan(s->kl_to_teacher))
            of = zb_asprintf(a, "%s; KL %.3f nats per token", of, s->kl_to_teacher);
        card(out, "Perplexity", text, of);
    }
}

static void speed_card(const zb_report_measured *t, const zb_report_measured *s, zb_arena *a,
                       zb_buf *out) {
    if (!s->n_decode) return;
    const zb_report_speed *last = &s->decode[s->n_decode - 1];
    double before = zb_report_speed_at(t->decode, t->n_decode, last->at);
    char place[ZB_LABEL];
    snprintf(place, sizeof place, "Decoding at context %lld", (long long)last->at);
    if (t == s || isnan(before) || before <= 0)
        card(out, place, zb_asprintf(a, "%.1f", last->rate), "tokens per second");
    else
        card(out, place, zb_asprintf(a, "%.2f \xc3\x97", last->rate / before),
             zb_asprintf(a, "%.1f instead of %.1f tokens per second", last->rate, before));
}

static void put_cards(const zb_report_measures *m, zb_arena *a, zb_buf *out) {
    const zb_report_measured *t = &m->model[0], *s = &m->model[m->n_models - 1];
    zb_buf_adds(out, "<div class=\"cards\">\n");
    memory_card(t, s, a, out);
    quality_card(t, s, a, out);
    speed_card(t, s, a, out);
    if (s->train_tokens >= 0) {
        char count[ZB_LABEL], time[ZB_LABEL];
        zb_label_count((double)s->train_tokens, count);
        zb_label_seconds(zb_report_seconds(s), time);
        card(out, "Training", zb_asprintf(a, "%s tokens", count),
             s->n_seconds ? zb_asprintf(a, "%s for all stages", time) : "all stages");
    }
    zb_buf_adds(out, "</div>\n");
}

static void table_head(const zb_report_measures *m, zb_buf *out) {
    zb_buf_adds(out, "<div class=\"scroll\"><table><thead><tr><th></th>");
    for (int i = 0; i < m->n_models; i++) element(out, "th", m->model[i].name);
    for (int i = 1; i < m->n_models; i++) {
        zb_buf_adds(out, "<th>");
        html(out, m->model[i].name);
        zb_buf_adds(out, " / ");
        html(out, m->model[0].name);
        zb_buf_adds(out, "</th>");
    }
    zb_buf_adds(out, "</tr></thead><tbody>\n");
}

static void put_table(const zb_report_measures *m, zb_arena *a, zb_buf *out) {
    zb_report_rows rows = zb_report_rows_make(m, a);
    if (!rows.n) return;
    zb_buf_adds(out, "<h2 id=\"table\">Results</h2>\n");
    table_head(m, out);
    for (size_t i = 0; i < rows.n; i++) {
        const zb_report_row *r = &rows.row[i];
        if (!i || r->section != rows.row[i - 1].section)
            zb_buf_addf(out, "<tr class=\"section\"><th colspan=\"%d\">%s</th></tr>\n",
                        2 * m->n_models, r->section);
        bool sum = !strncmp(r->label, "average of ", 11);
        zb_buf_adds(out, sum ? "<tr class=\"sum\">" : "<tr>");
        element(out, "td", r->label);
        for (int k = 0; k < m->n_models; k++) element(out, "td", r->cell[k]);
        for (int k = 1; k < m->n_models; k++) {
            char ratio[ZB_LABEL];
            zb_label_ratio(r->ratio ? r->value[k] / r->value[0] : (double)NAN, ratio);
            element(out, "td", ratio);
        }
        zb_buf_adds(out, "</tr>\n");
    }
    zb_buf_addf(out,
                "</tbody></table></div>\n<p class=\"dim\">Scores are %saccuracies \xc2\xb1 one "
                "standard error. Average: ",
                zb_report_zero_shot(m) ? "zero-shot " : "");
    html(out, zb_report_average_rule);
    zb_buf_adds(out, ".</p>\n");
}

static void put_published(zb_buf *out) {
    zb_buf_adds(out, "<h3>Published conversions of this kind, for scale</h3>\n<div "
                     "class=\"scroll\"><table><thead><tr><th>model</th><th>layers</th><th>training "
                     "tokens</th><th>cache, %</th><th>average of the original</th><th>average "
                     "after</th></tr></thead><tbody>\n");
    for (int i = 0; i < zb_report_n_published; i++) {
        const zb_report_published *p = &zb_report_published_list[i];
        zb_buf_addf(
            out,
            "<tr><td>%s</td><td>%s</td><td>%s</td><td>%.2f</td><td>%.2f</td><td>%.2f</td></tr>\n",
            p->name, p->layers, p->tokens, p->kv_percent, p->original, p->converted);
    }
    zb_buf_adds(
        out, "</tbody></table></div>\n<p class=\"dim\">Zebra-Llama (arXiv 2505.17272): bases are "
             "instruction-tuned Llama 3 models, teacher Llama-3.1-8B-Instruct, eight tasks (those "
             "above and RACE). Sizes, teachers and budgets differ from this run, so only the "
             "orders of magnitude compare.</p>\n");
}

static const char *kind_class(const char *kind) {
    static const char *const known[] = {"attention", "mla", "mamba2"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(kind, known[i])) return known[i];
    return "other";
}

/* One square per layer, and what the colours mean. */
static void put_strip(const zb_report_measured *r, zb_buf *out) {
    if (!r->n_layers) return;
    element(out, "h3", r->title);
    zb_buf_adds(out, "<div class=\"strip\">");
    for (int i = 0; i < r->n_layers; i++) {
        zb_buf_addf(out, "<i class=\"%s\" title=\"layer %d: ", kind_class(r->layer[i]), i);
        html(out, r->layer[i]);
        zb_buf_addf(out, "\">%d</i>", i);
    }
    zb_buf_adds(out, "</div>\n<div class=\"strip\">");
    for (int i = 0, shown = 0; i < r->n_layers && shown < 8; i++) {
        int count = 0;
        bool first = true;
        for (int k = 0; k < r->n_layers; k++) {
            bool same = !strcmp(r->layer[i], r->layer[k]);
            count += same;
            first &= !same || k >= i;
        }
        if (!first) continue;
        zb_buf_addf(out, "<i class=\"%s key\"></i><span>", kind_class(r->layer[i]));
        html(out, r->layer[i]);
        zb_buf_addf(out, ": %d layers</span>", count);
        shown++;
    }
    zb_buf_adds(out, "</div>\n");
}

/* What the methods make of each budget. */
static void put_plans(const zb_report_measures *m, zb_buf *out) {
    if (!m->n_plans) return;
    zb_buf_adds(
        out, "<h3>Plans of all methods</h3><div class=\"scroll\"><table><thead><tr><th>method</th>"
             "<th>context</th><th>budget</th><th>memory</th><th>KL predicted</th><th>KL "
             "measured</th><th>recall, nats</th></tr></thead><tbody>\n");
    for (int i = 0; i < m->n_plans; i++) {
        const zb_report_plan *p = &m->plan[i];
        const double value[] = {p->predicted, p->kl, p->recall};
        char bytes[ZB_LABEL] = "refused";
        if (!isnan(p->bytes)) zb_label_bytes(p->bytes, bytes);
        zb_buf_adds(out, "<tr>");
        element(out, "td", p->method);
        zb_buf_addf(out, "<td>%.0f</td><td>%g %%</td>", p->context, p->percent);
        element(out, "td", bytes);
        for (int k = 0; k < 3; k++)
            if (isnan(value[k]))
                zb_buf_adds(out, "<td></td>");
            else
                zb_buf_addf(out, "<td>%.3f</td>", value[k]);
        zb_buf_adds(out, "</tr>\n");
    }
    zb_buf_adds(out, "</tbody></table></div>\n");
    if (!isnan(m->teacher_recall))
        zb_buf_addf(out, "<p class=\"dim\">Recall of the original: %.3f nats.</p>\n",
                    m->teacher_recall);
}

static void put_layers(const zb_report_measures *m, const zb_report_plots *plots, zb_buf *out) {
    bool any = m->n_sensitivity || m->n_chosen || m->n_plans;
    for (int i = 0; i < m->n_models; i++) any |= m->model[i].n_layers > 0;
    if (!any) return;
    zb_buf_adds(out, "<h2 id=\"layers\">Layers</h2>\n");
    for (int i = 0; i < m->n_models; i++) put_strip(&m->model[i], out);
    if (m->n_chosen) {
        zb_buf_adds(out, "<p>Chosen");
        if (m->method) {
            zb_buf_adds(out, " by method <b>");
            html(out, m->method);
            zb_buf_adds(out, "</b>");
        }
        zb_buf_adds(out, ": layers ");
        for (int i = 0; i < m->n_chosen; i++)
            zb_buf_addf(out, "%s%d", i ? ", " : "", m->chosen_layer[i]);
        zb_buf_adds(out, ".</p>\n");
    }
    put_figures(plots, ZB_TOPIC_LAYERS, out);
    put_plans(m, out);
}

static void put_samples(const zb_report_measures *m, zb_buf *out) {
    if (!m->n_samples) return;
    zb_buf_adds(out,
                "<h2 id=\"samples\">Sample generations</h2>\n<p class=\"dim\">All texts that were "
                "made for this report are shown.</p>\n");
    for (int i = 0; i < m->n_samples; i++) {
        zb_buf_adds(out, "<div class=\"sample\"><b>Prompt</b><pre>");
        html(out, m->sample[i].prompt);
        zb_buf_adds(out, "</pre><div class=\"texts\">");
        for (int k = 0; k < m->n_models; k++) {
            zb_buf_adds(out, "<div>");
            element(out, "h3", m->model[k].name);
            element(out, "pre", m->sample[i].text[k] ? m->sample[i].text[k] : "(no text)");
            zb_buf_adds(out, "</div>");
        }
        zb_buf_adds(out, "</div></div>\n");
    }
}

static void put_seconds(const zb_report_measured *r, zb_buf *out) {
    if (!r->n_seconds) return;
    zb_buf_adds(out, "<h3>Time of each stage</h3><div class=\"scroll\"><table><tbody>\n");
    for (int i = 0; i < r->n_seconds; i++) {
        char text[ZB_LABEL];
        zb_label_seconds(r->seconds[i].seconds, text);
        zb_buf_adds(out, "<tr>");
        element(out, "td", r->seconds[i].stage);
        element(out, "td", text);
        zb_buf_adds(out, "</tr>\n");
    }
    char total[ZB_LABEL];
    zb_label_seconds(zb_report_seconds(r), total);
    zb_buf_addf(out,
                "<tr class=\"sum\"><td>together</td><td>%s</td></tr>\n</tbody></table></div>\n",
                total);
}

static void put_making(const zb_report_measures *m, zb_buf *out) {
    bool version = false; /* among the facts */
    for (int i = 0; i < m->in->n_facts; i++) version |= !strcmp(m->in->fact[i].name, "zebra");
    zb_buf_adds(out,
                "<h2 id=\"making\">How it was made</h2>\n<div class=\"scroll\"><table><tbody>\n");
    if (!version) zb_buf_adds(out, "<tr><td>zebra</td><td>" ZB_VERSION "</td></tr>\n");
    for (int i = 0; i < m->n_models; i++) {
        zb_buf_adds(out, "<tr>");
        element(out, "td", m->model[i].name);
        element(out, "td", m->model[i].title);
        zb_buf_adds(out, "</tr>\n");
    }
    for (int i = 0; i < m->in->n_facts; i++) {
        zb_buf_adds(out, "<tr>");
        element(out, "td", m->in->fact[i].name);
        element(out, "td", m->in->fact[i].value);
        zb_buf_adds(out, "</tr>\n");
    }
    for (int i = 0; i < m->n_stages; i++) {
        char count[ZB_LABEL];
        zb_label_count((double)m->stage[i].done, count);
        zb_buf_adds(out, "<tr><td>training, stage ");
        html(out, m->stage[i].name);
        const char *unit = m->stage[i].unit;
        zb_buf_addf(out, "</td><td>%s %s", count, unit);
        double rate = m->stage[i].rate;
        if (!isnan(rate)) zb_buf_addf(out, rate < 100 ? ", %.3g %s/s" : ", %.0f %s/s", rate, unit);
        zb_buf_adds(out, "</td></tr>\n");
    }
    zb_buf_adds(out, "</tbody></table></div>\n");
    for (int i = 0; i < m->n_models; i++) put_seconds(&m->model[i], out);
    if (!m->recipe.n) return;
    zb_buf_adds(out, "<details><summary>Recipe</summary><pre>");
    zb_label_html(out, m->recipe.p, m->recipe.n);
    zb_buf_adds(out, "</pre></details>\n");
}

static void note_tasks(const zb_report_measures *m, zb_buf *out) {
    const zb_report_measured *t = &m->model[0], *s = &m->model[m->n_models - 1];
    int64_t documents = 0;
    for (int i = 0; i < s->n_tasks; i++) documents += s->task[i].n > 0 ? s->task[i].n : 0;
    if (s->n_tasks)
        zb_buf_addf(
            out,
            "<li>Scores rest on %lld documents of %d tasks; the number of each task stands in "
            "the table. A score moves by about its standard error when other documents of the "
            "same kind are drawn.</li>\n",
            (long long)documents, s->n_tasks);
    bool paired;
    char size[96];
    double e, d = zb_report_difference(t, s, &e, &paired);
    snprintf(size, sizeof size,
             paired ? "%.1f points (document by document)"
                    : "at most about %.1f points (means taken as independent)",
             100 * e);
    if (t != s && s->n_tasks && !isnan(d) && !isnan(e))
        zb_buf_addf(
            out,
            "<li>The averages differ by %+.1f points; the standard error of that difference is %s, "
            "so the difference is %s.</li>\n",
            100 * d, size,
            fabs(d) < 2 * e ? "within what chance can do" : "more than chance would do");
    int near = 0;
    for (int i = 0; i < t->n_tasks; i++) {
        double chance = zb_report_chance(t->task[i].name),
               error = zb_report_score_stderr(&t->task[i]);
        if (isnan(chance) || isnan(error) || zb_report_score(&t->task[i]) > chance + 2 * error)
            continue;
        zb_buf_adds(out, near++ ? ", "
                                : "<li>On these tasks the original itself is within two standard "
                                  "errors of guessing, so they cannot tell models apart: ");
        html(out, t->task[i].name);
    }
    if (near) zb_buf_adds(out, ".</li>\n");
}

static void put_notes(const zb_report_measures *m, zb_buf *out) {
    const zb_report_measured *s = &m->model[m->n_models - 1];
    zb_buf_adds(out, "<h2 id=\"notes\">What these figures say and what not</h2>\n<ul>\n");
    if (s->train_tokens > 0 && (double)s->train_tokens < 1e9) {
        char count[ZB_LABEL];
        zb_label_count((double)s->train_tokens, count);
        zb_buf_addf(
            out,
            "<li>This is a short run: %s training tokens, where the published conversions use "
            "7 to 11 billion (%.0f times as many and more). It shows that the path works and "
            "what it costs, not what the method can reach.</li>\n",
            count, 7e9 / (double)s->train_tokens);
    }
    note_tasks(m, out);
    if (s->perplexity_tokens > 0)
        zb_buf_addf(out,
                    "<li>Perplexity and KL are means over %lld tokens of held-out text.</li>\n",
                    (long long)s->perplexity_tokens);
    if (s->n_decode || s->n_prefill)
        zb_buf_adds(out,
                    "<li>Speeds are of one sequence at a time on the machine named above; other "
                    "machines, and many sequences at once, give other ratios.</li>\n");
    for (size_t i = 0; i < m->n_missing; i++) {
        zb_buf_adds(out, "<li>Left out: ");
        html(out, m->missing[i]);
        zb_buf_adds(out, ".</li>\n");
    }
    zb_buf_adds(out, "</ul>\n");
}

static void section(const zb_report_plots *plots, zb_report_topic topic, const char *id,
                    const char *heading, zb_buf *out) {
    for (size_t i = 0; i < plots->n; i++) {
        if (plots->plot[i].topic != topic || !plots->plot[i].svg.n) continue;
        zb_buf_addf(out, "<h2 id=\"%s\">%s</h2>\n", id, heading);
        put_figures(plots, topic, out);
        return;
    }
}

static void put_head(const zb_report_measures *m, zb_buf *out) {
    const char *title = m->in->title ? m->in->title : "Conversion report";
    zb_buf_adds(
        out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
             "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
             "'unsafe-inline'\">\n");
    element(out, "title", title);
    zb_buf_adds(out, "\n<style>\n");
    zb_buf_adds(out, page_style);
    zb_buf_adds(out, "</style></head><body><main>\n<header>");
    element(out, "h1", title);
    zb_buf_adds(out, "<p class=\"dim\">");
    for (int i = 0; i < m->n_models; i++) {
        zb_buf_adds(out, i == 0 ? "" : i == 1 ? " \xe2\x86\x92 " : ", ");
        html(out, m->model[i].title);
    }
    zb_buf_adds(out, "</p></header>\n");
}

void zb_report_page(const zb_report_measures *m, const zb_report_plots *plots, zb_buf *out) {
    zb_arena a = {0};
    put_head(m, out);
    put_cards(m, &a, out);
    put_table(m, &a, out);
    put_published(out);
    section(plots, ZB_TOPIC_MEMORY, "memory", "Memory", out);
    section(plots, ZB_TOPIC_SPEED, "speed", "Speed", out);
    section(plots, ZB_TOPIC_TASKS, "tasks", "Quality by task", out);
    section(plots, ZB_TOPIC_RECALL, "recall", "Recall in long texts", out);
    section(plots, ZB_TOPIC_TRAINING, "training", "Training", out);
    put_layers(m, plots, out);
    put_samples(m, out);
    put_making(m, out);
    put_notes(m, out);
    zb_buf_adds(out, "</main></body></html>\n");
    zb_arena_free(&a);
}
