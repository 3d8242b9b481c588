/* model.c - parameters' memory, runners and whole-model passes (contract in model.h).
 *
 * The pass is a loop over layer.c; this file adds the embedding, the final norm, the head and the
 * states' lengths. */
#include "model/model.h"

#include "base/log.h"
#include "base/memory.h"
#include "kernels/kernels.h"
#include "model/loss.h"
#include "model/model_impl.h"
#include "model/rope.h"

#include <omp.h>
#include <string.h>

enum { POSITIONS_MAX = 1 << 22 };
static const size_t step_reserve = (size_t)1 << 40;

const zb_config *zb_model_config(const zb_model *m) { return &m->config; }
void zb_model_set_cache(zb_model *m, zb_dtype type) { m->config.cache = type; }
zb_param_table *zb_model_params(zb_model *m) { return &m->params; }
const char *zb_model_path(const zb_model *m) { return m->path ? m->path : ""; }

void zb_param_own(zb_model *m, zb_param *p) {
    p->dtype = ZB_F32;
    p->w = ZB_NEW_ARRAY(&m->arena, float, zb_param_count(p));
    p->data = p->w;
    p->wide = NULL;
}

void zb_param_borrow(zb_param *p, const zb_param *from) {
    ZB_ASSERT(from->data && zb_param_count(p) == zb_param_count(from));
    p->dtype = from->dtype;
    p->data = from->data;
    p->w = NULL;
    p->wide = from->wide;
}

/* Memory is given page by page: without this a model that is too large ends in the middle of being
 * made, killed without a word. */
static zb_status check_room(size_t weights, zb_err *err) {
    size_t total = zb_memory_total();
    if (total == 0 || weights <= total / sizeof(float)) return ZB_OK;
    return zb_fail(err, ZB_ERR_MEMORY,
                   "%.2f billion weights that are made take %.2f GiB in f32, the machine has "
                   "%.2f GiB",
                   (double)weights * 1e-9, (double)weights * sizeof(float) / 0x1p30,
                   (double)total / 0x1p30);
}

zb_status zb_model_new_part(zb_model **out, const zb_config *c, zb_param_test own, const void *arg,
                            zb_err *err) {
    *out = NULL;
    ZB_TRY(zb_config_check(c, "new model", err));
    zb_model *m = zb_model_alloc();
    m->config = *c;
    zb_params_declare(&m->params, &m->config, &m->arena);
    size_t weights = 0;
    for (int i = 0; i < m->params.n; i++)
        if (own(arg, &m->params.item[i])) weights += (size_t)zb_param_count(&m->params.item[i]);
    zb_status s = check_room(weights, err);
    if (s != ZB_OK) {
        zb_model_free(m);
        return s;
    }
    for (int i = 0; i < m->params.n; i++)
        if (own(arg, &m->params.item[i])) zb_param_own(m, &m->params.item[i]);
    *out = m;
    return ZB_OK;
}

bool zb_param_every(const void *unused, const zb_param *p) {
    (void)unused;
    return p != NULL;
}

zb_status zb_model_new(zb_model **out, const zb_config *c, zb_err *err) {
    return zb_model_new_part(out, c, zb_param_every, NULL, err);
}

zb_model *zb_model_alloc(void) {
    zb_arena first = {0};
    zb_model *m = ZB_NEW(&first, zb_model);
    m->arena = first; /* the model lives in its own arena */
    return m;
}

void zb_model_free(zb_model *m) {
    if (!m) return;
    zb_safetensors_close(m->file);
    zb_gguf_close(m->gguf);
    zb_arena a = m->arena;
    zb_arena_free(&a);
}

void zb_model_untie(zb_model *m) {
    if (!m->config.tied) return;
    zb_param_table *t = &m->params;
    ZB_ASSERT(t->n < t->cap && t->embed->w);
    zb_param *p = &t->item[t->n++];
    *p = *t->embed;
    p->name = "lm_head.weight";
    p->role = ZB_ROLE_HEAD;
    p->grad = NULL;
    zb_param_own(m, p);
    memcpy(p->w, t->embed->w, (size_t)zb_param_count(p) * sizeof(float));
    t->head = p;
    m->config.tied = false;
}

void zb_model_add_grad(zb_model *m, zb_param *p) {
    ZB_ASSERT(p->w);
    if (!p->grad) p->grad = ZB_NEW_ARRAY(&m->arena, float, zb_param_count(p));
}

void zb_model_add_grads(zb_model *m) {
    for (int i = 0; i < m->params.n; i++) zb_model_add_grad(m, &m->params.item[i]);
}

