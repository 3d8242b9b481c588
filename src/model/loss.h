/* loss.h - training losses: vocabulary losses in tiles, layer distillation, preference.
 *
 * Vocabulary losses start from final hidden rows: logits of a tile of tokens are formed, turned
 * into their own gradient and multiplied back, so that [tokens, vocabulary] never exists. All sums
 * are over tokens that count; `scale` multiplies gradients only (1 / tokens of the whole step gives
 * the gradient of the mean). */
#ifndef ZB_MODEL_LOSS_H
#define ZB_MODEL_LOSS_H

#include "model/model.h"

typedef struct zb_vocab_weights {
    double kl, reverse_kl, ce; /* of KL(teacher‖student), KL(student‖teacher), cross-entropy */
} zb_vocab_weights;

typedef struct zb_vocab_sums {
    double kl, reverse_kl, ce; /* unweighted sums in nats */
    int64_t tokens, predicted; /* tokens with a teacher's row, tokens with a label */
    int64_t agree;             /* tokens where student and teacher have the same best id */
} zb_vocab_sums;

/* One tile of logits [n, V]. teacher NULL: no KL. labels [n]: -1 (or any negative) = not predicted;
 * NULL: none. mask [n]: 0 = no KL; NULL: all. With `grad` student logits are overwritten by scale ·
 * d(Σ weighted losses)/d(logits). row_weight [n]: factor of a row's cross-entropy in that gradient;
 * NULL: 1. row_ce [n] receives each labelled row's cross-entropy; NULL: not. Sums are added to. */
typedef struct zb_vocab_tile {
    int n, V;
    float *student, *teacher;
    const int32_t *labels;
    const uint8_t *mask;
    const float *row_weight;
    double *row_ce;
    zb_vocab_weights weights;
    float scale;
    bool grad;
} zb_vocab_tile;
void zb_vocab_tile_run(const zb_vocab_tile *t, zb_vocab_sums *sums, zb_arena *scratch);

/* All n rows of final hidden states (behind the final norm): hidden [n, D] of the student,
 * teacher_hidden [n, D'] of `teacher` (NULL: no KL). dhidden [n, D] accumulates (NULL: evaluation;
 * the head's gradient accumulates only with it). Both runners must be in a pass. */
typedef struct zb_vocab_loss {
    zb_runner *student, *teacher;
    const float *hidden, *teacher_hidden;
    float *dhidden;
    const int32_t *labels;
    const uint8_t *mask;
    const float *row_weight; /* as in a tile */
    double *row_ce;
    int n;
    zb_vocab_weights weights;
    float scale;
} zb_vocab_loss;
void zb_vocab_loss_run(const zb_vocab_loss *l, zb_vocab_sums *sums);
size_t zb_vocab_loss_tile(int V, int n); /* rows of logits at a time */
/* Bytes it takes from the student's arena. */
size_t zb_vocab_loss_room(int V, int n, bool teacher, int threads);

/* Distance of two [n, D] outputs, summed over tokens: ‖a-b‖ per token, or (squared) mean over D of
 * (a-b)². da += scale · gradient (NULL: none). */
double zb_ild_loss(int n, int D, const float *a, const float *b, bool squared, const uint8_t *mask,
                   float scale, float *da);

/* Relative squared distance r = ‖x-t‖² / ‖t‖² of hidden states x [n, D] from `target`, as r / (1 +
 * r) summed over tokens: each token counts by its own size, since single tokens carry residuals a
 * hundred times the others', and one that is far off (a student that lost such a residual, or makes
 * one up) pulls no harder than others (Geman and McClure 1987). dx += scale · gradient (NULL:
 * none). */
double zb_hidden_loss(int n, int D, const float *x, const float *target, float scale, float *dx);

/* Mean over n pairs of -log σ(β((pc-pr)-(rc-rr))) (Rafailov et al. 2023, eq. 7); gradients of the
 * policy's sums, assigned. */
double zb_dpo_loss(int n, double beta, const double *policy_chosen, const double *policy_rejected,
                   const double *ref_chosen, const double *ref_rejected, double *d_chosen,
                   double *d_rejected);

/* Labels of a batch: the next id within the same span, -1 for the last token of each span. */
void zb_labels_next(const zb_batch *b, int32_t *labels);

#endif
