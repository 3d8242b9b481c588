/* save.c - a model folder in the published layout (zb_model_save in model.h).
 *
 * Written into a folder beside the target and renamed, so that a reader never sees half a model.
 * Weights are converted piece by piece on their way to the file.
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

typedef struct saved {
    const zb_tensor *list;
    const zb_param **param; /* whose value each tensor of the list is */
} saved;

/* A piece of a parameter in the type that it is saved in. */
static void convert(void *context, const zb_tensor *t, int64_t first, int64_t n, void *out) {
    const saved *s = context;
    const zb_param *p = s->param[t - s->list];
    zb_arena a = {0};
    bool narrow = t->dtype != ZB_F32;
    float *f = narrow ? ZB_RAW_ARRAY(&a, float, (size_t)n) : out;
    zb_param_to_f32(p, (int)(first / p->cols), (int)(n / p->cols), f);
    if (narrow) zb_dtype_from_f32(t->dtype, f, out, n);
    zb_arena_free(&a);
}

/* Values that need no conversion are written from where they are. */
static zb_tensor saved_tensor(const zb_param *p, const char *name, zb_dtype dtype) {
    bool wide = p->role == ZB_ROLE_GATE || p->role == ZB_ROLE_NORM;
    zb_tensor t = {.name = name, .dtype = wide ? ZB_F32 : dtype, .n_dims = p->n_dims};
    for (int d = 0; d < p->n_dims; d++) t.shape[d] = p->shape[d];
    bool ok = zb_dtype_size(t.dtype, zb_param_count(p), &t.bytes);
    ZB_ASSERT(ok);
    if (p->dtype == t.dtype && !p->wide) t.data = p->data;
    return t;
}

static zb_status save_weights(zb_model *m, const char *dir, zb_dtype dtype, zb_arena *a,
                              zb_err *err) {
    const zb_param_table *t = &m->params;
    zb_tensor *list = ZB_NEW_ARRAY(a, zb_tensor, t->n + 1);
    saved s = {list, zb_alloc_array(a, (size_t)t->n + 1, sizeof *s.param)};
    size_t n = 0;
    for (; n < (size_t)t->n; n++) {
        s.param[n] = &t->item[n];
        list[n] = saved_tensor(s.param[n], s.param[n]->name, dtype);
    }
    if (m->config.tied && zb_config_is_published(&m->config)) {
        s.param[n] = t->embed;
        list[n++] = saved_tensor(t->embed, "lm_head.weight", dtype);
    }
    return zb_safetensors_write_dir(dir, list, n, (size_t)5 << 30, &(zb_tensor_source){convert, &s},
                                    err);
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
