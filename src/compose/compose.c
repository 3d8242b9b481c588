/* compose.c - plan, sizes, donors, assembly (contract in compose.h). */
#include "compose/compose.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "compose/init.h"
#include "compose/mla_calibrated.h"
#include "compose/mla_paper.h"
#include "compose/selection.h"

#include <math.h>
#include <string.h>

#define KINDS "attention|mla|mamba2|sliding_window|windowed_mamba2|gated_deltanet|windowed_deltanet"
#define AT(field) offsetof(zb_compose_opts, field)
const zb_opt zb_compose_opt_table[] = {
    {ZB_OPT_STR, "teacher", 't', AT(teacher), NULL, 0, 0, NULL,
     "the base Transformer: model folder or .gguf"},
    {ZB_OPT_STR, "out", 'o', AT(out), NULL, 0, 0, NULL, "folder for the student"},
    {ZB_OPT_CHOICE, "default_kind", 0, AT(default_kind), "mamba2", 0, 0, KINDS,
     "kind of the layers in none of the lists"},
    {ZB_OPT_STR, "attention_layers", 0, AT(attention_layers), NULL, 0, 0, NULL,
     "layers that keep the teacher's attention"},
    {ZB_OPT_STR, "mla_layers", 0, AT(mla_layers), NULL, 0, 0, NULL, "layers that become MLA"},
    {ZB_OPT_STR, "mamba2_layers", 0, AT(mamba2_layers), NULL, 0, 0, NULL,
     "layers that become Mamba2"},
    {ZB_OPT_STR, "sliding_window_layers", 0, AT(sliding_window_layers), NULL, 0, 0, NULL,
     "layers that keep the teacher's attention to the last and the first tokens"},
    {ZB_OPT_STR, "windowed_mamba2_layers", 0, AT(windowed_mamba2_layers), NULL, 0, 0, NULL,
     "the same beside a Mamba2 state of all that came, which starts silent"},
    {ZB_OPT_STR, "gated_deltanet_layers", 0, AT(gated_deltanet_layers), NULL, 0, 0, NULL,
     "layers that become gated DeltaNet"},
    {ZB_OPT_STR, "windowed_deltanet_layers", 0, AT(windowed_deltanet_layers), NULL, 0, 0, NULL,
     "a window beside a gated DeltaNet state"},
    {ZB_OPT_INT, "window", 0, AT(window), "96", 1, 1 << 20, NULL,
     "layers with a window: tokens that a token sees, itself among them"},
    {ZB_OPT_INT, "sinks", 0, AT(sinks), "4", 0, 1 << 20, NULL,
     "layers with a window: first tokens of the document that all others see too"},
    {ZB_OPT_STR, "retrieval_heads", 0, AT(retrieval_heads), NULL, 0, 0, NULL,
     "LAYER:HEAD,...: key/value heads of layers with a window that see all tokens all the same"},
    {ZB_OPT_INT, "retrieval_key_dim", 0, AT(retrieval_key_dim), "0", 0, 4096, NULL,
     "values of their keys kept beyond the window: the slowest rotary pairs (0: all)"},
    {ZB_OPT_INT, "retrieval_value_dim", 0, AT(retrieval_value_dim), "0", 0, 4096, NULL,
     "and of their values (0: all); which ones the weights say, calibrated the text"},
    {ZB_OPT_STR, "selection", 0, AT(selection), NULL, 0, 0, NULL,
     "result of `zebra select`: its plan, its layers as MLA, or its retrieval heads"},
    {ZB_OPT_STR, "mla_from", 0, AT(mla_from), NULL, 0, 0, NULL,
     "model whose MLA layers are taken as they are"},
    {ZB_OPT_STR, "mamba2_from", 0, AT(mamba2_from), NULL, 0, 0, NULL,
     "model whose Mamba2 layers are taken as they are"},
    {ZB_OPT_BOOL, "fit_donors", 0, AT(fit_donors), "false", 0, 0, NULL,
     "fit the mixers taken from other models again where they now stand, as a calibrated start"},
    {ZB_OPT_CHOICE, "init", 0, AT(init), "paper", 0, 0, ZB_INIT_NAMES,
     "start of mixers that have no donor"},
    {ZB_OPT_INT, "q_rank", 0, AT(q_rank), "0", 0, 1 << 20, NULL,
     "MLA: rank of the query map (0: one full map)"},
    {ZB_OPT_INT, "kv_rank", 0, AT(kv_rank), "0", 0, 1 << 20, NULL,
     "MLA: latent size (with kv_energy: its upper limit, 0: none)"},
    {ZB_OPT_INT, "nope_dim", 0, AT(nope_dim), "0", 0, 4096, NULL,
     "MLA: unrotated values per head (0: half the head size)"},
    {ZB_OPT_INT, "rope_dim", 0, AT(rope_dim), "0", 0, 4096, NULL,
     "MLA: rotated values, shared by all heads (0: half the head size)"},
    {ZB_OPT_F64, "q_energy", 0, AT(q_energy), "0", 0, 1, NULL,
     "MLA: rank of the query map by this share of its energy, per layer"},
    {ZB_OPT_F64, "kv_energy", 0, AT(kv_energy), "0", 0, 1, NULL,
     "MLA: latent size by this share of keys' and values' energy, per layer"},
    {ZB_OPT_BOOL, "lora_norm", 0, AT(lora_norm), "false", 0, 0, NULL,
     "MLA: RMS norms on the latents"},
    {ZB_OPT_BOOL, "full_kv_head", 0, AT(full_kv_head), "true", 0, 0, NULL,
     "MLA: keys and values for every query head"},
    {ZB_OPT_BOOL, "repeat_before_conv", 0, AT(repeat_before_conv), "false", 0, 0, NULL,
     "Mamba2: repeat x and B to all heads before the convolution"},
    {ZB_OPT_CHOICE, "rope_type", 0, AT(rope_type), "teacher", 0, 0, "teacher|default|yarn",
     "MLA: rotary scaling"},
    {ZB_OPT_F64, "rope_factor", 0, AT(rope_factor), "8", 0, 1e6, NULL, "MLA: YaRN's factor"},
    {ZB_OPT_F64, "rope_original", 0, AT(rope_original), "8192", 0, 1e9, NULL,
     "MLA: context before YaRN's extension"},
    {ZB_OPT_F64, "kv_percent_max", 0, AT(kv_percent_max), "0", 0, 100, NULL,
     "refuse a plan whose cache exceeds this share of the teacher's"},
    {ZB_OPT_STR, "calibration", 0, AT(calibration), "data/text/train.jsonl", 0, 0, NULL,
     "calibrated start: text that passes through the teacher"},
    {ZB_OPT_INT, "calibration_tokens", 0, AT(calibration_tokens), "32768", 1, 1 << 28, NULL,
     "calibrated start: tokens of it"},
    {ZB_OPT_INT, "calibration_length", 0, AT(calibration_length), "512", 1, 1 << 20, NULL,
     "calibrated start: tokens per row"},
    {ZB_OPT_CHOICE, "calibration_inputs", 0, AT(calibration_inputs), "own", 0, 0, "own|teacher",
     "calibrated start: layers are fitted on the student's own states or on the teacher's"},
    {ZB_OPT_F64, "key_weight", 0, AT(key_weight), "2", 0, 1e6, NULL,
     "calibrated MLA: weight of keys against values in the latents"},
    {ZB_OPT_F64, "ridge", 0, AT(ridge), "0", 0, 1e6, NULL,
     "calibrated start: pull of the output map to the teacher's, as a share of the features' power "
     "(0: chosen per layer)"},
    {ZB_OPT_INT, "calibration_passes", 0, AT(calibration_passes), "8", 0, 1000, NULL,
     "calibrated start: passes over the text in which each mixer is fitted (0: closed form)"},
    {ZB_OPT_INT, "calibration_batch", 0, AT(calibration_batch), "512", 1, 1 << 28, NULL,
     "calibrated start: tokens per step of those, in whole rows"},
    {ZB_OPT_F64, "calibration_rate", 0, AT(calibration_rate), "0.01", 0, 1, NULL,
     "calibrated start: first step of those, as a share of each tensor's size"},
    {ZB_OPT_CHOICE, "calibration_precision", 0, AT(calibration_precision), "auto", 0, 0,
     "auto|f32|bf16",
     "calibrated start: matrix products of those passes; auto: bf16 where the "
     "processor has it"},
    {ZB_OPT_BOOL, "calibration_mlp", 0, AT(calibration_mlp), "false", 0, 0, NULL,
     "calibrated start: solve each MLP's last map anew for the student's inputs"},
    {ZB_OPT_STR, "calibration_without", 0, AT(calibration_without), "", 0, 0, NULL,
     "calibrated Mamba2: steps left out, to see what each is worth: " ZB_INIT_STEPS},
    {ZB_OPT_CHOICE, "dtype", 0, AT(dtype), "f32", 0, 0, "f32|bf16", "type of the saved weights"},
    {ZB_OPT_INT, "seed", 's', AT(seed), "42", 0, 9e15, NULL, "random parts of the initialisation"},
    {0},
};

