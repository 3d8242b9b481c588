/* prune.h - a smaller model out of a larger one: fewer layers, heads, MLP neurons, hidden channels.
 *
 * As Minitron does it (arXiv 2407.14679, section 2): what is kept is chosen by activations over
 * some text, in one pass per axis, without gradients; a neuron's score is the L2 norm over rows of
 * the mean over tokens of |activation|. Layers go first, then widths are chosen on the model
 * without them. What remains of attention's and the MLP's last maps is solved anew on the same
 * text, so that it gives what all heads and neurons gave (ridge regression towards the present
 * weights), where that lowers the divergence on text that was held out. */
#ifndef ZB_COMPOSE_PRUNE_H
#define ZB_COMPOSE_PRUNE_H

#include "base/opts.h"
#include "data/corpus.h"
#include "model/model.h"

typedef struct zb_prune_opts {
    const char *model, *out;
    int64_t layers, mlp, heads, kv_heads, hidden; /* kept; 0: all */
    const char *depth;                            /* divergence | influence */
    const char *text;
    int64_t tokens, length, depth_tokens, seed;
    bool repair;
    double ridge; /* of repaired output maps; 0: chosen */
    const char *dtype;
} zb_prune_opts;

extern const zb_opt zb_prune_opt_table[];

/* What stays of a model, as ascending lists of indices. Heads of a layer stand by kept groups. */
typedef struct zb_kept {
    int L, F, H, G, D;
    int *layer, *hidden;        /* [L], [D] */
    int **mlp, **head, **group; /* [L] of [F], [H], [G]; by place among the kept layers */
} zb_kept;

/* Everything, in the arena. */
zb_kept zb_kept_all(const zb_config *c, zb_arena *a);

/* A model of the kept parts: f32, but matrices that are kept whole are borrowed of `from`. norm
 * [2L+1] (NULL: ones): factors on the weights of each layer's two norms and of the last one.
 * ZB_ERR_CONFIG where sizes are impossible. */
zb_status zb_prune_cut(zb_model **out, zb_model *from, const zb_kept *k, const double *norm,
                       zb_err *err);

/* Rows of text that models are judged by. */
typedef struct zb_prune_text {
    zb_packer *packer;
    int rows, length;
} zb_prune_text;

/* Scores of a model's parts (the larger, the more they matter), in the arena; one that is not
 * finite is an error. */
typedef struct zb_prune_scores {
    double *influence; /* [L] mean over tokens of 1 - cos(input, output) (ShortGPT, 2403.03853) */
    double **mlp, **head; /* [L] of [F], [H]; head NULL unless all layers are attention */
    double *hidden;       /* [D] over the outputs of all norms */
} zb_prune_scores;
zb_status zb_prune_score(zb_prune_scores *s, zb_model *m, const zb_prune_text *t, zb_arena *a,
                         zb_err *err);

/* Of each norm, exp of the mean over tokens of log(root mean square of the kept channels / that of
 * all), with the norm's eps: what its weights must be multiplied with for kept channels to come out
 * as before. norm [2L+1]. */
zb_status zb_prune_norms(double *norm, zb_model *m, const zb_kept *k, const zb_prune_text *t,
                         zb_err *err);

/* Takes layers out of `kept` [*n], one after the other that whose absence raises KL(m || without)
 * least, until `want` remain. */
zb_status zb_prune_depth(int *kept, int *n, int want, zb_model *m, const zb_prune_text *t,
                         zb_err *err);

/* Does what the options say. *report: {"out", "parameters", "parameters_before", "layers": kept,
 * "mlp", "heads", "kv_heads", "hidden", "cache_percent", and where a repair was tried "kl_plain",
 * "kl_repaired"}; new reference. */
zb_status zb_prune_run(const zb_prune_opts *o, json_t **report, zb_err *err);

#endif
