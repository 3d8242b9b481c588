/* compose.h - a student from a teacher and a layer plan.
 *
 * The plan gives each layer a kind. Embedding, final norm and head come from the teacher. A layer
 * comes from the donor of its kind where one is given (a model trained with that kind in this
 * layer, for example by alignment): whole, with its norms and MLP; otherwise norms and MLP come
 * from the teacher and the mixer is initialised from the teacher's attention. */
#ifndef ZB_COMPOSE_COMPOSE_H
#define ZB_COMPOSE_COMPOSE_H

#include "base/opts.h"
#include "compose/candidate.h"
#include "model/model.h"

typedef struct zb_compose_opts {
    const char *teacher, *out;
    const char *default_kind; /* of layers in none of the lists */
    const char *attention_layers, *mla_layers, *mamba2_layers, *sliding_window_layers; /* "0,5" */
    const char *windowed_mamba2_layers, *gated_deltanet_layers, *windowed_deltanet_layers;
    int64_t window, sinks;       /* of layers with a window */
    const char *retrieval_heads; /* "8:0,18:2", layer:kv head: of those, the heads that see all */
    int64_t retrieval_key_dim, retrieval_value_dim; /* their cached values; 0: the head size */
    const char *selection; /* JSON of the select stage: its plan of all layers with their sizes, the
                              layers that become MLA, or retrieval heads */
    const char *mla_from, *mamba2_from; /* donor folders */
    bool fit_donors; /* their mixers are fitted again behind the layers that now precede them, and
                        with calibration_mlp the MLPs solved: see fit.h; layers with a window stay
                        as they are */
    const char *init;
    int64_t q_rank, kv_rank, nope_dim,
        rope_dim; /* 0: no low rank for q, half the head size for the dims */
    double q_energy,
        kv_energy; /* > 0: rank per layer by energy, at most q_rank, kv_rank where those are set */
    bool lora_norm, full_kv_head, repeat_before_conv;
    const char *rope_type; /* teacher | default | yarn: of MLA layers */
    double rope_factor, rope_original;
    double kv_percent_max;                        /* 0: no limit */
    const char *calibration, *calibration_inputs; /* of calibrated starts: text; own | teacher */
    const char *calibration_without;              /* names of zb_init_without (init.h) */
    int64_t calibration_tokens, calibration_length, calibration_passes, calibration_batch;
    double calibration_rate;
    const char *calibration_precision; /* auto | f32 | bf16 */
    bool calibration_mlp;
    double key_weight, ridge;
    const char *dtype;
    int64_t seed;
} zb_compose_opts;

extern const zb_opt zb_compose_opt_table[];

zb_status zb_compose_run(const zb_compose_opts *o, zb_err *err);

/* The configuration of the student that zb_compose_run would make of an opened teacher. Nothing is
 * fitted or written; what composing would refuse before it looks at text is refused here. */
zb_status zb_compose_config(const zb_compose_opts *o, zb_model *teacher, zb_config *out,
                            zb_err *err);

/* What the lists say of each of L layers; placed: it stands in one of them. */
zb_status zb_compose_kinds(const zb_compose_opts *o, int L, zb_kind *kinds, bool *placed,
                           zb_err *err);

/* The options that make a student with the candidate (a kind without a donor) in all layers, fitted
 * on the teacher's inputs; all other options stay. */
void zb_compose_all_of(zb_compose_opts *o, const zb_candidate *c);

#endif
