/* quantize.c - plan, conversion row by row, report (contract in quantize.h).
 *
 * Rows are widened from whatever the model holds, encoded and written; at most a few megabytes are
 * in memory beside the mapped model. A matrix whose rows are no whole blocks of the wanted type
 * gets the next wider type that fits, and the report says so. */
#include "compose/quantize.h"

#include "base/file.h"
#include "base/log.h"
#include "base/output.h"
#include "compose/random_rows.h"
#include "model/save_gguf.h"
#include "tensor/quant.h"

#include <ctype.h>
#include <string.h>

#define TYPES "f32|f16|bf16|q8_0|q4_0|q4_1|q5_0|q5_1|q4_k|q5_k|q6_k"
#define AT(field) offsetof(zb_quantize_opts, field)
const zb_opt zb_quantize_opt_table[] = {
    {ZB_OPT_STR, "model", 'm', AT(model), NULL, 0, 0, NULL, "model folder or .gguf file"},
    {ZB_OPT_STR, "out", 'o', AT(out), NULL, 0, 0, NULL,
     "a .gguf file, or a folder for the types f32 and bf16"},
    {ZB_OPT_CHOICE, "type", 0, AT(type), "q8_0", 0, 0, TYPES, "type of the matrices"},
    {ZB_OPT_CHOICE, "mixer", 0, AT(mixer), "auto", 0, 0, "auto|" TYPES,
     "type of the mixers' matrices, which recall suffers most from; auto: as --type"},
    {ZB_OPT_CHOICE, "embedding", 0, AT(embedding), "auto", 0, 0, "auto|" TYPES,
     "type of the embedding; auto: q6_k under 4 and 5 bits, else as --type"},
    {ZB_OPT_CHOICE, "head", 0, AT(head), "auto", 0, 0, "auto|" TYPES,
     "type of a head that is not the embedding; auto: as for the embedding"},
    {ZB_OPT_STR, "calibrate", 0, AT(calibrate), NULL, 0, 0, NULL,
     "text (JSONL or .txt) whose activations say which columns matter"},
    {ZB_OPT_INT, "calibrate_tokens", 0, AT(calibrate_tokens), "8192", 1, 1e9, NULL,
     "tokens of that text"},
    {ZB_OPT_STR, "random", 0, AT(random), NULL, 0, 0, NULL,
     "instead of a model: random weights for the configuration in this folder"},
    {ZB_OPT_INT, "seed", 's', AT(seed), "42", 0, 9e15, NULL, "of random weights"},
    {ZB_OPT_BOOL, "dry_run", 0, AT(dry_run), NULL, 0, 0, NULL,
     "only list each tensor, its types and bytes"},
    {0},
};

/* ---- plan ---- */

const char *zb_quant_class_name(int class) {
    static const char *const names[] = {"mlp", "embedding", "head", "wide"};
    return class < ZB_KIND_COUNT ? zb_kind_name((zb_kind) class) : names[class - ZB_KIND_COUNT];
}

int zb_quant_class_of(const zb_config *c, const zb_param *p) {
    if (p->n_dims != 2) return ZB_QUANT_WIDE;
    switch (p->role) {
    case ZB_ROLE_EMBED: return ZB_QUANT_EMBEDDING;
    case ZB_ROLE_HEAD: return ZB_QUANT_HEAD;
    case ZB_ROLE_MLP: return ZB_QUANT_MLP;
    case ZB_ROLE_MIXER: return (int)c->layer[p->layer].kind;
    default: return ZB_QUANT_WIDE;
    }
}

static zb_dtype type_of(const char *name) {
    char upper[16] = "";
    for (size_t i = 0; name[i] && i + 1 < sizeof upper; i++)
        upper[i] = (char)toupper((unsigned char)name[i]);
    zb_dtype t = ZB_F32;
    bool known = zb_dtype_find(upper, &t);
    ZB_ASSERT(known && zb_quant_has(t)); /* the option table has only such names */
    return t;
}

/* Errors of the embedding reach every token, and it is read by rows: it can be wider at no cost. */
static zb_dtype outer_type(zb_dtype inner) {
    bool narrow = inner == ZB_Q4_0 || inner == ZB_Q4_1 || inner == ZB_Q4_K || inner == ZB_Q5_0 ||
                  inner == ZB_Q5_1 || inner == ZB_Q5_K;
    return narrow ? ZB_Q6_K : inner;
}

/* Of a class of tensors, whatever their columns. */
static zb_dtype wanted(const zb_quantize_opts *o, int class) {
    zb_dtype inner = type_of(o->type), embedding = outer_type(inner);
    if (strcmp(o->embedding, "auto")) embedding = type_of(o->embedding);
    if (class < ZB_KIND_COUNT) return strcmp(o->mixer, "auto") ? type_of(o->mixer) : inner;
    switch (class) {
    case ZB_QUANT_WIDE: return ZB_F32;
    case ZB_QUANT_EMBEDDING: return embedding;
    case ZB_QUANT_HEAD: return strcmp(o->head, "auto") ? type_of(o->head) : embedding;
    default: return inner;
    }
}

