/* model.h - a loaded model, and passes through it.
 *
 * A zb_model is configuration plus parameters. Opened for running, weights stay as the file has
 * them (mapped, packed); opened for training they are f32 in memory that may be written, and
 * zb_model_add_grads gives them gradients, but for a frozen part, which may stay as the file has
 * it. A zb_runner holds the memory and matrix-product context of passes; one thread uses it at a
 * time, several runners may share a model that nobody writes. */
#ifndef ZB_MODEL_MODEL_H
#define ZB_MODEL_MODEL_H

#include "model/layer.h"
#include "base/output.h"
#include "format/tokenizer.h"
#include "model/mixer.h"

typedef struct zb_model zb_model;

typedef enum zb_model_mode { ZB_MODEL_RUN, ZB_MODEL_TRAIN } zb_model_mode;

/* `path`: a Hugging Face folder or a .gguf file. Every parameter must be present with the expected
 * shape; unknown tensors are an error too, except known buffers (rotary inv_freq). */
zb_status zb_model_open(zb_model **out, const char *path, zb_model_mode mode, zb_err *err);
/* The same where only what `trained` says yes to is trained. That is f32 which may be written, and
 * so are vectors, gates and all of the mixers, whose way back reads floats; the rest, frozen, stays
 * as the file has it. */
typedef bool (*zb_param_test)(const void *arg, const zb_param *p);
zb_status zb_model_open_part(zb_model **out, const char *path, zb_param_test trained,
                             const void *arg, zb_err *err);
bool zb_param_is_wide(const zb_param *p, bool trained); /* of such a model: is it f32? */
/* f32, all zero; ZB_ERR_MEMORY where the machine has less than its weights take. */
zb_status zb_model_new(zb_model **out, const zb_config *c, zb_err *err);
/* The same where only what `own` says yes to has memory of its own. All else must borrow before
 * use: another model's values as that one holds them, which then must stay and are not written
 * through this one. */
zb_status zb_model_new_part(zb_model **out, const zb_config *c, zb_param_test own, const void *arg,
                            zb_err *err);
void zb_param_borrow(zb_param *p, const zb_param *from); /* of the same number of values */
void zb_model_free(zb_model *m);                         /* NULL is legal */

const zb_config *zb_model_config(const zb_model *m);
void zb_model_set_cache(zb_model *m, zb_dtype type); /* of states that are made from now on */
zb_param_table *zb_model_params(zb_model *m);
const char *zb_model_path(const zb_model *m); /* "" for a new one */
/* Turns a tied head into a matrix of its own (f32 models only). */
void zb_model_untie(zb_model *m);
void zb_model_add_grads(zb_model *m);             /* zeroed; f32 models only */
void zb_model_add_grad(zb_model *m, zb_param *p); /* of one parameter */
void zb_model_zero_grads(zb_model *m);
size_t zb_model_bytes(const zb_model *m);      /* of all weights as held */
bool zb_model_is_quantised(const zb_model *m); /* some matrix is held in packed blocks */

/* config.json, hybrid_config.json and model.safetensors in `dtype` (F32, BF16; GATE and NORM
 * parameters stay F32). The tokenizer's files are copied from `tokenizer_from` (a folder or .gguf;
 * NULL: none). Provenance goes into the configuration. */
zb_status zb_model_save(zb_model *m, const char *dir, zb_dtype dtype, const char *tokenizer_from,
                        const json_t *provenance, zb_err *err);

/* Asked before work whose result zb_model_save writes: `dir` is new, empty or a model folder with
 * nothing else in it, holds none of the inputs, and can be created. */
zb_status zb_model_save_check(const char *dir, zb_inputs inputs, zb_err *err);

/* The tokenizer that belongs to a model folder or .gguf file; *out NULL where it has none. */
zb_status zb_model_tokenizer(zb_tokenizer **out, const char *path, zb_err *err);

typedef struct zb_runner zb_runner;
zb_status zb_runner_new(zb_runner **out, zb_model *m, zb_precision p, zb_err *err);
void zb_runner_free(zb_runner *r);
zb_model *zb_runner_model(const zb_runner *r);
zb_arena *zb_runner_arena(zb_runner *r); /* of the pass; callers mark and pop */

/* Prepares a pass over `batch` (borrowed until the next begin): rotary tables, checks ids and state
 * capacities. */
zb_status zb_runner_begin(zb_runner *r, const zb_batch *batch, zb_err *err);
zb_run *zb_runner_run(zb_runner *r); /* for layer-wise use after begin */

void zb_runner_embed(zb_runner *r, float *x); /* [N, D] */

/* Through all layers and the final norm: out [N, D]. hidden[l] (l = 0..L: before layer l, last
 * before the final norm) and mixer[l] receive copies where the arrays and entries are not NULL.
 * Advances the states of the batch. */
typedef struct zb_capture {
    float **hidden, **mixer;
} zb_capture;
void zb_runner_forward(zb_runner *r, float *out, const zb_capture *cap);

/* Logits [n, V] of final hidden rows [n, D]. */
void zb_runner_logits(zb_runner *r, const float *x, int n, float *logits);

/* Training: forward keeps a tape in the arena; backward takes the gradient of the final hidden rows
 * [N, D] and fills the parameters' gradients, embedding included. recompute: keep only each layer's
 * input and run it again on the way back.
 *
 * match (NULL: none) adds the gradient of scale · Σ_l zb_hidden_loss over the outputs of all
 * layers: target[l] [N, D] for l = 1..L as zb_capture's hidden; `sum` receives Σ_l. */
typedef struct zb_tape zb_tape;
typedef struct zb_hidden_match {
    float *const *target;
    float scale;
    double sum;
} zb_hidden_match;
zb_tape *zb_runner_forward_train(zb_runner *r, float *out, bool recompute);
void zb_runner_backward(zb_runner *r, zb_tape *t, const float *dout, zb_hidden_match *match);

#endif
