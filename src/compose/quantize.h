/* quantize.h - a model with its matrices in packed types: which type each tensor gets, and writing
 * it.
 *
 * Matrices of mixers, MLP, embedding and head are packed; norms, biases, gates, convolutions and
 * the step-size rows of Mamba2 stay f32. A plan is made from shapes alone, so it can be shown
 * before any work, and made for a model that does not exist yet (random weights of a
 * configuration). */
#ifndef ZB_COMPOSE_QUANTIZE_H
#define ZB_COMPOSE_QUANTIZE_H

#include "base/opts.h"
#include "model/model.h"

/* Tensors are counted and measured by class: the layer kinds, then these. */
enum zb_quant_class {
    ZB_QUANT_MLP = ZB_KIND_COUNT,
    ZB_QUANT_EMBEDDING,
    ZB_QUANT_HEAD,
    ZB_QUANT_WIDE, /* never packed */
    ZB_QUANT_CLASSES
};
const char *zb_quant_class_name(int class);
int zb_quant_class_of(const zb_config *c, const zb_param *p);

typedef struct zb_quantize_opts {
    const char *model, *out, *type, *mixer, *embedding, *head;
    const char *calibrate; /* text: JSONL or .txt; NULL: all columns count alike */
    int64_t calibrate_tokens, seed;
    const char *random; /* folder with a configuration: random weights instead of `model` */
    bool dry_run;
} zb_quantize_opts;

extern const zb_opt zb_quantize_opt_table[];

/* Types in the file for every parameter of the table, [params->n] in the arena. */
zb_status zb_quantize_plan(const zb_quantize_opts *o, const zb_config *c, const zb_param_table *t,
                           zb_arena *a, zb_dtype **type, zb_err *err);

/* Importance of every matrix's columns, [params->n] in the arena: mean square of what it is
 * multiplied with over the text of o->calibrate; NULL entries where nothing was seen. */
zb_status zb_quantize_calibrate(const zb_quantize_opts *o, zb_model *m, zb_arena *a,
                                const float ***importance, zb_err *err);

/* Rows row[0..n) of p in `type` into `out`; importance [cols] or NULL. */
zb_status zb_quantize_rows(const zb_param *p, zb_dtype type, const float *importance,
                           const int *row, int n, void *out, zb_err *err);

/* Does what the options say. *report: {"out", "bytes", "parameters", "bits_per_weight", "tensors":
 * [{"name", "class", "shape", "from", "to", "bytes", "note"}]}; new reference. */
zb_status zb_quantize_run(const zb_quantize_opts *o, json_t **report, zb_err *err);

#endif