void zb_model_zero_grads(zb_model *m) {
    for (int i = 0; i < m->params.n; i++)
        if (m->params.item[i].grad)
            memset(m->params.item[i].grad, 0,
                   (size_t)zb_param_count(&m->params.item[i]) * sizeof(float));
}

size_t zb_model_bytes(const zb_model *m) {
    size_t total = 0;
    for (int i = 0; i < m->params.n; i++) {
        size_t b = 0;
        const zb_param *p = &m->params.item[i];
        if (zb_dtype_size(p->dtype, zb_param_count(p), &b)) total += b;
        if (p->wide) total += (size_t)p->wide_rows * p->cols * sizeof(float);
    }
    return total;
}

bool zb_model_is_quantised(const zb_model *m) {
    for (int i = 0; i < m->params.n; i++)
        if (zb_dtype_get(m->params.item[i].dtype)->block > 1) return true;
    return false;
}

/* ---- runner ---- */

struct zb_runner {
    zb_model *model;
    zb_arena step, keep; /* of passes; of the runner (rotary tables) */
    zb_run run;
};

struct zb_tape {
    bool recompute;
    const float *last; /* input of the final norm */
    float *r;          /* its factors */
    const float **x;   /* [L] input of each layer */
    zb_layer_tape **layer;
};

zb_status zb_runner_new(zb_runner **out, zb_model *m, zb_precision p, zb_err *err) {
    *out = NULL;
    zb_matmul *mm;
    ZB_TRY(zb_matmul_new(&mm, p, err));
    zb_arena keep = {0};
    zb_runner *r = ZB_NEW(&keep, zb_runner);
    r->keep = keep;
    r->model = m;
    if (p == ZB_PREC_INT8 && !zb_model_is_quantised(m))
        zb_warn("%s: precision int8 is for weights that are stored quantised, as `zebra quantize` "
                "makes them; these are multiplied as with auto",
                zb_model_path(m));
    zb_arena_reserve(&r->step, step_reserve);
    r->run = (zb_run){.config = &m->config,
                      .params = &m->params,
                      .mm = mm,
                      .arena = &r->step,
                      .threads = omp_get_max_threads()};
    *out = r;
    return ZB_OK;
}

void zb_runner_free(zb_runner *r) {
    if (!r) return;
    zb_matmul_free(r->run.mm);
    zb_arena_free(&r->step);
    zb_arena keep = r->keep;
    zb_arena_free(&keep);
}

zb_model *zb_runner_model(const zb_runner *r) { return r->model; }
zb_arena *zb_runner_arena(zb_runner *r) { return &r->step; }
zb_run *zb_runner_run(zb_runner *r) { return &r->run; }

zb_status zb_runner_begin(zb_runner *r, const zb_batch *b, zb_err *err) {
    const zb_config *c = r->run.config;
    int end = 0, positions = 1, d_rope = 0;
    for (int s = 0; s < b->n_spans; s++) {
        const zb_span *sp = &b->span[s];
        ZB_ASSERT(sp->start == end && sp->n > 0);
        end += sp->n;
        int last = zb_span_past(sp) + sp->n;
        if (sp->state && last > sp->state->tokens_max)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "the sequence needs room for %d tokens, its state has %d", last,
                           sp->state->tokens_max);
        if (last > positions) positions = last;
    }
    ZB_ASSERT(end == b->n);
    if (positions > POSITIONS_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "expected at most %d tokens in a sequence, found %d",
                       POSITIONS_MAX, positions);
    for (int i = 0; i < b->n; i++)
        if (b->ids[i] < 0 || b->ids[i] >= c->V)
            return zb_fail(err, ZB_ERR_CONFIG, "token %d: expected an id from 0 to %d, found %d", i,
                           c->V - 1, b->ids[i]);
    bool attention = false;
    for (int l = 0; l < c->L; l++) {
        if (c->layer[l].kind == ZB_MLA) d_rope = c->layer[l].d_rope;
        if (c->layer[l].kind == ZB_ATTENTION || c->layer[l].window) attention = true;
    }
    if (attention) zb_rope_reserve(&r->run.rope, &c->rope, c->dh, positions, &r->keep);
    if (d_rope) zb_rope_reserve(&r->run.mla_rope, &c->mla_rope, d_rope, positions, &r->keep);
    r->run.batch = b;
    return ZB_OK;
}

void zb_runner_embed(zb_runner *r, float *x) {
    const zb_param *e = r->run.params->embed;
    const zb_batch *b = r->run.batch;
#pragma omp parallel for schedule(static) if (b->n > 1)
    for (int i = 0; i < b->n; i++) zb_param_to_f32(e, b->ids[i], 1, x + (size_t)i * e->cols);
}

