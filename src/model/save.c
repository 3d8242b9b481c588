/* save.c - a model folder in the published layout (zb_model_save in model.h).
 *
 * Written into a folder beside the target and renamed, so that a reader never sees half a model.
 *
 * The original code ties the head of a hybrid to embeddings that it then replaces: whatever
 * tie_word_embeddings says, it needs lm_head.weight in the file, and without it a head of random
 * numbers stays. Hybrids that it can load get that copy. */
#include "base/file.h"
#include "base/output.h"
#include "format/tokenizer.h"
#include "model/model_impl.h"

#include <string.h>
#include <unistd.h>

static const char *const tokenizer_files[] = {"tokenizer.json", "tokenizer_config.json",
                                              "special_tokens_map.json", "chat_template.jinja",
                                              "generation_config.json"};

static zb_status save_weights(zb_model *m, const char *dir, zb_dtype dtype, zb_arena *a,
                              zb_err *err) {
    const zb_param_table *t = &m->params;
    zb_tensor *list = ZB_NEW_ARRAY(a, zb_tensor, t->n + 1);
    size_t n_list = (size_t)t->n;
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        bool wide = p->role == ZB_ROLE_GATE || p->role == ZB_ROLE_NORM;
        int64_t n = zb_param_count(p);
        zb_tensor *x = &list[i];
        *x = (zb_tensor){.name = p->name, .dtype = wide ? ZB_F32 : dtype, .n_dims = p->n_dims};
        for (int d = 0; d < p->n_dims; d++) x->shape[d] = p->shape[d];
        bool ok = zb_dtype_size(x->dtype, n, &x->bytes);
        ZB_ASSERT(ok);
        x->data = p->data;
        if (p->dtype == x->dtype && !p->wide) continue;
        const float *f = p->data;
        if (p->dtype != ZB_F32) {
            float *widened = ZB_NEW_ARRAY(a, float, n);
            zb_param_to_f32(p, 0, p->rows, widened);
            f = widened;
        }
        if (x->dtype == ZB_F32) {
            x->data = f;
        } else {
            void *out = zb_alloc(a, x->bytes);
            zb_dtype_from_f32(x->dtype, f, out, n);
            x->data = out;
        }
    }
    if (m->config.tied && zb_config_is_published(&m->config)) {
        list[n_list] = list[t->embed - t->item];
        list[n_list++].name = "lm_head.weight";
    }
    return zb_safetensors_write_dir(dir, list, n_list, (size_t)5 << 30, err);
}

static zb_status copy_tokenizer(const char *from, const char *dir, zb_arena *a, zb_err *err) {
    if (zb_dir_exists(from)) {
        for (size_t i = 0; i < sizeof tokenizer_files / sizeof tokenizer_files[0]; i++) {
            char *path = zb_path_join(a, from, tokenizer_files[i]);
            if (zb_file_exists(path))
                ZB_TRY(zb_file_copy(path, zb_path_join(a, dir, tokenizer_files[i]), err));
        }
        return ZB_OK;
    }
    zb_tokenizer *t = NULL;
    zb_status s = zb_model_tokenizer(&t, from, err);
    if (s == ZB_OK && t) s = zb_tokenizer_save(t, dir, err);
    zb_tokenizer_close(t);
    return s;
}

/* Names that a model folder has, ours or one that was fetched. */
static bool is_part(const char *name) {
    static const char *const names[] = {"config.json", "hybrid_config.json", "added_tokens.json",
                                        "vocab.json",  "merges.txt",         "tokenizer.model"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i])) return true;
    for (size_t i = 0; i < sizeof tokenizer_files / sizeof tokenizer_files[0]; i++)
        if (!strcmp(name, tokenizer_files[i])) return true;
    return zb_str_ends(zb_str_from(name), ZB_STR(".safetensors")) ||
           !strcmp(name, "model.safetensors.index.json");
}

zb_status zb_model_save_check(const char *dir, zb_inputs inputs, zb_err *err) {
    return zb_output_replaced(dir, is_part, inputs, err);
}

zb_status zb_model_save(zb_model *m, const char *dir, zb_dtype dtype, const char *tokenizer_from,
                        const json_t *provenance, zb_err *err) {
    zb_arena a = {0};
    char *clean = zb_path_target(&a, dir);
    for (size_t n = strlen(clean); n > 1 && clean[n - 1] == '/'; n--) clean[n - 1] = 0;
    char *tmp = zb_asprintf(&a, "%s.tmp%d", clean, (int)getpid()),
         *old = zb_asprintf(&a, "%s.old%d", clean, (int)getpid());
    zb_status s = zb_dir_make(tmp, err);
    if (s == ZB_OK) s = zb_config_write(&m->config, tmp, dtype, provenance, err);
    if (s == ZB_OK) s = save_weights(m, tmp, dtype, &a, err);
    if (s == ZB_OK && tokenizer_from) s = copy_tokenizer(tokenizer_from, tmp, &a, err);
    bool replaces = zb_dir_exists(clean);
    if (s == ZB_OK && replaces) s = zb_output_replaced(clean, is_part, (zb_inputs){0}, err);
    if (s == ZB_OK && replaces) s = zb_path_rename(clean, old, err);
    if (s == ZB_OK) {
        s = zb_path_rename(tmp, clean, err);
        if (s != ZB_OK && replaces) zb_path_rename(old, clean, NULL);
    }
    if (s == ZB_OK)
        s = zb_dir_remove(old, err);
    else
        zb_dir_remove(tmp, NULL);
    zb_arena_free(&a);
    return s;
}
