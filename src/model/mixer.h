/* mixer.h - the one interface of all mixer kinds, and the context of a pass through a model.
 *
 * A mixer maps normalised inputs x [N, D] to outputs y [N, D]. The N tokens are a batch of spans:
 * consecutive tokens of one document each. A span without a state starts fresh (training, scoring);
 * a span with a state continues that sequence and leaves the state behind its last token (prefill
 * in pieces, decoding). Nothing crosses a span's edge: attention, convolution and recurrence all
 * start there, positions count from the span's first token (plus the state's length).
 *
 * forward with `tape` keeps what backward needs in the run's arena and stores a pointer to it;
 * backward adds into dx and the gradients of the parameters. A new kind is one file and one row in
 * mixer.c. */
#ifndef ZB_MODEL_MIXER_H
#define ZB_MODEL_MIXER_H

#include "model/params.h"
#include "model/state.h"
#include "tensor/batch.h"
#include "tensor/matmul.h"

enum { ZB_FEW_TOKENS = 8 }; /* up to which starting threads costs more than they save */

/* Rotary tables for positions 0..rows-1: cos and sin [rows, half], the factor on both included. */
typedef struct zb_rope_table {
    int rows, half;
    float *cos, *sin;
} zb_rope_table;

/* A pass through a model. Memory of the pass comes from `arena`, whose owner marks and pops it. */
typedef struct zb_run {
    const zb_config *config;
    const zb_param_table *params;
    zb_matmul *mm;
    zb_arena *arena;
    const zb_batch *batch;
    zb_rope_table rope,
        mla_rope; /* base attention (head size), MLA (d_rope): cover all positions of the batch */
    int threads;
    bool deterministic; /* a span's numbers do not depend on the other spans: zb_linear */
    bool rounds;        /* training: attention and scans may round operands, as maps do */
    /* Told of every linear map before it is computed (x [n, cols]); NULL: nobody asks. */
    void (*observe)(void *observer, const zb_param *w, const float *x, int n);
    void *observer;
    enum zb_mla_form {
        ZB_MLA_AUTO,
        ZB_MLA_EXPANDED,
        ZB_MLA_ABSORBED
    } mla_form; /* tests force one form */
    enum zb_ssd_form { ZB_SSD_AUTO, ZB_SSD_CHUNKED, ZB_SSD_STEPS } ssd_form;
} zb_run;

/* May attention and scans round their operands to bf16? On matrix registers: where weights meet
 * activations in 8 bits anyway, and where a tape is kept, if the run's owner says so. */
static inline bool zb_run_rounds(const zb_run *run, bool is_training) {
    return zb_matmul_is_coarse(run->mm) ||
           (is_training && run->rounds && zb_matmul_on_tiles(run->mm));
}

/* What a pass over fresh spans takes from the run's arena, in bytes, so that memory can be planned
 * before work. Each part of the model states its own; tests/unit/test_footprint.c compares with
 * what passes really take. */
typedef struct zb_load {
    int n, longest, spans; /* tokens, tokens of the longest span, spans */
    int threads;
    bool bf16; /* attention's products may be on matrix registers */
} zb_load;
typedef struct zb_room {
    size_t tape;              /* kept from the way forward to the way back */
    size_t forward, backward; /* the most beyond it, on either way */
} zb_room;
static inline size_t zb_room_of(size_t floats) { /* of one array */
    return (floats * sizeof(float) + 63) / 64 * 64;
}

typedef struct zb_mixer {
    const char *name;
    void (*params)(const zb_config *c, int layer, zb_param_table *t);
    void (*forward)(zb_run *run, int layer, const float *x, float *y,
                    void **tape); /* tape NULL: keep nothing */
    void (*backward)(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape);
    zb_room (*room)(const zb_config *c, int layer, const zb_load *load);
} zb_mixer;

extern const zb_mixer zb_mixer_attention, zb_mixer_mla, zb_mixer_mamba2, zb_mixer_sliding_window,
    zb_mixer_windowed_mamba2, zb_mixer_gated_deltanet, zb_mixer_windowed_deltanet;
const zb_mixer *zb_mixer_of(zb_kind k);

/* Most rows of a packed matrix [rows, cols] that are unpacked to f32 at a time. */
int zb_linear_wide_rows(int rows, int cols);

/* Linear maps of a pass: y [n, rows] = x [n, cols] · Wᵀ (+ bias). Packed weights are unpacked by
 * tiles, or multiplied as they are where n is small. Maps of the same x are best given together:
 * few tokens then cost one parallel region and one rounding to 8 bits (precision int8). */
typedef struct zb_linear_map {
    const zb_param *w, *bias; /* bias may be NULL */
    float *y;
} zb_linear_map;
enum { ZB_LINEAR_MAPS = 4 }; /* most maps given together in a deterministic pass */
void zb_linear_many(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n);
void zb_linear(zb_run *run, const zb_param *w, const zb_param *bias, const float *x, int n,
               float *y);
/* dx += dy · W (dx NULL: skipped);  W.grad += dyᵀ · x where the parameter has a gradient; bias.grad
 * += Σ dy. */
void zb_linear_backward(zb_run *run, const zb_param *w, const zb_param *bias, const float *x,
                        const float *dy, int n, float *dx);

/* The same with dx = dy · W (dx not NULL). */
void zb_linear_backward_to(zb_run *run, const zb_param *w, const zb_param *bias, const float *x,
                           const float *dy, int n, float *dx);

/* y = rmsnorm(x) per row of D values; r [n] receives the factors (may be NULL). */
void zb_norm(zb_run *run, const zb_param *w, const float *x, int n, int dim, float *y, float *r);
void zb_norm_backward(zb_run *run, const zb_param *w, const float *x, const float *r,
                      const float *dy, int n, int dim, float *dx);

/* Per-thread scratch of `floats` each, from the run's arena. */
float *zb_scratch(zb_run *run, size_t floats);

static inline int zb_span_past(const zb_span *s) { return s->state ? s->state->len : 0; }

#endif
