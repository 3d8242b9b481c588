/* perplexity.c - see perplexity.h. The standard error treats rows as independent samples: tokens of
 * one row are not. */
#include "eval/perplexity.h"

#include "base/log.h"
#include "data/corpus.h"
#include "model/loss.h"

#include <jansson.h>
#include <math.h>

/* The same spans with states where these round what they keep, so that the text is read as a
 * running model would; the teacher's own stay as they are. */
static zb_batch with_states(zb_runner *r, const zb_batch *b, zb_arena *a) {
    const zb_config *c = zb_runner_run(r)->config;
    zb_batch out = *b;
    if (c->cache == ZB_F32) return out;
    zb_span *span = ZB_NEW_ARRAY(a, zb_span, b->n_spans);
    for (int i = 0; i < b->n_spans; i++) {
        int n = b->span[i].n;
        span[i] = b->span[i];
        span[i].state = zb_state_init(zb_alloc(a, zb_state_size(c, n)), c, n);
    }
    out.span = span;
    return out;
}

static zb_status row_pass(const zb_perplexity_job *j, const zb_batch *b, zb_vocab_sums *sums,
                          zb_err *err) {
    zb_arena *a = zb_runner_arena(j->model), *ta = j->teacher ? zb_runner_arena(j->teacher) : NULL;
    zb_mark mark = zb_arena_mark(a), tm = {0};
    float *h = ZB_NEW_ARRAY(a, float, (size_t)b->n *zb_runner_run(j->model)->config->D), *ht = NULL;
    int32_t *labels = ZB_NEW_ARRAY(a, int32_t, b->n);
    zb_labels_next(b, labels);
    zb_batch stated = with_states(j->model, b, a);
    zb_status s = zb_runner_begin(j->model, &stated, err);
    if (s == ZB_OK) zb_runner_forward(j->model, h, NULL);
    if (s == ZB_OK && j->teacher) {
        tm = zb_arena_mark(ta);
        ht = ZB_NEW_ARRAY(ta, float, (size_t)b->n *zb_runner_run(j->teacher)->config->D);
        s = zb_runner_begin(j->teacher, b, err);
        if (s == ZB_OK) zb_runner_forward(j->teacher, ht, NULL);
    }
    if (s == ZB_OK)
        zb_vocab_loss_run(&(zb_vocab_loss){.student = j->model,
                                           .teacher = j->teacher,
                                           .hidden = h,
                                           .teacher_hidden = ht,
                                           .labels = labels,
                                           .n = b->n,
                                           .weights = {.kl = 1, .ce = 1}},
                          sums);
    if (ta) zb_arena_pop(ta, tm);
    zb_arena_pop(a, mark);
    return s;
}

zb_status zb_perplexity_run(const zb_perplexity_job *j, zb_perplexity *out, zb_err *err) {
    zb_arena a = {0};
    zb_corpus c;
    zb_packer p;
    *out = (zb_perplexity){0};
    zb_status s =
        zb_corpus_read(&c, j->text, j->tokenizer, zb_model_config(zb_runner_model(j->model))->V,
                       j->tokens_max, &a, err);
    int length =
        s == ZB_OK && c.n_tokens < j->sequence_length ? (int)c.n_tokens : j->sequence_length;
    if (s == ZB_OK) s = zb_packer_init(&p, &c, length, false, 0, &a, err);
    int64_t rows = s == ZB_OK ? p.rows : 0;
    zb_vocab_sums total = {0};
    double *mean = ZB_NEW_ARRAY(&a, double, rows), sum = 0, square = 0;
    zb_progress bar;
    if (rows) zb_progress_begin(&bar, "perplexity", "tokens", 0, (double)(rows * length));
    for (int64_t r = 0; r < rows && s == ZB_OK; r++) {
        zb_mark mark = zb_arena_mark(&a);
        zb_batch b = zb_packer_batch(&p, r, 1, &a);
        zb_vocab_sums row = {0};
        s = row_pass(j, &b, &row, err);
        mean[r] = row.ce / fmax(1, (double)row.predicted);
        total.kl += row.kl;
        total.ce += row.ce;
        total.tokens += row.tokens;
        total.predicted += row.predicted;
        total.agree += row.agree;
        zb_arena_pop(&a, mark);
        zb_progress_update(&bar, (double)((r + 1) * length), NULL);
        if (s == ZB_OK && zb_interrupted())
            s = zb_fail(err, ZB_ERR_INTERRUPTED, "perplexity: interrupted");
    }
    if (s == ZB_OK && total.predicted == 0)
        s = zb_fail(err, ZB_ERR_FORMAT,
                    "%s: expected a document with two tokens or more in a row, found none",
                    j->text);
    if (s == ZB_OK) {
        zb_progress_end(&bar, (double)(rows * length), NULL);
        for (int64_t r = 0; r < rows; r++) sum += mean[r];
        for (int64_t r = 0; r < rows; r++)
            square += (mean[r] - sum / (double)rows) * (mean[r] - sum / (double)rows);
        out->predicted = total.predicted;
        out->tokens = rows * length;
        out->nats = total.ce / (double)total.predicted;
        out->nats_error = rows > 1 ? sqrt(square / (double)(rows - 1) / (double)rows) : (double)NAN;
        out->perplexity = exp(out->nats);
        out->kl = total.tokens ? total.kl / (double)total.tokens : 0;
        out->agreement = total.tokens ? (double)total.agree / (double)total.tokens : 0;
    }
    zb_arena_free(&a);
    return s;
}

json_t *zb_perplexity_json(const zb_perplexity *p, bool with_teacher) {
    const double value[] = {p->perplexity, p->nats, p->nats_error};
    static const char *const key[] = {"perplexity", "nats_per_token", "nats_stderr"};
    json_t *o = json_object();
    for (int i = 0; i < 3; i++) /* JSON has neither NAN nor infinity: null */
        json_object_set_new(o, key[i], isfinite(value[i]) ? json_real(value[i]) : json_null());
    json_object_set_new(o, "predicted_tokens", json_integer((json_int_t)p->predicted));
    json_object_set_new(o, "tokens", json_integer((json_int_t)p->tokens));
    if (with_teacher) {
        json_object_set_new(o, "kl_to_teacher", json_real(p->kl));
        json_object_set_new(o, "agreement", json_real(p->agreement));
    }
    return o;
}