typedef struct composer {
    const zb_compose_opts *o;
    zb_arena arena;
    const zb_init *init;
    zb_init_without without;
    zb_model *teacher, *student, *donor[ZB_KIND_COUNT];
    zb_calibration *calibration; /* where the initialisation looks at data */
    zb_config config;
    bool placed[ZB_LAYERS_MAX];
    zb_candidate *plan; /* [L] of a selection that has one; else NULL */
    const char *heads;  /* retrieval heads of a selection that has them; else NULL */
    zb_model
        *plan_donor[ZB_LAYERS_MAX]; /* whose layer the plan takes; equal entries are one model */
    int rope_dim;                   /* of MLA layers */
    zb_precision descent;           /* of the passes of a calibrated start */
} composer;

static zb_status place(zb_kind *kinds, bool *placed, int L, const char *list, const char *what,
                       zb_kind kind, zb_err *err) {
    int layer[ZB_LAYERS_MAX], n;
    ZB_TRY(zb_list_ints(list, what, 0, L - 1, layer, ZB_LAYERS_MAX, &n, err));
    for (int i = 0; i < n; i++) {
        if (placed[layer[i]])
            return zb_fail(err, ZB_ERR_CONFIG, "%s: layer %d is already placed", what, layer[i]);
        placed[layer[i]] = true;
        kinds[layer[i]] = kind;
    }
    return ZB_OK;
}

