/* quantize_measure.c - see quantize_measure.h. */
#include "eval/quantize_measure.h"

#include "base/log.h"
#include "eval/perplexity.h"

#include <math.h>
#include <string.h>

#define AT(field) offsetof(zb_quantize_measure_opts, field)
const zb_opt zb_quantize_measure_opt_table[] = {
    {ZB_OPT_STR, "measure", 0, AT(measure), NULL, 0, 0, NULL,
     "text (JSONL or .txt) on which to compare the packed model with the wide one, class by class"},
    {ZB_OPT_INT, "measure_tokens", 0, AT(tokens), "4096", 2, 1e9, NULL, "tokens of that text"},
    {ZB_OPT_INT, "sequence_length", 0, AT(sequence_length), "512", 2, 1 << 20, NULL,
     "tokens per row"},
    {0},
};

enum { ALL = ZB_QUANT_CLASSES, ROWS_AT_ONCE = 1024 };

typedef struct measurer {
    const zb_quantize_opts *q;
    const zb_quantize_measure_opts *o;
    zb_arena arena;
    zb_model *wide, *packed;
    zb_runner *rw, *rp;
    zb_tokenizer *tokenizer;
    zb_dtype *type;
    const float **importance;
    const void **data;       /* by parameter: packed, NULL where it stays as it is */
    const float **wide_rows; /* of matrices that keep some */
    double wide_perplexity;
    int64_t tokens;
} measurer;

static zb_status open_all(measurer *m, zb_err *err) {
    const char *path = m->q->model;
    if (!path) return zb_fail(err, ZB_ERR_CONFIG, "measure: expected a model to compare with");
    ZB_TRY(zb_model_open(&m->wide, path, ZB_MODEL_RUN, err));
    ZB_TRY(zb_model_open(&m->packed, path, ZB_MODEL_RUN, err));
    ZB_TRY(zb_runner_new(&m->rw, m->wide, ZB_PREC_F32, err));
    ZB_TRY(zb_runner_new(&m->rp, m->packed, ZB_PREC_F32, err));
    ZB_TRY(zb_model_tokenizer(&m->tokenizer, path, err));
    if (!m->tokenizer)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: measure needs the model's tokenizer", path);
    return zb_quantize_plan(m->q, zb_model_config(m->wide), zb_model_params(m->wide), &m->arena,
                            &m->type, err);
}

/* Parameter i in its new type. */
static zb_status pack(measurer *m, int i, zb_err *err) {
    const zb_param *p = &zb_model_params(m->wide)->item[i];
    zb_dtype type = m->type[i];
    if (type == p->dtype) return ZB_OK;
    size_t bytes = 0, row_bytes = 0;
    bool ok =
        zb_dtype_size(type, zb_param_count(p), &bytes) && zb_dtype_size(type, p->cols, &row_bytes);
    ZB_ASSERT(ok);
    uint8_t *out = zb_alloc(&m->arena, bytes);
    for (int r = 0; r < p->rows; r += ROWS_AT_ONCE) {
        int row[ROWS_AT_ONCE], n = p->rows - r < ROWS_AT_ONCE ? p->rows - r : ROWS_AT_ONCE;
        for (int k = 0; k < n; k++) row[k] = r + k;
        ZB_TRY(zb_quantize_rows(p, type, m->importance ? m->importance[i] : NULL, row, n,
                                out + (size_t)r * row_bytes, err));
    }
    m->data[i] = out;
    if (!p->wide_rows || type == ZB_F32) return ZB_OK;
    float *w = ZB_NEW_ARRAY(&m->arena, float, (size_t)p->wide_rows * p->cols);
    zb_param_to_f32(p, p->rows - p->wide_rows, p->wide_rows, w);
    m->wide_rows[i] = w;
    return ZB_OK;
}

static zb_status pack_all(measurer *m, zb_err *err) {
    zb_param_table *t = zb_model_params(m->wide);
    if (m->q->calibrate)
        ZB_TRY(zb_quantize_calibrate(m->q, m->wide, &m->arena, &m->importance, err));
    m->data = zb_alloc_array(&m->arena, (size_t)t->n, sizeof *m->data);
    m->wide_rows = zb_alloc_array(&m->arena, (size_t)t->n, sizeof *m->wide_rows);
    zb_progress bar;
    zb_progress_begin(&bar, "packing", "tensors", 0, t->n);
    for (int i = 0; i < t->n; i++) {
        ZB_TRY(pack(m, i, err));
        zb_progress_update(&bar, i + 1, NULL);
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "measure: interrupted");
    }
    zb_progress_end(&bar, t->n, NULL);
    return ZB_OK;
}

