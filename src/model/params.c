/* params.c - declaring the parameter table from a configuration (contract in params.h). */
#include "model/params.h"

#include "kernels/kernels.h"
#include "model/mixer.h"

#include <math.h>
#include <string.h>

static zb_param *append(zb_param_table *t, zb_role role, int layer, const char *name, int rows,
                        int cols) {
    ZB_ASSERT(t->n < t->cap);
    zb_param *p = &t->item[t->n++];
    *p = (zb_param){.name = name, .role = role, .layer = layer, .dtype = ZB_F32};
    p->n_dims = cols ? 2 : 1;
    p->shape[0] = rows;
    p->shape[1] = cols;
    p->rows = cols ? rows : 1;
    p->cols = cols ? cols : rows;
    return p;
}

zb_param *zb_params_add(zb_param_table *t, int layer, int slot, zb_role role, const char *name,
                        int rows, int cols) {
    ZB_ASSERT(slot >= 0 && slot < ZB_SLOTS && !t->layer[layer][slot]);
    zb_param *p = append(t, role, layer, zb_asprintf(t->arena, "model.layers.%d.%s", layer, name),
                         rows, cols);
    t->layer[layer][slot] = p;
    return p;
}

void zb_params_declare(zb_param_table *t, const zb_config *c, zb_arena *a) {
    *t = (zb_param_table){.arena = a, .cap = 3 + 2 * c->L * ZB_SLOTS};
    t->item = ZB_NEW_ARRAY(a, zb_param, t->cap);
    t->layer = zb_alloc_array(a, (size_t)c->L, sizeof *t->layer);
    t->second = zb_alloc_array(a, (size_t)c->L, sizeof *t->second);
    t->embed = append(t, ZB_ROLE_EMBED, -1, "model.embed_tokens.weight", c->V, c->D);
    for (int l = 0; l < c->L; l++) {
        zb_params_add(t, l, ZB_P_NORM1, ZB_ROLE_NORM, "input_layernorm.weight", c->D, 0);
        zb_mixer_of(c->layer[l].kind)->params(c, l, t);
        zb_params_add(t, l, ZB_P_NORM2, ZB_ROLE_NORM, "post_attention_layernorm.weight", c->D, 0);
        zb_params_add(t, l, ZB_P_GATE, ZB_ROLE_MLP, "mlp.gate_proj.weight", c->F, c->D);
        zb_params_add(t, l, ZB_P_UP, ZB_ROLE_MLP, "mlp.up_proj.weight", c->F, c->D);
        zb_params_add(t, l, ZB_P_DOWN, ZB_ROLE_MLP, "mlp.down_proj.weight", c->D, c->F);
        if (c->mlp_bias) {
            zb_params_add(t, l, ZB_P_GATE_B, ZB_ROLE_MLP, "mlp.gate_proj.bias", c->F, 0);
            zb_params_add(t, l, ZB_P_UP_B, ZB_ROLE_MLP, "mlp.up_proj.bias", c->F, 0);
            zb_params_add(t, l, ZB_P_DOWN_B, ZB_ROLE_MLP, "mlp.down_proj.bias", c->D, 0);
        }
    }
    t->norm = append(t, ZB_ROLE_NORM, -1, "model.norm.weight", c->D, 0);
    t->head = c->tied ? t->embed : append(t, ZB_ROLE_HEAD, -1, "lm_head.weight", c->V, c->D);
}

bool zb_param_in_mixer(const zb_param *p) {
    static const char *const parts[] = {".self_attn.", ".mla.", ".mamba.", ".linear_attn.",
                                        ".memory_gate"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(p->name, parts[i])) return true;
    return false;
}

zb_param *zb_params_find(const zb_param_table *t, const char *name) {
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->item[i].name, name)) return &t->item[i];
    return NULL;
}

size_t zb_param_row_bytes(const zb_param *p) {
    size_t bytes = 0;
    bool ok = zb_dtype_size(p->dtype, p->cols, &bytes);
    ZB_ASSERT(ok);
    return bytes;
}

void zb_param_to_f32(const zb_param *p, int first, int n, float *out) {
    ZB_ASSERT(first >= 0 && n >= 0 && first + n <= p->rows);
    zb_dtype_to_f32(p->dtype, (const uint8_t *)p->data + (size_t)first * zb_param_row_bytes(p), out,
                    (int64_t)n * p->cols);
    int start = p->rows - p->wide_rows;
    for (int r = first > start ? first : start; p->wide && r < first + n; r++)
        memcpy(out + (size_t)(r - first) * p->cols, p->wide + (size_t)(r - start) * p->cols,
               (size_t)p->cols * sizeof(float));
}

int64_t zb_param_count(const zb_param *p) { return (int64_t)p->rows * p->cols; }

/* The sum is f64: finite weights do not overflow it. */
bool zb_param_is_finite(const zb_param *p) {
    if (p->w) return isfinite(zb_kernels_get()->sum_squares(zb_param_count(p), p->w));
    zb_arena a = {0};
    float *row = ZB_RAW_ARRAY(&a, float, p->cols);
    bool finite = true;
    for (int r = 0; r < p->rows && finite; r++) {
        zb_param_to_f32(p, r, 1, row);
        finite = isfinite(zb_kernels_get()->sum_squares(p->cols, row));
    }
    zb_arena_free(&a);
    return finite;
}

int64_t zb_params_total(const zb_param_table *t) {
    int64_t n = 0;
    for (int i = 0; i < t->n; i++) n += zb_param_count(&t->item[i]);
    return n;
}

double zb_params_products(const zb_param_table *t) {
    double n = (double)zb_param_count(t->head);
    for (int i = 0; i < t->n; i++)
        if (t->item[i].layer >= 0 && t->item[i].n_dims == 2)
            n += (double)zb_param_count(&t->item[i]);
    return n;
}