zb_status zb_compose_kinds(const zb_compose_opts *o, int L, zb_kind *kinds, bool *placed,
                           zb_err *err) {
    zb_kind kind;
    bool known = zb_kind_find(o->default_kind, &kind);
    ZB_ASSERT(known);
    for (int l = 0; l < L; l++) {
        kinds[l] = kind;
        placed[l] = false;
    }
    const struct {
        const char *list, *name;
        zb_kind kind;
    } lists[] = {{o->attention_layers, "attention_layers", ZB_ATTENTION},
                 {o->mla_layers, "mla_layers", ZB_MLA},
                 {o->mamba2_layers, "mamba2_layers", ZB_MAMBA2},
                 {o->sliding_window_layers, "sliding_window_layers", ZB_SLIDING_WINDOW},
                 {o->windowed_mamba2_layers, "windowed_mamba2_layers", ZB_WINDOWED_MAMBA2},
                 {o->gated_deltanet_layers, "gated_deltanet_layers", ZB_GATED_DELTANET},
                 {o->windowed_deltanet_layers, "windowed_deltanet_layers", ZB_WINDOWED_DELTANET}};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        ZB_TRY(place(kinds, placed, L, lists[i].list, lists[i].name, lists[i].kind, err));
    return ZB_OK;
}

static zb_status place_selection(composer *k, zb_err *err) {
    const zb_compose_opts *o = k->o;
    zb_selection sel;
    ZB_TRY(zb_selection_read(&sel, o->selection, k->config.L, &k->arena, err));
    k->plan = sel.plan;
    k->heads = sel.heads;
    if (!sel.plan) {
        zb_kind kind[ZB_LAYERS_MAX];
        for (int l = 0; l < k->config.L; l++) kind[l] = k->config.layer[l].kind;
        ZB_TRY(place(kind, k->placed, k->config.L, sel.layers, o->selection, ZB_MLA, err));
        for (int l = 0; l < k->config.L; l++) k->config.layer[l].kind = kind[l];
        return ZB_OK;
    }
    for (int l = 0; l < k->config.L; l++)
        if (k->placed[l] || o->mla_from || o->mamba2_from)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "%s: holds a plan of all layers: lists of layers, mla_from and "
                           "mamba2_from have no place beside it",
                           o->selection);
    for (int l = 0; l < k->config.L; l++) {
        const zb_candidate *c = &k->plan[l];
        zb_layer_config *m = &k->config.layer[l];
        m->kind = c->kind;
        if (c->from || !c->size) continue;
        if (c->kind == ZB_MLA) {
            m->r_kv = c->size;
            m->d_rope = k->rope_dim = c->more;
        } else {
            m->window = c->size;
            m->sinks = c->more < 0 ? (int)o->sinks : c->more;
        }
    }
    return ZB_OK;
}

static zb_status plan(composer *k, zb_err *err) {
    zb_kind kind[ZB_LAYERS_MAX];
    ZB_TRY(zb_compose_kinds(k->o, k->config.L, kind, k->placed, err));
    for (int l = 0; l < k->config.L; l++) k->config.layer[l] = (zb_layer_config){.kind = kind[l]};
    if (k->o->selection) ZB_TRY(place_selection(k, err));
    const zb_config *teacher = zb_model_config(k->teacher);
    k->config.hybrid = false;
    for (int l = 0; l < k->config.L; l++) { /* kept attention has the teacher's window, if any */
        zb_layer_config *m = &k->config.layer[l];
        if (m->kind == ZB_ATTENTION)
            *m = teacher->layer[l];
        else
            k->config.hybrid = true;
    }
    return ZB_OK;
}