/* Makes the second model hold the packed tensors of `class`, all others wide. */
static void switch_to(measurer *m, int class, int64_t *weights, int *tensors, size_t *bytes) {
    const zb_config *c = zb_model_config(m->wide);
    zb_param_table *from = zb_model_params(m->wide), *to = zb_model_params(m->packed);
    *weights = 0;
    *tensors = 0;
    *bytes = 0;
    for (int i = 0; i < to->n; i++) {
        zb_param *p = &to->item[i];
        const zb_param *w = &from->item[i];
        bool use = m->data[i] && (class == ALL || zb_quant_class_of(c, w) == class);
        p->dtype = use ? m->type[i] : w->dtype;
        p->data = use ? m->data[i] : w->data;
        p->wide = use ? m->wide_rows[i] : w->wide;
        p->w = use ? NULL : w->w;
        if (!use) continue;
        size_t b = 0;
        bool ok = zb_dtype_size(p->dtype, zb_param_count(p), &b);
        ZB_ASSERT(ok);
        if (p->wide) b += (size_t)p->wide_rows * p->cols * sizeof(float);
        *bytes += b;
        *weights += zb_param_count(p);
        *tensors += 1;
    }
}

static zb_status measure_class(measurer *m, int class, json_t *list, zb_err *err) {
    int64_t weights;
    int tensors;
    size_t bytes;
    switch_to(m, class, &weights, &tensors, &bytes);
    if (!tensors) return ZB_OK;
    const char *name = class == ALL ? "all" : zb_quant_class_name(class);
    zb_perplexity p;
    zb_perplexity_job j = {.model = m->rp,
                           .teacher = m->rw,
                           .tokenizer = m->tokenizer,
                           .text = m->o->measure,
                           .tokens_max = m->o->tokens,
                           .sequence_length = (int)m->o->sequence_length};
    zb_info("measure: %s", name);
    ZB_TRY(zb_perplexity_run(&j, &p, err));
    m->tokens = p.predicted;
    json_array_append_new(
        list,
        json_pack("{s:s,s:i,s:I,s:I,s:f,s:f,s:f,s:f,s:f}", "class", name, "tensors", tensors,
                  "weights", (json_int_t)weights, "bytes", (json_int_t)bytes, "bits_per_weight",
                  8 * (double)bytes / (double)weights, "kl", p.kl, "perplexity", p.perplexity,
                  "perplexity_ratio", p.perplexity / m->wide_perplexity, "agreement", p.agreement));
    return ZB_OK;
}

static zb_status measure_all(measurer *m, json_t *list, zb_err *err) {
    zb_perplexity p;
    zb_perplexity_job j = {.model = m->rw,
                           .tokenizer = m->tokenizer,
                           .text = m->o->measure,
                           .tokens_max = m->o->tokens,
                           .sequence_length = (int)m->o->sequence_length};
    ZB_TRY(zb_perplexity_run(&j, &p, err));
    m->wide_perplexity = p.perplexity;
    for (int class = 0; class <= ALL; class ++) ZB_TRY(measure_class(m, class, list, err));
    return ZB_OK;
}

zb_status zb_quantize_measure(const zb_quantize_opts *q, const zb_quantize_measure_opts *o,
                              json_t **out, zb_err *err) {
    measurer m = {.q = q, .o = o};
    json_t *list = json_array();
    zb_status s = open_all(&m, err);
    if (s == ZB_OK) s = pack_all(&m, err);
    if (s == ZB_OK) s = measure_all(&m, list, err);
    *out = s == ZB_OK
               ? json_pack("{s:s,s:I,s:f,s:O}", "text", o->measure, "tokens", (json_int_t)m.tokens,
                           "perplexity", m.wide_perplexity, "classes", list)
               : NULL;
    json_decref(list);
    zb_tokenizer_close(m.tokenizer);
    zb_runner_free(m.rp);
    zb_runner_free(m.rw);
    zb_model_free(m.packed);
    zb_model_free(m.wide);
    zb_arena_free(&m.arena);
    return s;
}