zb_status zb_quantize_plan(const zb_quantize_opts *o, const zb_config *c, const zb_param_table *t,
                           zb_arena *a, zb_dtype **type, zb_err *err) {
    if (c->tied && wanted(o, ZB_QUANT_HEAD) != wanted(o, ZB_QUANT_EMBEDDING))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "head: the head of this model is its embedding: set --embedding instead");
    *type = ZB_NEW_ARRAY(a, zb_dtype, t->n);
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        (*type)[i] = zb_quant_fit(wanted(o, zb_quant_class_of(c, p)), p->cols);
    }
    return ZB_OK;
}

static json_t *tensor_json(const zb_quantize_opts *o, const zb_config *c, const zb_param *p,
                           zb_dtype to, size_t *bytes) {
    bool ok = zb_dtype_size(to, zb_param_count(p), bytes);
    ZB_ASSERT(ok);
    *bytes += zb_gguf_wide_bytes(p, to);
    int class = zb_quant_class_of(c, p);
    json_t *shape = json_array(), *row = json_object();
    for (int d = 0; d < p->n_dims; d++) json_array_append_new(shape, json_integer(p->shape[d]));
    json_object_set_new(row, "name", json_string(p->name));
    json_object_set_new(row, "class", json_string(zb_quant_class_name(class)));
    json_object_set_new(row, "shape", shape);
    json_object_set_new(row, "from",
                        json_string(o->random ? "random" : zb_dtype_get(p->dtype)->name));
    json_object_set_new(row, "to", json_string(zb_dtype_get(to)->name));
    json_object_set_new(row, "bytes", json_integer((json_int_t)*bytes));
    zb_dtype want = wanted(o, class);
    char note[96] = "";
    if (class != ZB_QUANT_WIDE && want != to)
        snprintf(note, sizeof note, "%d columns are no whole blocks of %s", p->cols,
                 zb_dtype_get(want)->name);
    else if (zb_gguf_wide_bytes(p, to))
        snprintf(note, sizeof note, "last %d rows also as F32", p->wide_rows);
    if (note[0]) json_object_set_new(row, "note", json_string(note));
    return row;
}

static json_t *plan_json(const zb_quantize_opts *o, const zb_config *c, const zb_param_table *t,
                         const zb_dtype *type) {
    ZB_ASSERT(type);
    json_t *list = json_array();
    size_t sum = 0;
    for (int i = 0; i < t->n; i++) {
        size_t bytes = 0;
        json_array_append_new(list, tensor_json(o, c, &t->item[i], type[i], &bytes));
        sum += bytes;
    }
    json_int_t total = zb_params_total(t);
    json_t *r = json_object();
    if (o->out) json_object_set_new(r, "out", json_string(o->out));
    json_object_set_new(r, "type", json_string(o->type));
    json_object_set_new(r, "parameters", json_integer(total));
    json_object_set_new(r, "bytes", json_integer((json_int_t)sum));
    json_object_set_new(r, "bits_per_weight", json_real(8 * (double)sum / (double)total));
    json_object_set_new(r, "tensors", list);
    return r;
}

/* ---- writing ---- */

zb_status zb_quantize_rows(const zb_param *p, zb_dtype type, const float *importance,
                           const int *row, int n, void *out, zb_err *err) {
    zb_arena a = {0};
    float *x = ZB_NEW_ARRAY(&a, float, (size_t)n * p->cols);
#pragma omp parallel for schedule(static)
    for (int r = 0; r < n; r++) zb_param_to_f32(p, row[r], 1, x + (size_t)r * p->cols);
    zb_quant_job j = {.type = type,
                      .x = x,
                      .importance = importance,
                      .rows = n,
                      .cols = p->cols,
                      .name = p->name};
    zb_status s = zb_quant_run(&j, out, err);
    zb_arena_free(&a);
    return s;
}

typedef struct converter {
    const zb_param_table *params;
    const float **importance; /* by parameter; NULL: none */
} converter;

static zb_status convert_rows(void *user, const zb_param *p, zb_dtype type, const int *row, int n,
                              void *out, zb_err *err) {
    const converter *k = user;
    const float *w = k->importance ? k->importance[p - k->params->item] : NULL;
    return zb_quantize_rows(p, type, w, row, n, out, err);
}

static json_t *provenance_of(const zb_quantize_opts *o) {
    zb_quantize_opts copy = *o; /* the JSON writer reads through non-const groups */
    zb_opt_group g[] = {{"", zb_quantize_opt_table, &copy}, {0}};
    return json_pack("{s:s,s:o}", "stage", "quantize", "options", zb_opts_json(g));
}