/* A parameter of the teacher as f32, in the arena where it is stored otherwise. */
static const float *wide(composer *k, int layer, const char *name, zb_arena *a) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    const zb_param *p = zb_params_find(zb_model_params(k->teacher), full);
    ZB_ASSERT(p);
    if (p->dtype == ZB_F32) return p->data;
    float *out = ZB_NEW_ARRAY(a, float, zb_param_count(p));
    zb_param_to_f32(p, 0, p->rows, out);
    return out;
}

static zb_init_job job_of(composer *k, int layer, zb_arena *a) {
    zb_init_job j = {.config = &k->config,
                     .layer = layer,
                     .seed = (uint64_t)k->o->seed,
                     .calibration = k->calibration,
                     .key_weight = k->o->key_weight,
                     .without = k->without,
                     .fit = {.passes = k->o->calibration_passes,
                             .rate = k->o->calibration_rate,
                             .ridge = k->o->ridge,
                             .block = k->config.dh,
                             .precision = k->descent}};
    j.q = wide(k, layer, "self_attn.q_proj.weight", a);
    j.k = wide(k, layer, "self_attn.k_proj.weight", a);
    j.v = wide(k, layer, "self_attn.v_proj.weight", a);
    j.o = wide(k, layer, "self_attn.o_proj.weight", a);
    if (k->student) j.params = zb_model_params(k->student);
    return j;
}

/* Sizes of one MLA layer; ranks by energy need the teacher's weights. */
static zb_status size_mla(composer *k, int layer, zb_err *err) {
    const zb_compose_opts *o = k->o;
    zb_config *c = &k->config;
    zb_layer_config *m = &c->layer[layer];
    /* unrotated values cost no cache: a calibrated start keeps whole heads */
    m->d_nope = o->nope_dim ? (int)o->nope_dim : k->init->calibrated ? c->dh : c->dh / 2;
    m->d_rope = m->d_rope ? m->d_rope : k->rope_dim; /* a plan's own sizes go first */
    m->d_v = c->dh;
    m->r_q = (int)o->q_rank;
    m->r_kv = m->r_kv ? m->r_kv : (int)o->kv_rank;
    m->lora_norm = o->lora_norm;
    if (m->lora_norm) m->latent_eps = ZB_LATENT_EPS;
    m->full_kv_head = o->full_kv_head;
    if (k->init->calibrated && (o->kv_energy > 0 || o->q_energy > 0))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "kv_energy, q_energy: ranks by energy belong to init paper");
    if (k->init->calibrated && m->lora_norm)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "lora_norm: a calibrated start has latents without norms");
    if (o->kv_energy > 0 || o->q_energy > 0) {
        zb_arena a = {0};
        zb_init_job j = job_of(k, layer, &a);
        zb_mla_paper_dims d = {.hidden = c->D,
                               .heads = c->H,
                               .kv_heads = c->G,
                               .head_dim = c->dh,
                               .nope_dim = m->d_nope,
                               .rope_dim = m->d_rope,
                               .v_dim = m->d_v,
                               .full_kv_head = m->full_kv_head};
        zb_mla_paper_in in = {j.q, j.k, j.v, j.o};
        zb_mla_paper_energy e = {o->q_energy, o->kv_energy, (int)o->q_rank, (int)o->kv_rank};
        zb_status s = zb_mla_paper_ranks(&d, &in, &e, o->q_energy > 0 ? &m->r_q : NULL,
                                         o->kv_energy > 0 ? &m->r_kv : NULL, &a, err);
        zb_arena_free(&a);
        if (s != ZB_OK) return s;
    }
    if (m->r_kv < 1)
        return zb_fail(err, ZB_ERR_CONFIG, "kv_rank or kv_energy: needed for MLA layers");
    /* what its start would refuse, behind the fits of all layers before it */
    zb_mla_paper_dims d = zb_init_mla_dims(&(zb_init_job){.config = c, .layer = layer});
    zb_status s =
        k->init->calibrated ? zb_mla_calibrated_check(&d, err) : zb_mla_paper_check(&d, err);
    return s == ZB_OK ? s : zb_err_wrap(err, s, "layer %d", layer);
}

