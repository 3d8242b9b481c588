/* prune_cut.c - the kept rows and columns of every parameter (contract in prune.h). */
#include "compose/prune.h"

#include <string.h>

typedef enum axis { ALL, HIDDEN, MLP, HEADS, GROUPS } axis;

/* By the end of a parameter's name within its layer; a vector is one row. What is not listed is
 * kept whole. */
static const struct {
    const char *name;
    axis rows, cols;
} axes[] = {
    {"input_layernorm.weight", ALL, HIDDEN},
    {"post_attention_layernorm.weight", ALL, HIDDEN},
    {"mlp.gate_proj.weight", MLP, HIDDEN},
    {"mlp.up_proj.weight", MLP, HIDDEN},
    {"mlp.down_proj.weight", HIDDEN, MLP},
    {"mlp.gate_proj.bias", ALL, MLP},
    {"mlp.up_proj.bias", ALL, MLP},
    {"mlp.down_proj.bias", ALL, HIDDEN},
    {"self_attn.q_proj.weight", HEADS, HIDDEN},
    {"self_attn.k_proj.weight", GROUPS, HIDDEN},
    {"self_attn.v_proj.weight", GROUPS, HIDDEN},
    {"self_attn.o_proj.weight", HIDDEN, HEADS},
    {"self_attn.q_proj.bias", ALL, HEADS},
    {"self_attn.k_proj.bias", ALL, GROUPS},
    {"self_attn.v_proj.bias", ALL, GROUPS},
    {"self_attn.o_proj.bias", ALL, HIDDEN},
};

static int *count_up(int n, zb_arena *a) {
    int *list = ZB_NEW_ARRAY(a, int, n);
    for (int i = 0; i < n; i++) list[i] = i;
    return list;
}

zb_kept zb_kept_all(const zb_config *c, zb_arena *a) {
    zb_kept k = {.L = c->L, .F = c->F, .H = c->H, .G = c->G, .D = c->D};
    k.layer = count_up(c->L, a);
    k.hidden = count_up(c->D, a);
    k.mlp = zb_alloc_array(a, (size_t)c->L, sizeof *k.mlp);
    k.head = zb_alloc_array(a, (size_t)c->L, sizeof *k.head);
    k.group = zb_alloc_array(a, (size_t)c->L, sizeof *k.group);
    for (int l = 0; l < c->L; l++) {
        k.mlp[l] = count_up(c->F, a);
        k.head[l] = count_up(c->H, a);
        k.group[l] = count_up(c->G, a);
    }
    return k;
}

/* Indices along an axis of a parameter with `size` entries there. */
static const int *along(axis x, const zb_kept *k, int layer, int dh, int size, zb_arena *a) {
    const int *list = NULL;
    int n = 0;
    switch (x) {
    case ALL: return count_up(size, a);
    case HIDDEN: return k->hidden;
    case MLP: return k->mlp[layer];
    case HEADS: list = k->head[layer], n = k->H; break;
    case GROUPS: list = k->group[layer], n = k->G; break;
    }
    int *wide = ZB_NEW_ARRAY(a, int, n *dh);
    for (int i = 0; i < n * dh; i++) wide[i] = list[i / dh] * dh + i % dh;
    return wide;
}

static void axes_of(const zb_param *p, axis *rows, axis *cols) {
    *rows = ALL;
    *cols = p->layer < 0 ? HIDDEN : ALL; /* embedding, head and the last norm */
    size_t n = strlen(p->name);
    for (size_t i = 0; i < sizeof axes / sizeof axes[0] && p->layer >= 0; i++) {
        size_t m = strlen(axes[i].name);
        if (n <= m || strcmp(p->name + n - m, axes[i].name) || p->name[n - m - 1] != '.') continue;
        *rows = axes[i].rows;
        *cols = axes[i].cols;
    }
}

/* The same parameter of the layer it was. */
static const zb_param *source_of(zb_model *from, const zb_param *p, const zb_kept *k, zb_arena *a) {
    if (p->layer < 0) return zb_params_find(zb_model_params(from), p->name);
    const char *rest = strstr(p->name, "layers.") + strlen("layers.");
    rest = strchr(rest, '.') + 1;
    char *name = zb_asprintf(a, "model.layers.%d.%s", k->layer[p->layer], rest);
    return zb_params_find(zb_model_params(from), name);
}

/* Is all of a parameter kept, as it is? Vectors may be multiplied, and are no load. */
static bool is_whole(const zb_param *p, const zb_kept *k, const zb_config *c) {
    const bool whole[] = {[ALL] = true,
                          [HIDDEN] = k->D == c->D,
                          [MLP] = k->F == c->F,
                          [HEADS] = k->H == c->H,
                          [GROUPS] = k->G == c->G};
    axis rows, cols;
    axes_of(p, &rows, &cols);
    return p->n_dims > 1 && whole[rows] && whole[cols];
}

typedef struct cut {
    const zb_kept *kept;
    const zb_config *from;
} cut;

static bool is_own(const void *context, const zb_param *p) {
    const cut *x = context;
    return !is_whole(p, x->kept, x->from);
}

static void cut_param(zb_param *p, const zb_param *q, const zb_kept *k, int dh, float factor,
                      zb_arena *a) {
    axis rows, cols;
    axes_of(p, &rows, &cols);
    const int *row = along(rows, k, p->layer, dh, p->rows, a),
              *col = along(cols, k, p->layer, dh, p->cols, a);
    float *whole = ZB_RAW_ARRAY(a, float, q->cols);
    for (int r = 0; r < p->rows; r++) {
        zb_param_to_f32(q, row[r], 1, whole);
        for (int c = 0; c < p->cols; c++) p->w[(size_t)r * p->cols + c] = factor * whole[col[c]];
    }
}

/* Place of a norm among the factors; -1: no norm of the residual stream. */
static int norm_of(const zb_param_table *t, const zb_param *p, int L) {
    if (p == t->norm) return 2 * L;
    if (p->layer < 0) return -1;
    if (p == t->layer[p->layer][ZB_P_NORM1]) return 2 * p->layer;
    return p == t->layer[p->layer][ZB_P_NORM2] ? 2 * p->layer + 1 : -1;
}

zb_status zb_prune_cut(zb_model **out, zb_model *from, const zb_kept *k, const double *norm,
                       zb_err *err) {
    const zb_config *c = zb_model_config(from);
    zb_config small = *c;
    small.L = k->L;
    small.F = k->F;
    small.H = k->H;
    small.G = k->G;
    small.D = k->D;
    for (int l = 0; l < k->L; l++) small.layer[l] = c->layer[k->layer[l]];
    ZB_TRY(zb_config_check(&small, "pruned", err));
    cut x = {k, c};
    ZB_TRY(zb_model_new_part(out, &small, is_own, &x, err));
    zb_param_table *t = zb_model_params(*out);
    zb_arena scratch = {0};
    for (int i = 0; i < t->n; i++) {
        zb_mark mark = zb_arena_mark(&scratch);
        zb_param *p = &t->item[i];
        int at = norm_of(t, p, k->L);
        const zb_param *q = source_of(from, p, k, &scratch);
        ZB_ASSERT(q);
        if (p->w)
            cut_param(p, q, k, c->dh, norm && at >= 0 ? (float)norm[at] : 1, &scratch);
        else
            zb_param_borrow(p, q);
        zb_arena_pop(&scratch, mark);
    }
    zb_arena_free(&scratch);
    return ZB_OK;
}