static bool is_file(const char *out) { return zb_str_ends(zb_str_from(out), ZB_STR(".gguf")); }

static zb_status check_opts(const zb_quantize_opts *o, zb_err *err) {
    if (!o->model == !o->random)
        return zb_fail(err, ZB_ERR_USAGE, "expected a model or random, one of them");
    if (o->dry_run) return ZB_OK;
    if (!o->out) return zb_fail(err, ZB_ERR_CONFIG, "out is needed");
    bool plain = !strcmp(o->type, "f32") || !strcmp(o->type, "bf16");
    if (is_file(o->out))
        return zb_output_file(o->out, ZB_INPUTS(o->model, o->random, o->calibrate), err);
    if (plain && !o->random) return zb_model_save_check(o->out, ZB_INPUTS(o->model), err);
    return zb_fail(err, ZB_ERR_CONFIG,
                   "%s: expected a name that ends in .gguf: folders hold f32 or bf16 weights of a "
                   "model, packed types and random weights go into a GGUF file",
                   o->out);
}

static zb_status write_random(const zb_quantize_opts *o, json_t **report, zb_arena *a,
                              zb_err *err) {
    zb_config *c = ZB_NEW(a, zb_config);
    zb_param_table t;
    zb_dtype *type = NULL;
    zb_tokenizer *tokenizer = NULL;
    ZB_TRY(zb_config_read(c, o->random, err));
    zb_params_declare(&t, c, a);
    ZB_TRY(zb_quantize_plan(o, c, &t, a, &type, err));
    *report = plan_json(o, c, &t, type);
    if (o->dry_run) return ZB_OK;
    ZB_TRY(zb_model_tokenizer(&tokenizer, o->random, err));
    zb_random_rows rows = {.seed = (uint64_t)o->seed, .params = &t};
    json_t *provenance = provenance_of(o);
    zb_gguf_save s = {.config = c,
                      .params = &t,
                      .type = type,
                      .tokenizer = tokenizer,
                      .provenance = provenance,
                      .rows = zb_random_rows_make,
                      .user = &rows};
    zb_status st = zb_gguf_save_model(o->out, &s, err);
    json_decref(provenance);
    zb_tokenizer_close(tokenizer);
    zb_arena_free(&rows.arena);
    return st;
}

static zb_status write_file(const zb_quantize_opts *o, zb_model *m, const zb_dtype *type,
                            zb_arena *a, const json_t *provenance, zb_err *err) {
    converter k = {.params = zb_model_params(m)};
    zb_tokenizer *tokenizer = NULL;
    zb_status s = ZB_OK;
    if (o->calibrate) s = zb_quantize_calibrate(o, m, a, &k.importance, err);
    if (s == ZB_OK) s = zb_model_tokenizer(&tokenizer, o->model, err);
    zb_gguf_save save = {.config = zb_model_config(m),
                         .params = k.params,
                         .type = type,
                         .tokenizer = tokenizer,
                         .provenance = provenance,
                         .rows = convert_rows,
                         .user = &k};
    if (s == ZB_OK) s = zb_gguf_save_model(o->out, &save, err);
    zb_tokenizer_close(tokenizer);
    return s;
}

static zb_status write_model(const zb_quantize_opts *o, zb_model *m, json_t **report, zb_arena *a,
                             zb_err *err) {
    const zb_config *c = zb_model_config(m);
    zb_param_table *t = zb_model_params(m);
    zb_dtype *type = NULL;
    ZB_TRY(zb_quantize_plan(o, c, t, a, &type, err));
    *report = plan_json(o, c, t, type);
    if (o->dry_run) return ZB_OK;
    json_t *provenance = provenance_of(o);
    zb_status s = is_file(o->out)
                      ? write_file(o, m, type, a, provenance, err)
                      : zb_model_save(m, o->out, strcmp(o->type, "f32") ? ZB_BF16 : ZB_F32,
                                      o->model, provenance, err);
    json_decref(provenance);
    return s;
}

zb_status zb_quantize_run(const zb_quantize_opts *o, json_t **report, zb_err *err) {
    *report = NULL;
    ZB_TRY(check_opts(o, err));
    zb_arena a = {0};
    zb_model *m = NULL;
    zb_status s;
    if (o->random) {
        s = write_random(o, report, &a, err);
    } else {
        s = zb_model_open(&m, o->model, ZB_MODEL_RUN, err);
        if (s == ZB_OK) s = write_model(o, m, report, &a, err);
    }
    zb_model_free(m);
    zb_arena_free(&a);
    if (s == ZB_OK) return ZB_OK;
    json_decref(*report);
    *report = NULL;
    return s;
}