static zb_status open_donor(composer *k, const char *path, zb_kind kind, zb_err *err) {
    if (!path) return ZB_OK;
    ZB_TRY(zb_model_open(&k->donor[kind], path, ZB_MODEL_RUN, err));
    const zb_config *d = zb_model_config(k->donor[kind]), *c = &k->config;
    if (d->L != c->L || d->D != c->D || d->H != c->H || d->G != c->G || d->dh != c->dh ||
        d->F != c->F)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the teacher's sizes", path);
    for (int l = 0; l < c->L; l++) {
        if (c->layer[l].kind != kind) continue;
        if (d->layer[l].kind != kind)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: layer %d: expected %s, found %s", path, l,
                           zb_kind_name(kind), zb_kind_name(d->layer[l].kind));
        k->config.layer[l] = d->layer[l];
    }
    if (kind == ZB_MLA) k->config.mla_rope = d->mla_rope;
    return ZB_OK;
}

/* The models that a plan takes layers from. */
static zb_status open_plan_donors(composer *k, zb_err *err) {
    zb_config *c = &k->config;
    for (int l = 0; k->plan && l < c->L; l++) {
        const zb_candidate *p = &k->plan[l];
        for (int i = 0; p->from && i < l; i++)
            if (k->plan[i].from && !strcmp(k->plan[i].from, p->from))
                k->plan_donor[l] = k->plan_donor[i];
        if (!p->from) continue;
        if (!k->plan_donor[l]) {
            ZB_TRY(zb_model_save_check(k->o->out, ZB_INPUTS(p->from), err));
            ZB_TRY(zb_model_open(&k->plan_donor[l], p->from, ZB_MODEL_RUN, err));
        }
        const zb_config *d = zb_model_config(k->plan_donor[l]);
        if (d->L != c->L || d->D != c->D || d->H != c->H || d->G != c->G || d->dh != c->dh ||
            d->F != c->F || d->layer[l].kind != p->kind)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "%s: layer %d: expected %s and the teacher's sizes, found %s", p->from,
                           l, zb_kind_name(p->kind),
                           l < d->L ? zb_kind_name(d->layer[l].kind) : "no such layer");
        c->layer[l] = d->layer[l];
        if (p->kind == ZB_MLA) c->mla_rope = d->mla_rope;
    }
    return ZB_OK;
}

/* The model that layer l is taken from; NULL: it is made from the teacher. */
static zb_model *donor_of(const composer *k, int l) {
    return k->plan_donor[l] ? k->plan_donor[l] : k->donor[k->config.layer[l].kind];
}

static zb_status set_rope(composer *k, zb_err *err) {
    zb_config *c = &k->config;
    c->mla_rope = c->rope;
    if (k->init->calibrated) {
        /* d_rope/2 pairs with the frequencies of the teacher's fastest: theta^(-2i/dh) */
        if (c->rope.type == ZB_ROPE_YARN || strcmp(k->o->rope_type, "teacher"))
            return zb_fail(err, ZB_ERR_CONFIG,
                           "a calibrated start keeps the teacher's rotary frequencies: expected "
                           "rope_type teacher, and a teacher without YaRN");
        c->mla_rope.theta = pow(c->rope.theta, (double)k->rope_dim / c->dh);
        return ZB_OK;
    }
    if (!strcmp(k->o->rope_type, "teacher")) return ZB_OK;
    c->mla_rope = (zb_rope){.type = ZB_ROPE_PLAIN,
                            .theta = c->rope.theta,
                            .factor = 1,
                            .beta_fast = 32,
                            .beta_slow = 1,
                            .mscale = 1};
    if (strcmp(k->o->rope_type, "yarn")) return ZB_OK;
    c->mla_rope.type = ZB_ROPE_YARN;
    c->mla_rope.factor = k->o->rope_factor;
    c->mla_rope.old_context = k->o->rope_original;
    return ZB_OK;
}

/* Layers of these kinds are the teacher's own. */
static bool keeps_attention(zb_kind kind) {
    return kind == ZB_ATTENTION || kind == ZB_SLIDING_WINDOW;
}

static zb_status place_heads(composer *k, const char *list, zb_err *err) {
    int n;
    char **word = zb_list_split(list, &k->arena, &n);
    for (int i = 0; i < n; i++) {
        char *head = strchr(word[i], ':');
        int64_t l, g;
        if (head) *head++ = 0;
        if (!head || !zb_parse_i64(word[i], &l) || !zb_parse_i64(head, &g) || l < 0 ||
            l >= k->config.L || g < 0 || g >= k->config.G || g > 63)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "retrieval_heads: expected LAYER:HEAD with layers 0 to %d and key/value "
                           "heads 0 to %d, found \"%.40s%s%.40s\"",
                           k->config.L - 1, k->config.G - 1, word[i], head ? ":" : "",
                           head ? head : "");
        if (!zb_kind_has_window(k->config.layer[l].kind))
            return zb_fail(err, ZB_ERR_CONFIG,
                           "retrieval_heads: layer %d: expected a kind with a window, found %s",
                           (int)l, zb_kind_name(k->config.layer[l].kind));
        k->config.layer[l].retrieval |= (uint64_t)1 << g;
    }
    return ZB_OK;
}

