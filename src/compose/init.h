/* init.h - how a mixer of another kind starts from the teacher's attention layer.
 *
 * An initialisation is one row of a table: its name in recipes and one function per target kind.
 * `paper` is the published one (method.md 3) and needs weights only; `calibrated` also looks at
 * what passes through the teacher. A further one is a file and a row. */
#ifndef ZB_COMPOSE_INIT_H
#define ZB_COMPOSE_INIT_H

#include "compose/fit.h"
#include "compose/mla_paper.h"
#include "model/model.h"

/* Steps of the calibrated Mamba2 start that are left out, to see what each is worth. */
typedef struct zb_init_without {
    bool identity; /* silu stays behind the convolution */
    bool constant; /* products of keys and queries as they are, without the softmax's constant */
    bool decay;    /* all heads forget alike */
    bool gates;    /* open, whatever attention finds */
} zb_init_without;

/* One layer of the teacher as f32 matrices (row-major [out, in]), and the target layer's
 * parameters, which are to be filled. */
typedef struct zb_init_job {
    const zb_config *config; /* of the student; layer[layer] says kind and sizes */
    int layer;
    const float *q, *k, *v, *o; /* [H·dh, D], [G·dh, D] twice, [D, H·dh] */
    zb_param_table *params;     /* of the student */
    uint64_t seed;
    zb_calibration *calibration; /* this layer is entered; NULL unless the table asks for it */
    double key_weight;           /* of calibrated starts, see compose.h */
    zb_fit_opts fit;             /* likewise */
    zb_init_without without;
    double decay_max; /* of a state beside a window: it is there for what lies behind; 0: none */
} zb_init_job;

typedef zb_status zb_init_mixer(const zb_init_job *j, zb_arena *scratch, zb_err *err);

typedef struct zb_init {
    const char *name;
    bool calibrated; /* needs a calibration */
    zb_init_mixer *mla, *mamba2, *deltanet;
} zb_init;

extern const zb_init zb_init_paper, zb_init_calibrated;
const zb_init *zb_init_find(const char *name); /* NULL: unknown */
#define ZB_INIT_NAMES "paper|calibrated"

/* Their names, separated by commas. */
zb_status zb_init_without_read(const char *list, zb_init_without *out, zb_err *err);
#define ZB_INIT_STEPS "identity, constant, decay, gates"

/* The calibrated start of a Mamba2 layer. */
zb_status zb_mamba2_calibrated(const zb_init_job *j, zb_arena *scratch, zb_err *err);

/* Those of a gated DeltaNet layer. */
zb_status zb_deltanet_paper(const zb_init_job *j, zb_arena *scratch, zb_err *err);
zb_status zb_deltanet_calibrated(const zb_init_job *j, zb_arena *scratch, zb_err *err);

/* The start of a layer with a window, whose own rows hold the teacher's attention already, and a
 * memory that `memory` fills. */
zb_status zb_init_windowed(const zb_init_job *j, zb_init_mixer *memory, zb_arena *scratch,
                           zb_err *err);

/* Turns the values of the layer's far heads, whose rows hold the teacher's, so that the first far_v
 * of them carry the most of the output: over the calibration's inputs, else over the norm's. */
zb_status zb_init_retrieval(const zb_init_job *j, zb_arena *scratch, zb_err *err);

/* A parameter of the layer by its name behind "model.layers.N.", NULL where it has none; its
 * weights likewise. */
zb_param *zb_init_param(const zb_init_job *j, const char *name);
float *zb_init_weights(const zb_init_job *j, const char *name);

/* The output map of the layer's mixer, that of its memory beside a window. */
zb_param *zb_init_output(const zb_init_job *j);

/* n equal values; n values uniform in ±bound from stream `what` of the layer. */
void zb_init_fill(float *w, int64_t n, float value);
void zb_init_uniform(const zb_init_job *j, int what, float *w, int64_t n, double bound);

/* The layer's MLA sizes, and where its weights go. */
zb_mla_paper_dims zb_init_mla_dims(const zb_init_job *j);
zb_mla_paper_out zb_init_mla_out(const zb_init_job *j);

#endif