static void advance_states(const zb_batch *b) {
    for (int s = 0; s < b->n_spans; s++)
        if (b->span[s].state) b->span[s].state->len += b->span[s].n;
}

void zb_runner_forward(zb_runner *r, float *out, const zb_capture *cap) {
    const zb_config *c = r->run.config;
    size_t bytes = (size_t)r->run.batch->n * c->D * sizeof(float);
    zb_mark mark = zb_arena_mark(&r->step);
    float *x = zb_alloc_raw(&r->step, bytes);
    zb_runner_embed(r, x);
    for (int l = 0; l < c->L; l++) {
        if (cap && cap->hidden && cap->hidden[l]) memcpy(cap->hidden[l], x, bytes);
        zb_layer_forward(&r->run, l, x, x, cap && cap->mixer ? cap->mixer[l] : NULL, NULL);
    }
    if (cap && cap->hidden && cap->hidden[c->L]) memcpy(cap->hidden[c->L], x, bytes);
    zb_norm(&r->run, r->run.params->norm, x, r->run.batch->n, c->D, out, NULL);
    advance_states(r->run.batch);
    zb_arena_pop(&r->step, mark);
}

void zb_runner_logits(zb_runner *r, const float *x, int n, float *logits) {
    zb_linear(&r->run, r->run.params->head, NULL, x, n, logits);
}

zb_tape *zb_runner_forward_train(zb_runner *r, float *out, bool recompute) {
    const zb_config *c = r->run.config;
    zb_arena *a = &r->step;
    size_t n = (size_t)r->run.batch->n * c->D;
    zb_tape *t = ZB_NEW(a, zb_tape);
    t->recompute = recompute;
    t->x = zb_alloc_array(a, (size_t)c->L, sizeof *t->x);
    t->layer = zb_alloc_array(a, (size_t)c->L, sizeof *t->layer);
    float *x = ZB_RAW_ARRAY(a, float, n);
    zb_runner_embed(r, x);
    for (int l = 0; l < c->L; l++) {
        float *y = ZB_RAW_ARRAY(a, float, n);
        t->x[l] = x;
        zb_layer_forward(&r->run, l, x, y, NULL, recompute ? NULL : &t->layer[l]);
        x = y;
    }
    t->last = x;
    t->r = ZB_RAW_ARRAY(a, float, r->run.batch->n);
    zb_norm(&r->run, r->run.params->norm, x, r->run.batch->n, c->D, out, t->r);
    return t;
}

/* Rows of the embedding's gradient; sequential, so that repeated ids sum in a fixed order. */
static void embed_backward(zb_runner *r, const float *dx) {
    zb_param *e = r->run.params->embed;
    if (!e->grad) return;
    for (int i = 0; i < r->run.batch->n; i++)
        zb_kernels_get()->add(e->cols, dx + (size_t)i * e->cols,
                              e->grad + (size_t)r->run.batch->ids[i] * e->cols);
}

void zb_runner_backward(zb_runner *r, zb_tape *t, const float *dout, zb_hidden_match *match) {
    const zb_config *c = r->run.config;
    zb_arena *a = &r->step;
    size_t n = (size_t)r->run.batch->n * c->D;
    zb_mark mark = zb_arena_mark(a);
    float *d[2] = {ZB_NEW_ARRAY(a, float, n), ZB_RAW_ARRAY(a, float, n)},
          *y = t->recompute ? ZB_RAW_ARRAY(a, float, n) : NULL;
    zb_norm_backward(&r->run, r->run.params->norm, t->last, t->r, dout, r->run.batch->n, c->D,
                     d[0]);
    if (match) match->sum = 0;
    for (int l = c->L - 1; l >= 0; l--) {
        const float *x = l + 1 < c->L ? t->x[l + 1] : t->last; /* the layer's output */
        if (match)
            match->sum +=
                zb_hidden_loss(r->run.batch->n, c->D, x, match->target[l + 1], match->scale, d[0]);
        zb_mark inner = zb_arena_mark(a);
        if (t->recompute) zb_layer_forward(&r->run, l, t->x[l], y, NULL, &t->layer[l]);
        zb_layer_backward(&r->run, l, d[0], NULL, d[1], t->layer[l]);
        zb_arena_pop(a, inner);
        float *swap = d[0];
        d[0] = d[1];
        d[1] = swap;
    }
    embed_backward(r, d[0]);
    zb_arena_pop(a, mark);
}