static zb_status describe(composer *k, zb_err *err) {
    const zb_compose_opts *o = k->o;
    k->config = *zb_model_config(k->teacher);
    if (k->config.hybrid)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: expected a Transformer as the teacher, found a hybrid", o->teacher);
    k->rope_dim = o->rope_dim ? (int)o->rope_dim : k->config.dh / 2;
    ZB_TRY(zb_init_without_read(o->calibration_without, &k->without, err));
    ZB_TRY(plan(k, err));
    ZB_TRY(set_rope(k, err));
    ZB_TRY(open_donor(k, o->mla_from, ZB_MLA, err));
    ZB_TRY(open_donor(k, o->mamba2_from, ZB_MAMBA2, err));
    ZB_TRY(open_plan_donors(k, err));
    for (int l = 0; l < k->config.L; l++) {
        zb_layer_config *m = &k->config.layer[l];
        if (m->kind == ZB_MLA && !donor_of(k, l)) ZB_TRY(size_mla(k, l, err));
        bool mamba2 = zb_kind_has_mamba2(m->kind);
        if ((mamba2 || zb_kind_has_deltanet(m->kind)) && !donor_of(k, l)) {
            m->repeat_before_conv = mamba2 && o->repeat_before_conv;
            m->conv_identity = m->gate_bias = k->init->calibrated;
            if (mamba2 && k->without.identity) m->conv_identity = false;
        }
        if (zb_kind_has_window(m->kind) && !m->window) {
            m->window = (int)o->window;
            m->sinks = (int)o->sinks;
        }
        if (zb_kind_has_window(m->kind) && !donor_of(k, l)) {
            m->far_k = (int)o->retrieval_key_dim;
            m->far_v = (int)o->retrieval_value_dim;
        }
    }
    ZB_TRY(place_heads(k, k->o->retrieval_heads, err));
    ZB_TRY(place_heads(k, k->heads, err));
    double percent = zb_config_kv_percent(&k->config);
    if (o->kv_percent_max > 0 && percent > o->kv_percent_max)
        return zb_fail(
            err, ZB_ERR_CONFIG,
            "the plan caches %.2f %% of the teacher's values, more than kv_percent_max %.2f %%",
            percent, o->kv_percent_max);
    return zb_config_check(&k->config, "plan", err);
}

/* Every parameter of the student that `from` also has, with the same shape, in the given layer (-1:
 * outside layers): copied where the student has its own, else borrowed. */
static void take_params(composer *k, zb_model *from, int layer, bool mixer_too) {
    zb_param_table *to = zb_model_params(k->student), *src = zb_model_params(from);
    for (int i = 0; i < to->n; i++) {
        zb_param *p = &to->item[i];
        if (p->layer != layer) continue;
        if (zb_param_in_mixer(p) && !mixer_too) continue;
        const zb_param *q = zb_params_find(src, p->name);
        /* a Transformer has no memory beside its attention: an initialisation fills it */
        if (!q && mixer_too && from == k->teacher && zb_param_in_mixer(p)) continue;
        if (!q && layer < 0) q = src->head; /* an untied student of a tied donor */
        ZB_ASSERT(q && zb_param_count(q) == zb_param_count(p));
        if (p->w)
            zb_param_to_f32(q, 0, q->rows, p->w);
        else
            zb_param_borrow(p, q);
    }
}

/* Is the layer fitted to text: by the start of its mixer, or where it came from a donor? */
static bool is_fitted(const composer *k, int l) {
    zb_kind kind = k->config.layer[l].kind;
    if (donor_of(k, l))
        return k->o->fit_donors && kind != ZB_ATTENTION && !zb_kind_has_window(kind);
    return k->init->calibrated && !keeps_attention(kind);
}

/* Retrieval heads that keep a part of their values. */
static bool has_narrow_heads(const composer *k, int l) {
    return zb_config_far_heads(&k->config, l) && k->config.layer[l].far_v && !donor_of(k, l);
}

/* Is the layer's mixer the teacher's or a donor's to the last bit? */
static bool is_taken(const composer *k, int l) {
    return (keeps_attention(k->config.layer[l].kind) || donor_of(k, l)) && !is_fitted(k, l) &&
           !has_narrow_heads(k, l);
}

