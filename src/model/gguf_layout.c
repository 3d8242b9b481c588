/* gguf_layout.c - see gguf_layout.h.
 *
 * Other programs rotate dimension 2i with 2i+1 in the llama architecture, the base model i with
 * i + dh/2: row 2i+s of a head in the file holds row s·dh/2 + i of the base. Llama 3's scaling of
 * frequencies comes as divisors: 1 where the wave is shorter than old/high tokens, `factor` where
 * it is longer than old/low, a blend between. */
#include "model/gguf_layout.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char zb_gguf_rope_freqs[] = "rope_freqs.weight";

static const char *llama_name(const zb_param *p, char out[ZB_GGUF_NAME_MAX]) {
    static const char *const map[][2] = {
        {"input_layernorm.", "attn_norm."},    {"self_attn.q_proj.", "attn_q."},
        {"self_attn.k_proj.", "attn_k."},      {"self_attn.v_proj.", "attn_v."},
        {"self_attn.o_proj.", "attn_output."}, {"post_attention_layernorm.", "ffn_norm."},
        {"mlp.gate_proj.", "ffn_gate."},       {"mlp.up_proj.", "ffn_up."},
        {"mlp.down_proj.", "ffn_down."},
    };
    if (!strcmp(p->name, "model.embed_tokens.weight")) return "token_embd.weight";
    if (!strcmp(p->name, "model.norm.weight")) return "output_norm.weight";
    if (!strcmp(p->name, "lm_head.weight")) return "output.weight";
    const char *tail = strchr(p->name + strlen("model.layers."), '.') + 1;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        size_t n = strlen(map[i][0]);
        if (strncmp(tail, map[i][0], n)) continue;
        snprintf(out, ZB_GGUF_NAME_MAX, "blk.%d.%s%s", p->layer, map[i][1], tail + n);
        return out;
    }
    return NULL;
}

const char *zb_gguf_name(const zb_param *p, bool llama, char out[ZB_GGUF_NAME_MAX]) {
    return llama ? llama_name(p, out) : p->name;
}

const char *zb_gguf_wide_name(const zb_param *p, char out[ZB_GGUF_NAME_MAX]) {
    snprintf(out, ZB_GGUF_NAME_MAX, "%s_wide", p->name);
    return out;
}

int *zb_gguf_rows(const zb_config *c, const zb_param *p, bool llama, zb_arena *a) {
    bool moved = strstr(p->name, "self_attn.q_proj.") || strstr(p->name, "self_attn.k_proj.");
    if (!llama || !moved) return NULL;
    int rows = p->n_dims == 1 ? p->cols : p->rows, half = c->dh / 2;
    int *at = ZB_NEW_ARRAY(a, int, rows);
    for (int r = 0; r < rows; r++) {
        int head = r / c->dh, within = r % c->dh;
        at[r] = head * c->dh + 2 * (within % half) + within / half;
    }
    return at;
}

double zb_gguf_rope_divisor(const zb_config *c, int i) {
    const zb_rope *r = &c->rope;
    double wave = 2 * 3.14159265358979323846 * pow(r->theta, 2.0 * i / c->dh);
    double s = (r->old_context / wave - r->low) / (r->high - r->low);
    if (wave < r->old_context / r->high) return 1;
    return wave <= r->old_context / r->low ? 1 / ((1 - s) / r->factor + s) : r->factor;
}
