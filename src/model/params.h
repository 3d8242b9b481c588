/* params.h - every parameter of a model in one table.
 *
 * Each mixer kind declares its rows (name, shape, role); loading, checking, optimising, saving and
 * reporting walk the same table. A parameter's value is `data` of `dtype`: borrowed from a mapped
 * file, or f32 in the model's arena, in which case `w` points to it and may be written. Gradients
 * exist only in a model opened for training. */
#ifndef ZB_MODEL_PARAMS_H
#define ZB_MODEL_PARAMS_H

#include "base/arena.h"
#include "model/config.h"
#include "tensor/dtype.h"

typedef enum zb_role {
    ZB_ROLE_EMBED,
    ZB_ROLE_NORM,
    ZB_ROLE_MIXER,
    ZB_ROLE_GATE,
    ZB_ROLE_MLP,
    ZB_ROLE_HEAD
} zb_role; /* GATE: a mixer's decays, step sizes, gates, convolution and norms: small, kept wide,
              own learning rate */

typedef struct zb_param {
    const char *name; /* as in the checkpoint */
    zb_role role;
    int layer; /* -1: not in a layer */
    zb_dtype dtype;
    const void *data;
    float *w, *grad; /* NULL where absent */
    int n_dims;
    int64_t shape[3];
    int rows, cols;    /* as a matrix: cols = last axis, rows = the rest; a vector has one row */
    int wide_rows;     /* this many last rows suffer from rounding (step sizes): where the matrix is
                          packed, ... */
    float eps;         /* of a norm; 0: the model's */
    float rate;        /* factor on the learning rate that training gives it; 0 counts as 1 */
    const float *wide; /* ... these [wide_rows, cols] stand for them; NULL: `data` has all rows */
} zb_param;

/* Slots of one layer. Unused ones are NULL. */
enum zb_slot {
    ZB_P_NORM1,
    ZB_P_NORM2,
    ZB_P_GATE,
    ZB_P_UP,
    ZB_P_DOWN,
    ZB_P_GATE_B,
    ZB_P_UP_B,
    ZB_P_DOWN_B,
    ZB_P_MIXER, /* first slot of the mixer's own rows */
    ZB_SLOTS = ZB_P_MIXER + 16
};

typedef struct zb_param_table {
    zb_arena *arena;
    zb_param *item; /* fixed capacity: pointers into it stay valid */
    int n, cap;
    zb_param *embed, *norm, *head; /* head: embed where tied */
    zb_param *(*layer)[ZB_SLOTS];  /* [L][ZB_SLOTS] */
    zb_param *(*second)[ZB_SLOTS]; /* of the memory in layers that have a window and a memory */
} zb_param_table;

/* Declares all parameters of a model; values are still absent. */
void zb_params_declare(zb_param_table *t, const zb_config *c, zb_arena *a);

/* For the mixers' tables: adds "model.layers.<l>.<name>" into a slot. cols 0: a vector of `rows`.
 */
zb_param *zb_params_add(zb_param_table *t, int layer, int slot, zb_role role, const char *name,
                        int rows, int cols);

/* n rows from `first` as f32. */
void zb_param_to_f32(const zb_param *p, int first, int n, float *out);

size_t zb_param_row_bytes(const zb_param *p); /* of one row as stored */

/* Is it one of a layer's mixer, of whatever kind? */
bool zb_param_in_mixer(const zb_param *p);

zb_param *zb_params_find(const zb_param_table *t, const char *name);
int64_t zb_param_count(const zb_param *p);
bool zb_param_is_finite(const zb_param *p);       /* without NaN and infinity */
int64_t zb_params_total(const zb_param_table *t); /* weights, a tied head once */
/* Weights that a token meets in matrix products: matrices of the layers, and the head. */
double zb_params_products(const zb_param_table *t);

#endif