/* What a start changes, and vectors; all else stays with the model that it comes from. */
static bool is_own(const void *context, const zb_param *p) {
    const composer *k = context;
    if (p->n_dims == 1) return true;
    if (p->layer < 0) return false;
    if (zb_param_in_mixer(p)) return !is_taken(k, p->layer);
    return k->o->calibration_mlp && is_fitted(k, p->layer);
}

/* Does any layer start by looking at data? Then all are walked through. */
static zb_status open_calibration(composer *k, zb_err *err) {
    const zb_compose_opts *o = k->o;
    bool wanted = false;
    for (int l = 0; l < k->config.L; l++)
        wanted = wanted || is_fitted(k, l) || (k->init->calibrated && has_narrow_heads(k, l));
    if (!wanted) return ZB_OK;
    zb_tokenizer *t;
    ZB_TRY(zb_precision_choose(o->calibration_precision, &k->descent, err));
    ZB_TRY(zb_model_tokenizer(&t, o->teacher, err));
    zb_calibration_opts c = {.text = o->calibration,
                             .tokens = o->calibration_tokens,
                             .length = o->calibration_length,
                             .batch = o->calibration_batch,
                             .own_inputs = !strcmp(o->calibration_inputs, "own"),
                             .seed = (uint64_t)o->seed};
    zb_status s = zb_calibration_new(&k->calibration, k->teacher, k->student, t, &c, err);
    zb_tokenizer_close(t);
    return s;
}

static zb_status start_mixer(composer *k, zb_kind kind, const zb_init_job *j, zb_arena *scratch,
                             zb_err *err) {
    switch (kind) {
    case ZB_MLA: return k->init->mla(j, scratch, err);
    case ZB_MAMBA2: return k->init->mamba2(j, scratch, err);
    case ZB_GATED_DELTANET: return k->init->deltanet(j, scratch, err);
    case ZB_WINDOWED_MAMBA2: return zb_init_windowed(j, k->init->mamba2, scratch, err);
    default: return zb_init_windowed(j, k->init->deltanet, scratch, err);
    }
}

static zb_status turn_values(composer *k, int l, zb_err *err) {
    zb_arena scratch = {0};
    zb_init_job j = job_of(k, l, &scratch);
    zb_status s = zb_init_retrieval(&j, &scratch, err);
    zb_arena_free(&scratch);
    return s;
}

/* A trained mixer's heads have their sizes: its output map is not scaled by blocks before. */
static zb_status fit_donor(composer *k, int l, zb_err *err) {
    zb_arena scratch = {0};
    zb_init_job j = job_of(k, l, &scratch);
    j.fit.block = 0;
    zb_status s = zb_fit_mixer(k->calibration, zb_init_output(&j), &j.fit, err);
    zb_arena_free(&scratch);
    return s;
}

/* The teacher's own layer, or a donor's. */
static zb_status take_layer(composer *k, int l, zb_err *err) {
    zb_model *donor = donor_of(k, l);
    bool fitted = is_fitted(k, l);
    take_params(k, donor ? donor : k->teacher, l, true);
    if (k->calibration) ZB_TRY(zb_calibration_enter(k->calibration, l, err));
    if (has_narrow_heads(k, l)) ZB_TRY(turn_values(k, l, err));
    if (fitted) ZB_TRY(fit_donor(k, l, err));
    if (!k->calibration) return ZB_OK;
    return zb_calibration_leave(k->calibration, fitted && k->o->calibration_mlp, err);
}

static zb_status fill_layer(composer *k, int l, zb_err *err) {
    zb_kind kind = k->config.layer[l].kind;
    if (keeps_attention(kind) || donor_of(k, l)) return take_layer(k, l, err);
    zb_arena scratch = {0};
    take_params(k, k->teacher, l, zb_kind_has_window(kind));
    zb_init_job j = job_of(k, l, &scratch);
    zb_status s = ZB_OK;
    if (k->calibration) s = zb_calibration_enter(k->calibration, l, err);
    if (s == ZB_OK && has_narrow_heads(k, l)) s = zb_init_retrieval(&j, &scratch, err);
    if (s == ZB_OK) s = start_mixer(k, kind, &j, &scratch, err);
    /* behind a window the teacher's MLP stays exact */
    bool refit = k->o->calibration_mlp && is_fitted(k, l) && !zb_kind_has_window(kind);
    if (s == ZB_OK && k->calibration) s = zb_calibration_leave(k->calibration, refit, err);
    zb_arena_free(&scratch);
    return s == ZB_OK ? s : zb_err_wrap(err, s, "layer %d", l);
}

static bool replaces_any(const zb_config *c) {
    for (int l = 0; l < c->L; l++)
        if (!keeps_attention(c->layer[l].kind)) return true;
    return false;
}

static zb_status fill(composer *k, zb_err *err) {
    take_params(k, k->teacher, -1, false);
    ZB_TRY(open_calibration(k, err));
    zb_progress bar;
    zb_progress_begin(&bar, "compose", "layers", 0, k->config.L);
    for (int l = 0; l < k->config.L; l++) {
        ZB_TRY(fill_layer(k, l, err));
        zb_progress_update(&bar, l + 1, NULL);
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "compose: interrupted");
    }
    zb_progress_end(&bar, k->config.L, NULL);
    return ZB_OK;
}

static void free_donors(composer *k) {
    for (int i = 0; i < ZB_KIND_COUNT; i++) zb_model_free(k->donor[i]);
    for (int l = 0; l < ZB_LAYERS_MAX; l++) {
        zb_model *m = k->plan_donor[l];
        for (int i = l; m && i < ZB_LAYERS_MAX; i++)
            if (k->plan_donor[i] == m) k->plan_donor[i] = NULL;
        zb_model_free(m);
    }
}

void zb_compose_all_of(zb_compose_opts *o, const zb_candidate *c) {
    for (const zb_opt *t = zb_compose_opt_table; t->type != ZB_OPT_END; t++) {
        zb_str name = zb_str_from(t->name);
        if (zb_str_ends(name, ZB_STR("_layers")) || zb_str_ends(name, ZB_STR("_from")))
            *(const char **)((char *)o + t->offset) = NULL;
    }
    o->selection = o->retrieval_heads = NULL;
    o->retrieval_key_dim = o->retrieval_value_dim = 0; /* sizes of heads that are not there */
    o->kv_percent_max = 0;                             /* holds for whole plans */
    o->calibration_inputs = "teacher";                 /* the layers will stand among others */
    o->default_kind = zb_kind_name(c->kind);
    if (c->kind == ZB_MLA) {
        o->kv_rank = c->size;
        o->rope_dim = c->more;
    } else if (c->size) {
        o->window = c->size;
        o->sinks = c->more < 0 ? o->sinks : c->more;
    }
}

zb_status zb_compose_config(const zb_compose_opts *o, zb_model *teacher, zb_config *out,
                            zb_err *err) {
    composer k = {.o = o, .init = zb_init_find(o->init), .teacher = teacher};
    ZB_ASSERT(k.init);
    zb_status s = describe(&k, err);
    *out = k.config;
    free_donors(&k);
    zb_arena_free(&k.arena);
    return s;
}

zb_status zb_compose_run(const zb_compose_opts *o, zb_err *err) {
    if (!o->teacher || !o->out) return zb_fail(err, ZB_ERR_CONFIG, "teacher and out are needed");
    ZB_TRY(zb_model_save_check(
        o->out, ZB_INPUTS(o->teacher, o->mla_from, o->mamba2_from, o->selection), err));
    composer k = {.o = o, .init = zb_init_find(o->init)};
    ZB_ASSERT(k.init);
    zb_status s = zb_model_open(&k.teacher, o->teacher, ZB_MODEL_RUN, err);
    if (s == ZB_OK) s = describe(&k, err);
    if (s == ZB_OK && zb_model_config(k.teacher)->qkv_bias && replaces_any(&k.config))
        zb_warn("%s: the new mixers have no place for the teacher's query, key and value biases: "
                "they are dropped",
                o->teacher);
    if (s == ZB_OK) s = zb_model_new_part(&k.student, &k.config, is_own, &k, err);
    if (s == ZB_OK) s = fill(&k, err);
    if (s == ZB_OK) {
        zb_compose_opts copy = *o; /* the JSON writer reads through non-const groups */
        zb_opt_group g[] = {{"", zb_compose_opt_table, &copy}, {0}};
        json_t *p = json_pack("{s:s,s:o}", "stage", "compose", "options", zb_opts_json(g));
        s = zb_model_save(k.student, o->out, strcmp(o->dtype, "bf16") ? ZB_F32 : ZB_BF16,
                          o->teacher, p, err);
        json_decref(p);
    }
    if (s == ZB_OK)
        zb_info("compose: %s caches %.2f %% of the teacher's values per token", o->out,
                zb_config_kv_percent(&k.config));
    zb_calibration_free(k.calibration);
    zb_model_free(k.student);
    free_donors(&k);
    zb_model_free(k.teacher);
    zb_arena_free(&k.arena);
    return s;
}
